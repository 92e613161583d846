"""How much of `deepgcn predict` is the network's passes, and how much system time `segment` takes.

    python -m benchmarks.labelling_share scan.ply [--weights indoor] [--repeats 3]

The first line is of the command, from reading to the written file, without imports; the second of
`pipelines.segment` on the same points, so many times.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import segment
from pipelines.config import PredictConfig
from pipelines.inference import segmentation
from pipelines.predict import predict
from pipelines.runs.weights import find_weights
from pipelines.scans import open_scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scan", type=Path)
    parser.add_argument("--weights", default="indoor")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    inner, seconds = segmentation.forward, [0.0]

    def forward(model: Any, features: np.ndarray) -> np.ndarray:
        begun = time.perf_counter()
        logits = inner(model, features)
        seconds[0] += time.perf_counter() - begun
        return logits

    segmentation.forward = forward
    with tempfile.TemporaryDirectory() as folder:
        config = PredictConfig((args.scan,), weights=(args.weights,), out=Path(folder) / "out.ply")
        begun = time.perf_counter()
        predict(config)
        whole = time.perf_counter() - begun
    print(f"predict: {whole:.2f} s, of which passes {seconds[0]:.2f} s")

    scan = open_scan(args.scan)
    pos, _ = scan.positions()
    color = scan.colors()
    assert color is not None, "a scan with colours"
    model = find_weights(args.weights, Path("runs")).load()
    segment(model, pos, color)
    before, begun = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    for _ in range(args.repeats):
        segment(model, pos, color)
    used, whole = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter() - begun
    user, system = used.ru_utime - before.ru_utime, used.ru_stime - before.ru_stime
    print(f"segment, {args.repeats} times: {whole:.2f} s; {user:.2f} s user, {system:.2f} s system")


if __name__ == "__main__":
    main()
