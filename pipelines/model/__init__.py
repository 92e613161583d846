"""The network, read from the parts to the whole: unit → conv → deepgcn → presets → weights."""
