"""Time and peak memory of `deepgcn predict` against the number of points.

    python -m benchmarks.large_scan --out DIR --points 1000000 10000000 50000000

Each scan is a made-up storey of 5,300 points a square metre: floor, ceiling and walls around every
6 m, with noise. The network has 2 layers of 8 channels and random weights, so that what is measured
is everything around the network. `--weights FILE` measures another one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.weights.safetensors import save_weights

DENSITY = 5300.0  # points per square metre of ground
HEIGHT, ROOM = 3.0, 6.0  # m
CHUNK = 1 << 20
ROW = np.dtype([(axis, "<f4") for axis in "xyz"] + [(c, "u1") for c in ("red", "green", "blue")])


def write_storey(path: Path, points: int) -> None:
    """Write a generated storey as a binary PLY file, with its points in random order."""
    side = (points / DENSITY) ** 0.5
    rng = np.random.default_rng(0)
    kinds = {"f4": "float", "u1": "uchar"}
    fields = [f"property {kinds[ROW[name].str[1:]]} {name}" for name in ROW.names or ()]
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {points}", *fields]
    with path.open("wb") as file:
        file.write("\n".join([*lines, "end_header", ""]).encode())
        for start in range(0, points, CHUNK):
            file.write(storey(rng, min(CHUNK, points - start), side).tobytes())


def storey(rng: np.random.Generator, count: int, side: float) -> np.ndarray:
    """Return some points of a storey of side × side metres."""
    pos = rng.random((count, 3)) * [side, side, HEIGHT]
    surface = rng.integers(0, 4, count)  # floor, ceiling, walls along x, walls along y
    pos[surface == 0, 2], pos[surface == 1, 2] = 0.0, HEIGHT
    for axis in (0, 1):
        walls = surface == 2 + axis
        pos[walls, axis] = np.minimum(np.round(pos[walls, axis] / ROOM) * ROOM, side)
    rows = np.empty(count, ROW)
    for number, name in enumerate("xyz"):
        rows[name] = pos[:, number] + rng.normal(0, 0.005, count)
    for name in ("red", "green", "blue"):
        rows[name] = rng.integers(0, 256, count)
    return rows


def small_network(path: Path, num_points: int) -> None:
    """Write a network of 2 layers with random weights."""
    torch.manual_seed(0)
    model = DeepGCN(ModelConfig(depth=2, width=8, k=4, fusion_channels=32)).eval()
    save_weights(path, model, metadata={"num_points": str(num_points)})


def measure(scan: Path, weights: Path, options: list[str]) -> dict[str, float]:
    """Label a scan in a process of its own; return its seconds and its peak memory in bytes."""
    out = scan.with_name(f"{scan.stem}.labelled.ply")
    command = [sys.executable, "-m", "deepgcn_cli", "predict", str(scan), "--json", *options]
    start = time.monotonic()
    done = subprocess.Popen(
        [*command, "--weights", str(weights), "--out", str(out)], stdout=subprocess.PIPE
    )
    assert done.stdout is not None
    found = json.loads(done.stdout.read())
    _, status, usage = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"predict ended with status {status}")
    labelling = found["scans"][0]["label_seconds"]
    scan.unlink()
    out.unlink()
    return {
        "seconds": time.monotonic() - start,
        "label_seconds": labelling,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss * 1024,
    }


def main() -> None:
    """Measure every size and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder with room for the scans")
    parser.add_argument("--points", type=int, nargs="+", default=[10**6, 10**7, 5 * 10**7])
    parser.add_argument("--num-points", type=int, default=4096)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    weights = arguments.weights or arguments.out / "small.safetensors"
    if arguments.weights is None:
        small_network(weights, arguments.num_points)
    for points in arguments.points:
        scan = arguments.out / f"storey-{points}.ply"
        write_storey(scan, points)
        found = measure(scan, weights, ["--device", arguments.device])
        print(json.dumps({"points": points, **found}), flush=True)


if __name__ == "__main__":
    main()
