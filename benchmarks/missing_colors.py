"""What colour a point without one should get: scores of the ways, on rooms with known colours.

    python -m benchmarks.missing_colors WEIGHTS --data data      (a room: 2 minutes on 2 CPU cores)

A quarter of each room's points lose their colour: scattered ones, and those nearest on the ground
to one random point, as when one scan of several has no colour. For each way of filling: OA in
percent, and how many labels differ from those of the whole room with its colours.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy.spatial import cKDTree

import pipelines
from pipelines.data.store import Room, Store
from pipelines.model.deepgcn import DeepGCN
from pipelines.scans.colors import GREY, fill_colors

SHARE = 0.25
LIMITS = (0.1, 0.5)  # m


def without(room: Room, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return which points (N,) bool lose their colour, for each pattern."""
    count = len(room.pos)
    away = np.hypot(*(room.pos - room.pos[rng.integers(count)])[:, :2].T)
    return {
        "scattered": rng.permutation(count) < SHARE * count,
        "region": away < np.quantile(away, SHARE),
    }


def filled(room: Room, missing: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the name and the colours (N, 3) uint8 of each way of filling."""
    for name, value in (("black", 0), ("grey", GREY)):
        color = room.color.copy()
        color[missing] = value
        yield name, color
    nearest = room.color.copy()
    fill_colors(room.pos, nearest, missing)
    away, _ = cKDTree(room.pos[~missing]).query(room.pos)
    for limit in LIMITS:
        color = nearest.copy()
        color[away > limit] = GREY
        yield f"nearest within {limit} m, else grey", color
    yield "nearest", nearest


def labels(model: DeepGCN, room: Room, color: np.ndarray, num_points: int | None) -> np.ndarray:
    """Return the labels (N,) of a room in other colours."""
    return pipelines.segment(model, room.pos, color, num_points=num_points)[0]


def main() -> None:
    """Print a row for each pattern and way."""
    parser = argparse.ArgumentParser(description="Compare ways of filling in missing colours.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--rooms", type=int, help="so many of each area; else all")
    parser.add_argument("--num-points", type=int, help="per draw; else as trained")
    options = parser.parse_args()
    store = Store.open(options.data)
    model = pipelines.load_model(options.weights)
    points, lost = 0, Counter[str]()
    counts = defaultdict[tuple[str, str], np.ndarray](lambda: np.zeros(3, np.int64))
    infos = [info for area in store.areas for info in store.rooms(area)[: options.rooms]]
    for info in infos:
        room = store.read(info)
        points += len(room.pos)
        whole = labels(model, room, room.color, options.num_points)
        for pattern, missing in without(room, np.random.default_rng(0)).items():
            lost[pattern] += int(missing.sum())
            for way, color in (("own colours", None), *filled(room, missing)):
                found = whole if color is None else labels(model, room, color, options.num_points)
                right = found == room.label
                counts[pattern, way] += right.sum(), (found != whole).sum(), right[missing].sum()
        sys.stderr.write(f"Area_{info.area}/{info.name}: {len(room.pos):,} points\n")
    sys.stdout.write("| missing | filled | OA | labels changed | OA of those without colour |\n")
    for (pattern, way), found in counts.items():
        shares = 100 * found / (points, points, lost[pattern])
        figures = " | ".join(f"{share:.1f}" for share in shares)
        sys.stdout.write(f"| {pattern} | {way} | {figures} |\n")


if __name__ == "__main__":
    main()
