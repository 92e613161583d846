"""Label all points of a scan, and keep the labels on disk as they are made.

The labels of a large scan grow in `.<out>.part/` beside the result: `label`, `confidence` and
perhaps `probabilities` as plain arrays, and `state.json` with what they are made from, how many
blocks are done, and a checksum of these. After a stop, the next call with the same scan, weights
and settings continues there.

Several networks and votes are passes over the scan, whose logits are summed. Each pass reads the
sums of the one before and writes new ones, so that a block that is added twice counts once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.files import atomic_json, naming
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Task
from pipelines.scans.table import UNLABELLED, chunks

from .segmentation import Draws, block_logits, softmax, sort_points, vote_pos

KEPT_FROM = 1_000_000  # points; labels of a smaller scan are not kept: making them is quick
SAVE_EVERY = 20.0  # seconds
STATE = "state.json"
SIDE = 0.05  # m: a cell of surface; in an indoor scan, nearly every one has a point
CUBE = 5  # cells along a cube's edge; within 0.25 m a surface is taken to be flat
FEWEST = 6  # points of a cube from which a direction can be estimated
SUMS = ("sums", "other_sums")  # of logits, written by the even passes and the odd ones
# What the arrays hold before any block, and their types; the confidence is the largest probability.
FRESH = {
    "label": (UNLABELLED, "u1"),
    "confidence": (0, "f4"),
    "probabilities": (0, "f4"),
    **dict.fromkeys(SUMS, (0, "f4")),
}


@dataclass
class LabelStore:
    """Labels that grow block by block, on disk if the scan is large."""

    arrays: dict[str, np.ndarray]  # in the scan's own order, by the names in FRESH
    areas: np.ndarray  # (C,) float64, m² of each class's surfaces, see `surface_areas`
    folder: Path
    on_disk: bool
    made_from: str
    passes: int = 0  # finished before this one
    blocks: int = 0  # done of this pass
    points: int = 0  # done in all passes
    complete: bool = False  # all blocks are done, but the result is not written yet
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def open(
        cls,
        folder: Path,
        made_from: str,
        points: int,
        classes: int,
        *,
        probabilities: bool,
        passes: int = 1,
    ) -> LabelStore:
        """Continue the labels in `folder` if they are made from the same, or start new ones."""
        shapes: dict[str, tuple[int, ...]] = {"label": (points,), "confidence": (points,)}
        wide = [*(["probabilities"] if probabilities else []), *(SUMS if passes > 1 else [])]
        shapes |= dict.fromkeys(wide, (points, classes))
        kinds = {name: np.dtype(FRESH[name][1]) for name in shapes}
        sizes = {name: kinds[name].itemsize * math.prod(shape) for name, shape in shapes.items()}
        state: dict[str, Any] = {}
        # Complete labels that could not be written serve a result of another name too.
        for place in (folder, *sorted(folder.parent.glob(".*.part")), *_kept_elsewhere()):
            found = {} if state else _read_state(place, sizes)
            same = found.get("made_from") == made_from and len(found.get("areas", ())) == classes
            if same and (place == folder or found.get("complete") is True):
                folder, state = place, found
        areas = np.array(state.get("areas", [0] * classes), np.float64)
        if not state and points < KEPT_FROM:
            fresh = {name: np.full(shape, *FRESH[name]) for name, shape in shapes.items()}
            return cls(fresh, areas, folder, False, made_from)
        if not state:
            _write_fresh(folder, shapes)
        arrays: dict[str, np.ndarray] = {
            name: np.memmap(folder / name, kinds[name], "r+", shape=shape)
            for name, shape in shapes.items()
        }
        done = {name: state.get(name, 0) for name in ("passes", "blocks", "points")}
        return cls(arrays, areas, folder, True, made_from, **done)

    @property
    def labels(self) -> dict[str, np.ndarray]:
        """The arrays that are the result."""
        return {name: array for name, array in self.arrays.items() if name not in SUMS}

    def next_pass(self) -> None:
        """Begin another pass, from the first block."""
        self.passes, self.blocks, self.areas = self.passes + 1, 0, np.zeros_like(self.areas)

    def add(self, rows: np.ndarray, pos: np.ndarray, logits: np.ndarray) -> None:
        """Add a block: rows (n,) of its points in the scan, pos (n, 3), logits (n, C)."""
        if SUMS[0] in self.arrays:
            own, before = (self.arrays[SUMS[(self.passes + i) % 2]] for i in (0, 1))
            logits = logits + before[rows] if self.passes else logits
            own[rows] = logits
        probabilities = softmax(logits / (self.passes + 1))
        label = probabilities.argmax(axis=1)
        areas = self.areas + surface_areas(pos, label, len(self.areas))
        self.arrays["label"][rows] = label
        self.arrays["confidence"][rows] = probabilities.max(axis=1)
        if "probabilities" in self.arrays:
            self.arrays["probabilities"][rows] = probabilities
        # The block counts from here; after a stop before this line, it is added again.
        self.areas = areas
        self.blocks += 1
        self.points += len(rows)
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Write what is done to the disk."""
        self.saved = time.monotonic()
        if not self.on_disk:
            return
        for values in self.arrays.values():
            if isinstance(values, np.memmap):
                values.flush()
        names = ("made_from", "passes", "blocks", "points", "complete")
        state = {name: getattr(self, name) for name in names} | {"areas": self.areas.tolist()}
        state["arrays"] = sorted(self.arrays)  # files of others may be left, of fewer blocks
        atomic_json(self.folder / STATE, {**state, "sha256": _digest(state)})

    def keep(self) -> None:
        """Keep all labels on disk, also those of a small scan, until a result can be written.

        They are kept in `folder`, or for temporary files if that has no place.
        """
        self.complete = True
        if self.on_disk:
            self.save()
            return
        self.on_disk = True
        elsewhere = Path(tempfile.gettempdir()) / self.folder.name
        try:
            self._write(self.folder)
        except OSError:
            shutil.rmtree(self.folder, ignore_errors=True)
            self._write(elsewhere)

    def _write(self, folder: Path) -> None:
        """Write all arrays into a new folder."""
        self.folder = folder
        _remove(folder)
        folder.mkdir(parents=True)
        for name, values in self.arrays.items():
            with naming(folder / name):
                (folder / name).write_bytes(values.tobytes())
        self.save()


def _kept_elsewhere() -> list[Path]:
    """Return the folders of labels among the user's own temporary files."""
    own = getattr(os, "getuid", lambda: 0)()
    found = []
    for place in sorted(Path(tempfile.gettempdir()).glob(".*.part")):
        with suppress(OSError):  # another process has ended, and its temporary file is gone
            if place.lstat().st_uid == own:
                found.append(place)
    return found


def _remove(folder: Path) -> None:
    """Remove a folder, or a link in its place but not what that leads to."""
    if folder.is_symlink():
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)


def _write_fresh(folder: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write arrays that hold no block; if the disk is full, raise OSError and leave no folder."""
    # Written before they are mapped: writing to a map beyond the disk's space kills the process.
    _remove(folder)
    folder.mkdir(parents=True)
    try:
        for name, (points, *others) in shapes.items():
            value, kind = FRESH[name]
            with naming(folder / name), (folder / name).open("wb") as file:
                for part in chunks(points):
                    file.write(np.full((part.stop - part.start, *others), value, kind).tobytes())
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _read_state(folder: Path, sizes: dict[str, int]) -> dict[str, Any]:
    """Return the saved state of the arrays in `folder`; {} unless they have `sizes`, in bytes.

    {} also unless the state is what was saved: another one would leave points without labels.
    """
    try:
        state = dict(json.loads((folder / STATE).read_text(encoding="utf-8")))
        whole = state.pop("sha256", None) == _digest(state)
        paths = [folder, folder / STATE, *(folder / name for name in sizes)]
        same = all((folder / name).stat().st_size == size for name, size in sizes.items())
        same &= {*sizes} <= {*state.get("arrays", sizes)}
        same &= not any(path.is_symlink() for path in paths)  # which would be written elsewhere
    except (OSError, ValueError, TypeError, RecursionError):
        return {}
    return state if same and whole else {}


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def label_points(
    networks: Sequence[tuple[DeepGCN, Draws]],
    pos: np.ndarray,
    color: np.ndarray,
    store: LabelStore,
    task: Task,
    votes: int = 1,
    stray: np.ndarray | None = None,
) -> None:
    """Label every point that has coordinates and is not labelled yet, into `store`.

    For pos (N, 3) float32, metres from the low corner of the scan's frame, NaN where unknown, color
    (N, 3) uint8, and which points are stray, (N,) bool; None: no point. The task is advanced by the
    points of each block.
    """
    # The scan as it is comes last: the areas of its surfaces are those of the last pass.
    passes = [(*network, vote) for network in networks for vote in reversed(range(votes))]
    task.advance(store.points)
    try:
        for number, (model, draws, vote) in list(enumerate(passes))[store.passes :]:
            if number > store.passes:
                store.next_pass()
            moved = vote_pos(pos, vote, votes, stray)
            order, points = sort_points(moved, color, stray, draws.block_size)
            draws = replace(draws, seed=draws.seed + vote)
            for rows, logits, _ in block_logits(model, points, draws, task, store.blocks):
                store.add(order[rows], points.pos[rows], logits)
    except BaseException:
        store.save()
        raise


def surface_areas(pos: np.ndarray, label: np.ndarray, classes: int) -> np.ndarray:
    """Estimate the area of each class's surfaces in m², (classes,) float64, from points alone.

    For pos (n, 3) in metres, finite and not below 0, and label (n,). Space is cut into cubes of
    0.25 m. In each, a class's points are projected along x, y or z, whichever their surface faces
    most, the 5 cm cells that they fall into are counted, and the count is divided by the cosine
    between that axis and the surface's normal (the direction in which the points vary least).
    Surfaces with fewer than about 1,500 points per m² come out too small, because cells stay empty;
    rounded ones are approximate.
    """
    if not len(pos):
        return np.zeros(classes)
    cube, within = np.divmod(np.floor(pos / SIDE).astype(np.int64), CUBE)
    size = cube.max(axis=0) + 1
    key = ((cube[:, 0] * size[1] + cube[:, 1]) * size[2] + cube[:, 2]) * classes + label
    # A piece is the points of one class in one cube: piece (n,) of each point, count (m,) of each.
    found, piece, count = np.unique(key, return_inverse=True, return_counts=True)
    cells = np.empty((3, len(count)), np.int64)  # that each piece occupies, seen along x, y and z
    for axis, (first, second) in enumerate(((1, 2), (0, 2), (0, 1))):
        occupied = np.zeros((len(count), CUBE, CUBE), bool)
        occupied[piece, within[:, first], within[:, second]] = True
        cells[axis] = occupied.sum(axis=(1, 2))
    normal = np.abs(_normals(pos, piece, count))
    few = count < FEWEST
    facing = np.where(few, cells.argmax(axis=0), normal.argmax(axis=1))
    each = np.arange(len(count))
    area = cells[facing, each] * SIDE**2 / np.where(few, 1.0, normal[each, facing])
    return np.bincount(found % classes, weights=area, minlength=classes)


def _normals(pos: np.ndarray, piece: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the unit direction in which each piece's points vary least, (m, 3) float64."""
    pieces = len(count)
    mean = np.stack([np.bincount(piece, axis, pieces) / count for axis in pos.T], axis=1)
    away = pos - mean[piece]
    spread = np.zeros((pieces, 3, 3))
    for row, column in zip(*np.tril_indices(3), strict=True):  # `eigh` reads no other
        spread[:, row, column] = np.bincount(piece, away[:, row] * away[:, column], pieces)
    return np.linalg.eigh(spread).eigenvectors[:, :, 0]
