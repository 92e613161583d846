"""Synthetic rooms to train on, new ones for ever, made ahead of the steps by other processes.

A worker makes a room from its number (`RoomMaker`) and draws blocks from it (`draw_room`). The
`SyntheticSampler` is to these rooms what `data.sampler.BlockSampler` is to a store: a batch follows
from the seed, the epoch and the numbers of its blocks alone, whichever processes make it.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import BLOCK_SIZE, TrainConfig
from pipelines.config.rooms import density_range
from pipelines.data.blocks import MIN_POINTS, draw, overlapping, room_blocks
from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.data.sampler import (
    AUGMENT,
    NO_VALIDATION,
    POINTS,
    Batch,
    BlockSampler,
    Drawing,
    augmentations_of,
    block_probabilities,
    count_classes,
    draw_blocks,
    slices,
)
from pipelines.data.statistics import Statistics, measure_room, merge
from pipelines.data.store import Room, RoomInfo, Store, make_room
from pipelines.errors import ConfigError, ProcessLostError
from pipelines.progress import SILENT, Progress, counted

from . import GENERATOR, room
from .meshes import Library, load_library

BLOCKS = 16  # drawn from each room
WINDOW = 32  # rooms that take turns, and rooms that are made ahead
CHOICE, DENSITY = 3, 4  # what a random stream is for, beside POINTS and AUGMENT
VALIDATION = 2**63  # the seed of the rooms that validate: no --seed can be it

Drawn = tuple[np.ndarray, np.ndarray]  # features (BLOCKS, N, 9) float32, label (BLOCKS, N) uint8


def synthetic_store(config: TrainConfig, progress: Progress = SILENT) -> Store:
    """Return a store without rooms, whose manifest and fingerprint say which rooms are made.

    ConfigError: there is no usable library in `config.furniture`.
    """
    about: dict[str, Any] = {
        "generator": GENERATOR,
        "scanner": config.scanner,
        "density": config.density,
        "sampling": [BLOCKS, WINDOW],
    }
    if config.furniture:
        library = load_library(config.furniture, progress)
        about["furniture"] = [path.stem for path in sorted(config.furniture.glob("*.sh3f"))]
        about["furniture_sha256"] = library.digest
        about["credits"] = sorted({model.credit for model in library.models})
    manifest = {
        "classes": [*CLASSES],
        "class_colors": [[*color] for color in CLASS_COLORS],
        "test_area": 0,
        "fingerprint": hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest(),
        "rooms": [],
        "synthetic": about,
    }
    return Store(Path("synthetic rooms"), manifest)


@dataclass(frozen=True)
class RoomMaker:
    """Makes rooms from their numbers, in any process; it can be pickled."""

    seed: int
    scanner: str
    density: tuple[float, float]  # points per m², between which each room's is drawn
    furniture: Path | None = None

    def make(self, number: int) -> Room:
        """Make a room; its density is drawn log-uniformly."""
        low, high = map(math.log, self.density)
        density = math.exp(self.source(DENSITY, number).uniform(low, high))
        library = _library(self.furniture) if self.furniture else None
        points = room(self.seed, number, scanner=self.scanner, density=density, library=library)
        return make_room(0, f"room_{number}", *points)

    def source(self, *key: int) -> np.random.Generator:
        """Return the random generator of one purpose."""
        # The rooms' own ones have keys that begin with their area, 0.
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))


@lru_cache(maxsize=1)
def _library(folder: Path) -> Library:
    """Read the furniture once a process; the main process has put it into the cache."""
    return load_library(folder)


def draw_room(maker: RoomMaker, drawing: Drawing, size: float, balance: bool, number: int) -> Drawn:
    """Make a room and draw BLOCKS blocks of a side from it, at random or balanced by classes."""
    made = maker.make(number)
    find = partial(room_blocks, made.grid, size=size, stride=overlapping(size))
    blocks = find() or find(min_points=1)
    if balance:
        counts = np.stack([count_classes(made, block, len(CLASSES)) for block in blocks])
        chosen = draw_blocks(block_probabilities(counts), maker.source(CHOICE, number), BLOCKS)
    else:
        chosen = draw(len(blocks), BLOCKS, maker.source(CHOICE, number))
    drawn = (
        drawing.draw(
            *(made, blocks[block % len(blocks)]),
            *(maker.source(purpose, number, turn) for purpose in (POINTS, AUGMENT)),
        )
        for turn, block in enumerate(chosen)
    )
    features, label = zip(*drawn, strict=True)
    return np.stack(features), np.stack(label)


@contextmanager
def _explain_lost_worker() -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise ProcessLostError(
            "a process that makes synthetic rooms has ended; if the memory ran out, use fewer with "
            "--synth-workers."
        ) from error


class SyntheticSampler:
    """Blocks of rooms that are made while a training runs; an epoch has others than the one before.

    All blocks form one sequence without end, and an epoch is the next `len(self)` of them. WINDOW
    rooms take turns, a block each, until every one of them has given BLOCKS: so a batch is of many
    rooms, and few are in memory.

    Args:
        maker, drawing: how rooms are made and points drawn.
        rooms: of an epoch.
        pool: where rooms are made.
        size: a block's side, metres.
        balance: whether a room's blocks are drawn by their classes, see `block_probabilities`.
        batch_size, slots: which blocks this process takes of each batch; None: all. Other rooms
            are not made ahead.
    """

    statistics: Statistics | None = None  # of rooms made as its own are; None: none was measured

    def __init__(
        self,
        maker: RoomMaker,
        drawing: Drawing,
        rooms: int,
        pool: Executor,
        *,
        size: float = BLOCK_SIZE,
        balance: bool = False,
        batch_size: int = 1,
        slots: Collection[int] | None = None,
    ) -> None:
        self.rooms = range(rooms)
        self._work = partial(draw_room, maker, drawing, size, balance)
        self._pool, self._batch_size, self._slots = pool, batch_size, slots
        self._made: dict[int, Future[Drawn]] = {}  # by the number of the room
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.rooms) * BLOCKS

    def name_of(self, epoch: int, block: int) -> str:
        """Return the name of the room that a block of an epoch is drawn from."""
        return f"synthetic room {self.place(epoch, block)[0]}"

    def place(self, epoch: int, block: int) -> tuple[int, int]:
        """Return the room that a block of an epoch is drawn from, and which of its draws it is.

        The rooms of a window take turns: the first draw of each, then the second of each, ….
        """
        window, inside = divmod(epoch * len(self) + block, WINDOW * BLOCKS)
        turn, offset = divmod(inside, WINDOW)
        return window * WINDOW + offset, turn

    def batches(
        self,
        epoch: int,  # noqa: ARG002
        batch_size: int,
        *,
        start: int = 0,
    ) -> list[np.ndarray]:
        """Return the block numbers of an epoch's batches from batch `start` on."""
        return slices(np.arange(len(self)), batch_size)[start:]

    def batch(self, epoch: int, blocks: Sequence[int] | np.ndarray) -> Batch:
        """Return the given blocks of an epoch, as soon as their rooms are made.

        ProcessLostError: a process that makes rooms has ended.
        """
        numbers = tuple(int(block) for block in blocks)
        places = [self.place(epoch, number) for number in numbers]
        with _explain_lost_worker():
            begun = [self._begin(number) for number, _ in places]  # before waiting for the first
            drawn = [each.result() for each in begun]
        features = [values[turn] for (values, _), (_, turn) in zip(drawn, places, strict=True)]
        labels = [values[turn] for (_, values), (_, turn) in zip(drawn, places, strict=True)]
        return Batch(np.stack(features), np.stack(labels), numbers)

    def _begin(self, number: int) -> Future[Drawn]:
        """Begin to make a room and those of the next window; forget those of two windows ago."""
        with self._lock:
            for each in range(number, number + WINDOW + 1):
                if each not in self._made and (each == number or self._is_needed(each)):
                    self._made[each] = self._pool.submit(self._work, each)
            for old in [each for each in self._made if each < number - 2 * WINDOW]:
                del self._made[old]
            return self._made[number]

    def _is_needed(self, number: int) -> bool:
        """Return whether this process takes one of a room's blocks, as far as batches are full."""
        window, offset = divmod(number, WINDOW)
        first = window * WINDOW * BLOCKS + offset
        taken = (first + turn * WINDOW for turn in range(BLOCKS))
        return self._slots is None or any(
            place % len(self) % self._batch_size in self._slots for place in taken
        )


def describe_stream(config: TrainConfig, store: Store, blocks: int) -> str:
    """Return what weights record of the rooms that they have seen so many blocks of.

    "synthetic rooms 0 to 1,599 of seed 0, generator 2, scanner mixed, 500-5000 points per m²"
    """
    about = store.manifest["synthetic"]
    furniture = f", furniture {', '.join(about['furniture'])}" if "furniture" in about else ""
    return (
        f"synthetic rooms 0 to {max(0, rooms_used(blocks) - 1):,} of seed {config.seed}, generator "
        f"{about['generator']}, scanner {about['scanner']}, {about['density']} points per m²"
        f"{furniture}"
    )


def rooms_used(blocks: int) -> int:
    """Return from how many rooms the first `blocks` blocks of a `SyntheticSampler` are.

    >>> rooms_used(1), rooms_used(WINDOW), rooms_used(WINDOW * BLOCKS + 1)
    (1, 32, 33)
    """
    windows, inside = divmod(blocks, WINDOW * BLOCKS)
    return windows * WINDOW + min(inside, WINDOW)


class KeptRooms:
    """Rooms in memory, in place of a store."""

    classes = CLASSES

    def __init__(self, rooms: Iterable[Room]) -> None:
        self._rooms = {each.info(len(CLASSES)): each for each in rooms}
        self.infos = tuple(self._rooms)

    def read(self, info: RoomInfo) -> Room:
        """Return a room."""
        return self._rooms[info]


def open_stream(
    config: TrainConfig, pool: Executor, slots: Collection[int] | None = None
) -> SyntheticSampler:
    """Return the sampler of the training blocks; `slots` are this process's places in a batch.

    None: all of them.
    """
    assert config.synth_rooms is not None
    parts, layout = config.parts, config.model.layout
    return SyntheticSampler(
        _maker(config, config.seed),
        Drawing(config.num_points, layout, augmentations_of(parts), config.voxel_side),
        config.synth_rooms,
        pool,
        size=config.block_side,
        balance="balance" in parts,
        batch_size=config.batch_size,
        slots=slots,
    )


def open_validation(
    config: TrainConfig, pool: Executor, trained: SyntheticSampler, progress: Progress = SILENT
) -> BlockSampler | None:
    """Return the sampler of the validation blocks, if any, whose rooms are made now.

    They are the same in every run of the same settings, whatever its seed. What is measured of
    them is kept with the sampler of the training blocks, `trained`.
    """
    if not config.val_fraction:
        progress.say(NO_VALIDATION)
        return None
    assert config.synth_rooms is not None
    count = max(1, round(config.val_fraction * config.synth_rooms))
    kept, measured = [], []
    with (
        _explain_lost_worker(),
        progress.task("Making validation rooms", total=count, unit="rooms") as task,
    ):
        for made in pool.map(_maker(config, VALIDATION).make, range(count)):
            kept.append(made)
            measured.append(measure_room(made, len(CLASSES)))
            task.advance()
    trained.statistics = merge(measured)
    rooms, size = KeptRooms(kept), config.block_side
    options = config.num_points, config.seed, size, config.model.layout
    sampler = BlockSampler(rooms, rooms.infos, *options, size=size, voxel=config.voxel_side)
    if not len(sampler):
        raise ConfigError(
            f"--density {config.density}: found no block of {size:g} m with {MIN_POINTS} points in "
            f"{counted(count, 'validation room')}.\nRaise it, or train without validation: "
            "--val-fraction 0"
        )
    return sampler


def _maker(config: TrainConfig, seed: int) -> RoomMaker:
    assert config.scanner is not None
    assert config.density is not None
    return RoomMaker(seed, config.scanner, density_range(config.density), config.furniture)
