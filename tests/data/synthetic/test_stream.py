"""Rooms that are made while a training runs: the same whoever makes them, and few at a time."""

from __future__ import annotations

import gc
import os
import signal
import weakref
from collections import Counter
from collections.abc import Collection
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.s3dis import CLASSES
from pipelines.data.sampler import Drawing
from pipelines.data.synthetic.stream import (
    BLOCKS,
    WINDOW,
    RoomMaker,
    SyntheticSampler,
    draw_room,
    open_stream,
    open_validation,
    rooms_used,
    synthetic_store,
)
from pipelines.errors import ConfigError, ProcessLostError
from pipelines.runtime.process import worker_pool
from pipelines.training.distributed import Processes
from tests.data.synthetic.test_meshes import entry, write_library

MAKER = RoomMaker(seed=0, scanner="mixed", density=(60.0, 120.0))
DRAWING = Drawing(64, augmentations=("rotate", "jitter"))


class Here(Executor):
    """Does the work at once, in this thread, and notes which it was."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def submit(self, work, number):  # type: ignore[no-untyped-def,override]
        self.numbers.append(number)
        done: Future = Future()
        done.set_result(work(number))
        return done


class Counting(Here):
    """Makes arrays that say which room they are of, and counts those that are in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.arrays = weakref.WeakValueDictionary[int, np.ndarray]()

    def submit(self, _work, number):  # type: ignore[no-untyped-def,override]
        features = np.full((BLOCKS, 1, 9), number, np.float32)
        self.arrays[number] = features
        return super().submit(lambda _: (features, np.zeros((BLOCKS, 1), np.uint8)), number)


def sampler(
    pool: Executor, rooms: int = 5, batch_size: int = 8, slots: Collection[int] | None = None
) -> SyntheticSampler:
    return SyntheticSampler(MAKER, DRAWING, rooms, pool, batch_size=batch_size, slots=slots)


def test_rooms_take_turns_until_each_has_given_all_its_blocks() -> None:
    made = sampler(Here(), rooms=40)
    assert len(made) == 40 * BLOCKS
    places = [made.place(epoch, block) for epoch in range(4) for block in range(len(made))]
    assert set(places) == {(room, turn) for room in range(160) for turn in range(BLOCKS)}
    for first in range(0, len(places), WINDOW):
        assert len({room for room, _ in places[first : first + WINDOW]}) == WINDOW
    assert made.name_of(1, 0) == f"synthetic room {places[40 * BLOCKS][0]}"
    for blocks in (1, 5, WINDOW, 700, 2000):
        assert rooms_used(blocks) == len({room for room, _ in places[:blocks]})


def test_batches_are_slices_of_the_epoch() -> None:
    made = sampler(Here())
    batches = made.batches(3, 32)
    assert np.concatenate(batches).tolist() == list(range(5 * BLOCKS))
    assert [len(batch) for batch in batches] == [32, 32, 16]
    rest = made.batches(3, 32, start=1)
    assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in batches[1:]]


def test_who_makes_a_room_and_when_does_not_matter() -> None:
    with worker_pool(2) as pool:
        found = sampler(pool).batch(0, [3, 0])
    for order in ([3, 0], [0, 3]):
        alone = sampler(_OnDemand()).batch(0, order)
        places = [order.index(block) for block in found.blocks]
        assert np.array_equal(alone.features[places], found.features)
        assert np.array_equal(alone.label[places], found.label)
    assert found.features.shape == (2, 64, 9)
    assert (found.features.dtype, found.label.dtype) == (np.float32, np.uint8)


class _OnDemand(Here):
    """Makes a room when it is asked for its result."""

    def submit(self, work, number):  # type: ignore[no-untyped-def,override]
        later: Future = Future()
        later.result = lambda: work(number)  # type: ignore[method-assign,misc,assignment]
        return later


def test_points_are_of_the_room_and_keep_their_labels() -> None:
    """Without augmentation each drawn point is found in the room, with its colour and class."""
    room = MAKER.make(1)
    rows = np.column_stack([room.pos, room.color, room.label]).round(4)
    known = {tuple(row) for row in rows.tolist()}
    features, labels = draw_room(MAKER, Drawing(64), 1.0, False, 1)
    pos = features[..., 6:9] * room.extent
    drawn = np.concatenate([pos, features[..., 3:6] * 255, labels[..., None]], axis=-1)
    for row in drawn.reshape(-1, 7):
        near = np.abs(rows - row).max(axis=1).min()
        assert near < 1e-3, "no point of the room"
    assert len(known) > 500
    assert len({features[turn].tobytes() for turn in range(BLOCKS)}) == BLOCKS


def test_density_is_drawn_between_its_bounds() -> None:
    """A laser scan of a room has about as many points as its density says."""
    laser = replace(MAKER, scanner="laser")
    low, high = (replace(laser, density=(each, each)) for each in (40.0, 800.0))
    between = replace(laser, density=(40.0, 800.0))
    counts = np.array([[len(m.make(n).pos) for m in (low, between, high)] for n in range(3)])
    assert (counts[:, 0] < counts[:, 1]).all()
    assert (counts[:, 1] < counts[:, 2]).all()
    ratios = counts[:, 1] / counts[:, 0]
    assert ratios.max() > 2 * ratios.min(), "all rooms have the same density"


def test_balancing_draws_rare_classes_more_often() -> None:
    common = [CLASSES.index(name) for name in ("ceiling", "floor", "wall", "clutter")]
    plain, balanced = (
        np.mean([np.isin(draw_room(MAKER, Drawing(256), 1.0, b, n)[1], common) for n in range(6)])
        for b in (False, True)
    )
    assert 1 - balanced > 1.15 * (1 - plain)  # measured: 1.25


def test_rooms_are_made_one_window_ahead_and_forgotten() -> None:
    pool = Counting()
    made = sampler(pool, rooms=200)
    last = 0
    for blocks in made.batches(0, 8)[:200]:
        batch = made.batch(0, blocks)
        rooms = [made.place(0, int(block))[0] for block in blocks]
        last = max(last, *rooms)
        assert batch.features[:, 0, 0].tolist() == rooms
        assert max(pool.numbers) == last + WINDOW
        del batch
        gc.collect(0)
        assert len(pool.arrays) <= 3 * WINDOW + 1
    assert max(Counter(pool.numbers).values()) == 1, "made twice"
    assert pool.numbers == sorted(pool.numbers)


def test_several_processes_share_the_rooms_and_make_the_same_batches() -> None:
    ranks = [Processes(rank, 2) for rank in range(2)]
    pools, whole = [Counting(), Counting()], sampler(Counting(), rooms=200)
    parts = [
        sampler(pool, rooms=200, slots=rank.slots(8))
        for rank, pool in zip(ranks, pools, strict=True)
    ]
    for blocks in whole.batches(0, 8)[:80]:
        own = [r.local_batch(p, 0, blocks) for r, p in zip(ranks, parts, strict=True)]
        expected = whole.batch(0, blocks)
        assert np.array_equal(np.concatenate([o.features for o in own]), expected.features)
        assert all(o.blocks == expected.blocks for o in own)
    first, second = (set(pool.numbers) for pool in pools)
    assert not first & second
    assert first | second >= set(range(2 * WINDOW))


def test_validation_rooms_are_others_and_the_same_for_every_seed() -> None:
    config = TrainConfig(ModelConfig(depth=2, k=4), synth=True, synth_rooms=20, density="60")
    with ThreadPoolExecutor(1) as pool:
        trained = open_stream(config, pool)
        one, other = (open_validation(replace(config, seed=seed), pool, trained) for seed in (0, 1))
        assert trained.statistics is not None
        none = open_validation(replace(config, val_fraction=0.0), pool, trained)
    assert one is not None
    assert other is not None
    assert none is None
    assert one.rooms == other.rooms
    assert len(one.rooms) == 2
    assert len(trained) == 20 * BLOCKS
    maker = RoomMaker(0, "mixed", (60.0, 60.0))
    made = {replace(maker, seed=s).make(n).checksum() for s in (0, 1) for n in range(3)}
    assert len(made) == 6
    assert not made & {info.checksum for info in one.rooms}
    classes = np.sum([info.counts for info in one.rooms], axis=0)
    assert (classes > 0).sum() > 8, "the first two rooms have nearly all classes"
    assert len(one) < len(one.rooms) * 8 * 8, "disjoint blocks of rooms of at most 8 m"


def test_a_killed_worker_is_reported() -> None:
    with worker_pool(1) as pool:
        os.kill(pool.submit(os.getpid).result(), signal.SIGKILL)
        for _ in range(2):  # noticed while it is waited for, and when the next work is given
            with pytest.raises(ProcessLostError, match=r"has ended.*--synth-workers"):
                sampler(pool).batch(0, [0])


def test_the_fingerprint_follows_from_what_shapes_the_rooms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    chair = entry(1, "Chair", "cube/cube.obj", width=45, depth=45, height=85)
    table = entry(1, "Table", "cube/cube.obj", width=90, depth=90, height=75)
    folders = [
        write_library(tmp_path / "one", chair),
        write_library(tmp_path / "moved", chair),
        write_library(tmp_path / "other", table),
    ]
    config = TrainConfig(synth=True)
    changes = [
        {"scanner": "laser"},
        {"density": "1500"},
        *({"furniture": folder} for folder in folders),
        {"seed": 1},
        {"synth_workers": 3},
    ]
    plain = synthetic_store(config).fingerprint
    found = [synthetic_store(replace(config, **change)).fingerprint for change in changes]
    laser, density, one, moved, other, seed, workers = found
    assert one == moved
    assert seed == workers == plain
    assert len({plain, laser, density, one, other}) == 5
    with pytest.raises(ConfigError, match=r"found no \.sh3f file"):
        synthetic_store(replace(config, furniture=tmp_path))
