"""Label all points of a scan, and keep the labels on disk as they are made.

The labels of a large scan grow in `.<out>.part/` beside the result: `label`, `confidence` and
perhaps `probabilities` as plain arrays, and `state.json` with what they are made from and how many
blocks are done. After a stop, the next start with the same scan, weights and settings goes on from
there.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.blocks import Grid, grid_sort
from pipelines.files import atomic_json
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Task
from pipelines.scans.table import chunks

from .segmentation import Draws, SortedPoints, block_logits, softmax
from .surface_area import surface_areas

UNLABELLED = 255  # class of a point without coordinates
KEPT_FROM = 1_000_000  # points; fewer are soon labelled again
SAVE_EVERY = 20.0  # seconds
STATE = "state.json"
# What the arrays hold before any block, and their types.
_FRESH = {"label": (UNLABELLED, "u1"), "confidence": (0, "f4"), "probabilities": (0, "f4")}


@dataclass(frozen=True)
class Labelled:
    """Labels in the scan's own order."""

    label: np.ndarray  # (N,) uint8, UNLABELLED for a point without coordinates
    confidence: np.ndarray  # (N,) float32, the largest probability; 0 without label
    areas: np.ndarray  # (C,) float64, m² of the surfaces of each class, see `surface_areas`
    probabilities: np.ndarray | None = None  # (N, C) float32
    earlier: int = 0  # points that an interrupted start had labelled


def part_folder(out: Path) -> Path:
    """Return the folder in which the labels of a result grow."""
    return out.with_name(f".{out.name}.part")


def label_points(
    model: DeepGCN,
    pos: np.ndarray,
    color: np.ndarray,
    draws: Draws,
    *,
    probabilities: bool = False,
    part: Path,
    made_from: str,
    task: Task,
) -> Labelled:
    """Label every point that has coordinates.

    For pos (N, 3) float32, metres from the scan's minimum, NaN where unknown, and color (N, 3)
    uint8. The labels of a large scan grow in the folder `part`; `made_from` tells this scan and
    these weights from others. The task is advanced by the points of each block.
    """
    order, grid = _sorted_by_cell(pos)
    shapes: dict[str, tuple[int, ...]] = {"label": (len(pos),), "confidence": (len(pos),)}
    if probabilities:
        shapes["probabilities"] = (len(pos), model.config.num_classes)
    store = LabelStore.open(part, f"{made_from} {draws}", shapes, model.config.num_classes)
    pos, color = pos[order], color[order]
    room = SortedPoints(pos, color, grid, np.array([axis.max() for axis in pos.T]))
    earlier = store.points
    task.advance(earlier)
    try:
        for block in block_logits(model, room, draws, store.blocks, task):
            store.add(order[block.points], pos[block.points], softmax(block.logits))
    except BaseException:
        store.save()
        raise
    return Labelled(areas=store.areas, earlier=earlier, **store.arrays)


def _sorted_by_cell(pos: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return the order of the points that have coordinates, (n,) int64, and their cells."""
    unknown = np.isnan(pos[:, 0])
    if not unknown.any():
        return grid_sort(pos)
    known = np.flatnonzero(~unknown)
    order, grid = grid_sort(pos[known])
    return known[order], grid


@dataclass
class LabelStore:
    """Labels that grow block by block, on disk if the scan is large."""

    arrays: dict[str, np.ndarray]  # the labels so far, by their names
    areas: np.ndarray  # (C,) float64, m² of each class's surfaces so far
    folder: Path | None  # None: not kept on disk
    made_from: str
    blocks: int = 0  # done
    points: int = 0  # in these
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls, folder: Path, made_from: str, shapes: dict[str, tuple[int, ...]], classes: int
    ) -> LabelStore:
        """Go on with what `folder` holds if it is made from the same, or begin anew.

        `shapes` are those of the arrays, by their names.
        """
        if shapes["label"][0] < KEPT_FROM:
            fresh = {name: np.full(shape, *_FRESH[name]) for name, shape in shapes.items()}
            return cls(fresh, np.zeros(classes), None, made_from)
        state = _read_state(folder)
        areas = np.array(state.get("areas", []), np.float64)
        same = state.get("made_from") == made_from and len(areas) == classes
        kinds = {name: np.dtype(_FRESH[name][1]) for name in shapes}
        sizes = {name: kinds[name].itemsize * math.prod(shape) for name, shape in shapes.items()}
        if not same or any(_size(folder / name) != size for name, size in sizes.items()):
            _write_fresh(folder, shapes)
            state, areas = {}, np.zeros(classes)
        arrays: dict[str, np.ndarray] = {
            name: np.memmap(folder / name, kinds[name], "r+", shape=shape)
            for name, shape in shapes.items()
        }
        done = int(state.get("blocks", 0)), int(state.get("points", 0))
        return cls(arrays, areas, folder, made_from, *done)

    def add(self, rows: np.ndarray, pos: np.ndarray, probabilities: np.ndarray) -> None:
        """Add a block: rows (n,) of its points in the scan, pos (n, 3), probabilities (n, C)."""
        label = probabilities.argmax(axis=1)
        areas = self.areas + surface_areas(pos, label, len(self.areas))
        self.arrays["label"][rows] = label
        self.arrays["confidence"][rows] = probabilities.max(axis=1)
        if "probabilities" in self.arrays:
            self.arrays["probabilities"][rows] = probabilities
        # What follows counts the block; a stop before it adds the block again.
        self.areas = areas
        self.blocks += 1
        self.points += len(rows)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is done to the disk."""
        self.saved = time.monotonic()
        if self.folder is None:
            return
        for values in self.arrays.values():
            if isinstance(values, np.memmap):
                values.flush()
        state = {name: getattr(self, name) for name in ("made_from", "blocks", "points")}
        atomic_json(self.folder / STATE, {**state, "areas": self.areas.tolist()})


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _write_fresh(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write arrays that hold no block; if the disk is full, raise OSError and leave no folder."""
    # They are written before they are mapped: a map of a file too large for the disk ends the
    # process.
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        for name, (points, *others) in shapes.items():
            value, kind = _FRESH[name]
            with (folder / name).open("wb") as file:
                for part in chunks(points):
                    file.write(np.full((part.stop - part.start, *others), value, kind).tobytes())
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
