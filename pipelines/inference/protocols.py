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
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.config import EvalConfig, TrainConfig
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Room, RoomInfo, Store
from pipelines.metrics import confusion
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task
from pipelines.runs.directory import Run
from pipelines.training.steps import predict_batches

from .segmentation import Draws, SortedPoints, block_logits, softmax, sort_points

STRIDES = {"block-s1": 1.0, "block-s05": 0.5}  # m
SCALES = (1.0, 0.95, 1.05)  # of the votes, in turn
BAND, BANDS = 0.1, 100  # height of a band in m; how many, of which the last is open upwards


@dataclass(frozen=True)
class Evaluation:
    """A trained network, the rooms that it is scored on, and how."""

    run: Run
    config: TrainConfig  # the run's
    options: EvalConfig
    model: DeepGCN  # on its device, in evaluation mode
    store: Store
    rooms: tuple[RoomInfo, ...]  # of the test area


@dataclass(frozen=True)
class RoomPrediction:
    """The network's prediction for every point of a room."""

    room: Room
    predicted: np.ndarray  # (N,) uint8, after all votes
    first: np.ndarray  # (N,) uint8, after the first vote
    confidence: np.ndarray  # (N,) float32, the largest probability by the votes' mean logits
    blocks: int  # draws passed through the network
    seconds: float  # wall time, drawing included


def predict_rooms(of: Evaluation, progress: Progress = SILENT) -> Iterator[RoomPrediction]:
    """Predict every point of every room, one room at a time; the logits of votes are summed."""
    votes = of.options.votes
    total = votes * sum(info.points for info in of.rooms)
    with progress.task("Scoring rooms", total=total, unit="points") as task:
        for info in of.rooms:
            room = of.store.read(info)
            start, blocks = time.monotonic(), 0
            logits = np.zeros((len(room.pos), of.model.config.num_classes), np.float32)
            labels = []
            for vote in range(votes):
                blocks += _add_vote(of, room, vote, logits, task)
                if vote in (0, votes - 1):
                    labels.append(logits.argmax(axis=1).astype(np.uint8))
            confidence = softmax(logits / votes).max(axis=1)
            seconds = time.monotonic() - start
            yield RoomPrediction(room, labels[-1], labels[0], confidence, blocks, seconds)


def _add_vote(of: Evaluation, room: Room, vote: int, total: np.ndarray, task: Task) -> int:
    """Add one vote's logits (N, C) to `total` and return the number of draws."""
    order = np.arange(len(room.pos))
    points = SortedPoints(room.pos, room.color, room.grid, room.extent)
    if vote:
        order, points = sort_points(vote_pos(room.pos, vote, of.options.votes), room.color)
    num_points = of.config.num_points
    draws = Draws(num_points, of.options.batch_size, of.options.seed + vote)
    blocks = 0
    for rows, logits in block_logits(of.model, points, draws, task):
        total[order[rows]] += logits
        blocks += math.ceil(len(rows) / num_points)
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
    of: Evaluation, protocol: str, progress: Progress = SILENT
) -> tuple[dict[str, np.ndarray], int]:
    """Count the predictions for one draw of each block.

    Returns the confusion counts (C, C) of each room by its name, and the number of draws.
    """
    classes = len(of.store.classes)
    options = (of.config.num_points, of.options.seed, STRIDES[protocol], of.model.config.layout)
    rooms, blocks = {}, 0
    with progress.task(f"Scoring {protocol}", total=len(of.rooms), unit="rooms") as task:
        for info in of.rooms:
            sampler = BlockSampler(of.store, [info], *options)
            batches = (sampler.batch(0, b) for b in sampler.in_order(of.options.batch_size))
            rooms[info.name] = np.zeros((classes, classes), np.int64)
            for label, predicted in predict_batches(of.model, batches):
                rooms[info.name] += confusion(label, predicted, classes)
            blocks += len(sampler)
            task.advance()
    return rooms, blocks


def count_height_bands(of: Evaluation, progress: Progress = SILENT) -> np.ndarray:
    """Return the baseline's confusion counts (C, C), learned on all areas but the test area.

    A band without points takes the class that is most frequent overall.
    """
    store, classes = of.store, len(of.store.classes)
    training = [info for info in store.rooms() if info.area != of.config.test_area]
    counts = np.zeros((BANDS, classes), np.int64)
    with progress.task("Height bands", total=len(training), unit="rooms") as task:
        for info in training:
            room = store.read(info)
            known = room.label < classes
            cells = _height_bands(room)[known] * classes + room.label[known]
            counts += np.bincount(cells, minlength=counts.size).reshape(counts.shape)
            task.advance()
    best = counts.argmax(axis=1)
    best[counts.sum(axis=1) == 0] = counts.sum(axis=0).argmax()
    rooms = map(store.read, of.rooms)
    return np.sum([confusion(r.label, best[_height_bands(r)], classes) for r in rooms], axis=0)


def _height_bands(room: Room) -> np.ndarray:
    """Return the band (N,) of each point by its height above the room's lowest point."""
    return np.minimum((room.pos[:, 2] / BAND).astype(np.int64), BANDS - 1)
