"""Label a scan held in NumPy arrays, from Python.

    make demo                            # once: leaves a trained network and a scan in demo/
    .venv/bin/python examples/segment_arrays.py demo/runs/tuned demo/scan.ply

Takes 5 s on 2 CPU cores. Prints how many points each class got, and the mean confidence. Any other
run directory or weights file, and any coloured PLY in metres with z up, will do as well.
"""

from __future__ import annotations

import sys

import numpy as np
from plyfile import PlyData

import pipelines


def main(network: str, scan: str) -> None:
    """Label the scan and print what was found."""
    vertex = PlyData.read(scan)["vertex"]
    pos = np.column_stack([vertex[axis] for axis in "xyz"])  # (N, 3) metres
    color = np.column_stack([vertex[c] for c in ("red", "green", "blue")])  # (N, 3) uint8

    model = pipelines.load_model(network)
    labels, probabilities = pipelines.segment(model, pos, color)  # (N,), (N, classes)

    for number, count in enumerate(np.bincount(labels)):
        if count:
            confidence = probabilities[labels == number, number].mean()
            print(f"{model.classes[number]:9} {count:9,} points, mean confidence {confidence:.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:3])
