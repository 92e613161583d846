"""The commands, one file each; they do not import each other."""
