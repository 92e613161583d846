"""What a training reads: the store, its blocks, and how they are drawn and augmented."""
