"""Labels and points that the tests of the scan formats share."""

from __future__ import annotations

import numpy as np

from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.scans.table import Labels, Scan

XYZ = np.array([[500_000.25, -3.5, 2.0], [500_001.125, -2.25, 1.5], [500_000.5, -3.0, 9.75]])
RGB = np.array([[1, 2, 3], [4, 5, 6], [255, 0, 128]], np.uint8)


def labels_for(count: int, *, probabilities: bool = False, seed: int = 0) -> Labels:
    """Random labels, the last of them 255."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 13, count).astype(np.uint8)
    label[-1] = 255
    confidence = rng.random(count).astype(np.float32)
    table = rng.random((count, 13)).astype(np.float32) if probabilities else None
    return Labels(label, confidence, CLASSES, CLASS_COLORS, table)


def placed(scan: Scan) -> np.ndarray:
    """The scan's coordinates (N, 3) float64, from its local ones and its origin."""
    local, frame = scan.positions()
    assert local.dtype == np.float32
    return local + frame.origin
