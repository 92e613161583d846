"""The rules: what data, a machine and a budget say about a training. Pure functions, no files.

docs/plan.md states each rule, with the measurement that it rests on or that there is none yet.
Numbers without a source there are rules of thumb.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

from pipelines.config import ModelConfig
from pipelines.config.model import PUBLISHED, TENSORLESS
from pipelines.config.recipes import ADAM_LR, RECIPES, SGD_LR, parts_of
from pipelines.data.blocks import trained_blocks
from pipelines.data.statistics import Blocks, Spread, Statistics

from .choices import GIVEN, NOTHING, Choices

# Of blocks and their points.
SIDES = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)  # m
ACROSS = 1.5  # blocks across a room's shorter side, at least
ALONG = 3.0  # blocks along an only room, at least: some train and some validate
DISTINCT = 2 / 3  # of the draws from a block, at least, are different points
COVERED = 0.5  # of the ground, at least, is in blocks of enough points
FEWEST_POINTS = 128
DENSE, UNEVEN = 4.0, 10.0  # points of a block over those drawn; densest over sparsest surface
COARSE = 2.0  # voxels of a block over the points that are drawn
WIDEST_VOXEL = 0.1  # m
# Of neighbours.
LEAST_K = 4
NEAR = 0.25  # of the different points of a block, at most, are a point's k·d nearest
# Of weights to start from: what rooms are like.
ROOM_HEIGHT, ROOM_WIDTH, COLORED = (1.5, 6.0), 2.0, 0.5
# Of the recipe.
RARE, FEW_BLOCKS, SEVERAL = 0.05, 0.1, 5  # share of points × classes; of blocks; blocks
SMOOTHED = 2000  # steps, from which on labels are smoothed
FEW_ROOMS = 20  # below: two at most validate, and weights are kept halfway
# Of the length.
LEAST_STEPS = 1000  # that a batch leaves
BATCHES = (16, 8, 4)
EPOCHS, BLOCKS = 100, 100_000  # at most: as published, or so many blocks of few rooms
LR_STEPS, MOST_LR, TUNING_LR = 10_000, 5e-3, 3e-4
VALIDATION = 0.1  # of an epoch's time, at most
SCORING = 1 / 3  # of the time, at most
FORWARD = 0.7  # of a training step's time, a forward pass alone
SAVING = 0.5  # s an epoch


@dataclass(frozen=True)
class Size:
    """A network and its points, and how many blocks it should see to be worth its time."""

    depth: int
    width: int
    k: int
    fusion_channels: int
    num_points: int
    blocks: int
    why: str

    @property
    def points(self) -> int:
        """How many points these blocks have, as often as they come."""
        return self.blocks * self.num_points

    @property
    def network(self) -> dict[str, int]:
        """Its settings."""
        return {n: getattr(self, n) for n in ("depth", "width", "k", "fusion_channels")}


SIZES = (  # the largest first
    Size(28, 64, 16, 1024, 4096, 100_000, "the published network"),
    Size(14, 64, 16, 1024, 4096, 30_000, "half the published depth, which is 2.6 points behind"),
    Size(14, 32, 8, 256, 2048, 3000, "small networks learn more from few blocks"),
    Size(7, 16, 8, 256, 1024, 0, "the smallest one learns most from very few blocks"),
)


@dataclass(frozen=True)
class Start:
    """Weights that a training may start from, with how their blocks were drawn."""

    name: str
    model: ModelConfig
    num_points: int
    block_size: float
    voxel: float
    classes: tuple[str, ...]


def why_no_start(found: Statistics, start: Start, given: Mapping[str, Any]) -> str:
    """Return why a training should not start from these weights of rooms; "" if it should."""
    low, high = ROOM_HEIGHT
    for name, value in given.items():
        if name not in TENSORLESS and value != getattr(start.model, name, value):
            return f"{start.name} has another {name.replace('_', ' ')}"
    if not low <= found.height.p50 <= high:
        return f"{start.name} knows rooms; this is {found.height.p50:.3g} m high"
    if found.width.p50 < ROOM_WIDTH:
        return f"{start.name} knows rooms; this is {found.width.p50:.3g} m wide"
    colored = found.colored >= COLORED and given.get("rgb", True)
    if start.model.rgb and not colored:
        return f"{start.name} knows colours, which are missing here"
    if colored and not start.model.rgb:
        return f"{start.name} sees no colours, which are here"
    side = given.get("block_size") or start.block_size
    there = points_of_blocks(found, side, given.get("voxel", start.voxel) or 0.0)
    distinct = min(given.get("num_points", start.num_points), there.p50 if there else 0)
    if start.model.spatial and start.model.widest > NEAR * distinct:
        near = f"neighbourhoods of {start.model.widest} points"
        return f"{start.name} has {near}, too many for blocks of {distinct:,.0f}"
    return ""


def choose_start(choices: Choices, start: Start | None, classes: Sequence[str], why: str) -> None:
    """Choose the weights to start from; `why` there are none."""
    if start is None:
        choices.make("weights", None, why)
        return
    shared = len({*classes} & {*start.classes})
    reason = f"{shared} of {len(classes)} classes are theirs"
    if tuple(classes) != start.classes:
        reason += "; the classifier is a new one"
    choices.make("weights", start.name, reason)


def choose_network(choices: Choices, size: Size, start: Start | None, budget: str) -> ModelConfig:
    """Choose depth, width, k and fusion, and return the network, whose k may still be too wide."""
    arch = choices.given.get("arch", ModelConfig.arch)
    published = PUBLISHED.get(arch, {})
    settings = {name: published.get(name, value) for name, value in size.network.items()}
    why = f"{budget}: {size.why}"
    if start is not None:
        settings, why = {name: getattr(start.model, name) for name in settings}, f"of {start.name}"
    for name, value in settings.items():
        choices.make(name, value, why)
    return choices.network(start.model if start else None)


def points_of_blocks(found: Statistics, side: float, voxel: float = 0.0) -> Spread | None:
    """Return how many different points blocks of a side have; None: there are no such blocks.

    Sides that were not measured follow from the nearest one that was, by their ground. Of voxels
    (m), one point each is left on the surface.
    """
    nearest = _nearest_blocks(found, side)
    if nearest is None or nearest.points is None:
        return None
    factor = (side / nearest.side) ** 2
    if voxel and found.density:
        factor *= min(1.0, 1 / (found.density.p50 * voxel**2))
    return Spread(*(factor * value for value in astuple(nearest.points)))


def covered_ground(found: Statistics, side: float) -> float:
    """Return the fraction of the ground that blocks of a side cover: those of enough points."""
    nearest = _nearest_blocks(found, side)
    return min(1.0, nearest.number * nearest.side**2 / found.ground) if nearest else 0.0


def _nearest_blocks(found: Statistics, side: float) -> Blocks | None:
    """Return the measured blocks whose side is the nearest one; None: there are no blocks."""
    measured = [each for each in found.blocks if each.points is not None]
    return min(measured, key=lambda each: (abs(each.side - side), -each.side), default=None)


def distinct_share(points: Spread | None, drawn: int) -> float:
    """Return the mean fraction of a block's draws that are different points.

    >>> distinct_share(Spread(512, 1024, 1024, 4096, 9999), 1024)
    0.9
    """
    values = astuple(points) if points else (0.0,)
    return sum(min(1.0, value / drawn) for value in values) / len(values)


def largest_side(found: Statistics) -> float:
    """Return the largest side of which a room still has several blocks."""
    most = found.length.p50 / ALONG if found.rooms == 1 else found.width.p50 / ACROSS
    return max(side for side in SIDES if side <= max(most, SIDES[0]))


def choose_blocks(choices: Choices, found: Statistics, size: Size, start: Start | None) -> None:
    """Choose the side of a block, the points drawn from it, and voxels.

    The side is the smallest one that covers most of the ground and of which few draws are copies;
    if there is none, fewer points are drawn.
    """
    wanted = choices.given.get("num_points", start.num_points if start else size.num_points)
    most = largest_side(found)
    sides: Sequence[float] = [side for side in SIDES if side <= most]
    if start is not None:
        sides = [start.block_size]
    if (given := choices.given.get("block_size")) is not None:
        sides = [given]
    voxel = choices.given.get("voxel", start.voxel if start else 0.0)
    fitting = [
        each
        for each in sides
        if covered_ground(found, each) >= COVERED
        and distinct_share(points_of_blocks(found, each, voxel), wanted) >= DISTINCT
    ]
    side, points = (fitting or sides[-1:])[0], wanted
    there = points_of_blocks(found, side, voxel)
    while points > FEWEST_POINTS and distinct_share(there, points) < DISTINCT:
        points = 1 << (points - 1).bit_length() - 1  # the next lower power of two
    side = choices.make("block_size", side, _why_side(found, side, sides, wanted, voxel, start))
    points = choices.make(
        "num_points",
        points,
        f"{distinct_share(there, points):.0%} of a block's draws are different points",
    )
    why = "a block's points are no more than the draws show"
    if start is not None:
        why = f"of {start.name}"
    elif there and found.density and there.p50 > DENSE * points:
        dense, sparse = found.density.p95, max(found.density.p5, 1.0)
        if dense > UNEVEN * sparse:
            surface = there.p50 / found.density.p50
            voxel = min(WIDEST_VOXEL, math.floor(1e3 * math.sqrt(surface / COARSE / points)) / 1e3)
            why = f"uneven: {sparse:,.0f} to {dense:,.0f} points/m²; a wall far off counts as much"
        else:
            why = "the surfaces are evenly dense, so draws are, too"
    choices.make("voxel", voxel, why)


def _why_side(
    found: Statistics,
    side: float,
    sides: Sequence[float],
    wanted: int,
    voxel: float,
    start: Start | None,
) -> str:
    there = points_of_blocks(found, side, voxel)
    has = f"it has {there.p50:,.0f} different points (median)" if there else "it has few points"
    if start is not None:
        return f"of {start.name}; {has}"
    if side == sides[0]:
        return has
    before = sides[sides.index(side) - 1]
    if (covered := covered_ground(found, before)) < COVERED:
        return f"{has}; of {before:g} m, {1 - covered:.0%} of the ground is in none of 100 points"
    smaller = points_of_blocks(found, before, voxel)
    less = f"{smaller.p50:,.0f}" if smaller else "too few"
    return f"{has}; one of {before:g} m has {less} for {wanted:,} draws"


def choose_neighbours(choices: Choices, found: Statistics, model: ModelConfig) -> None:
    """Lower k, or leave out dilation, where neighbourhoods would span most of a block.

    `model` is the network with the k that it would have in large blocks. Layers in space keep their
    dilations.
    """
    points, side = choices.get("num_points"), choices.get("block_size")
    there = points_of_blocks(found, side, choices.get("voxel"))
    distinct = max(1.0, min(points, there.p50 if there else points))
    widest, fixed = max(model.dilations()), max(model.spatial_dilations(), default=1)
    k = choices.get("k", model.k)
    ks = [k] if "k" in choices.given else [k, *(n for n in (8, LEAST_K) if n < k)]
    fitting = [n for n in ks if n * widest <= NEAR * distinct]
    dilated = bool(fitting) or widest == fixed
    if fitting:
        k = fitting[0]
    elif "k" not in choices.given:
        k = max(1, min(k, int(NEAR * distinct) // fixed))
    reach = k * (widest if dilated else fixed)
    share = f"its widest neighbourhood is {reach} of {distinct:,.0f} points"
    if found.density:
        all_points = points_of_blocks(found, side)
        drawn = found.density.p50 * (distinct / all_points.p50 if all_points else 1)
        share += f", {math.sqrt(reach / math.pi / max(drawn, 1e-9)):.2g} m of surface"
    choices.make("k", k, share)
    if not dilated:
        choices.make("dilation", False, f"k·d would be more than {NEAR:.0%} of a block's points")


def rare_classes(found: Statistics, classes: Sequence[str]) -> list[str]:
    """Return the classes that are rare by points and lie in several blocks, but few of them."""
    total, known = sum(found.class_points), sum(1 for n in found.class_points if n)
    blocks = next((each.number for each in found.blocks if each.side == 1.0), 0)
    return [
        name
        for name, points, own in zip(classes, found.class_points, found.class_blocks, strict=True)
        if points
        and points * known < RARE * total
        and SEVERAL <= own < FEW_BLOCKS * max(blocks, max(found.class_blocks))
    ]


def choose_recipe(
    choices: Choices, found: Statistics, classes: Sequence[str], steps: int, start: Start | None
) -> None:
    """Choose the recipe and the parts that are left out, and the learning rate."""
    why = "augmentation helps few rooms most: four parts gain 1.6 to 2.6 points"
    recipe = choices.make("recipe", "modern", why)
    added = tuple(choices.given.get("extra", ()))
    same = start is not None and start.classes == tuple(classes)
    same = same and start.model.depth == choices.get("depth")  # type: ignore[union-attr]
    asked = tuple(choices.given.get("without", ()))
    halfway = same and found.rooms < FEW_ROOMS and "wise-ft" not in (*added, *asked)
    added += ("wise-ft",) if halfway else ()
    left_out, reasons = [], []
    rare = rare_classes(found, classes)
    if not rare:
        left_out.append("balance")
        reasons.append("no class is both rare and in few blocks")
    if steps < SMOOTHED:
        left_out.append("smoothing")
        reasons.append(f"smoothing costs 1.3 points in so few steps ({steps:,})")
    blind = not choices.get("rgb", start is None or start.model.rgb)
    if blind or not found.colored:
        left_out += ["contrast", "color-drop", "color-shift"]
        reasons.append("no colours are seen" if found.colored else "there are no colours")
    known = [part for part in left_out if part in RECIPES[recipe] and part not in added]
    known += [part for part in asked if part not in (*known, "wise-ft")]
    if not known:
        reasons = ["nothing"]
    if rare:
        some = ", ".join(rare[:3])
        reasons.append(f"balance stays: {some} {'are' if len(rare) > 1 else 'is'} rare")
    choices.make("without", tuple(known), "; ".join(reasons))
    if added:
        why = "few rooms: halfway from the weights, less of what they lack is forgotten"
        choices.make("extra", added, why if halfway else GIVEN)
    parts = parts_of(recipe, known, added)
    why = "as published"
    if "cosine" in parts:
        why = f"{ADAM_LR:g} as published, more in a short training ({steps:,} steps)"
    if start is not None:
        why = "from weights: higher rates forget more of what they know"
    choices.make("lr", rate_of_parts(parts, steps, from_weights=start is not None), why)


def rate_of_parts(parts: Collection[str], steps: int, *, from_weights: bool) -> float:
    """Return the first learning rate of a recipe's parts for a training of so many steps.

    >>> rate_of_parts(["sgd", "cosine"], 2_500, from_weights=False)
    0.2
    """
    lr = first_lr(steps if "cosine" in parts else LR_STEPS, from_weights=from_weights)
    if "sgd" in parts:
        lr *= SGD_LR / ADAM_LR
    return float(f"{lr:.2g}")


def first_lr(steps: int, *, from_weights: bool) -> float:
    """Return the first learning rate of Adam for a training of so many steps with `cosine`.

    >>> first_lr(2_500, from_weights=False), first_lr(2_500, from_weights=True)
    (0.002, 0.0003)
    """
    if from_weights:
        return TUNING_LR
    return min(MOST_LR, ADAM_LR * math.sqrt(max(1.0, LR_STEPS / steps)))


@dataclass(frozen=True)
class Pace:
    """How fast a training is, and what is to be taken."""

    block: float  # s of a training step, for each block
    epoch: int  # blocks to train on
    validation: int  # blocks that validate after an epoch
    test: int  # forward passes of blocks, to score the test area


def seconds_of_block(pace: Pace, validated: int) -> float:
    """Return the seconds that a block takes, with its part of validation and saving."""
    after = validated * FORWARD * pace.block + SAVING
    return pace.block + after / pace.epoch


def affordable(pace: Pace, seconds: float, given: int | None = None) -> tuple[int, int | None]:
    """Return how many blocks can be trained on, and how many should validate; None: all.

    So many as `given` validate, if that is not None, or all if there are fewer.
    """
    left = seconds - min(pace.test * FORWARD * pace.block, SCORING * seconds)
    few = max(1, int(VALIDATION * pace.epoch / FORWARD)) if given is None else given
    validated = min(few, pace.validation)
    limited = few if few < pace.validation else None
    return max(0, int(left / seconds_of_block(pace, validated))), limited


def longest(pace: Pace) -> int:
    """Return how many blocks a training has at most, whatever the time."""
    return max(EPOCHS * pace.epoch, BLOCKS)


def choose_length(choices: Choices, pace: Pace, seconds: float) -> int:
    """Choose batch, steps, epochs and the blocks that validate; return the steps."""
    blocks, validated = affordable(pace, seconds, choices.given.get("val_blocks"))
    most = longest(pace)
    limit = f"{EPOCHS} epochs" if most > BLOCKS else f"{BLOCKS:,} blocks"
    why = "what the time allows" if blocks <= most else f"{limit}; there is time for {blocks:,}"
    if (asked := choices.given.get("epochs", blocks) * pace.epoch) < min(blocks, most):
        why = "the epochs given, as far as their blocks are known"
    blocks = min(blocks, most, asked)
    fitting = [size for size in BATCHES if blocks / size >= LEAST_STEPS]
    batch = min((fitting or BATCHES[-1:])[0], max(1, pace.epoch))
    devices = choices.given.get("devices", 1)
    batch = max(batch, devices * (choices.given.get("micro_batch") or 1))
    many = "as published"
    if batch < BATCHES[0]:
        of = "blocks" if batch == pace.epoch else f"steps: {LEAST_STEPS:,} are better"
        many = f"16 as published would leave too few {of}"
    batch = choices.make("batch_size", batch, many)
    whole, rest = divmod(blocks, pace.epoch)
    steps = whole * math.ceil(pace.epoch / batch) + rest // batch
    steps = choices.make("max_steps", max(1, steps), why)
    choices.make("epochs", *beyond(trained_blocks(steps, pace.epoch, batch) / pace.epoch))
    if validated is not None:
        choices.make("val_blocks", validated, f"at most {VALIDATION:.0%} of the time")
    return int(steps)


def beyond(passes: float) -> tuple[int, str]:
    """Return epochs that do not end a training before its steps do, in so many, and why.

    >>> beyond(47.12)
    (96, 'the steps end it, in epoch 47.1')
    """
    epochs = math.ceil(2 * passes) + 1  # the blocks of an epoch are an estimate
    return epochs, f"the steps end it, in epoch {passes:.1f}"


def alternatives(
    settings: Mapping[str, Any],
    found: Statistics,
    given: Mapping[str, Any],
    starts: Sequence[Start] = (),
) -> list[tuple[str, dict[str, Any]]]:
    """Return what else could be better than a plan's settings: a name, and options to give.

    `starts` are the weights in the package. Of those that see colours the first that fits is in
    the plan; one that sees none may fit rooms with colours, which can be unlike those it knows.
    """
    others: list[tuple[str, dict[str, Any]]] = []
    side, large = settings["block_size"], settings["depth"] * settings["width"]
    smaller = [size for size in SIZES if size.depth * size.width < large]
    if settings.get("weights") not in (None, NOTHING):
        others.append(("from nothing", {"weights": NOTHING}))
        seen = {start.model.rgb for start in starts if start.name == settings["weights"]}
        for start in starts:
            colors = {"rgb": start.model.rgb}
            fits = not why_no_start(found, start, {**given, **colors})
            if fits and start.model.rgb not in seen and start.name != settings["weights"]:
                others.append((f"from {start.name}", {"weights": start.name, **colors}))
    elif smaller:
        network = {**smaller[0].network, "num_points": smaller[0].num_points}
        others.append(("a smaller network", network))
    if sides := [each for each in SIDES if side < each <= largest_side(found)]:
        others.append((f"blocks of {sides[0]:g} m", {"block_size": sides[0]}))
    others.append(("recipe scans", {"recipe": "scans"}))
    return [(name, change) for name, change in others if not {*change} & {*given}]


def choose_validation(choices: Choices, rooms: int, *, divided: bool = True) -> float:
    """Choose the fraction of the rooms that validate, and return it.

    `divided` says whether a line through an only room has blocks on both sides.
    """
    if (fold := choices.given.get("val_fold")) is not None:
        return 1 / int(fold.partition("/")[2])
    if rooms == 1 and not divided:
        fraction, why = 0.0, "an only room, of too few blocks to validate on some of them"
    elif rooms == 1:
        fraction, why = 0.2, "an only room: its blocks beyond a line validate"
    elif rooms < FEW_ROOMS:
        count = 1 if rooms < 10 else 2
        fraction, why = count / rooms, f"{count} of {rooms} rooms"
    else:
        fraction, why = 0.1, f"as usual, of {rooms} rooms"
    return float(choices.make("val_fraction", float(f"{fraction:.3g}"), why))
