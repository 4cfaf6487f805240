"""What users add to the U-Net from outside of it: control nets, T2I-Adapters and image prompts."""
