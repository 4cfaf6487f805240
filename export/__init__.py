"""Checkpoints to ONNX: the one room that needs torch, diffusers and transformers."""
