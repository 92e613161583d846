"""One training: the loop, its step and recipe, checkpoints, several processes, loggers."""
