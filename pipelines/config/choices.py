"""What options of several commands choose from, and their bounds (standard library only)."""

from __future__ import annotations

from .options import Bounds

DEVICES = ("auto", "cpu", "cuda")
LOGGERS = ("mlflow", "wandb")  # beside TensorBoard
PRECISIONS = ("32", "tf32", "bf16", "16")
PROTOCOLS = ("room", "block-s1", "block-s05")
CHECKPOINTS = ("best", "last")
REPORTS = ("md", "json", "csv", "html", "tex")
STUDIES = ("paper-table1", "paper-variants", "graphs", "depth", "recipe", "six-fold", "smoke")
FRAMES = ("published", "robust")
AREAS = (1, 2, 3, 4, 5, 6)  # of S3DIS
AREA = Bounds(0, 6, "an area, or 0 for none,")
SAMPLE = Bounds(2, 1 << 20, "points of a block")  # to train with: one point has no variance
POSITIVE = Bounds(0, exclusive=True)
VOTES = Bounds(1, 1000)
SEED = Bounds(0, 2**63 - 1)  # what NumPy, PyTorch and SQLite can all take
PAGE_COLUMNS = "Columns of text on the pages that tex is for, 1 or 2."
TRAIN = ("train",)
