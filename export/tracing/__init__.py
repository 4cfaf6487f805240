"""Torch modules to ONNX, and the runs they are compared with."""
