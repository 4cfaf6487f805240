"""The solvers. Each is one generator that reads like its paper; `solver` says what all have in common."""
