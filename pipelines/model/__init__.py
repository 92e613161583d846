"""The network, from its parts to the whole: layers, graphs, conv, blocks, head, deepgcn."""
