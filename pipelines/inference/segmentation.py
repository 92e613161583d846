"""Predict every point of a room or scan, block by block.

The room is cut into disjoint blocks. The points of a block are distributed over draws of
`num_points` (`data.blocks.cover`), the network sees one draw at a time, and the logits of a point
that was drawn more than once are summed. A block's draws follow from the seed and its number, so
neither the batch size nor other blocks change a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from pipelines.config import BLOCK_SIZE, FRAMES, SEED
from pipelines.config.options import COUNT, check_choice
from pipelines.data import blocks
from pipelines.errors import DatasetError, WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task, counted
from pipelines.runtime.cuda_graphs import graphed_evaluation
from pipelines.runtime.memory import keep_freed_memory
from pipelines.runtime.precision import Precision
from pipelines.runtime.waiting import sleep_if_crowded
from pipelines.scans.colors import GREY
from pipelines.scans.frame import check_ground, left_out, locate
from pipelines.scans.table import BRIGHTEST_FRACTION

SCALES = (1.0, 0.95, 1.05)  # of the votes, in turn


@dataclass(frozen=True)
class SortedPoints:
    """The points of a room, sorted by cell."""

    pos: np.ndarray  # (N, 3) float32, metres from the minimum corner
    color: np.ndarray  # (N, 3) uint8, or float from 0 to 1
    blocks: list[blocks.Block]  # disjoint, of all points
    extent: np.ndarray  # (3,) of the frame


def sort_points(
    pos: np.ndarray,
    color: np.ndarray,
    stray: np.ndarray | None = None,
    block_size: float = BLOCK_SIZE,
) -> tuple[np.ndarray, SortedPoints]:
    """Return the order (n,) by cell of the points whose `pos` (N, 3) is not NaN, and these points.

    `pos` is in metres from the low corner of the frame. Points that are `stray` (N,) come last.
    They are moved to the nearest place in the frame of the others, and have blocks of their own: so
    all others get the labels that they would get without them.
    """
    inside = ~np.isnan(pos[:, 0])
    if stray is not None:
        inside &= ~stray
    order, grid = _sort_by_cell(pos, inside)
    known = pos[order]
    extent = np.array([axis.max() for axis in known.T])  # much faster than known.max(axis=0)
    found = _disjoint_blocks(grid, block_size)
    if stray is not None and stray.any():
        pos = np.clip(pos, 0, extent)
        more, grid = _sort_by_cell(pos, stray)
        own = _disjoint_blocks(grid, block_size)
        found += [blocks.behind(block, len(order)) for block in own]
        order = np.concatenate([order, more])
        known = pos[order]
    return order, SortedPoints(known, color[order], found, extent)


def _disjoint_blocks(grid: blocks.Grid, size: float) -> list[blocks.Block]:
    return blocks.room_blocks(grid, size=size, stride=size, min_points=1)


def _sort_by_cell(pos: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, blocks.Grid]:
    """Return the order (n,) by cell of those points (N, 3) that are chosen (N,), and the grid."""
    if chosen.all():
        return blocks.grid_sort(pos)
    rows = np.flatnonzero(chosen)
    order, grid = blocks.grid_sort(pos[rows])
    return rows[order], grid


@dataclass(frozen=True)
class Draws:
    """How points are drawn: with the scan and the network this decides every label."""

    num_points: int  # per draw
    batch_size: int = 8  # draws per forward pass
    seed: int = 0
    block_size: float = BLOCK_SIZE  # side, m
    voxel: float = 0.0  # side of the voxels of which one point is drawn, m; 0: all points are
    precision: str = "32"  # of the matrix multiplications, one of config.PRECISIONS


@dataclass(frozen=True)
class _Draw:
    """One draw of points from a block."""

    points: np.ndarray  # (n,) the block's, of the sorted points
    own: np.ndarray | None  # (n,) which row of `logits` is each point's; None: its own
    logits: np.ndarray  # (m, C) float32, the block's, summed over its draws so far
    chosen: np.ndarray  # (num_points,) of the rows of `logits`
    features: np.ndarray  # (num_points, 9)
    last: int  # draws of its block if it is the last of them, else 0


def vote_pos(pos: np.ndarray, vote: int, votes: int, stray: np.ndarray | None = None) -> np.ndarray:
    """Transform points (N, 3) for vote number `vote`, in metres from their new minimum; NaN stays.

    The minimum is that of the points that are not `stray` (N,). Vote 0 leaves the room as it is.
    The others rotate it about z by equal parts of a full turn, mirror every second one, and scale
    by 1, 0.95, 1.05 in turn.
    """
    if vote == 0:
        return pos
    angle = 2 * math.pi * vote / votes
    mirror = -1.0 if vote % 2 else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos * mirror, -sin, 0], [sin * mirror, cos, 0], [0, 0, 1]])
    moved = pos.astype(np.float64) @ turn.T * SCALES[vote % len(SCALES)]
    low = np.nanmin(moved if stray is None else moved[~stray], axis=0)
    with np.errstate(over="ignore"):  # of stray points, which are moved into the frame
        return (moved - low).astype(np.float32)


def block_logits(
    model: DeepGCN, room: SortedPoints, draws: Draws, task: Task, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """Yield each block's points (n,), summed logits (n, C) float32 and draws, from `first` on.

    A point is in one block. The model is in evaluation mode; the task is advanced by the points of
    each finished block.
    """
    model.config.check_points(draws.num_points)
    drawn = _drawn(model, room, draws, first)
    precision = Precision(draws.precision, next(model.parameters()).device)
    while batch := list(islice(drawn, draws.batch_size)):
        with precision.matmuls():
            logits = forward(model, np.stack([draw.features for draw in batch]))
        for draw, values in zip(batch, logits, strict=True):
            add_rows(draw.logits, draw.chosen, values)
            if draw.last:
                task.advance(len(draw.points))
                logits_of = draw.logits if draw.own is None else draw.logits[draw.own]
                yield draw.points, logits_of, draw.last


def _drawn(model: DeepGCN, room: SortedPoints, draws: Draws, first: int) -> Iterator[_Draw]:
    classes, layout = model.config.num_classes, model.config.layout
    for number, block in enumerate(room.blocks[first:], start=first):
        points = blocks.block_points(block)
        rng = np.random.default_rng([draws.seed, number])
        kept, own = points, None
        if draws.voxel:
            thinned, own = blocks.thin(room.pos[points], draws.voxel, rng)
            kept = points[thinned]
        logits = np.zeros((len(kept), classes), np.float32)
        chosen_sets = blocks.cover(len(kept), draws.num_points, rng)
        for n, chosen in enumerate(chosen_sets, start=1):
            rows = kept[chosen]
            features = blocks.block_features(
                *(room.pos[rows], room.color[rows], block.corner, room.extent),
                layout=layout,
                size=block.size,
            )
            last = n if n == len(chosen_sets) else 0
            yield _Draw(points, own, logits, chosen, features, last)


def forward(model: DeepGCN, features: np.ndarray) -> np.ndarray:
    """Return the model's logits (B, N, C) float32 for features (B, N, 9).

    WeightsError: one is not finite, so there is no largest.
    """
    parameter = next(model.parameters())
    with torch.inference_mode():
        batch = torch.from_numpy(features).to(parameter.device, parameter.dtype)
        logits: np.ndarray = graphed_evaluation(model)(batch).float().cpu().numpy()
    if not np.isfinite(logits).all():
        raise WeightsError(
            f"{model.config.label}: found NaN or infinite outputs, expected finite ones.\n"
            "Use other weights, or --precision 32 if it was another one."
        )
    return logits


def add_rows(total: np.ndarray, rows: np.ndarray, values: np.ndarray) -> None:
    """Add values (n, C) to the given rows of total; a row may occur more than once."""
    order = np.argsort(rows, kind="stable")
    unique, first = np.unique(rows[order], return_index=True)
    total[unique] += np.add.reduceat(values[order], first, axis=0)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return softmax over the last axis, float32."""
    values = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return (values / values.sum(axis=-1, keepdims=True)).astype(np.float32, copy=False)


def segment(
    model: DeepGCN,
    pos: np.ndarray,
    color: np.ndarray | None = None,
    *,
    num_points: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    frame: str = "robust",
    progress: Progress = SILENT,
) -> tuple[np.ndarray, np.ndarray]:
    """Label a whole scan given as arrays.

    Args:
        model: a trained network; it is set to evaluation mode and stays on its device. On the CPU,
            memory that is freed stays with the process from now on, as it does in the commands.
        pos: (N, 3) float, metres, z up, in any frame.
        color: (N, 3), uint8 or float from 0 to 1; None: only for a network that sees none.
        num_points: points per draw; None: as in training.
        batch_size: draws per forward pass.
        seed: of the draws.
        frame: where the floor and the extent are found, see `scans.frame`: "robust", without stray
            points, or "published", by all points.

    Returns:
        labels (N,) int64 and probabilities (N, C) float32, in the order of `pos`.

    Raises:
        ConfigError: `num_points`, `batch_size` or `seed` is out of range, or `frame` unknown.
        DatasetError: the arrays do not fit together, hold no point or a coordinate that is not
            finite, or lie too far apart; or `color` is of another type or range.

    >>> from pipelines.config import ModelConfig
    >>> model = DeepGCN(ModelConfig(depth=2, width=8, k=4))
    >>> pos, color = np.random.rand(500, 3), np.full((500, 3), 128, np.uint8)
    >>> labels, probabilities = segment(model, pos, color, num_points=64)
    >>> labels.shape, probabilities.shape
    ((500,), (500, 13))
    """
    points_each = model.num_points if num_points is None else num_points
    draws = Draws(points_each, batch_size, seed, model.block_size, model.voxel)
    COUNT.check("num_points", draws.num_points)
    COUNT.check("batch_size", batch_size)
    SEED.check("--seed", seed)
    check_choice("rule", frame, FRAMES, flag="frame")
    pos = np.asarray(pos)  # lists and tensors on the CPU as well
    if color is None:
        if model.config.rgb:
            raise DatasetError(
                "segment: found no color, which this network sees; expected one for each point.\n"
                'Or use weights that see none: load_model("indoor-large")'
            )
        color = np.full((len(pos), 3), GREY, np.uint8)
    color = np.asarray(color)
    _check_arrays(pos, color)

    def read(part: slice) -> np.ndarray:
        return pos[part].astype(np.float64)  # differences of small types wrap around

    local, found = locate(len(pos), read, frame)
    check_ground("segment", len(pos), read, found, "Give metres, without points that lie far away.")
    stray = found.stray(local)
    if count := int(stray.sum()):
        progress.say(f"segment: {left_out(count, len(pos))}; labelled all the same")
    order, points = sort_points(local, color, stray, draws.block_size)
    if next(model.parameters()).device.type == "cpu":
        keep_freed_memory()
    probabilities = np.empty((len(pos), model.config.num_classes), np.float32)
    with sleep_if_crowded(), progress.task("Labelling", total=len(pos), unit="points") as task:
        for rows, logits, _ in block_logits(model.eval(), points, draws, task):
            probabilities[order[rows]] = softmax(logits)
    return probabilities.argmax(axis=1), probabilities


def _check_arrays(pos: np.ndarray, color: np.ndarray) -> None:
    if pos.ndim != 2 or pos.shape[1] != 3 or color.shape != pos.shape or not len(pos):
        raise DatasetError(
            f"segment: found pos {pos.shape} and color {color.shape}, expected both (N, 3), N ≥ 1."
        )
    if pos.dtype.kind not in "fiu":
        raise DatasetError(f"segment: found pos of type {pos.dtype}, expected numbers.")
    if color.dtype != np.uint8:
        expected = "expected uint8 from 0 to 255, or float from 0 to 1"
        if color.dtype.kind != "f":
            raise DatasetError(f"segment: found color of type {color.dtype}, {expected}.")
        least, most = color.min(), color.max()
        if not (least >= 0 and most <= BRIGHTEST_FRACTION):  # NaN is neither
            raise DatasetError(f"segment: found color from {least} to {most}, {expected}.")
    if bad := int((~np.isfinite(pos).all(axis=1)).sum()):
        raise DatasetError(
            f"segment: found {bad} of {counted(len(pos), 'point')} with NaN or infinity in pos."
        )
