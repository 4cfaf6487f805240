"""Engine calls of several runs, gathered."""
