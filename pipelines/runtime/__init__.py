"""What training and inference share: device, memory, precision, seeds, CUDA graphs, signals."""
