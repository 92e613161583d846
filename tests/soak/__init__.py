"""Commands that are killed, stopped, and short of disk, thousands of times: `make soak`."""
