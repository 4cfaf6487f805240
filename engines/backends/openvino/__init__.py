"""OpenVINO on the CPU, and in ``devices`` beside it."""
