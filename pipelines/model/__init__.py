"""The network, from its parts to the whole: linear, layers, conv, blocks, head, deepgcn."""
