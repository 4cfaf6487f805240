"""ONNX graphs edited without torch."""
