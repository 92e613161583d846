"""What is scored: a network's answers on rooms, under each protocol.

`room` answers every point once (disjoint 1 m blocks, every point drawn at least once, logits of
repeated draws and of votes summed). `block-s1` and `block-s05` answer one draw of each block, at
stride 1 m (the TensorFlow release) and 0.5 m (the PyTorch release, whose blocks overlap).
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from pipelines.data.blocks import grid_sort
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Room, RoomInfo, Store
from pipelines.metrics import confusion
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task
from pipelines.training.steps import predict_batches

from .segmentation import block_logits, softmax

STRIDES = {"block-s1": 1.0, "block-s05": 0.5}  # m
SCALES = (1.0, 0.95, 1.05)  # of the votes, in turn


@dataclass(frozen=True)
class Subject:
    """A network and the rooms that it is asked about.

    Attributes:
        model: on its device.
        store: the rooms' store.
        rooms: the test rooms.
        num_points: points per draw.
        batch_size: draws per forward pass.
        seed: of all draws.
        votes: passes over each room under protocol `room`.
    """

    model: DeepGCN
    store: Store
    rooms: tuple[RoomInfo, ...]
    num_points: int
    batch_size: int = 8
    seed: int = 0
    votes: int = 1


@dataclass(frozen=True)
class RoomAnswer:
    """The network's answer for every point of a room.

    Attributes:
        room: the room.
        predicted: (N,) uint8, after all votes.
        first: (N,) uint8, after the first vote.
        confidence: (N,) float32, the largest softmax probability of the mean logits of the votes.
        blocks: draws that the network saw.
        seconds: time that it took, drawing included.
    """

    room: Room
    predicted: np.ndarray
    first: np.ndarray
    confidence: np.ndarray
    blocks: int
    seconds: float

    def matrix(self, classes: int) -> np.ndarray:
        """Return the confusion counts (C, C)."""
        return confusion(self.room.label, self.predicted, classes)


@dataclass(frozen=True)
class BlockCounts:
    """One room's confusion counts over the points drawn from its blocks."""

    room: RoomInfo
    matrix: np.ndarray
    blocks: int
    seconds: float


def answer_rooms(subject: Subject, progress: Progress = SILENT) -> Iterator[RoomAnswer]:
    """Answer every point of every room, one room at a time."""
    total = subject.votes * sum(info.points for info in subject.rooms)
    with progress.task("Scoring rooms", total=total, unit="points") as task:
        for info in subject.rooms:
            yield answer_room(subject, subject.store.read(info), task)


def answer_room(subject: Subject, room: Room, task: Task | None = None) -> RoomAnswer:
    """Answer every point of a room; votes are summed as logits."""
    start = time.monotonic()
    total = np.zeros((len(room.pos), subject.model.config.num_classes), np.float32)
    first = np.empty(0, np.uint8)
    blocks = 0
    for vote in range(subject.votes):
        blocks += _add_vote(subject, room, vote, total, task)
        if vote == 0:
            first = total.argmax(axis=1).astype(np.uint8)
    predicted = total.argmax(axis=1).astype(np.uint8) if subject.votes > 1 else first
    confidence = softmax(total / subject.votes).max(axis=1)
    return RoomAnswer(room, predicted, first, confidence, blocks, time.monotonic() - start)


def _add_vote(subject: Subject, room: Room, vote: int, total: np.ndarray, task: Task | None) -> int:
    """Add one vote's logits (N, C) to `total`; return the draws."""
    pos, grid, extent = room.pos, room.grid, room.extent
    order = None
    if vote:
        pos = vote_pos(room.pos, vote, subject.votes)
        order, grid = grid_sort(pos)
        pos, extent = pos[order], pos.max(axis=0)
    color = room.color if order is None else room.color[order]
    blocks = 0
    for block in block_logits(
        subject.model,
        pos,
        color,
        grid,
        extent,
        num_points=subject.num_points,
        batch_size=subject.batch_size,
        seed=subject.seed + vote,
        task=task,
    ):
        rows = block.points if order is None else order[block.points]
        total[rows] += block.logits
        blocks += -(-len(rows) // subject.num_points)
    return blocks


def vote_pos(pos: np.ndarray, vote: int, votes: int) -> np.ndarray:
    """Return points (N, 3) as vote number `vote` sees them, metres from their new minimum.

    Vote 0 is the room as it is. The others turn it about z by equal parts of a full turn, every
    second one mirrored, and scale it by 1, 0.95, 1.05 in turn.
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
    subject: Subject, protocol: str, progress: Progress = SILENT
) -> Iterator[BlockCounts]:
    """Count the answers for one draw of each block, one room at a time."""
    classes, layout = len(subject.store.classes), subject.model.config.layout
    with progress.task(f"Scoring {protocol}", total=len(subject.rooms), unit="rooms") as task:
        for info in subject.rooms:
            start = time.monotonic()
            sampler = BlockSampler(
                subject.store, [info], subject.num_points, subject.seed, STRIDES[protocol], layout
            )
            matrix = np.zeros((classes, classes), np.int64)
            batches = (sampler.batch(0, b) for b in sampler.in_order(subject.batch_size))
            for label, predicted in predict_batches(subject.model, batches):
                matrix += confusion(label, predicted, classes)
            task.advance()
            yield BlockCounts(info, matrix, len(sampler), time.monotonic() - start)
