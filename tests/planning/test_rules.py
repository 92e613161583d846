"""Each rule serves its purpose, as counted on the points themselves."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.blocks import block_points, draw, room_blocks, thin
from pipelines.data.statistics import Statistics
from pipelines.data.store import Room
from pipelines.planning import rules
from pipelines.planning.choices import Choices
from pipelines.planning.rules import SIZES, Pace, Start
from tests.planning.clouds import CLASSES, as_room, box, ground, sheet, statistics_of

PUBLISHED, SMALL = SIZES[0], SIZES[2]
ROOMS = {
    "like S3DIS": as_room(box(3000)),
    "RGB-D": as_room(box(450)),
    "sparse": as_room(box(90)),
    "dense": as_room(box(9000)),
    "small": as_room(box(1500, 3.2, 2.4)),
    "an object": as_room(box(3000, 1.0, 0.8, 0.9)),
    "outdoors": as_room(ground()),
    "no colours": as_room(box(1000), colored=False),
}
FOUND = {name: statistics_of([room] * 8) for name, room in ROOMS.items()}
INDOOR = Start(
    "indoor", ModelConfig(depth=14, width=32, k=8, fusion_channels=256), 2048, 2.0, 0.0, CLASSES
)


def counted_share(room: Room, side: float, points: int, voxel: float = 0.0) -> float:
    """Return the mean share of different points in draws of a room's disjoint blocks."""
    rng, shares = np.random.default_rng(0), []
    for block in room_blocks(room.grid, size=side, stride=side):
        rows = block_points(block)
        rows = rows[thin(room.pos[rows], voxel, rng)[0]] if voxel else rows
        shares.append(len({*draw(len(rows), points, rng).tolist()}) / points)
    return float(np.mean(shares))


@pytest.mark.parametrize("size", [PUBLISHED, SMALL], ids=["published", "small"])
@pytest.mark.parametrize("name", ROOMS)
def test_few_of_a_block_s_draws_are_copies(name: str, size: rules.Size) -> None:
    choices = Choices({})
    rules.choose_blocks(choices, FOUND[name], size, None)
    side, points = choices.get("block_size"), choices.get("num_points")
    assert counted_share(ROOMS[name], side, points, choices.get("voxel")) >= 0.6
    TrainConfig(block_size=side, num_points=points, voxel=choices.get("voxel"))  # are options
    if points < size.num_points:  # then no larger block is left that would have more points
        larger = counted_share(ROOMS[name], side, 2 * points)
        assert (larger, side) < (0.7, rules.largest_side(FOUND[name]) + 0.01)


@pytest.mark.parametrize(
    ("name", "side", "points"),
    [("like S3DIS", 1, 4096), ("dense", 1, 4096), ("RGB-D", 2, 4096), ("an object", 1, 4096)],
)
def test_blocks_are_as_published_where_the_scan_is_as_dense(
    name: str, side: float, points: int
) -> None:
    choices = Choices({})
    rules.choose_blocks(choices, FOUND[name], PUBLISHED, None)
    assert (choices.get("block_size"), choices.get("num_points")) == (side, points)


def test_rooms_still_hold_several_blocks() -> None:
    assert rules.largest_side(FOUND["small"]) == 1
    assert rules.largest_side(FOUND["outdoors"]) == 8
    only = statistics_of([ROOMS["RGB-D"]])  # 6 m long: two blocks of 2 m train, one validates
    assert rules.largest_side(only) == 2


def test_voxels_even_out_what_is_dense_and_uneven() -> None:
    near = box(20_000, 3.0, 2.4, 2.0)
    uneven = as_room(np.concatenate([box(800), near + np.array([2, 2, 0])]))
    choices = Choices({"block_size": 4.0})
    found = statistics_of([uneven] * 3)
    rules.choose_blocks(choices, found, SMALL, None)
    voxel = choices.get("voxel")
    assert 0 < voxel <= 0.1
    assert counted_share(uneven, 4.0, choices.get("num_points"), voxel) > 0.9
    rules.choose_blocks(even := Choices({"block_size": 4.0}), FOUND["dense"], SMALL, None)
    assert even.get("voxel") == 0


def test_a_dense_patch_does_not_decide_for_all_the_ground() -> None:
    patch = sheet(3000, 8, 8) + np.array([20, 20, 0])
    found = statistics_of([as_room(np.concatenate([ground(30), patch]))])
    rules.choose_blocks(choices := Choices({}), found, SMALL, None)
    side = choices.get("block_size")
    (covered,) = [each.number * each.side**2 for each in found.blocks if each.side == min(4, side)]
    assert covered > 0.5 * 100 * 100
    assert rules.covered_ground(found, 1.0) < 0.02


@pytest.mark.parametrize("voxel", [0.1, 0.2])
def test_given_voxels_leave_fewer_points_and_nearer_neighbours(voxel: float) -> None:
    choices, found = Choices({"voxel": voxel}), FOUND["RGB-D"]
    network = rules.choose_network(choices, PUBLISHED, None, "1d")
    rules.choose_blocks(choices, found, PUBLISHED, None)
    rules.choose_neighbours(choices, found, network)
    side, points = choices.get("block_size"), choices.get("num_points")
    assert counted_share(ROOMS["RGB-D"], side, points, voxel) >= 0.5
    network = choices.network()
    assert network.k * max(network.dilations()) <= 0.25 * points


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size.depth}-{size.width}")
@pytest.mark.parametrize("name", ROOMS)
def test_neighbourhoods_are_a_part_of_a_block(name: str, size: rules.Size) -> None:
    choices, found = Choices({}), FOUND[name]
    network = rules.choose_network(choices, size, None, "1h")
    rules.choose_blocks(choices, found, size, None)
    rules.choose_neighbours(choices, found, network)
    network, points = choices.network(), choices.get("num_points")
    network.check_points(points)
    (each,) = [b for b in found.blocks if b.side == min(4, choices.get("block_size"))]
    assert each.points is not None
    assert network.k * max(network.dilations()) <= 0.25 * max(points, 128)
    assert network.k <= size.k


def test_the_published_network_keeps_its_neighbourhoods_in_published_blocks() -> None:
    choices, found = Choices({}), FOUND["like S3DIS"]
    network = rules.choose_network(choices, PUBLISHED, None, "1d")
    rules.choose_blocks(choices, found, PUBLISHED, None)
    rules.choose_neighbours(choices, found, network)
    assert choices.network() == ModelConfig()
    (k,) = [choice for choice in choices.made if choice.option == "k"]
    surface = 432 / (math.pi * 4096 / (found.blocks[1].points.p50 / 3000))  # type: ignore[union-attr]
    assert f"{math.sqrt(surface):.2g} m of surface" in k.reason


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("RGB-D", {}, ""),
        ("RGB-D", {"k": 4, "lr": 1e-3}, ""),
        ("RGB-D", {"depth": 28}, "indoor has another depth"),
        ("no colours", {}, "indoor knows colours, which are missing here"),
        ("outdoors", {}, "indoor knows rooms; this is 12 m high"),
        ("an object", {}, "indoor knows rooms; this is 0.9"),
    ],
)
def test_weights_of_rooms_are_for_rooms(name: str, given: dict[str, int], why: str) -> None:
    found = rules.why_no_start(FOUND[name], INDOOR, given)
    assert found.startswith(why)
    assert bool(found) == bool(why)


def test_weights_of_rooms_are_not_for_corridors() -> None:
    narrow = dataclasses.replace(FOUND["RGB-D"], width=rules.Spread(1.6, 1.6, 1.6, 1.6, 1.6))
    assert rules.why_no_start(narrow, INDOOR, {}) == "indoor knows rooms; this is 1.6 m wide"


def test_weights_that_look_far_are_for_blocks_of_many_points() -> None:
    network = dataclasses.replace(INDOOR.model, spatial="4,48")  # 8 · 48 nearest points
    far = dataclasses.replace(INDOOR, name="far", model=network, num_points=4096)
    for name, given, fits in (
        ("dense", {}, True),
        ("dense", {"num_points": 1024}, False),
        ("dense", {"num_points": 1536}, True),
        ("outdoors", {}, False),
    ):
        high = dataclasses.replace(FOUND[name], height=rules.Spread(3, 3, 3, 3, 3))
        why = rules.why_no_start(high, far, given)
        assert why.startswith("" if fits else "far has neighbourhoods of 384 points, too many for")
        assert bool(why) != fits
        assert not rules.why_no_start(high, INDOOR, given)


def test_blocks_that_are_given_are_those_that_have_too_few_points() -> None:
    network = dataclasses.replace(INDOOR.model, spatial="4,48")
    far = dataclasses.replace(INDOOR, name="far", model=network, num_points=4096)
    assert not rules.why_no_start(FOUND["RGB-D"], far, {})
    for given in ({"block_size": 1.0}, {"voxel": 0.1}):
        assert "too many for blocks of" in rules.why_no_start(FOUND["RGB-D"], far, given)


@pytest.mark.parametrize("name", ["sparse", "RGB-D", "dense"])
def test_layers_in_space_keep_their_dilations(name: str) -> None:
    """Leaving out dilation would take nothing from the widest neighbourhood."""
    network = dataclasses.replace(INDOOR.model, spatial="4,48")
    choices = Choices({"num_points": 4096})
    rules.choose_network(choices, SMALL, dataclasses.replace(INDOOR, model=network), "1h")
    rules.choose_blocks(choices, FOUND[name], SMALL, INDOOR)
    rules.choose_neighbours(choices, FOUND[name], network)
    assert choices.get("dilation", True)
    chosen = choices.network(network)
    (k,) = [choice for choice in choices.made if choice.option == "k"]
    assert f"its widest neighbourhood is {chosen.widest} of" in k.reason
    points = min(4096, rules.points_of_blocks(FOUND[name], 2.0).p50)  # type: ignore[union-attr]
    assert chosen.widest <= max(48, rules.NEAR * points)


def test_a_micro_batch_that_is_given_fits_into_the_batch() -> None:
    choices = Choices({"micro_batch": 8, "devices": 2})
    rules.choose_length(choices, Pace(block=1.0, epoch=100, validation=0, test=0), 60.0)
    assert choices.get("batch_size") == 16


def test_weights_of_the_same_classes_are_kept_in_part() -> None:
    for classes, given, expected in (
        (CLASSES, {}, ("wise-ft",)),
        (CLASSES, {"extra": ("warm-up",), "without": ("cosine",)}, ("warm-up", "wise-ft")),
        (CLASSES, {"without": ("wise-ft", "flip")}, None),
        (("a", "b"), {}, None),
    ):
        choices = Choices({**given})
        rules.choose_network(choices, SMALL, INDOOR, "1h")
        found = statistics_of([ROOMS["RGB-D"]] * 8)
        found = dataclasses.replace(
            found,
            class_points=found.class_points[: len(classes)],
            class_blocks=found.class_blocks[: len(classes)],
        )
        rules.choose_recipe(choices, found, classes, 5000, INDOOR)
        assert choices.get("extra") == expected
        assert "wise-ft" not in choices.get("without")
    choices = Choices({})
    rules.choose_network(choices, SMALL, INDOOR, "1h")
    many = dataclasses.replace(FOUND["RGB-D"], rooms=20)
    rules.choose_recipe(choices, many, CLASSES, 5000, INDOOR)
    assert choices.get("extra") is None, "many rooms lack little"
    choices = Choices({"depth": 28})
    rules.choose_network(choices, SMALL, INDOOR, "1h")
    rules.choose_recipe(choices, FOUND["RGB-D"], CLASSES, 5000, INDOOR)
    assert choices.get("extra") is None, "more layers have no start"


def test_weights_that_see_no_colors_need_none() -> None:
    blind = dataclasses.replace(INDOOR, model=dataclasses.replace(INDOOR.model, rgb=False))
    assert not rules.why_no_start(FOUND["no colours"], blind, {})
    assert not rules.why_no_start(FOUND["RGB-D"], blind, {"rgb": False})
    assert rules.why_no_start(FOUND["RGB-D"], blind, {}) == "indoor sees no colours, which are here"
    choices = Choices({})
    rules.choose_recipe(choices, FOUND["RGB-D"], CLASSES, 5000, blind)
    assert {"contrast", "color-drop"} <= {*choices.get("without")}


def test_weights_bring_their_network_and_blocks() -> None:
    choices, found = Choices({}), FOUND["like S3DIS"]
    rules.choose_start(choices, INDOOR, ("floor", "shelf"), "")
    network = rules.choose_network(choices, PUBLISHED, INDOOR, "1h")
    rules.choose_blocks(choices, found, PUBLISHED, INDOOR)
    assert network == INDOOR.model
    assert (choices.get("block_size"), choices.get("num_points")) == (2.0, 2048)
    assert choices.made[0].reason == "1 of 2 classes are theirs; the classifier is a new one"


def recipe(found: Statistics, given: dict[str, object], steps: int = 5000) -> TrainConfig:
    choices = Choices(given)
    rules.choose_recipe(choices, found, CLASSES, steps, None)
    return TrainConfig(**choices.settings)


def test_parts_of_the_recipe_follow_from_the_data_and_the_length() -> None:
    usual, short = recipe(FOUND["RGB-D"], {}), recipe(FOUND["RGB-D"], {}, steps=300)
    assert usual.without == ("balance",)
    assert short.without == ("balance", "smoothing")
    assert usual.lr is not None
    assert short.lr is not None
    assert 1e-3 < usual.lr < short.lr
    assert recipe(FOUND["RGB-D"], {}, steps=50_000).lr == 1e-3
    grey = recipe(FOUND["no colours"], {})
    assert not {"contrast", "color-drop", "color-shift"} & {*grey.parts}
    given = recipe(FOUND["no colours"], {"extra": ("balance",), "without": ("flip",)})
    assert "balance" in given.parts
    assert not {"flip", "contrast"} & {*given.parts}
    assert recipe(FOUND["RGB-D"], {"recipe": "paper"}).parts == ()


def test_weights_are_trained_at_a_low_rate_however_short_the_training() -> None:
    for steps in (300, 50_000):
        choices = Choices({})
        rules.choose_recipe(choices, FOUND["RGB-D"], CLASSES, steps, INDOOR)
        assert choices.get("lr") == 3e-4


def test_balance_is_for_classes_that_are_rare_but_in_several_blocks() -> None:
    found = FOUND["RGB-D"]  # 36 blocks a room
    blocks = next(each.number for each in found.blocks if each.side == 1)
    for points, of_blocks, balanced in (
        ((100_000, 500), (blocks, 8), True),
        ((100_000, 500), (blocks, 2), False),  # too few to draw again and again
        ((100_000, 500), (blocks, blocks), False),  # no block has more of it than others
        ((100_000, 50_000), (blocks, 8), False),
    ):
        made = dataclasses.replace(found, class_points=points, class_blocks=of_blocks)
        assert ("balance" in recipe(made, {}).parts) == balanced, (points, of_blocks)


def test_alternatives_are_other_trainings() -> None:
    settings = {"weights": "indoor", "block_size": 1.0, "depth": 14, "width": 32}
    found = rules.alternatives(settings, FOUND["RGB-D"], {})
    assert [name for name, _ in found] == ["from nothing", "blocks of 2 m", "recipe scans"]
    indoor = Start("indoor", ModelConfig(), 4096, 2.0, 0.0, ())
    blind = dataclasses.replace(indoor, name="large", model=ModelConfig(rgb=False))
    found = rules.alternatives(settings, FOUND["RGB-D"], {}, [indoor, blind])
    assert found[1] == ("from large", {"weights": "large", "rgb": False})
    large = dataclasses.replace(indoor, name="large")
    found = rules.alternatives(settings, FOUND["RGB-D"], {}, [indoor, large])
    assert "from large" not in [name for name, _ in found], "it sees what those of the plan see"
    given = rules.alternatives(settings, FOUND["RGB-D"], {"rgb": True}, [indoor, blind])
    assert [name for name, _ in given] == ["from nothing", "blocks of 2 m", "recipe scans"]
    given = rules.alternatives(settings, FOUND["RGB-D"], {"depth": 14}, [indoor, blind])
    assert "from large" not in [name for name, _ in given], "it has another depth"
    for nothing in (None, "none"):
        found = rules.alternatives({**settings, "weights": nothing}, FOUND["small"], {})
        assert found[0][0] == "a smaller network"
    found = rules.alternatives({**settings, "weights": None}, FOUND["small"], {"recipe": "paper"})
    assert [name for name, _ in found] == ["a smaller network"]
    assert found[0][1]["depth"] == 7
    given = rules.alternatives(settings, FOUND["RGB-D"], {"weights": "indoor", "block_size": 1.0})
    assert [name for name, _ in given] == ["recipe scans"]


@pytest.mark.parametrize("seconds", [20.0, 600.0, 86_400.0])
@pytest.mark.parametrize("epoch", [3, 200, 17_000])
def test_the_length_fits_the_time(seconds: float, epoch: int) -> None:
    pace = Pace(block=0.2, epoch=epoch, validation=1 + epoch // 5, test=10)
    choices = Choices({})
    steps = rules.choose_length(choices, pace, seconds)
    batch, epochs = choices.get("batch_size"), choices.get("epochs")
    validated = min(choices.get("val_blocks", pace.validation), pace.validation)
    passes = steps * batch / epoch
    taken = 0.2 * (steps * batch + 0.7 * (passes * validated + 10)) + 0.5 * passes
    assert taken <= 1.01 * seconds or steps == 1
    assert taken > 0.8 * seconds or steps * batch > 0.8 * max(100 * epoch, 100_000) or steps < 9
    assert epochs * epoch >= steps * batch, "the steps end it"
    assert validated * 0.7 <= max(1, 0.11 * epoch)
    assert batch <= epoch


def test_the_last_batches_of_epochs_count_as_what_they_are() -> None:
    """11 blocks an epoch in batches of 8: two steps, of 8 and 3 blocks."""
    pace, choices = Pace(block=1.0, epoch=11, validation=0, test=0), Choices({"batch_size": 8})
    steps = rules.choose_length(choices, pace, 11 * 20 + 20 * rules.SAVING)
    assert steps == 2 * 20
    assert "in epoch 20.0" in next(c.reason for c in choices.made if c.option == "epochs")


def test_what_is_given_is_not_chosen() -> None:
    choices = Choices({"num_points": 1000, "k": 3, "max_steps": 7, "val_fraction": 0.5, "seed": 1})
    network = rules.choose_network(choices, PUBLISHED, None, "1h")
    rules.choose_blocks(choices, FOUND["RGB-D"], PUBLISHED, None)
    rules.choose_neighbours(choices, FOUND["RGB-D"], network)
    rules.choose_validation(choices, 8)
    assert rules.choose_length(choices, Pace(1, 9, 1, 0), 1000) == 7
    found = {c.option: c.value for c in choices.made if c.reason == "given"}
    assert found == {"num-points": 1000, "k": 3, "max-steps": 7, "val-fraction": 0.5}


def test_another_architecture_keeps_its_published_width() -> None:
    choices = Choices({"arch": "densegcn"})
    network = rules.choose_network(choices, PUBLISHED, None, "1d")
    assert network == ModelConfig.published("densegcn", 28)


@pytest.mark.parametrize(("rooms", "held_out"), [(2, 1), (5, 1), (12, 2), (19, 2), (200, 20)])
def test_whole_rooms_validate(rooms: int, held_out: int) -> None:
    assert max(1, round(rules.choose_validation(Choices({}), rooms) * rooms)) == held_out


def test_an_only_room_that_cannot_be_cut_is_all_trained_on() -> None:
    assert rules.choose_validation(Choices({}), 1) == 0.2
    choices = Choices({})
    assert rules.choose_validation(choices, 1, divided=False) == 0
    assert choices.made[0].reason.startswith("an only room, of too few blocks")
