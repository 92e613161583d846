"""The named studies: rows that differ from a reference in one thing each.

A row holds changes relative to the reference, so that the same study can be repeated at a smaller
size: what the paper doubles or halves (depth, width, k) is doubled or halved here, too. Networks
and published figures come from `model.presets`, the parts of recipes from `config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any

from pipelines.config import AREAS, STUDIES, ModelConfig, TrainConfig
from pipelines.config.options import check_choice
from pipelines.config.recipes import RECIPES
from pipelines.model.presets import PRESETS, published_as

SCALED = ("depth", "width", "k")  # settings that follow the reference's
REFERENCE = "resgcn-28"  # the preset that the published rows differ from
TITLE = "mIoU on the test area"
DEPTHS = (7, 14, 28, 56)
# Of ResGCN only; k·d has to fit into a block.
DEEP: dict[int, dict[str, int]] = {112: {}, 152: {"k": 3}, 1001: {"k": 3}}


@dataclass(frozen=True)
class Row:
    """One line of a study: what it changes and, once it is planned, what it trains."""

    name: str  # plain, part of the runs' names
    group: str = ""  # what kind of change it is
    # Fields of TrainConfig and ModelConfig and their values; a Fraction: of the base's value.
    changes: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None  # the preset whose published figure is shown with the row
    # Its place in plots: name of the axis → value; None: the planned network's.
    axes: Mapping[str, Any] = field(default_factory=dict)
    # What planning adds:
    label: str = "–"  # the network and what else the row changes, for people
    config: TrainConfig | None = None  # for the first seed; None: it cannot be trained
    error: str = ""  # why it cannot be trained
    full_size: bool = False  # whether network, recipe, budget and data are the published ones
    parameters: int | None = None  # trainable values of the network


@dataclass(frozen=True)
class Section:
    """The rows of one table; `reference` is the row that the others are compared with.

    With `folds`, the rows are the test areas of one network and are pooled.
    """

    title: str
    rows: tuple[Row, ...]
    reference: str | None = None
    folds: bool = False


@dataclass(frozen=True)
class Study:
    """Tables of rows over a common base."""

    name: str  # plain, part of the runs' names
    title: str
    sections: tuple[Section, ...]
    # Settings of every row, unless the user or the row says otherwise.
    base: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()  # settings that the study chooses itself
    seeds: int = 1  # trainings of each row

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of all tables."""
        return tuple(row for section in self.sections for row in section.rows)


def study(name: str, *, deepest: bool = False) -> Study:
    """Return the study `name`; `deepest` adds 1,001 layers to `depth`.

    >>> dense = next(row for row in study("paper-table1").rows if row.name == "dense")
    >>> dense.changes["arch"], dense.published
    ('densegcn', 'densegcn-28')

    Raises:
        ConfigError: there is none of that name.
    """
    check_choice("study", name, STUDIES, flag="--preset")
    makers: dict[str, Callable[[], Study]] = {
        "paper-table1": _table1,
        "paper-variants": _variants,
        "depth": partial(_depth, deepest=deepest),
        "recipe": _recipe,
        "six-fold": _six_fold,
        "smoke": _smoke,
    }
    return makers[name]()


# Row, group, preset, axis of the plots. Reference: ICCV 2019, table 1.
_TABLE1 = (
    ("reference", "reference", REFERENCE, None),
    ("no-stochastic", "dilation", "resgcn-28-no-stochastic", None),
    ("no-dilation", "dilation", "resgcn-28-no-dilation", None),
    ("fixed", "fixed k-NN", "resgcn-28-fixed", None),
    ("plain-fixed", "fixed k-NN", "plaingcn-28-fixed", None),
    ("plain", "connections", "plaingcn-28", None),
    ("dense", "connections", "densegcn-28", None),
    ("k-half", "neighbours", "resgcn-28-k8", "k"),
    ("k-quarter", "neighbours", "resgcn-28-k4", "k"),
    ("depth-double", "depth", "resgcn-56", "depth"),
    ("depth-half", "depth", "resgcn-14", "depth"),
    ("depth-quarter", "depth", "resgcn-7", "depth"),
    ("width-double", "width", "resgcn-28w", "width"),
    ("width-half", "width", "resgcn-28-c32", "width"),
    ("width-quarter", "width", "resgcn-28-c16", "width"),
    ("no-skip", "no skip, dilated", "plaingcn-28-dilated", "depth"),
    ("no-skip-double", "no skip, dilated", "plaingcn-56-dilated", "depth"),
    ("no-skip-half", "no skip, dilated", "plaingcn-14-dilated", "depth"),
    ("no-skip-quarter", "no skip, dilated", "plaingcn-7-dilated", "depth"),
)
_VARIANTS = (
    ("edge", "reference", REFERENCE, None),
    ("mr", "graph convolution", "resmrgcn-28", None),
    ("sage", "graph convolution", "resgraphsage-28", None),
    ("sage-n", "graph convolution", "resgraphsage-n-28", None),
    ("gin", "graph convolution", "resgin-28", None),
)


def _table1() -> Study:
    title = "ResGCN-28 with one thing changed (ICCV 2019, table 1)"
    section = Section(TITLE, tuple(_published_row(*line) for line in _TABLE1), "reference")
    return Study("paper-table1", title, (section,), fixed=("arch",))


def _variants() -> Study:
    title = "ResGCN-28 with other graph convolutions (TPAMI 2021)"
    section = Section(TITLE, tuple(_published_row(*line) for line in _VARIANTS), "edge")
    return Study("paper-variants", title, (section,), fixed=("arch", "conv"))


def _published_row(name: str, group: str, preset: str, axis: str | None) -> Row:
    network = PRESETS[preset].config
    axes = {"arch": network.arch, **({axis: None} if axis else {})}
    return Row(name, group, _difference(network), preset, axes)


def _difference(network: ModelConfig) -> dict[str, Any]:
    """Return what `network` changes of the reference, sizes as fractions of its sizes."""
    before = vars(PRESETS[REFERENCE].config)
    changed = {name: value for name, value in vars(network).items() if value != before[name]}
    return {
        name: Fraction(value, before[name]) if name in SCALED else value
        for name, value in changed.items()
    }


def _depth(*, deepest: bool) -> Study:
    deep = [depth for depth in DEEP if deepest or depth < 1000]
    rows = tuple(
        _depth_row(kind, depth)
        for kind, depths in (("plain", DEPTHS), ("res", (*DEPTHS, *deep)), ("dense", DEPTHS))
        for depth in depths
    )
    section = Section("mIoU by depth and connections", rows, reference="res-28")
    return Study("depth", "How deep it can go", (section,), fixed=("arch", "depth"))


def _depth_row(kind: str, depth: int) -> Row:
    network = ModelConfig.published(f"{kind}gcn", depth, **DEEP.get(depth, {}))
    changes = {**_difference(network), "depth": depth}
    axes = {"arch": network.arch, "depth": None}
    return Row(f"{kind}-{depth}", f"{kind}gcn", changes, published_as(network), axes)


def _recipe() -> Study:
    """Return every recipe with each of its parts removed, and the bare one with each added."""
    sections = tuple(
        Section(f"Recipe {recipe}", tuple(_recipe_rows(recipe)), reference=recipe)
        for recipe in sorted(RECIPES, key=lambda name: not RECIPES[name])
    )
    fixed = ("recipe", "without", "extra")
    return Study("recipe", "Each part of the recipes", sections, fixed=fixed)


def _recipe_rows(recipe: str) -> Iterator[Row]:
    yield Row(recipe, "reference", {"recipe": recipe})
    for part in RECIPES[recipe]:
        yield Row(f"{recipe}-no-{part}", "without", {"recipe": recipe, "without": (part,)})
    for part in RECIPES["modern"]:
        if part not in RECIPES[recipe]:
            yield Row(f"{recipe}-{part}", "with", {"recipe": recipe, "extra": (part,)})
    # One optimizer at a time: SGD takes the place of the recipe's own.
    instead = ("adamw",) if "adamw" in RECIPES[recipe] else ()
    changes = {"recipe": recipe, "without": instead, "extra": ("sgd",)}
    yield Row(f"{recipe}-sgd", "with", changes)


def _six_fold() -> Study:
    rows = tuple(
        Row(f"area-{area}", "test area", {"test_area": area}, published=REFERENCE) for area in AREAS
    )
    section = Section("Six folds", rows, folds=True)
    return Study("six-fold", "Every area once the test area", (section,), fixed=("test_area",))


def _smoke() -> Study:
    wanted = ("reference", "no-dilation", "plain", "dense", "k-half", "depth-half", "width-half")
    rows = [dataclasses.replace(r, published=None) for r in _table1().rows if r.name in wanted]
    base = {
        **{"depth": 4, "width": 16, "k": 6, "fusion_channels": 64, "num_points": 256},
        **{"batch_size": 4, "max_steps": 20, "lr": 5e-3},
    }
    section = Section(TITLE, tuple(rows), "reference")
    return Study("smoke", "A few rows in minutes", (section,), base, fixed=("arch",))
