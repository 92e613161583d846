"""Probabilities for every point of a room or scan, block by block.

The room is cut into disjoint 1 m blocks. Each block's points are dealt out into draws of
`num_points` (`data.blocks.cover`), the network sees one draw at a time, and the logits of a point
that was drawn more than once are summed. Everything a block needs follows from the seed and the
block's number, so neither the batch size nor what else is in the scan changes a result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.config import SEED, ModelConfig
from pipelines.config.options import COUNT
from pipelines.data.blocks import (
    Block,
    Grid,
    block_features,
    block_points,
    check_ground,
    cover,
    grid_sort,
    room_blocks,
)
from pipelines.errors import DatasetError
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task
from pipelines.scans.table import BRIGHTEST_FRACTION
from pipelines.training.cuda_graphs import in_evaluation


@dataclass(frozen=True)
class BlockLogits:
    """The network's answer for one block: indices (n,) into the sorted points, logits (n, C)."""

    points: np.ndarray
    logits: np.ndarray


def block_logits(
    model: DeepGCN,
    pos: np.ndarray,
    color: np.ndarray,
    grid: Grid,
    extent: np.ndarray,
    *,
    num_points: int,
    batch_size: int,
    seed: int,
    first: int = 0,
    task: Task | None = None,
) -> Iterator[BlockLogits]:
    """Yield the summed logits of every block, in order; together they hold each point once.

    Args:
        model: in evaluation mode, on its device.
        pos: (N, 3) float32, metres from the minimum corner, sorted by cell.
        color: (N, 3) uint8, or float from 0 to 1, in the same order.
        grid: the cells of `pos`.
        extent: (3,) the maximum of `pos`.
        num_points: points per draw.
        batch_size: draws per forward pass.
        seed: of the draws.
        first: the block to begin with; the ones before it are left out.
        task: is advanced by the points of each finished block.
    """
    model.config.check_points(num_points)
    draws = _draws(model.config, pos, color, grid, extent, num_points, seed, first)
    batch: list[_Draw] = []
    for draw in draws:
        batch.append(draw)
        if len(batch) == batch_size:
            yield from _finish(model, batch, task)
            batch = []
    yield from _finish(model, batch, task)


@dataclass
class _Sum:
    """A block whose draws are being summed."""

    points: np.ndarray
    logits: np.ndarray
    missing: int  # draws that are still to come


@dataclass(frozen=True)
class _Draw:
    """One draw: where it goes, which of the block's points it holds, and its features."""

    total: _Sum
    chosen: np.ndarray
    features: np.ndarray


def _draws(
    config: ModelConfig,
    pos: np.ndarray,
    color: np.ndarray,
    grid: Grid,
    extent: np.ndarray,
    num_points: int,
    seed: int,
    first: int,
) -> Iterator[_Draw]:
    blocks = room_blocks(grid, stride=1.0, min_points=1)
    for number, block in enumerate(blocks[first:], start=first):
        rng = np.random.default_rng([seed, number])
        points = block_points(block)
        draws = cover(block.count, num_points, rng)
        total = _Sum(points, np.zeros((len(points), config.num_classes), np.float32), len(draws))
        for chosen in draws:
            features = _features(pos, color, points[chosen], block, extent, config.layout)
            yield _Draw(total, chosen, features)


def _features(
    pos: np.ndarray,
    color: np.ndarray,
    points: np.ndarray,
    block: Block,
    extent: np.ndarray,
    layout: str,
) -> np.ndarray:
    return block_features(pos[points], color[points], block.corner, extent, layout=layout)


def _finish(model: DeepGCN, batch: list[_Draw], task: Task | None) -> Iterator[BlockLogits]:
    """Run one batch of draws and yield the blocks that it completes."""
    if not batch:
        return
    logits = forward(model, np.stack([draw.features for draw in batch]))
    for draw, values in zip(batch, logits, strict=True):
        total = draw.total
        add_rows(total.logits, draw.chosen, values)
        total.missing -= 1
        if total.missing == 0:
            if task is not None:
                task.advance(len(total.points))
            yield BlockLogits(total.points, total.logits)


def forward(model: DeepGCN, features: np.ndarray) -> np.ndarray:
    """Return the model's logits (B, N, C) float32 for features (B, N, 9)."""
    parameter = next(model.parameters())
    with torch.inference_mode():
        batch = torch.from_numpy(features).to(parameter.device, parameter.dtype)
        return in_evaluation(model)(batch).float().cpu().numpy()


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
    color: np.ndarray,
    *,
    num_points: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: Progress = SILENT,
) -> tuple[np.ndarray, np.ndarray]:
    """Label a whole scan given as arrays.

    Args:
        model: a trained network; it is used in evaluation mode on the device that it is on.
        pos: (N, 3) float, metres, z up, in any frame.
        color: (N, 3), uint8 or float from 0 to 1.
        num_points: points per draw; None: as the network was trained with.
        batch_size: draws per forward pass.
        seed: of the draws.
        progress: hears how far it is.

    Returns:
        labels (N,) int64 and probabilities (N, C) float32, in the order of `pos`.

    Raises:
        ConfigError: `num_points`, `batch_size` or `seed` cannot be.
        DatasetError: the arrays do not fit together, hold no point or a coordinate that is not
            finite, or lie too far apart; or `color` is of another type or range.
    """
    COUNT.check("num_points", model.num_points if num_points is None else num_points)
    COUNT.check("batch_size", batch_size)
    SEED.check("--seed", seed)
    pos, color = np.asarray(pos), np.asarray(color)  # lists and tensors on the CPU will do
    _check_arrays(pos, color)
    if pos.dtype not in (np.float32, np.float64):  # differences of small types wrap around
        pos = pos.astype(np.float64)
    with np.errstate(over="ignore"):  # infinite is too far apart, too
        local = (pos - pos.min(axis=0)).astype(np.float32)
    check_ground("segment", local.max(axis=0), "Give metres, without points that lie far off.")
    order, grid = grid_sort(local)
    local, color = local[order], color[order]
    model = model.eval()
    probabilities = np.empty((len(pos), model.config.num_classes), np.float32)
    with progress.task("Labelling", total=len(pos), unit="points") as task:
        for block in block_logits(
            model,
            local,
            color,
            grid,
            local.max(axis=0),
            num_points=model.num_points if num_points is None else num_points,
            batch_size=batch_size,
            seed=seed,
            task=task,
        ):
            probabilities[order[block.points]] = softmax(block.logits)
    return probabilities.argmax(axis=1), probabilities


def _check_arrays(pos: np.ndarray, color: np.ndarray) -> None:
    if pos.ndim != 2 or pos.shape[1] != 3 or color.shape != pos.shape or not len(pos):
        raise DatasetError(
            f"segment: found pos {pos.shape} and color {color.shape}, expected both (N, 3), N ≥ 1."
        )
    if pos.dtype.kind not in "fiu":
        raise DatasetError(f"segment: found pos of type {pos.dtype}, expected numbers.")
    _check_color(color)
    if not np.isfinite(pos).all():
        bad = int((~np.isfinite(pos).all(axis=1)).sum())
        raise DatasetError(
            f"segment: found {bad} of {len(pos)} points with NaN or infinity in pos."
        )


def _check_color(color: np.ndarray) -> None:
    """Raise DatasetError unless the network can take `color` for what it is."""
    if color.dtype == np.uint8:
        return
    expected = "expected uint8 from 0 to 255, or float from 0 to 1"
    if color.dtype.kind != "f":
        raise DatasetError(f"segment: found color of type {color.dtype}, {expected}.")
    if not (color.min() >= 0 and color.max() <= BRIGHTEST_FRACTION):  # NaN is neither
        raise DatasetError(f"segment: found color from {color.min()} to {color.max()}, {expected}.")
