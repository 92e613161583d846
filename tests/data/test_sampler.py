"""Training rooms, and the blocks of an epoch: the same whichever thread draws them, and when."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.blocks import block_points, room_blocks
from pipelines.data.sampler import (
    MOST,
    BlockSampler,
    block_probabilities,
    cut_room,
    draw_blocks,
    split_rooms,
)
from pipelines.data.store import IGNORED, Room, RoomInfo, Store, make_room
from pipelines.errors import DatasetError
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("store"))


def sampler(
    store: Store,
    *parts: str,
    seed: int = 0,
    stride: float = 0.5,
    points: int = 64,
    size: float = 1.0,
) -> BlockSampler:
    return BlockSampler(store, store.rooms(1), points, seed, stride=stride, parts=parts, size=size)


def test_an_epoch_holds_every_block_once(store: Store) -> None:
    blocks = sampler(store)
    # A room of 2.1 m × 1.6 m: ceil(1.1 / 0.5) + 1 = 4 by ceil(0.6 / 0.5) + 1 = 3 positions.
    assert len(blocks) <= 4 * 3 * 3
    for size in (1, 4, 7, 100):
        batches = blocks.batches(3, size)
        assert sorted(np.concatenate(batches)) == list(range(len(blocks)))
        assert [len(batch) for batch in batches[:-1]] == [size] * (len(batches) - 1)
        rest = blocks.batches(3, size, start=2)
        assert [list(batch) for batch in rest] == [list(batch) for batch in batches[2:]]
    assert [list(b) for b in blocks.in_order(100)] == [list(range(len(blocks)))]


def test_epochs_differ_in_order_and_points(store: Store) -> None:
    blocks = sampler(store, "resample")
    assert list(blocks.order(0)) != list(blocks.order(1))
    first, again, second = (blocks.sample(epoch, 5)[0] for epoch in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(np.sort(first, axis=0), np.sort(second, axis=0))
    other = sampler(store, "resample", seed=1)
    assert list(other.order(0)) != list(blocks.order(0))
    assert not np.array_equal(other.sample(0, 5)[0], first)


def test_without_resampling_the_points_of_a_block_stay(store: Store) -> None:
    drawn_once, anew = sampler(store), sampler(store, "resample")
    assert list(drawn_once.order(0)) != list(drawn_once.order(1))
    for block in (0, 7):
        first, label = anew.sample(0, block)
        for epoch in (0, 1, 9):
            features, its_label = drawn_once.sample(epoch, block)
            assert np.array_equal(features, first)
            assert np.array_equal(its_label, label)
    # What is done to the points is drawn anew all the same.
    jittered = sampler(store, "jitter")
    assert not np.array_equal(jittered.sample(0, 5)[0], jittered.sample(1, 5)[0])


def test_labels_follow_their_points(store: Store) -> None:
    plain, cut = sampler(store, "resample"), sampler(store, "resample", "crop", "thin")
    changed = 0
    for epoch in range(12):
        features, label = cut.sample(epoch, 4)
        name = np.array(store.classes)[label]
        assert features.shape == (64, 9)
        assert (features[name == "floor", 2] < 0.03).all()
        assert (features[name == "ceiling", 2] > 2.4).all()
        changed += not np.array_equal(label, plain.sample(epoch, 4)[1])
    assert changed > 3


def test_balancing_evens_out_what_an_epoch_shows(store: Store) -> None:
    plain, balanced = sampler(store), sampler(store, "balance", "resample")
    assert len(balanced) == len(plain)
    surfaces = [store.classes.index(name) for name in ("floor", "ceiling", "wall")]

    def shown(blocks: BlockSampler) -> np.ndarray:
        epochs = [blocks.order(epoch) for epoch in range(8)]
        labels = [
            blocks.sample(epoch, block)[1] for epoch, order in enumerate(epochs) for block in order
        ]
        return np.bincount(np.concatenate(labels), minlength=13)[surfaces] / np.size(labels)

    before, after = shown(plain), shown(balanced)
    wall = 2  # one wall of each room, so the rarest of the three
    assert before.argmin() == after.argmin() == wall
    assert after[wall] > 1.3 * before[wall]


def test_a_block_drawn_twice_in_an_epoch_has_other_points(store: Store) -> None:
    blocks = sampler(store, "balance", "resample", "jitter")
    order = blocks.order(0)
    assert len(order) == len(set(order)) == len(blocks)
    number = max(order)
    assert number >= len(blocks), "no block is drawn twice, so this tests nothing"
    again = number % len(blocks)
    assert again in order
    assert blocks.name_of(0, number) == blocks.name_of(0, again)
    (one, label), (other, its_label) = blocks.sample(0, number), blocks.sample(0, again)
    assert not np.array_equal(np.sort(one, axis=0), np.sort(other, axis=0))
    # Without resampling both have the same points, moved by other noise.
    kept = sampler(store, "balance", "jitter")
    (one, label), (other, its_label) = kept.sample(0, number), kept.sample(3, again)
    assert np.array_equal(label, its_label)
    assert np.array_equal(one[:, 3:6], other[:, 3:6])
    assert not np.array_equal(one[:, :3], other[:, :3])


def test_who_draws_and_when_does_not_matter(store: Store) -> None:
    expected = [sampler(store).sample(2, block) for block in range(len(sampler(store)))]
    blocks = sampler(store)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda b: blocks.sample(2, b), reversed(range(len(blocks)))))
    for (features, label), (other, its_label) in zip(expected, reversed(found), strict=True):
        assert np.array_equal(features, other)
        assert np.array_equal(label, its_label)


@pytest.mark.parametrize("points", [64, 5000])
def test_features_and_labels_belong_together(store: Store, points: int) -> None:
    blocks = sampler(store, points=points)
    floor, ceiling = store.classes.index("floor"), store.classes.index("ceiling")
    for block in range(len(blocks)):
        features, label = blocks.sample(0, block)
        assert features.shape == (points, 9)
        assert features.dtype == np.float32
        assert label.shape == (points,)
        assert np.abs(features[:, :2]).max() <= 0.5 + 1e-3  # metres from the block's middle
        assert features[label == floor, 2].max(initial=0) < 0.05  # metres
        assert features[label == ceiling, 2].min(initial=9) > 2.4
        # Colours of floor and ceiling are more than 3 standard deviations apart on average.
        assert features[label == floor, 5].mean() < 0.3 < features[label == ceiling, 5].mean()


@pytest.mark.parametrize("parts", [(), ("rotate", "flip", "scale")])
def test_blocks_of_another_size_are_centred_on_their_middle(
    store: Store, parts: tuple[str, ...]
) -> None:
    # A room of 2.1 m × 1.6 m has cells to 2.5 × 2 m: blocks of 1.5 m at 0, 0.5, 1 and at 0, 0.5.
    blocks = sampler(store, *parts, size=1.5, points=3000)
    assert len(blocks) == 3 * 3 * 2
    reach = np.sqrt(2) * 0.75 * 1.1 if parts else 0.75
    for number in range(len(blocks)):
        features, _ = blocks.sample(0, number)
        assert np.abs(features[:, :2]).max() <= reach + 1e-3
        if number % 6 == 0 and not parts:  # whole
            assert features[:, :2].min() < -0.7
            assert features[:, :2].max() > 0.7


def test_disjoint_blocks_hold_every_point_that_is_not_alone(store: Store) -> None:
    blocks = sampler(store, stride=1.0, points=5000)
    seen = sum(len(np.unique(blocks.sample(0, b)[0], axis=0)) for b in range(len(blocks)))
    expected = 0
    for info in store.rooms(1):
        square_metre = np.floor(store.read(info).pos[:, :2]).astype(int) @ [10, 1]
        sizes = np.bincount(square_metre)
        expected += sizes[sizes >= 100].sum()
    assert seen == expected


def test_name_of(store: Store) -> None:
    blocks = sampler(store)
    rooms = [blocks.name_of(0, block) for block in range(len(blocks))]
    assert list(dict.fromkeys(rooms)) == [f"Area_1/{info.name}" for info in store.rooms(1)]


def test_a_batch_stacks_its_blocks(store: Store) -> None:
    blocks = sampler(store)
    batch = blocks.batch(1, np.array([4, 0]))
    assert batch.blocks == (4, 0)
    assert batch.features.shape == (2, 64, 9)
    assert np.array_equal(batch.features[1], blocks.sample(1, 0)[0])
    assert np.array_equal(batch.label[0], blocks.sample(1, 4)[1])


def test_a_small_cache_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = sampler(store).batch(0, range(10))
    monkeypatch.setattr("pipelines.data.sampler.memory", lambda: 1)
    found = sampler(store).batch(0, range(10))
    assert np.array_equal(found.features, expected.features)
    assert np.array_equal(found.label, expected.label)


def room(area: int, number: int) -> RoomInfo:
    return RoomInfo(
        area=area,
        name=f"office_{number}",
        points=1000,
        extent=(3.0, 3.0, 3.0),
        checksum="",
        counts=(0,) * 13,
    )


def building(sizes: dict[int, int]) -> list[RoomInfo]:
    return [room(area, number) for area, size in sizes.items() for number in range(size)]


SIZES = st.dictionaries(st.integers(1, 6), st.integers(1, 30), min_size=2)
FRACTIONS = st.floats(0.001, 0.999)


@given(SIZES, FRACTIONS, st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_split(sizes: dict[int, int], fraction: float, seed: int, random: object) -> None:
    rooms = building(sizes)
    test_area = min(sizes)
    usable = [r for r in rooms if r.area != test_area]
    if len(usable) == 1:
        both = split_rooms(rooms, test_area=test_area, val_fraction=fraction, seed=seed)
        assert both == (usable, usable)
        return
    train, val = split_rooms(rooms, test_area=test_area, val_fraction=fraction, seed=seed)
    assert {r.area for r in train + val} <= set(sizes) - {test_area}
    assert sorted(map(repr, train + val)) == sorted(map(repr, usable))  # all, each once
    assert train
    assert val
    assert abs(len(val) - fraction * len(usable)) <= 1
    random.shuffle(rooms)  # type: ignore[attr-defined]
    assert split_rooms(rooms, test_area=test_area, val_fraction=fraction, seed=seed) == (train, val)


@given(SIZES, FRACTIONS, st.integers(0, 100))
def test_every_area_gives_its_share(sizes: dict[int, int], fraction: float, seed: int) -> None:
    sizes = {**sizes, 7: 1}
    if sum(sizes.values()) - 1 < 2:
        return
    _, val = split_rooms(building(sizes), test_area=7, val_fraction=fraction, seed=seed)
    share = len(val) / (sum(sizes.values()) - 1)
    given_by = Counter(r.area for r in val)
    for area, size in sizes.items():
        assert area == 7 or abs(given_by[area] - share * size) < 2


def test_other_seeds_choose_other_rooms() -> None:
    rooms = building(dict.fromkeys(range(1, 7), 40))
    chosen = {
        tuple(r.name for r in split_rooms(rooms, test_area=5, val_fraction=0.1, seed=seed)[1])
        for seed in range(10)
    }
    assert len(chosen) == 10


def test_folds_hold_each_room_out_once() -> None:
    rooms = building({1: 4, 2: 3, 3: 2})
    held_out: list[RoomInfo] = []
    for fold in (1, 2, 3):
        train, val = split_rooms(rooms, test_area=3, val_fraction=0.1, seed=5, fold=(fold, 3))
        assert {*train} | {*val} == {room for room in rooms if room.area != 3}
        assert len(val) in (2, 3)
        held_out += val
    assert len(held_out) == len({*held_out}) == 7
    with pytest.raises(DatasetError, match="found 7 training rooms, expected at least one"):
        split_rooms(rooms, test_area=3, val_fraction=0.1, seed=0, fold=(1, 8))


def test_no_room_is_not_enough() -> None:
    rooms = building({2: 5})
    with pytest.raises(DatasetError, match=r"found none outside test area 2 \(prepared areas: 2\)"):
        split_rooms(rooms, test_area=2, val_fraction=0.1, seed=0)


def test_everything_is_trained_on() -> None:
    rooms = building({1: 2, 2: 3})
    assert split_rooms(rooms, test_area=0, val_fraction=0, seed=0) == (rooms, [])


@pytest.mark.parametrize(("x", "y", "axis"), [(9.3, 4.0, 0), (4.0, 9.3, 1)])
def test_an_only_room_is_cut_across_its_longer_side(x: float, y: float, axis: int) -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((37200, 3)) * (x, y, 2)
    made = make_room(1, "hall", pos, np.zeros((37200, 3), np.uint8), np.zeros(37200, np.uint8))
    cut = cut_room(made, 0.25)
    assert (cut.axis, cut.at) == (axis, 7)
    assert cut.fraction == np.mean(made.pos[:, axis] >= 7)
    sides = [
        {int(p) for b in room_blocks(made.grid, stride=s) if keep(b) for p in block_points(b)}
        for s, keep in ((0.5, cut.trains), (1.0, cut.validates))
    ]
    before = set(np.flatnonzero(made.pos[:, axis] < 7).tolist())
    assert sides == [before, set(range(37200)) - before], "every point is on one side, none on both"


def test_an_only_room_is_cut_between_its_blocks() -> None:
    rng = np.random.default_rng(0)
    pos = rng.random((30000, 3)) * (10.4, 3.0, 2)
    made = make_room(1, "hall", pos, np.zeros((30000, 3), np.uint8), np.zeros(30000, np.uint8))
    cut = cut_room(made, 0.2, 2.5)
    assert (cut.axis, cut.at) == (0, 7.5)
    kept = [
        [
            block.corner[0]
            for block in room_blocks(made.grid, size=2.5, stride=stride)
            if keep(block)
        ]
        for stride, keep in ((1.0, cut.trains), (2.5, cut.validates))
    ]
    assert [max(kept[0]), min(kept[1])] == [5.0, 7.5]


def test_an_only_room_can_be_too_small() -> None:
    pos = np.random.default_rng(0).random((500, 3)) * (0.8, 0.9, 2)
    made = make_room(1, "shed", pos, np.zeros((500, 3), np.uint8), np.zeros(500, np.uint8))
    with pytest.raises(DatasetError, match=r"one room to train on, of 0.8 × 0.9 m.*\n.*fraction 0"):
        cut_room(made, 0.1)


def test_every_class_has_the_same_part_of_the_draws() -> None:
    # 40 blocks of class 0 alone, 8 that are half of class 1, 2 that are a quarter of class 2.
    counts = np.array([[100, 0, 0, 0]] * 40 + [[50, 50, 0, 0]] * 8 + [[300, 0, 100, 0]] * 2)
    shares = counts / counts.sum(axis=1, keepdims=True)
    expected = np.zeros(len(counts))
    for of_class in shares[:, :3].T:  # class 3 never occurs
        expected += of_class / of_class.sum() / 3
    found = block_probabilities(counts)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    # By hand: class 1 alone gives each of its 8 blocks 1/3 · 1/8; class 0 adds 0.5/45.5 of 1/3.
    assert found[40] == pytest.approx((1 / 8 + 0.5 / 45.5) / 3)
    assert found[0] * 50 < 0.4 < 2 < found[40] * 50 < found[-1] * 50


def test_many_points_do_not_make_a_block_likelier() -> None:
    counts = np.array([[10, 0], [1000, 0], [0, 7], [0, 70]])
    assert block_probabilities(counts).tolist() == [0.25] * 4


def test_a_few_points_in_one_block_do_not_fill_the_epoch() -> None:
    counts = np.zeros((1000, 5), np.int64)
    counts[:, 0] = 1000
    counts[7, 1:] = 1  # without a limit, 4 of 5 draws
    found = block_probabilities(counts)
    assert found.sum() == pytest.approx(1)
    assert found[7] == MOST / 1000
    np.testing.assert_allclose(np.delete(found, 7), (1 - MOST / 1000) / 999)


def test_no_block_is_drawn_more_often_than_the_cap_though_the_others_grow() -> None:
    """By hand: 12 rare classes in a block each, and one of 2 blocks which the first cap spares."""
    counts = np.zeros((1000, 14), np.int64)
    counts[:, 0] = 1000
    counts[np.arange(12), np.arange(1, 13)] = 30
    counts[20:38, 13] = 500
    found = block_probabilities(counts)
    assert found.sum() == pytest.approx(1)
    assert found.max() == MOST / 1000
    assert (found[:12] == MOST / 1000).all()
    assert (found[20:38] == MOST / 1000).all()  # 1/14 · 1/18 is less than it, and then more
    np.testing.assert_allclose(found[100:], (1 - 30 * MOST / 1000) / (1000 - 30))


def test_the_cap_is_of_blocks_that_have_labels() -> None:
    counts = np.zeros((1000, 2), np.int64)
    counts[:30, 0], counts[5, 1] = 100, 1
    found = block_probabilities(counts)
    assert found[5] == pytest.approx(MOST / 30)
    assert found[:30].sum() == pytest.approx(1)


def test_blocks_without_labels_are_not_drawn_unless_none_has_any() -> None:
    assert block_probabilities(np.array([[3, 0], [0, 0], [0, 1]])).tolist() == [0.5, 0, 0.5]
    assert block_probabilities(np.zeros((4, 13), np.int64)).tolist() == [0.25] * 4


def test_balance_counts_the_blocks_own_points_but_not_ignored_ones(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Store.read

    def with_ignored(self: Store, info: RoomInfo) -> Room:
        room = read(self, info)
        room.label[::7] = IGNORED
        return room

    monkeypatch.setattr(Store, "read", with_ignored)
    blocks = sampler(store, "balance")
    labels = [
        room.label[block_points(block)]
        for room in map(store.read, store.rooms(1))
        for block in room_blocks(room.grid, stride=0.5)
    ]
    counts = np.array([[(label == n).sum() for n in range(13)] for label in labels])
    expected = len(blocks) * block_probabilities(counts)
    drawn = np.concatenate([blocks.order(epoch) for epoch in range(400)]) % len(blocks)
    times = np.bincount(drawn, minlength=len(blocks)) / 400
    np.testing.assert_allclose(times, expected, atol=0.1)


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=40), seed=st.integers(0, 9))
def test_a_block_is_drawn_as_often_as_its_probability_says(weights: list[int], seed: int) -> None:
    weights[0] += 1
    probabilities = np.array(weights) / sum(weights)
    blocks = len(weights)
    drawn = draw_blocks(probabilities, np.random.default_rng(seed))
    assert len(drawn) == len(set(drawn.tolist())) == blocks
    times = np.bincount(drawn % blocks, minlength=blocks)
    assert (np.abs(times - blocks * probabilities) < 1 + 1e-9).all()
    for block in range(blocks):  # copies are numbered from 0
        assert sorted(drawn[drawn % blocks == block] // blocks) == list(range(times[block]))
    few = draw_blocks(probabilities, np.random.default_rng(seed), 7)
    assert len(few) == len(set(few.tolist())) == 7
    times = np.bincount(few % blocks, minlength=blocks)
    assert (np.abs(times - 7 * probabilities) < 1 + 1e-9).all()


def test_over_many_epochs_the_mean_is_exact() -> None:
    probabilities = np.array([0.05, 0.05, 0.2, 0.7])
    times = np.zeros(4)
    for epoch in range(4000):
        times += np.bincount(draw_blocks(probabilities, np.random.default_rng(epoch)) % 4)
    np.testing.assert_allclose(times / 4000, 4 * probabilities, atol=0.02)


def test_blocks_that_alternate_vary_no_more_than_others() -> None:
    # 100 rooms of a block with B·p 1.5 and one with 0.5. In this order all would fall alike, so
    # that 0 or 100 come twice (a deviation of 50); independent halves deviate by √(100/4) = 5.
    probabilities = np.tile([1.5, 0.5], 100) / 200
    twice = [
        int((draw_blocks(probabilities, np.random.default_rng(seed)) >= 200).sum())
        for seed in range(50)
    ]
    assert np.std(twice) < 2 * 5
    assert np.mean(twice) == pytest.approx(50, abs=5)


def test_epochs_are_in_random_order() -> None:
    drawn = [draw_blocks(np.full(30, 1 / 30), np.random.default_rng(seed)) for seed in (0, 1)]
    assert sorted(drawn[0]) == sorted(drawn[1]) == list(range(30))
    assert drawn[0].tolist() != drawn[1].tolist()
    assert drawn[0].tolist() != sorted(drawn[0])
