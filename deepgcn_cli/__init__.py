"""The command line: flags become a configuration, a stage does the work, the result is shown."""
