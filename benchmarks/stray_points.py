"""What stray points do to a room's labels, in the published frame and in the robust one.

    python -m benchmarks.stray_points WEIGHTS --data data --room office_1   (1 minute on 2 cores)

Some points of the first room of that name are labelled as they are, with one of them moved below
the floor or far off, and with more of them at (0, 0, 0). For each frame: overall accuracy in
percent, and how many labels of the other points differ from those of the room as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import pipelines
from pipelines.config import FRAMES
from pipelines.data.store import Store

COUNT = 12_000  # points of the room
PILE = 6_000  # more at (0, 0, 0)
MOVED = {
    "a point 0.5 m below the floor": (2, 2, -0.5),
    "a point 3 m below the floor": (2, 2, -3),
    "a point at x = 100 m": (100, 2, 1),
}


def scans(pos: np.ndarray, color: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield the name, places and colours of each scan; the room's points come first in it."""
    yield "as it is", pos, color
    for name, place in MOVED.items():
        moved = pos.copy()
        moved[0] = place
        yield name, moved, color
    pile = np.concatenate([pos + np.array([0, 0, 1.2]), np.zeros((PILE, 3))])
    black = np.zeros((PILE, 3), np.uint8)
    yield (
        f"{PILE:,} more at (0, 0, 0), the room from 1.2 m up",
        pile,
        np.concatenate([color, black]),
    )


def main() -> None:
    """Print a row for each scan."""
    parser = argparse.ArgumentParser(description="Compare frames of scans with stray points.")
    parser.add_argument("weights", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--room", required=True)
    parser.add_argument("--num-points", type=int, help="per draw; else as trained")
    options = parser.parse_args()
    store = Store.open(options.data)
    model = pipelines.load_model(options.weights)
    room = store.read(next(info for info in store.rooms() if info.name == options.room))
    chosen = np.random.default_rng(0).permutation(len(room.pos))[:COUNT]
    label = room.label[chosen]
    clean: dict[str, np.ndarray] = {}
    sys.stdout.write("| scan | published: accuracy | labels changed | robust | labels changed |\n")
    for name, pos, color in scans(room.pos[chosen].astype(np.float64), room.color[chosen]):
        figures = []
        for frame in FRAMES:
            found = pipelines.segment(
                model, pos, color, num_points=options.num_points, frame=frame
            )[0][1 : len(label)]
            expected = clean.setdefault(frame, found)
            figures += [(found == label[1:]).mean(), (found != expected).mean()]
        shown = " | ".join(f"{100 * figure:.1f} %" for figure in figures)
        sys.stdout.write(f"| {name} | {shown} |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
