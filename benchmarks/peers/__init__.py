"""Who is measured: one adapter a file. They run in ``worker.py``, some in environments without latentrt."""
