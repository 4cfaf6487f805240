"""What conditions the U-Net: one file each."""
