"""The run directory, which is the truth, and the index of runs, which follows from it."""
