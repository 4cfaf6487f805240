"""What draws and measures: contenders in processes of their own, in interleaved rounds."""
