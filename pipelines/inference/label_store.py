"""Labels for all points of a scan, kept on disk as they are made, so that a stop loses little.

A large scan's labels grow in `.<out>.part/` beside the result: `label`, `confidence` and maybe
`probabilities` as plain arrays, and `state.json` with what they are made from and how many blocks
are done. The next start with the same scan, weights and settings goes on after those blocks.
"""

from __future__ import annotations

import dataclasses
import json
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

from .segmentation import block_logits, softmax
from .surface_area import surface_areas

UNLABELLED = 255  # class of a point without coordinates
KEPT_FROM = 1_000_000  # points; fewer are soon labelled again
SAVE_EVERY = 20.0  # seconds
STATE = "state.json"


@dataclass(frozen=True)
class Drawing:
    """How a scan is looked at; with the scan and the weights it decides every label.

    Attributes:
        num_points: points per draw.
        batch_size: draws per forward pass.
        seed: of the draws.
        probabilities: whether all classes' probabilities are kept, not only the largest.
    """

    num_points: int
    batch_size: int
    seed: int
    probabilities: bool = False


@dataclass(frozen=True)
class Labelled:
    """Labels in the scan's own order.

    Attributes:
        label: (N,) uint8, UNLABELLED for a point without coordinates.
        confidence: (N,) float32, the largest probability; 0 without label.
        probabilities: (N, C) float32, or None.
        areas: (C,) float64, the area of each class's surfaces in m², see `surface_areas`.
        earlier: points whose labels an earlier start, which was interrupted, had left.
    """

    label: np.ndarray
    confidence: np.ndarray
    probabilities: np.ndarray | None = None
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    earlier: int = 0

    def flush(self) -> None:
        """Bring arrays that are files onto the disk."""
        for values in (self.label, self.confidence, self.probabilities):
            if isinstance(values, np.memmap):
                values.flush()


def part_folder(out: Path) -> Path:
    """Return where the labels of a result grow."""
    return out.with_name(f".{out.name}.part")


def label_points(
    model: DeepGCN,
    pos: np.ndarray,
    color: np.ndarray,
    drawing: Drawing,
    *,
    part: Path,
    made_from: str,
    task: Task,
) -> Labelled:
    """Label every point that has coordinates.

    Args:
        model: in evaluation mode, on its device.
        pos: (N, 3) float32 metres from the scan's minimum, NaN where unknown.
        color: (N, 3) uint8.
        drawing: how.
        part: folder to keep what is done in, for a large scan.
        made_from: tells this scan and these weights from others.
        task: is advanced by the points of each block; those of an earlier start come at once.
    """
    order, grid = _sorted_by_cell(pos)
    keep = Keep.open(part, f"{made_from} {drawing}", len(pos), model.config.num_classes, drawing)
    pos, color = pos[order], color[order]
    earlier = keep.points
    task.advance(earlier)
    try:
        for block in block_logits(
            model,
            pos,
            color,
            grid,
            np.array([axis.max() for axis in pos.T]),
            num_points=drawing.num_points,
            batch_size=drawing.batch_size,
            seed=drawing.seed,
            first=keep.blocks,
            task=task,
        ):
            keep.add(order[block.points], pos[block.points], softmax(block.logits))
    except BaseException:
        keep.save()
        raise
    return dataclasses.replace(keep.labelled, earlier=earlier)


def _sorted_by_cell(pos: np.ndarray) -> tuple[np.ndarray, Grid]:
    """Return the order of the points that have coordinates, (n,) int64, and their cells."""
    unknown = np.isnan(pos[:, 0])
    if not unknown.any():
        return grid_sort(pos)
    known = np.flatnonzero(~unknown)
    order, grid = grid_sort(pos[known])
    return known[order], grid


class Keep:
    """Labels that grow block by block, on disk if the scan is large.

    Attributes:
        labelled: the labels so far.
        blocks: how many blocks are done.
        points: how many points those have.
    """

    def __init__(self, labelled: Labelled, folder: Path | None, made_from: str) -> None:
        self.labelled, self.folder, self.made_from = labelled, folder, made_from
        self.blocks = self.points = 0
        self._saved = time.monotonic()

    @classmethod
    def open(
        cls, folder: Path, made_from: str, points: int, classes: int, drawing: Drawing
    ) -> Keep:
        """Go on with what `folder` holds if it is of the same making, or begin anew.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        shapes: dict[str, tuple[int, ...]] = {"label": (points,), "confidence": (points,)}
        if drawing.probabilities:
            shapes["probabilities"] = (points, classes)
        if points < KEPT_FROM:
            fresh = {name: np.full(shape, *_fresh(name)) for name, shape in shapes.items()}
            return cls(_labelled(fresh, np.zeros(classes)), None, made_from)
        state = _read_state(folder)
        areas = np.array(state.get("areas", []), np.float64)
        again = state.get("made_from") == made_from and len(areas) == classes
        again = again and all(
            (folder / name).is_file()
            and (folder / name).stat().st_size
            == np.prod(shape) * np.dtype(_fresh(name)[1]).itemsize
            for name, shape in shapes.items()
        )
        if not again:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                for name, shape in shapes.items():
                    _write_fresh(folder / name, shape)
            except OSError:
                shutil.rmtree(folder, ignore_errors=True)
                raise
        arrays: dict[str, np.ndarray] = {
            name: np.memmap(folder / name, _fresh(name)[1], "r+", shape=shape)
            for name, shape in shapes.items()
        }
        if not again:
            return cls(_labelled(arrays, np.zeros(classes)), folder, made_from)
        keep = cls(_labelled(arrays, areas), folder, made_from)
        keep.blocks, keep.points = int(state["blocks"]), int(state["points"])
        return keep

    def add(self, places: np.ndarray, pos: np.ndarray, probabilities: np.ndarray) -> None:
        """Add one block.

        Args:
            places: (n,) where its points are in the scan.
            pos: (n, 3) their coordinates.
            probabilities: (n, C) of each class.
        """
        labelled, label = self.labelled, probabilities.argmax(axis=1)
        areas = labelled.areas + surface_areas(pos, label, len(labelled.areas))
        labelled.label[places] = label
        labelled.confidence[places] = probabilities.max(axis=1)
        if labelled.probabilities is not None:
            labelled.probabilities[places] = probabilities
        # What follows counts the block; until then it can be added again.
        labelled.areas[...] = areas
        self.blocks += 1
        self.points += len(places)
        if time.monotonic() - self._saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Bring what is done onto the disk."""
        self._saved = time.monotonic()
        if self.folder is None:
            return
        self.labelled.flush()
        state = {
            "made_from": self.made_from,
            "blocks": self.blocks,
            "points": self.points,
            "areas": self.labelled.areas.tolist(),
        }
        atomic_json(self.folder / STATE, state)


def _fresh(name: str) -> tuple[int, str]:
    """Return what an array holds before any block, and its type."""
    return (UNLABELLED, "u1") if name == "label" else (0, "f4")


def _write_fresh(path: Path, shape: tuple[int, ...]) -> None:
    """Write an array that holds no block, whole: the system kills who maps a file too large for
    the disk.

    Raises:
        OSError: the disk is full.
    """
    value, kind = _fresh(path.name)
    points, *others = shape
    with path.open("wb") as file:
        for part in chunks(points):
            file.write(np.full((part.stop - part.start, *others), value, kind).tobytes())


def _labelled(arrays: dict[str, np.ndarray], areas: np.ndarray) -> Labelled:
    return Labelled(arrays["label"], arrays["confidence"], arrays.get("probabilities"), areas)


def _read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}
