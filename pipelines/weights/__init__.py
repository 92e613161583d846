"""Weights in files: our own, those of the published releases, and exports for other programs."""
