"""Ablation studies: their parts, and the predefined ones.

`grid` reads the user's own, `plan` resolves what each row trains, `state` finds how far its runs
are and what is left, `tables` makes the tables of results; `sixfold` scores one run per area.

A row holds changes relative to the reference, so that the same study can be repeated at a smaller
size: what the paper doubles or halves (depth, width, k) is doubled or halved here, too. Networks
and published figures come from `model.presets`, the parts of recipes from `config`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
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

    name: str  # without slashes: part of the runs' names
    group: str = ""  # what kind of change it is
    # Fields of TrainConfig and ModelConfig and their values; a Fraction: of the base's value.
    changes: Mapping[str, Any] = field(default_factory=dict)
    published: str | None = None  # the preset whose published figure is shown with the row
    # Where plots show it: name of the axis → value; None: the planned network's.
    axes: Mapping[str, Any] = field(default_factory=dict)
    # What planning adds:
    label: str = "–"  # the network and what else the row changes, for people
    config: TrainConfig | None = None  # for the first seed; None: it cannot be trained
    error: str = ""  # why it cannot be trained
    full_size: bool = False  # whether network, recipe, budget and data are the published ones
    parameters: int | None = None  # trainable values of the network

    def cell(self, seed: int) -> str:
        """Return the name of this row and a seed, unique within the study."""
        return f"{self.name}-s{seed}"

    def seeded(self, seed: int) -> TrainConfig:
        """Return the configuration for a seed."""
        assert self.config is not None, "a row that cannot be trained has no runs"
        return dataclasses.replace(self.config, seed=seed)


@dataclass(frozen=True)
class Section:
    """The rows of one table."""

    title: str
    rows: tuple[Row, ...]
    reference: str | None = None  # the row that the others are compared with
    folds: bool = False  # whether the rows are the test areas of one network, to be pooled


@dataclass(frozen=True)
class Study:
    """Tables of rows over a common base."""

    name: str  # without slashes: part of the runs' names
    title: str
    sections: tuple[Section, ...]
    # Settings of every row, unless the user or the row says otherwise.
    base: Mapping[str, Any] = field(default_factory=dict)
    fixed: tuple[str, ...] = ()  # settings that the study chooses itself
    seeds: int = 1  # trainings of each row


# Title, and the settings that the rows choose.
_TITLES = {
    "paper-table1": ("ResGCN-28 with one thing changed (ICCV 2019, table 1)", ("arch",)),
    "paper-variants": ("ResGCN-28 with other graph convolutions (TPAMI 2021)", ("arch", "conv")),
    "graphs": ("Layers that share a k-NN graph: accuracy and time", ("arch",)),
    "depth": ("How deep it can go", ("arch", "depth")),
    "recipe": ("Each part of the recipes", ("recipe", "without", "extra")),
    "six-fold": ("Every area once the test area", ("test_area",)),
    "smoke": ("A few rows in minutes", ("arch",)),
}
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
_GRAPHS = (
    ("reference", "reference", REFERENCE, None),
    ("every-2", "layers in a row share one", "resgcn-28-every2", None),
    ("every-4", "layers in a row share one", "resgcn-28-every4", None),
    ("every-7", "layers in a row share one", "resgcn-28-every7", None),
    ("until-4", "no new ones after a layer", "resgcn-28-until4", None),
    ("until-2", "no new ones after a layer", "resgcn-28-until2", None),
    ("fixed", "no new ones after a layer", "resgcn-28-fixed", None),
)
_SMOKE = ("reference", "no-dilation", "plain", "dense", "k-half", "depth-half", "width-half")
_SMOKE_BASE = {
    **{"depth": 4, "width": 16, "k": 6, "fusion_channels": 64, "num_points": 256},
    **{"batch_size": 4, "max_steps": 20, "lr": 5e-3},
}


def study(name: str, *, deepest: bool = False) -> Study:
    """Return the study `name`; `deepest` adds a row of 1,001 layers to the study `depth`."""
    check_choice("study", name, STUDIES, flag="--preset")
    table1 = Section(TITLE, tuple(_published_row(*line) for line in _TABLE1), "reference")
    variants = Section(TITLE, tuple(_published_row(*line) for line in _VARIANTS), "edge")
    graphs = Section(TITLE, tuple(_published_row(*line) for line in _GRAPHS), "reference")
    depths = Section("mIoU by depth and connections", tuple(_depth_rows(deepest)), "res-28")
    areas = [Row(f"area-{area}", "test area", {"test_area": area}, REFERENCE) for area in AREAS]
    smoke = [dataclasses.replace(r, published=None) for r in table1.rows if r.name in _SMOKE]
    sections = {
        "paper-table1": (table1,),
        "paper-variants": (variants,),
        "graphs": (graphs,),
        "depth": (depths,),
        "recipe": tuple(
            Section(f"Recipe {recipe}", tuple(_recipe_rows(recipe)), recipe)
            for recipe in sorted(RECIPES, key=lambda name: not RECIPES[name])
        ),
        "six-fold": (Section("Six folds", tuple(areas), folds=True),),
        "smoke": (Section(TITLE, tuple(smoke), "reference"),),
    }
    base = _SMOKE_BASE if name == "smoke" else {}
    title, fixed = _TITLES[name]
    return Study(name, title, sections[name], base, fixed)


def _published_row(name: str, group: str, preset: str, axis: str | None) -> Row:
    network = PRESETS[preset].config
    axes = {"arch": network.arch, **({axis: None} if axis else {})}
    return Row(name, group, _difference(network), preset, axes)


def _difference(network: ModelConfig) -> dict[str, Any]:
    """Return the settings that differ from the reference's, sizes as fractions of its sizes."""
    before = vars(PRESETS[REFERENCE].config)
    return {
        name: Fraction(value, before[name]) if name in SCALED else value
        for name, value in vars(network).items()
        if value != before[name]
    }


def _depth_rows(deepest: bool) -> Iterator[Row]:
    deep = [depth for depth in DEEP if deepest or depth < 1000]
    for kind, depths in (("plain", DEPTHS), ("res", (*DEPTHS, *deep)), ("dense", DEPTHS)):
        for depth in depths:
            network = ModelConfig.published(f"{kind}gcn", depth, **DEEP.get(depth, {}))
            changes = {**_difference(network), "depth": depth}
            axes = {"arch": network.arch, "depth": None}
            yield Row(f"{kind}-{depth}", network.arch, changes, published_as(network), axes)


def _recipe_rows(recipe: str) -> Iterator[Row]:
    """Yield a recipe, the same with each of its parts removed, and with each other part added."""
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
