"""Ablation studies: their rows (`presets`, `grid`), what each row trains (`plan`), how far its runs
are and what is left (`state`), and the resulting `tables`."""
