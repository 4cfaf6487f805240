"""Many requests, one model: shared engine calls, jobs, HTTP, and beyond one machine."""
