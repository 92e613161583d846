"""A network's predictions on the test rooms under each protocol, and a baseline without a network.

`room` predicts every point once (disjoint blocks of the network's side, every point drawn at least
once, logits of repeated draws and of votes summed). `block-s1` and `block-s05` predict one draw of
each block of 1 m, at stride 1 m (the TensorFlow release) and 0.5 m (the PyTorch release, whose
blocks overlap).

The baseline predicts the most frequent class of each 10 cm of height. Floors are low, ceilings high
and walls in between, so a network that is no better has learned heights only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.config import EvalConfig
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Room, RoomInfo, Store
from pipelines.metrics import confusion
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task
from pipelines.runs.directory import Run
from pipelines.runs.weights import NamedWeights

from .segmentation import Draws, block_logits, forward, softmax, sort_points, vote_pos

STRIDES = {"block-s1": 1.0, "block-s05": 0.5}  # m
BAND, BANDS = 0.1, 100  # height of a band in m; how many, of which the last is open upwards


@dataclass(frozen=True)
class Evaluation:
    """A trained network, or several that predict together, the rooms to score them on, and how."""

    name: str  # of the run or the weights
    folder: Path  # for the files of each protocol
    weights: tuple[NamedWeights, ...]
    models: tuple[DeepGCN, ...]  # of the weights, on their device, in evaluation mode
    options: EvalConfig
    store: Store
    rooms: tuple[RoomInfo, ...]  # that are scored

    @property
    def run(self) -> Run | None:
        """The run that is scored; None: weights are, and not those that a run left."""
        return self.weights[0].run if not self.options.weights else None

    @property
    def model(self) -> DeepGCN:
        """The network, or the first of several."""
        return self.models[0]

    @property
    def areas(self) -> tuple[int, ...]:
        """The areas of the rooms."""
        return tuple(sorted({info.area for info in self.rooms}))

    @property
    def seen(self) -> tuple[int, ...]:
        """The areas of the rooms that were trained on: of a run, before it, by its weights."""
        before = self.run is not None
        unseen = {*self.areas}
        for each in self.weights:
            unseen &= each.unseen_areas(self.store, before=before)
        return tuple(area for area in self.areas if area not in unseen)

    def title_of(self, room: RoomInfo | Room) -> str:
        """Return a room's name, with its area if rooms of several areas are scored."""
        return room.name if len(self.areas) == 1 else f"Area_{room.area}_{room.name}"


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
    passes = votes * len(of.models)
    total = passes * sum(info.points for info in of.rooms)
    with progress.task("Scoring rooms", total=total, unit="points") as task:
        for info in of.rooms:
            room = of.store.read(info)
            start, blocks = time.monotonic(), 0
            logits = np.zeros((len(room.pos), of.model.config.num_classes), np.float32)
            labels = []
            for vote in range(votes):
                blocks += sum(add_vote(of, m, room, vote, logits, task) for m in of.models)
                if vote in (0, votes - 1):
                    labels.append(logits.argmax(axis=1).astype(np.uint8))
            confidence = softmax(logits / passes).max(axis=1)
            seconds = time.monotonic() - start
            yield RoomPrediction(room, labels[-1], labels[0], confidence, blocks, seconds)


def add_vote(
    of: Evaluation, model: DeepGCN, room: Room, vote: int, total: np.ndarray, task: Task
) -> int:
    """Add one vote's logits (N, C) to `total` and return the number of draws."""
    pos = vote_pos(room.pos, vote, of.options.votes, room.stray)
    seed = of.options.seed + vote
    draws = Draws(model.num_points, of.options.batch_size, seed, model.block_size, model.voxel)
    order, points = sort_points(pos, room.color, room.stray, draws.block_size)
    blocks = 0
    for rows, logits, count in block_logits(model, points, draws, task):
        total[order[rows]] += logits
        blocks += count
    return blocks


def count_blocks(
    of: Evaluation, protocol: str, progress: Progress = SILENT
) -> tuple[dict[str, np.ndarray], int]:
    """Count the predictions for one draw of each block.

    Returns the confusion counts (C, C) of each room by its name, and the number of draws.
    """
    classes = len(of.store.classes)
    options = (of.model.num_points, of.options.seed, STRIDES[protocol], of.model.config.layout)
    rooms, blocks = {}, 0
    with progress.task(f"Scoring {protocol}", total=len(of.rooms), unit="rooms") as task:
        for info in of.rooms:
            sampler = BlockSampler(of.store, [info], *options)
            matrix = np.zeros((classes, classes), np.int64)
            for numbers in sampler.in_order(of.options.batch_size):
                batch = sampler.batch(0, numbers)
                predicted = forward(of.model, batch.features).argmax(axis=-1)
                matrix += confusion(batch.label, predicted, classes)
            rooms[of.title_of(info)] = matrix
            blocks += len(sampler)
            task.advance()
    return rooms, blocks


def count_height_bands(of: Evaluation, progress: Progress = SILENT) -> np.ndarray | None:
    """Return the baseline's confusion counts (C, C), learned for each room on the other areas.

    A band without points takes the class that is most frequent overall. None: there is no other
    area to learn on.
    """
    store, classes = of.store, len(of.store.classes)
    learned = [info for info in store.rooms() if (info.area,) != of.areas]
    counts = {info.area: np.zeros((BANDS, classes), np.int64) for info in learned}
    with progress.task("Height bands", total=len(learned), unit="rooms") as task:
        for info in learned:
            room = store.read(info)
            known = room.label < classes
            cells = _height_bands(room)[known] * classes + room.label[known]
            counts[info.area] += np.bincount(cells, minlength=BANDS * classes).reshape(BANDS, -1)
            task.advance()
    total = np.zeros((classes, classes), np.int64)
    for info in of.rooms:
        others = np.sum([counts[area] for area in counts if area != info.area], axis=0)
        if not np.any(others):
            return None
        best = others.argmax(axis=1)
        best[others.sum(axis=1) == 0] = others.sum(axis=0).argmax()
        room = store.read(info)
        total += confusion(room.label, best[_height_bands(room)], classes)
    return total


def _height_bands(room: Room) -> np.ndarray:
    """Return the band (N,) of each point by its height above the room's floor."""
    return np.clip((room.pos[:, 2] / BAND).astype(np.int64), 0, BANDS - 1)
