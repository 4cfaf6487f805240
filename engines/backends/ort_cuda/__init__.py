"""ONNX Runtime on CUDA."""
