"""`deepgcn runs`: what was trained, with which result."""
