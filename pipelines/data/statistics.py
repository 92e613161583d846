"""Statistics of points: what a scan, a room or a whole store is like, whatever it shows.

`prepare` measures every room and keeps its statistics in the manifest; those of a store are merged
from its rooms. The same points in the same order give the same statistics.

Reference:
    Isensee et al., nnU-Net, Nature Methods 2021: its data fingerprint. (Here the fingerprint of a
    store is its checksum.)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from pipelines.config import BLOCK_SIZE
from pipelines.errors import ConfigError
from pipelines.files import atomic_json
from pipelines.progress import SILENT, Progress
from pipelines.scans.colors import GREY
from pipelines.serialization import from_plain, to_plain

from .blocks import CELL, MIN_POINTS, Grid, cells_of
from .store import MANIFEST, Room, RoomInfo, Store
from .surfaces import sample_surfaces

LEVELS = (5, 25, 50, 75, 95)  # per cent
SIDES = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)  # m, of blocks
COLORS = 100_000  # points, at least, whose range of colours is looked at
KEY = "statistics"  # of a room's record in the manifest
SUMMARY = "data_statistics"  # of weights' metadata
FACTOR = 3  # by which a scan is very unlike other data
# In what, how it is said, and in how many of its units a metre is.
UNLIKE = {
    "density": ("{} instead of {} points/m² of surface", 1),
    "noise": ("noise of {} instead of {} mm", 1000),
    "height": ("{} instead of {} m high", 1),
}


@dataclass(frozen=True)
class Spread:
    """The values that 5, 25, 50, 75 and 95 % do not exceed."""

    p5: float
    p25: float
    p50: float
    p75: float
    p95: float

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray | None = None) -> Spread | None:
        """Return the spread of values (n,), which count as their weights (n,) say; None of none.

        >>> Spread.of(np.arange(101)).p25
        25.0
        """
        if not len(values):
            return None
        order = np.argsort(values, kind="stable")
        ends = np.cumsum(np.ones(len(values)) if weights is None else weights[order])
        if len(values) > 1:  # the first value is at 0 %, the last one at 100 %
            ends = (ends - ends[0]) / (ends[-1] - ends[0])
        return cls(*map(_short, np.interp(np.array(LEVELS) / 100, ends, values[order])))

    @classmethod
    def merged(cls, parts: Sequence[tuple[Spread | None, float]]) -> Spread | None:
        """Return the spread of several parts together, each with its weight.

        A part is taken to be spread evenly between its five values, and to end at the outer two.

        >>> low, high = Spread(2, 2, 2, 2, 2), Spread(6, 6, 6, 6, 6)
        >>> Spread.merged([(low, 1), (high, 2)]).p50
        6.0
        """
        known = [(astuple(spread), weight) for spread, weight in parts if spread and weight]
        percents = np.arange(101)
        values = [np.interp(percents, LEVELS, each) for each, _ in known]
        weights = [np.full(len(percents), weight, float) for _, weight in known]
        return cls.of(np.concatenate(values), np.concatenate(weights)) if known else None


@dataclass(frozen=True)
class Blocks:
    """Disjoint blocks of one size, those that training takes: of 100 points or more."""

    side: float  # m
    number: int
    points: Spread | None  # different ones, of a block; None: there is no block


@dataclass(frozen=True)
class Objects:
    """The objects of a class, where the data tells objects apart."""

    name: str  # of the class
    number: int
    smallest: float  # m, the longest side of the smallest one
    size: Spread  # m, the longest sides


@dataclass(frozen=True)
class Statistics:
    """Statistics of a room or scan, or of several."""

    rooms: int
    points: int
    ground: float  # m², of the cells of 0.5 m that have points
    length: Spread  # m, of a room's longer side
    width: Spread  # m
    height: Spread  # m
    density: Spread | None  # different points per m² of surface; None: too few points
    spacing: Spread | None  # m, from a point to the nearest one elsewhere
    noise: Spread | None  # m, standard deviation from a plane of about 0.3 m; None: no planes
    duplicates: float  # share of points where another point is already
    colored: float  # share of points that have a colour
    grey: float  # share of points whose red, green and blue are equal
    color_range: tuple[float, float]  # 0 to 255: the least 1st and the largest 99th percentile
    blocks: tuple[Blocks, ...]  # of each of SIDES
    class_points: tuple[int, ...]  # of each class, in the store's order
    class_blocks: tuple[int, ...]  # 1 m blocks that have points of the class
    objects: tuple[Objects, ...] = ()


def measure(
    pos: np.ndarray,
    color: np.ndarray,
    label: np.ndarray | None = None,
    *,
    num_classes: int = 0,
    uncolored: int = 0,
    objects: Mapping[str, Sequence[float]] | None = None,
) -> Statistics:
    """Measure a room or scan.

    Args:
        pos: (N, 3) float32, metres from the minimum corner; N ≥ 1, no stray points.
        color: (N, 3) uint8.
        label: (N,) unsigned integers; those from `num_classes` on are of no class.
        num_classes: of `label`.
        uncolored: how many points have the colour of another one, for want of their own.
        objects: the longest side of each object, metres, by the name of its class.

    >>> pos = np.random.default_rng(0).random((90_000, 3), np.float32) * np.float32([10, 6, 0])
    >>> found = measure(pos, np.full((90_000, 3), 128, np.uint8))  # 1,500 on a square metre
    >>> round(found.density.p50, -2), found.colored
    (1500.0, 0.0)
    """
    cells, grid = cells_of(pos)
    surfaces = sample_surfaces(pos, grid)
    length, width = sorted((float(pos[:, axis].max()) for axis in range(2)), reverse=True)
    density, spacing, weight = surfaces.sampled
    label = np.empty(0, np.uint8) if label is None else label
    return Statistics(
        rooms=1,
        points=len(pos),
        ground=float(np.count_nonzero(np.diff(grid.offsets)) * CELL**2),
        length=_same(length),
        width=_same(width),
        height=_same(float(pos[:, 2].max())),
        density=Spread.of(density, weight),
        spacing=Spread.of(spacing, weight),
        noise=Spread.of(surfaces.noise),
        duplicates=_short(1 - surfaces.different),
        **_colors(color, uncolored),
        blocks=tuple(_blocks(grid, surfaces.different)),
        class_points=tuple(np.bincount(label, minlength=num_classes)[:num_classes].tolist()),
        class_blocks=_class_blocks(cells[: len(label)], grid, label, num_classes),
        objects=tuple(_objects(objects or {})),
    )


def merge(parts: Sequence[Statistics]) -> Statistics:
    """Return the statistics of several rooms, at least one, together."""
    points, ground = [part.points for part in parts], [part.ground for part in parts]
    counts = np.array([(part.class_points, part.class_blocks) for part in parts]).sum(axis=0)
    lows, highs = zip(*(part.color_range for part in parts), strict=True)

    def spread(name: str, weights: Sequence[float]) -> Any:
        found = [getattr(part, name) for part in parts]
        return Spread.merged(list(zip(found, weights, strict=True)))

    def mean(name: str) -> float:
        found = [getattr(part, name) for part in parts]
        return _short(float(np.average(found, weights=points)))

    return Statistics(
        rooms=sum(part.rooms for part in parts),
        points=sum(points),
        ground=sum(ground),
        **{name: spread(name, [p.rooms for p in parts]) for name in ("length", "width", "height")},
        **{name: spread(name, ground) for name in ("density", "spacing", "noise")},
        duplicates=mean("duplicates"),
        colored=mean("colored"),
        grey=mean("grey"),
        color_range=(min(lows), max(highs)),
        blocks=tuple(_merged_blocks(parts)),
        class_points=tuple(counts[0].tolist()),
        class_blocks=tuple(counts[1].tolist()),
        objects=tuple(_merged_objects(parts)),
    )


def _merged_blocks(parts: Sequence[Statistics]) -> Iterator[Blocks]:
    for same in zip(*(part.blocks for part in parts), strict=True):
        points = Spread.merged([(each.points, each.number) for each in same])
        yield Blocks(same[0].side, sum(each.number for each in same), points)


def _merged_objects(parts: Sequence[Statistics]) -> Iterator[Objects]:
    found: dict[str, list[Objects]] = {}
    for each in (each for part in parts for each in part.objects):
        found.setdefault(each.name, []).append(each)
    for name, same in sorted(found.items()):
        size = Spread.merged([(each.size, each.number) for each in same])
        assert size is not None, "each is of an object or more"
        number, smallest = sum(each.number for each in same), min(each.smallest for each in same)
        yield Objects(name, number, smallest, size)


def measure_room(room: Room, num_classes: int, **about: Any) -> Statistics:
    """Measure a room without its stray points; `about` as for `measure`."""
    pos, color, label = (each[: room.inside] for each in (room.pos, room.color, room.label))
    return measure(pos, color, label, num_classes=num_classes, **about)


def uncolored_inside(entry: Mapping[str, Any]) -> int:
    """Return how many points in a room's frame have no colour of their own, by its record."""
    return int(entry.get("uncolored", 0) - entry.get("uncolored_stray", 0))


def of_rooms(store: Store, rooms: Sequence[RoomInfo]) -> Statistics | None:
    """Return the statistics of some rooms of a store; None if one of them was not measured."""
    entries = {(entry["area"], entry["name"]): entry for entry in store.manifest["rooms"]}
    found = [_known(entries[info.area, info.name]) for info in rooms]
    measured = [each for each in found if each]
    return merge(measured) if rooms and len(measured) == len(found) else None


def of_store(store: Store, progress: Progress = SILENT) -> Statistics:
    """Return the statistics of a store; rooms that were not measured are, and keep theirs."""
    entries = store.manifest["rooms"]
    todo = [entry for entry in entries if not _known(entry)]
    if todo:
        with progress.task("Measuring rooms", total=len(todo), unit="rooms") as task:
            for entry in todo:
                room = store.read(RoomInfo.from_entry(entry))
                found = measure_room(room, len(store.classes), uncolored=uncolored_inside(entry))
                entry[KEY] = to_plain(found)
                task.advance()
        _keep(store, progress)
    merged = of_rooms(store, store.rooms())
    assert merged is not None, "all rooms are measured"
    return merged


def _known(entry: Mapping[str, Any]) -> Statistics | None:
    """Return the statistics in a room's record, unless they are of another version."""
    try:
        found: Statistics = from_plain(Statistics, entry.get(KEY))
    except (ConfigError, TypeError):
        return None
    classes = {len(found.class_points), len(found.class_blocks)} == {len(entry["counts"])}
    return found if classes and tuple(each.side for each in found.blocks) == SIDES else None


def _keep(store: Store, progress: Progress) -> None:
    """Write rooms' statistics to the manifest, of which another process may have written more."""
    path = store.path / MANIFEST
    known = {entry["checksum"]: entry[KEY] for entry in store.manifest["rooms"]}
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        for entry in manifest["rooms"]:
            if entry["checksum"] in known:
                entry[KEY] = known[entry["checksum"]]
        atomic_json(path, manifest)
    except (OSError, ValueError, KeyError, TypeError) as error:
        progress.warn(f"{path}: cannot keep the statistics of the rooms ({error}).")


def _short(value: float) -> float:
    """Return a value with 4 digits."""
    return float(f"{value:.4g}")


def _same(value: float) -> Spread:
    return Spread(*[_short(value)] * len(LEVELS))


def _colors(color: np.ndarray, uncolored: int) -> dict[str, Any]:
    some = color[:: max(1, len(color) // COLORS)]
    low, high = np.percentile(some, (1, 99), axis=0)
    grey = (color[:, 0] == color[:, 1]) & (color[:, 1] == color[:, 2])
    bare = bool(grey.all()) and bool((color[:, 0] == GREY).all())  # as scans without colour
    return {
        "colored": 0.0 if bare else _short(1 - uncolored / len(color)),
        "grey": _short(float(grey.mean())),
        "color_range": (_short(low.min()), _short(high.max())),
    }


def _blocks(grid: Grid, different: float) -> Iterator[Blocks]:
    counts = np.diff(grid.offsets).reshape(grid.nx, grid.ny)
    for side in SIDES:
        wide = round(side / CELL)
        padded = np.pad(counts, [(0, -cells % wide) for cells in counts.shape])
        nx, ny = (cells // wide for cells in padded.shape)
        points = padded.reshape(nx, wide, ny, wide).sum(axis=(1, 3))
        taken = points[points >= MIN_POINTS]
        yield Blocks(side, len(taken), Spread.of(taken * different))


def _class_blocks(
    cells: np.ndarray, grid: Grid, label: np.ndarray, num_classes: int
) -> tuple[int, ...]:
    """Return how many disjoint 1 m blocks have points of each class."""
    wide = round(BLOCK_SIZE / CELL)
    rows, columns = (-(-cells // wide) for cells in (grid.nx, grid.ny))
    known = label < num_classes
    cell = cells[known].astype(np.int64)
    block = cell // grid.ny // wide * columns + cell % grid.ny // wide
    found = np.zeros((rows * columns, num_classes), bool)
    found[block, label[known]] = True
    return tuple(found.sum(axis=0).tolist())


def _objects(sizes: Mapping[str, Sequence[float]]) -> Iterator[Objects]:
    for name, each in sorted(sizes.items()):
        spread = Spread.of(np.array(each))
        if spread is not None:
            yield Objects(name, len(each), _short(min(each)), spread)


def describe(found: Statistics) -> str:
    """Return statistics in one line for people."""
    parts = []
    if found.density and found.spacing:
        parts.append(
            f"{found.density.p50:,.0f} points/m² of surface ({found.density.p5:,.0f} to "
            f"{found.density.p95:,.0f}), {1000 * found.spacing.p50:.3g} mm apart"
        )
    if found.noise:
        parts.append(f"noise {1000 * found.noise.p50:.2g} mm")
    points = next(each.points for each in found.blocks if each.side == BLOCK_SIZE)
    if points:
        parts.append(f"{points.p50:,.0f} different points in a 1 m block")
    if found.colored < 1:
        parts.append(f"{100 * found.colored:.0f} % with colour" if found.colored else "no colour")
    return ", ".join(parts) or "too few points to measure their density"


def summarize(found: Statistics) -> dict[str, float]:
    """Return what weights record of the data that they were trained on."""
    spreads = {name: getattr(found, name) for name in UNLIKE}
    medians = {name: spread.p50 for name, spread in spreads.items() if spread}
    return {**medians, "colored": found.colored}


def differences(found: Statistics, trained: Mapping[str, float]) -> str:
    """Say in what a scan is very unlike the data of `trained`, of `summarize`; "" if it is not.

    >>> pos = np.random.default_rng(0).random((900, 3), "f4")
    >>> scan = measure(pos, np.full((900, 3), 128, np.uint8))
    >>> differences(scan, {"height": 30.0, "colored": 0.0})
    '1 instead of 30 m high'
    """
    own, texts = summarize(found), []
    for name, (form, units) in UNLIKE.items():
        here, there = own.get(name), trained.get(name)
        if here and there and not 1 / FACTOR < here / there < FACTOR:
            shown = (float(f"{units * value:.2g}") for value in (here, there))
            texts.append(form.format(*(f"{value:,.6g}" for value in shown)))
    if found.colored > 0.5 > trained.get("colored", 1):
        texts.append("colour instead of none")
    return ", ".join(texts)


def read_summary(text: str | None) -> dict[str, float]:
    """Return what `summarize` gave from JSON in weights; {} if there is none, or it is damaged."""
    try:
        values = json.loads(text or "{}")
        found = {name: float(values[name]) for name in (*UNLIKE, "colored") if name in values}
    except (ValueError, TypeError, RecursionError, OverflowError):
        return {}
    return {name: value for name, value in found.items() if 0 <= value < math.inf}
