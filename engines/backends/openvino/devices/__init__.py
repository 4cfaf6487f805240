"""OpenVINO on Intel's GPUs and NPUs."""
