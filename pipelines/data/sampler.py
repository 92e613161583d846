"""Blocks drawn from the store: which ones, in which order, with which points.

Every draw follows from (seed, epoch, block) alone. So any thread may make any batch at any time,
and a resumed run needs to know no more than where in the epoch it was. A block that is drawn twice
in an epoch has a number for each time (`balance.draw_blocks`), and so other points.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.progress import SILENT, Progress

from .augment import PARTS as AUGMENTATIONS
from .augment import BlockPoints, augment
from .balance import block_counts, block_probabilities, draw_blocks
from .blocks import BLOCK_SIZE, Block, block_features, block_points, draw, room_blocks
from .store import Room, RoomInfo, Store

BYTES_PER_POINT = 16  # pos, color, label
ORDER, POINTS, AUGMENT = 0, 1, 2  # what a stream of random numbers is for


@dataclass(frozen=True)
class Batch:
    """Some blocks, ready for the model.

    Attributes:
        features: (B, N, 9) float32.
        label: (B, N) uint8.
        blocks: (B,) the blocks' numbers within their sampler. On several processes those of the
            whole batch, while `features` and `label` are one process's share of it.
        idle: whether the share is empty, and `features` a stand-in that must not count.
    """

    features: np.ndarray
    label: np.ndarray
    blocks: tuple[int, ...]
    idle: bool = False


class BlockSampler:
    """The blocks of some rooms, with points drawn from them.

    Args:
        store: the prepared data.
        rooms: whose blocks; their order numbers the blocks.
        num_points: N, the points drawn from each block.
        seed: what all draws follow from.
        stride: metres between blocks: 0.5 overlaps them (training), 1.0 makes them disjoint.
        layout: "paper" or "torch", see `block_features`.
        parts: of the recipe. "resample" draws a block's points anew every epoch; without it they
            are drawn once, as for the published HDF5 files. "balance" draws blocks by their
            classes (`data.balance`); without it every block comes once an epoch. Those of
            `data.augment` change what was drawn.
        sharing: processes on this machine that each keep rooms in its memory.
        progress: hears how the rooms are read, which is done once to find their blocks.
    """

    def __init__(
        self,
        store: Store,
        rooms: Sequence[RoomInfo],
        num_points: int,
        seed: int,
        stride: float = 0.5,
        layout: str = "paper",
        *,
        parts: Sequence[str] = (),
        sharing: int = 1,
        progress: Progress = SILENT,
    ) -> None:
        self.num_points, self.seed, self.layout = num_points, seed, layout
        self.resample = "resample" in parts
        self.augment = tuple(part for part in parts if part in AUGMENTATIONS)
        self.rooms = tuple(rooms)
        self._cache = RoomCache(store, sharing)
        self._blocks: list[tuple[RoomInfo, Block]] = []
        self._probabilities: np.ndarray | None = None  # None: every block once
        counts: list[np.ndarray] = []
        with progress.task("Reading rooms", total=len(self.rooms), unit="rooms") as task:
            for info in self.rooms:
                room = self._cache.read(info)
                blocks = room_blocks(room.grid, stride=stride)
                self._blocks += [(info, block) for block in blocks]
                if "balance" in parts:
                    classes = len(store.classes)
                    counts += [block_counts(room.label, block, classes) for block in blocks]
                task.advance()
        if counts:
            self._probabilities = block_probabilities(np.stack(counts))

    def __len__(self) -> int:
        return len(self._blocks)

    def room_of(self, block: int) -> RoomInfo:
        """Return the room that block number `block` lies in."""
        return self._blocks[block % len(self)][0]

    def order(self, epoch: int) -> np.ndarray:
        """Return the numbers of an epoch's blocks in their random order, (blocks,) int64."""
        rng = self._rng(ORDER, epoch)
        if self._probabilities is not None:
            return draw_blocks(self._probabilities, rng)
        return rng.permutation(len(self))

    def batches(self, epoch: int, batch_size: int, *, start: int = 0) -> list[np.ndarray]:
        """Return the block numbers of an epoch's batches from batch `start` on.

        The last batch may be smaller.
        """
        return list(_slices(self.order(epoch), batch_size))[start:]

    def in_order(self, batch_size: int) -> list[np.ndarray]:
        """Return the block numbers of all batches without shuffling."""
        return list(_slices(np.arange(len(self)), batch_size))

    def sample(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features (N, 9) float32 and label (N,) uint8 of a block as drawn in an epoch."""
        info, place = self._blocks[block % len(self)]
        room = self._cache.read(info)
        key = (POINTS, epoch, block) if self.resample else (POINTS, 0, block % len(self))
        drawn = draw(place.count, self.num_points, self._rng(*key))
        points = block_points(place)[drawn]
        pos, color = room.pos[points], room.color[points]
        corner, extent = place.corner, room.extent
        if self.augment:
            middle = np.array(corner) + BLOCK_SIZE / 2
            whole = BlockPoints(pos, color / np.float32(255), middle, extent)
            moved = augment(whole, self.augment, self._rng(AUGMENT, epoch, block))
            pos, color, corner, extent = moved.pos, moved.color, moved.corner, moved.extent
        features = block_features(pos, color, corner, extent, layout=self.layout)
        return features, room.label[points]

    def batch(self, epoch: int, blocks: Sequence[int] | np.ndarray) -> Batch:
        """Return the given blocks as drawn in an epoch."""
        numbers = tuple(int(block) for block in blocks)
        features, labels = zip(*(self.sample(epoch, number) for number in numbers), strict=True)
        return Batch(np.stack(features), np.stack(labels), numbers)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


class RoomCache:
    """The rooms read last, as many as fit into half of the memory; several threads may read.

    Processes that are `sharing` a machine have that half together.

    All of S3DIS takes 11 GB. With less than twice that, rooms are read again and again.
    """

    def __init__(self, store: Store, sharing: int = 1) -> None:
        self._store, self._limit = store, memory() // 2 // sharing // BYTES_PER_POINT
        self._rooms: OrderedDict[RoomInfo, Room] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, info: RoomInfo) -> Room:
        """Return a room, from memory if it is there."""
        with self._lock:
            if info not in self._rooms:
                self._rooms[info] = self._store.read(info)
            self._rooms.move_to_end(info)
            while len(self._rooms) > 1 and self._points() > self._limit:
                self._rooms.popitem(last=False)
            return self._rooms[info]

    def _points(self) -> int:
        return sum(info.points for info in self._rooms)


def memory() -> int:
    """Return the computer's memory in bytes; 8 GB where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9


def _slices(numbers: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for first in range(0, len(numbers), size):
        yield numbers[first : first + size]
