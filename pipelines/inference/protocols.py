"""A network's predictions on the test rooms under each protocol, and a baseline without a network.

`room` predicts every point once (disjoint 1 m blocks, every point drawn at least once, logits of
repeated draws and of votes summed). `block-s1` and `block-s05` predict one draw of each block, at
stride 1 m (the TensorFlow release) and 0.5 m (the PyTorch release, whose blocks overlap).

The baseline predicts the most frequent class of each 10 cm of height. Floors are low, ceilings high
and walls in between, so a network that is no better has learned heights only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.data.blocks import grid_sort
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Room, RoomInfo, Store
from pipelines.metrics import confusion
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task
from pipelines.training.steps import predict_batches

from .segmentation import Draws, SortedPoints, block_logits, softmax

STRIDES = {"block-s1": 1.0, "block-s05": 0.5}  # m
SCALES = (1.0, 0.95, 1.05)  # of the votes, in turn
BAND, BANDS = 0.1, 100  # height of a band in m; how many, of which the last is open upwards


@dataclass(frozen=True)
class EvalTarget:
    """A network and the rooms that it is evaluated on."""

    model: DeepGCN  # on its device
    store: Store
    rooms: tuple[RoomInfo, ...]  # of the test area
    num_points: int  # points per draw
    batch_size: int = 8  # draws per forward pass
    seed: int = 0  # of all draws
    votes: int = 1  # passes over each room under protocol `room`


@dataclass(frozen=True)
class RoomPrediction:
    """The network's prediction for every point of a room."""

    room: Room
    predicted: np.ndarray  # (N,) uint8, after all votes
    first: np.ndarray  # (N,) uint8, after the first vote
    confidence: np.ndarray  # (N,) float32, the largest probability by the votes' mean logits
    blocks: int  # draws passed through the network
    seconds: float  # wall time, drawing included


def predict_rooms(target: EvalTarget, progress: Progress = SILENT) -> Iterator[RoomPrediction]:
    """Predict every point of every room, one room at a time."""
    total = target.votes * sum(info.points for info in target.rooms)
    with progress.task("Scoring rooms", total=total, unit="points") as task:
        for info in target.rooms:
            yield predict_room(target, target.store.read(info), task)


def predict_room(target: EvalTarget, room: Room, task: Task | None = None) -> RoomPrediction:
    """Predict every point of a room; the logits of votes are summed."""
    start, blocks = time.monotonic(), 0
    total = np.zeros((len(room.pos), target.model.config.num_classes), np.float32)
    labels = []
    for vote in range(target.votes):
        blocks += _add_vote(target, room, vote, total, task)
        if vote in (0, target.votes - 1):
            labels.append(total.argmax(axis=1).astype(np.uint8))
    confidence = softmax(total / target.votes).max(axis=1)
    seconds = time.monotonic() - start
    return RoomPrediction(room, labels[-1], labels[0], confidence, blocks, seconds)


def _add_vote(
    target: EvalTarget, room: Room, vote: int, total: np.ndarray, task: Task | None
) -> int:
    """Add one vote's logits (N, C) to `total` and return the number of draws."""
    points, order = SortedPoints(room.pos, room.color, room.grid, room.extent), None
    if vote:
        pos = vote_pos(room.pos, vote, target.votes)
        order, grid = grid_sort(pos)
        points = SortedPoints(pos[order], room.color[order], grid, pos.max(axis=0))
    draws = Draws(target.num_points, target.batch_size, target.seed + vote)
    blocks = 0
    for block in block_logits(target.model, points, draws, task=task):
        rows = block.points if order is None else order[block.points]
        total[rows] += block.logits
        blocks += -(-len(rows) // target.num_points)
    return blocks


def vote_pos(pos: np.ndarray, vote: int, votes: int) -> np.ndarray:
    """Transform points (N, 3) for vote number `vote`, in metres from their new minimum.

    Vote 0 leaves the room as it is. The others rotate it about z by equal parts of a full turn,
    mirror every second one, and scale by 1, 0.95, 1.05 in turn.
    """
    if vote == 0:
        return pos
    angle = 2 * math.pi * vote / votes
    mirror = -1.0 if vote % 2 else 1.0
    cos, sin = math.cos(angle), math.sin(angle)
    turn = np.array([[cos * mirror, -sin, 0], [sin * mirror, cos, 0], [0, 0, 1]])
    moved = pos.astype(np.float64) @ turn.T * SCALES[vote % len(SCALES)]
    return (moved - moved.min(axis=0)).astype(np.float32)


def count_blocks(
    target: EvalTarget, protocol: str, progress: Progress = SILENT
) -> tuple[dict[str, np.ndarray], int]:
    """Count the predictions for one draw of each block.

    Returns the confusion counts (C, C) of each room by its name, and the number of draws.
    """
    classes, layout = len(target.store.classes), target.model.config.layout
    rooms, blocks = {}, 0
    with progress.task(f"Scoring {protocol}", total=len(target.rooms), unit="rooms") as task:
        for info in target.rooms:
            draws = (target.num_points, target.seed, STRIDES[protocol], layout)
            sampler = BlockSampler(target.store, [info], *draws)
            matrix = np.zeros((classes, classes), np.int64)
            batches = (sampler.batch(0, b) for b in sampler.in_order(target.batch_size))
            for label, predicted in predict_batches(target.model, batches):
                matrix += confusion(label, predicted, classes)
            rooms[info.name] = matrix
            blocks += len(sampler)
            task.advance()
    return rooms, blocks


def learn_height_bands(rooms: Iterable[Room], num_classes: int) -> np.ndarray:
    """Return the most frequent class (BANDS,) of each band over labelled rooms.

    A band without points takes the class that is most frequent overall.
    """
    counts = np.zeros((BANDS, num_classes), np.int64)
    for room in rooms:
        known = room.label < num_classes
        cells = height_bands(room)[known] * num_classes + room.label[known]
        counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
    best = counts.argmax(axis=1)
    best[counts.sum(axis=1) == 0] = counts.sum(axis=0).argmax()
    return best


def score_height_bands(best: np.ndarray, room: Room, num_classes: int) -> np.ndarray:
    """Return the confusion counts (C, C) of predicting each point by its band's class `best`."""
    return confusion(room.label, best[height_bands(room)], num_classes)


def height_bands(room: Room) -> np.ndarray:
    """Return the band (N,) of each point by its height above the room's lowest point."""
    return np.minimum((room.pos[:, 2] / BAND).astype(np.int64), BANDS - 1)
