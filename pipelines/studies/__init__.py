"""Ablation studies: their rows (`presets`, `grid`), what each row trains (`plan`), how far its runs
are (`state`), and the resulting `tables`; `estimates` says beforehand what a study will take."""
