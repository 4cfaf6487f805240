"""The torch-free runtime: tokenizer, noise, schedules, solvers, guidance and pipelines on NumPy."""
