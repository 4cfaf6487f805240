"""Upscalers, told by their contents and exported: weights that spandrel knows, and ONNX files as they are."""
