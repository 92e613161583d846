"""The network, from its parts to the whole: linear, layers, graphs, conv, blocks, head, deepgcn."""
