"""Fuzzing of every reader of files that others may have written: `python -m tests.fuzz --help`."""
