"""Scores of weights that were trained elsewhere, on every point of prepared rooms.

    python -m benchmarks.imported WEIGHTS --data data [--area 5]     (2 rooms: 20 s on 2 CPU cores)

`deepgcn eval` scores runs, which know what they were trained on. Imported weights have no run: here
they label each room as `pipelines.segment` does any scan, and the counts of all rooms are summed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

import pipelines
from pipelines.data.store import Store
from pipelines.metrics import confusion, scores


def main() -> None:
    """Print OA, mIoU and the IoU of each class that occurs, in percent."""
    parser = argparse.ArgumentParser(description="Score imported weights on prepared rooms.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--area", type=int, help="only its rooms; else all areas")
    options = parser.parse_args()
    store, model = Store.open(options.data), pipelines.load_model(options.weights)
    classes = store.classes
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for info in store.rooms(options.area):
        room = store.read(info)
        label, _ = pipelines.segment(model, room.pos, room.color)
        counts += confusion(room.label, label, len(classes))
        sys.stderr.write(f"Area_{info.area}/{info.name}: {len(label):,} points\n")
    found = scores(counts, classes)
    sys.stdout.write(f"OA {100 * found.oa:.1f}, mIoU {100 * found.miou:.1f}\n")
    for name, iou in zip(classes, found.iou, strict=True):
        if iou is not None:
            sys.stdout.write(f"{name} {100 * iou:.1f}\n")


if __name__ == "__main__":
    main()
