"""Draw blocks from the store: of which rooms, in which order, with which points.

Every draw follows from (seed, epoch, block) alone. So any thread may make any batch at any time,
and a resumed run only needs its position in the epoch. A block that is drawn several times in an
epoch has a number for each time (`draw_blocks`), and so other points each time.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pipelines.config import BLOCK_SIZE
from pipelines.errors import DatasetError
from pipelines.progress import SILENT, Progress, counted

from .augment import AUGMENTATIONS, BlockPoints, augment
from .blocks import Block, Grid, block_features, block_points, draw, room_blocks, thin
from .store import IGNORED, Room, RoomInfo

BYTES_PER_POINT = 16  # pos, color, label
ORDER, POINTS, AUGMENT = 0, 1, 2  # what a random stream is for
NO_VALIDATION = "No validation (--val-fraction 0): the last weights will be the result."
MOST = 10.0  # times that balancing may draw a block that is otherwise drawn once


@dataclass(frozen=True)
class Batch:
    """Some blocks, ready for the model; with several processes, a rank's local batch."""

    features: np.ndarray  # (B, N, 9) float32
    label: np.ndarray  # (B, N) uint8
    blocks: tuple[int, ...]  # their numbers within the sampler; of all ranks' batches together
    idle: bool = False  # the local batch is empty, and `features` a stand-in that must not count


class Sampler(Protocol):
    """What a training draws its blocks from: of a store, or of rooms that are made for it."""

    @property
    def rooms(self) -> Sequence[Any]:
        """The rooms of an epoch."""

    def __len__(self) -> int:
        """Return the number of blocks of an epoch."""

    def batches(self, epoch: int, batch_size: int, *, start: int = 0) -> list[np.ndarray]:
        """Return the block numbers of an epoch's batches from batch `start` on."""

    def batch(self, epoch: int, blocks: Sequence[int] | np.ndarray) -> Batch:
        """Return the given blocks as drawn in an epoch."""

    def name_of(self, epoch: int, block: int) -> str:
        """Return the name of the room that a block of an epoch lies in."""


class Rooms(Protocol):
    """Rooms that can be read, as those of a store."""

    classes: tuple[str, ...]

    def read(self, info: RoomInfo) -> Room:
        """Return the points of one room."""


@dataclass(frozen=True)
class Drawing:
    """How blocks become the network's input: the points of each, and what is done to them."""

    num_points: int  # N
    layout: str = "paper"  # or "torch", see `block_features`
    augmentations: tuple[str, ...] = ()
    voxel: float = 0.0  # m, the side of the cubes of which each gives one point; 0: all points

    def draw(
        self, room: Room, block: Block, points: np.random.Generator, moves: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return features (N, 9) float32 and label (N,) uint8 of points drawn from a block.

        `points` draws them, and `moves` what the augmentations do.
        """
        rows = block_points(block)
        if self.voxel:
            rows = rows[thin(room.pos[rows], self.voxel, points)[0]]
        drawn = rows[draw(len(rows), self.num_points, points)]
        pos, color, label = room.pos[drawn], room.color[drawn], room.label[drawn]
        corner, extent, size = block.corner, room.extent, block.size
        if self.augmentations:
            center = np.array(corner) + size / 2
            before = BlockPoints(pos, color / np.float32(255), label, center, extent, size)
            moved = augment(before, self.augmentations, moves)
            pos, color, label = moved.pos, moved.color, moved.label
            corner, extent = moved.corner, moved.extent
        features = block_features(pos, color, corner, extent, layout=self.layout, size=size)
        return features, label


class BlockSampler:
    """The blocks of some rooms, with points drawn from them.

    Args:
        store, rooms: the prepared data, and its rooms; blocks are numbered in their order.
        num_points: N, the points drawn from each block.
        seed: of all draws.
        stride: metres between blocks: less than `size` overlaps them (training), see `room_blocks`.
        layout: "paper" or "torch", see `block_features`.
        parts: of the recipe. "resample" draws a block's points again every epoch, instead of once
            as in the published HDF5 files. "balance" draws blocks by their classes
            (`block_probabilities`), instead of each once an epoch. AUGMENTATIONS change the points
            that were drawn.
        size: a block's side, metres.
        voxel: metres; each cube of this side gives at most one point of a block; 0: no thinning.
        sharing: processes on this machine that each keep rooms in its memory.
        keep: which of the rooms' blocks are taken; None: all.
        progress: of reading all rooms once, to find their blocks.
    """

    def __init__(
        self,
        store: Rooms,
        rooms: Sequence[RoomInfo],
        num_points: int,
        seed: int,
        stride: float = 0.5,
        layout: str = "paper",
        *,
        parts: Sequence[str] = (),
        size: float = BLOCK_SIZE,
        voxel: float = 0.0,
        sharing: int = 1,
        keep: Callable[[Block], bool] | None = None,
        progress: Progress = SILENT,
    ) -> None:
        self.seed, self.resample = seed, "resample" in parts
        self.drawing = Drawing(num_points, layout, augmentations_of(parts), voxel)
        self.rooms = tuple(rooms)
        self._cache = RoomCache(store, sharing)
        self._blocks: list[tuple[RoomInfo, Block]] = []
        counts: list[np.ndarray] = []
        with progress.task("Reading rooms", total=len(self.rooms), unit="rooms") as task:
            for info in self.rooms:
                room = self._cache.read(info)
                for block in filter(keep, room_blocks(room.grid, size=size, stride=stride)):
                    self._blocks.append((info, block))
                    if "balance" in parts:
                        counts.append(count_classes(room, block, len(store.classes)))
                task.advance()
        # None: every block comes once an epoch.
        self._probabilities = block_probabilities(np.stack(counts)) if counts else None

    def __len__(self) -> int:
        return len(self._blocks)

    def name_of(self, epoch: int, block: int) -> str:  # noqa: ARG002
        """Return the name of the room that a block lies in, such as Area_1/office_1."""
        info, _ = self._blocks[block % len(self)]
        return f"Area_{info.area}/{info.name}"

    def order(self, epoch: int) -> np.ndarray:
        """Return the numbers of an epoch's blocks in their random order, (blocks,) int64."""
        rng, probabilities = self._rng(ORDER, epoch), self._probabilities
        return (
            rng.permutation(len(self)) if probabilities is None else draw_blocks(probabilities, rng)
        )

    def batches(self, epoch: int, batch_size: int, *, start: int = 0) -> list[np.ndarray]:
        """Return the block numbers of an epoch's batches from batch `start` on."""
        return slices(self.order(epoch), batch_size)[start:]

    def in_order(self, batch_size: int, *, most: int | None = None) -> list[np.ndarray]:
        """Return the block numbers of all batches without shuffling; of `most`, spread evenly."""
        count = min(most or len(self), len(self))
        return slices(np.arange(count) * len(self) // count, batch_size)

    def sample(self, epoch: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """Return features (N, 9) float32 and label (N,) uint8 of a block as drawn in an epoch."""
        info, column = self._blocks[block % len(self)]
        key = (POINTS, epoch, block) if self.resample else (POINTS, 0, block % len(self))
        moves = self._rng(AUGMENT, epoch, block)
        return self.drawing.draw(self._cache.read(info), column, self._rng(*key), moves)

    def batch(self, epoch: int, blocks: Sequence[int] | np.ndarray) -> Batch:
        """Return the given blocks as drawn in an epoch."""
        numbers = tuple(int(block) for block in blocks)
        features, labels = zip(*(self.sample(epoch, number) for number in numbers), strict=True)
        return Batch(np.stack(features), np.stack(labels), numbers)

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


def slices(numbers: np.ndarray, size: int) -> list[np.ndarray]:
    """Return the elements of an array, `size` at a time."""
    return [numbers[first : first + size] for first in range(0, len(numbers), size)]


def augmentations_of(parts: Sequence[str]) -> tuple[str, ...]:
    """Return those parts of a recipe that change points."""
    return tuple(part for part in parts if part in AUGMENTATIONS)


def count_classes(room: Room, block: Block, classes: int) -> np.ndarray:
    """Return the points of each class in a block, (classes,) int64."""
    return np.bincount(room.label[block_points(block)], minlength=IGNORED)[:classes]


class RoomCache:
    """The rooms read last, as many as fit into half of the memory; several threads may read.

    The processes that are `sharing` a machine divide that half. All of S3DIS takes 11 GB; with less
    than twice that, rooms are read again and again.
    """

    def __init__(self, store: Rooms, sharing: int = 1) -> None:
        self._store, self._limit = store, memory() // 2 // sharing // BYTES_PER_POINT
        self._rooms: OrderedDict[RoomInfo, Room] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, info: RoomInfo) -> Room:
        """Return a room, from memory if it is there."""
        with self._lock:
            if info not in self._rooms:
                self._rooms[info] = self._store.read(info)
            self._rooms.move_to_end(info)
            while len(self._rooms) > 1 and sum(room.points for room in self._rooms) > self._limit:
                self._rooms.popitem(last=False)
            return self._rooms[info]


def memory() -> int:
    """Return the computer's memory in bytes; 8 GB where the system does not report it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 8 * 10**9


def block_probabilities(counts: np.ndarray) -> np.ndarray:
    """Return the probability of drawing each block, (blocks,) float64: class-balanced sampling.

    Most blocks of a building are ceiling, floor and wall. Drawing a class first, each as likely as
    the others, and then a block by its fraction of that class gives every class the same weight:

        p_b = 1/K · Σ_c s_bc / Σ_b' s_b'c

    where s_bc is the fraction of b's labelled points that are of class c, and K the number of
    classes that occur. No block is drawn more than MOST times as often as if all that have labels
    were equally likely: otherwise a class that is a few points in one block would make every K-th
    block that one. What such blocks lose, the others get in proportion. A block without labels is
    never drawn; if no block has labels, all are equally likely.

    Args:
        counts: (blocks, classes) int64, the points of each class.

    Reference:
        Class-aware sampling, Shen, Lin & Huang, Relay Backpropagation, ECCV 2016, section 4. There
        an image has one label; here a block has many, so the class is drawn from its points.
    """
    blocks = len(counts)
    fractions = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    occurs = fractions.sum(axis=0) > 0
    if not occurs.any():
        return np.full(blocks, 1 / blocks)
    wanted = (fractions[:, occurs] / fractions[:, occurs].sum(axis=0)).mean(axis=1)
    most = MOST / np.count_nonzero(wanted)
    chances = np.minimum(wanted, most)
    chances = chances / chances.sum()
    capped = wanted > most
    while capped.any() and (chances > most).any():  # the others' growth may lift some above it
        capped |= chances > most
        chances[capped] = most
        chances[~capped] *= (1 - most * capped.sum()) / chances[~capped].sum()
    return chances


def draw_blocks(
    probabilities: np.ndarray, rng: np.random.Generator, count: int | None = None
) -> np.ndarray:
    """Draw D of B blocks, with repetition: their numbers, (D,) int64, shuffled; D None: B.

    Block b is drawn ⌊D·p_b⌋ or ⌈D·p_b⌉ times, D·p_b on average: systematic sampling, which varies
    less from epoch to epoch than independent draws. The draws of block b have the numbers b, b + B,
    b + 2B, ….

    Reference:
        Madow, On the theory of systematic sampling, Ann. Math. Stat. 1949, in random order.
    """
    blocks = len(probabilities)
    # Shuffled first, because similar blocks follow each other in a regular pattern: the evenly
    # spaced draws could otherwise hit all walls twice in one epoch and once in the next.
    order = rng.permutation(blocks)
    ends = np.cumsum(probabilities[order])
    draws = np.arange(blocks if count is None else count)
    points = (draws + rng.random()) / len(draws)
    drawn = np.searchsorted(ends / ends[-1], points, side="right")
    copy = draws - np.searchsorted(drawn, drawn)  # `drawn` is sorted
    return rng.permutation(order[drawn] + copy * blocks)


def split_rooms(
    rooms: Sequence[RoomInfo],
    *,
    test_area: int,
    val_fraction: float,
    seed: int,
    fold: tuple[int, int] | None = None,
) -> tuple[list[RoomInfo], list[RoomInfo]]:
    """Split the rooms outside the test area (0: none) into training and validation rooms.

    The validation rooms, which choose the best checkpoint, are spread over the areas in proportion
    to their sizes. Each part has at least one room, and an only room is in both: `cut_room` divides
    its blocks. With a fraction of 0 none validate. The result depends on the set of rooms and the
    seed, not on the order of `rooms`. With `fold`, (i, k), the validation rooms are part i of k,
    from 1, instead of a fraction; the parts of a seed share no room.

    Raises:
        DatasetError: no room lies outside the test area, or fewer than there are folds.
    """
    usable = sorted(
        (room for room in rooms if room.area != test_area), key=lambda room: (room.area, room.name)
    )
    if not usable:
        areas = sorted({room.area for room in rooms})
        raise DatasetError(
            f"training rooms: found none outside test area {test_area} "
            f"(prepared areas: {', '.join(map(str, areas)) or 'none'}), expected at least one.\n"
            "Prepare a room in another area, or hold out another area with --area (0: none)."
        )
    if fold is not None and len(usable) < fold[1]:
        raise DatasetError(
            f"--val-fold: found {counted(len(usable), 'training room')}, expected at least one "
            f"for each of the {fold[1]} parts."
        )
    if fold is None and (len(usable) == 1 or not val_fraction):
        return usable, usable if val_fraction else []
    # The m rooms of an area get the ranks (i + u) / m in random order, with one random u an area:
    # so the lowest ranks hold each area's part.
    rng = np.random.default_rng(seed)
    of_room = np.array([room.area for room in usable])
    ranks = np.empty(len(usable))
    for area in np.unique(of_room):
        members = np.flatnonzero(of_room == area)
        ranks[members] = (rng.permutation(len(members)) + rng.random()) / len(members)
    count = min(max(1, round(val_fraction * len(usable))), len(usable) - 1)
    order = np.argsort(ranks, kind="stable")
    chosen = set(order[:count].tolist())
    if fold is not None:
        chosen = set(np.array_split(order, fold[1])[fold[0] - 1].tolist())
    train = [room for number, room in enumerate(usable) if number not in chosen]
    return train, [usable[number] for number in sorted(chosen)]


@dataclass(frozen=True)
class Cut:
    """A line that divides the blocks of a room: no point is in blocks on both sides."""

    axis: int  # that it divides, 0 or 1
    at: float  # m from the room's minimum
    fraction: float  # of the points in the room's disjoint blocks, those that validate

    def trains(self, block: Block) -> bool:
        """Whether a block lies before the line."""
        return block.corner[self.axis] + block.size <= self.at

    def validates(self, block: Block) -> bool:
        """Whether a block lies beyond the line."""
        return block.corner[self.axis] >= self.at


def cut_room(room: Room, fraction: float, size: float = BLOCK_SIZE) -> Cut:
    """Cut a room across its longer side so that about this fraction of its points validates.

    The line lies between blocks of side `size`, metres.

    Raises:
        DatasetError: no line has blocks on both sides.
    """
    found = cuts(room.grid, size)
    if not found:
        x, y, _ = room.extent
        raise DatasetError(
            f"Area_{room.area}/{room.name}: found one room to train on, of {x:.1f} × {y:.1f} m; "
            f"expected more ground, so that some blocks of {size:g} m can validate apart from the "
            "others.\nPrepare another room, or train without validation: --val-fraction 0"
        )
    return min(found, key=lambda cut: abs(cut.fraction - fraction))


def cuts(grid: Grid, size: float) -> list[Cut]:
    """Return the lines across a room's longer side that have blocks on both sides.

    >>> [cut.at for cut in cuts(Grid(6, 2, np.arange(0, 13) * 100), 1.0)]
    [1.0, 2.0]
    """
    axis = int(grid.ny > grid.nx)
    blocks = room_blocks(grid, size=size, stride=size)
    total = sum(block.count for block in blocks)
    lines = []
    for at in sorted({block.corner[axis] for block in blocks})[1:]:
        beyond = sum(block.count for block in blocks if block.corner[axis] >= at)
        lines.append(Cut(axis, at, beyond / total))
    return lines
