"""The options of a network."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from pipelines.errors import ConfigError
from pipelines.progress import counted

from .options import COUNT, FRACTION, Bounds, check_options, option

# The settings in which the published networks of each architecture differ from the defaults.
PUBLISHED: dict[str, dict[str, Any]] = {
    "plaingcn": {"dilation": False, "epsilon": 0.0},
    "resgcn": {},
    "densegcn": {"width": 32, "k": 8},
    "dgcnn": {"depth": 3, "k": 20, "dilation": False, "epsilon": 0.0, "dropout": 0.5},
}
# What the published releases have, under whose names weights are imported and exported.
RELEASED_ARCHS = ("plaingcn", "resgcn", "densegcn", "dgcnn")
RELEASED_CONVS = ("edge", "mr", "sage", "sage-n", "gin", "gin-0")
IMPORTED = ("plaingcn", "resgcn", "densegcn")  # dgcnn is recognised by its tensors
ARCHS = tuple(PUBLISHED)  # `pipelines.model.blocks` has a class for each
CONVS = (*RELEASED_CONVS,)  # `pipelines.model.conv` has a class for each
LAYOUTS = ("paper", "torch")
KNNS = ("dynamic", "fixed")
POINTS = Bounds(1, 1 << 20, "points of a block")  # published are 4096
# More than any machine can train; larger numbers could fill the memory before they are checked.
DEEPEST = 10_000
CHANNELS, NEIGHBOURS = Bounds(1, 1 << 14), Bounds(1, 1 << 20)
BLOCK_SIZE = 1.0  # m, the side of a block as published
BLOCK_SIDE = Bounds(0.5, 8, "metres", step=0.5)  # whole cells of the store
GREY = 0.5  # red, green and blue of a point whose colour is not known, or not looked at
VOXEL = Bounds(0.001, 0.5, "metres", or_zero=True)  # side of the cubes that each give one point
IMPORT = ("import",)  # the command that takes every hint
TRAININGS = ("train", "ablate")  # the commands that have every option of a network
OWN_CLASSES = option(
    (),
    "package.module:Class that a run or a file may have imported, repeatable; it runs code.",
    "CLASS",
    flag="--own-class",
    own_class=True,
)


# Settings that no tensor depends on, and so may differ from those of weights to start from.
TENSORLESS = (
    *("num_classes", "k", "dilation", "epsilon", "knn", "knn_every", "knn_until", "spatial"),
    *("dropout", "rgb"),
)


def unnamed_class(names: Collection[str], named: Collection[str]) -> str:
    """Return why a file's own classes are not imported; "" if the user has `named` them all.

    >>> unnamed_class(["own:Conv"], ["own:Conv"])
    ''
    """
    if not (refused := [name for name in names if name not in named]):
        return ""
    return (
        f"found the class {refused[0]}; importing it runs code, which no file may ask for.\n"
        f"If you know it, name it yourself: --own-class {refused[0]}"
    )


def as_typed(name: str, value: object) -> str:
    """Return a setting of a network as it is typed.

    >>> as_typed("dilation", False), as_typed("k", 4)
    ('--no-dilation', '-k 4')
    """
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"{'-k' if name == 'k' else f'--{name}'} {value}"


def sharing(
    depth: int, knn: str, knn_every: int | None, knn_until: int | None, spatial: str | None = None
) -> str:
    """Return how graphs differ from one in each layer's own features, in short; else "".

    >>> sharing(28, "dynamic", 4, 12)
    'k-NN every 4 until 12'
    >>> sharing(28, "dynamic", 1, None, "8,8,16,16")
    '4 layers in space'
    """
    if knn == "fixed":
        return "fixed k-NN"
    in_space = len(spatial.split(",")) if spatial else 0
    others = depth - in_space
    every = f" every {knn_every}" if (knn_every or 1) > 1 else ""
    until = f" until {knn_until}" if (knn_until or others) < others else ""
    shared = f"k-NN{every}{until}" if every or until else ""
    found = (shared, counted(in_space, "layer") + " in space" if in_space else "")
    return ", ".join(filter(None, found))


@dataclass(frozen=True)
class ModelConfig:
    """A network of the DeepGCN family.

    `layout` chooses between the two releases: order in the MLP, batch-norm epsilon, the channels
    that span the first graph, order of dense concatenation, initialisation (docs/model.md).

    >>> ModelConfig(depth=14, width=32).dilations()[-3:]
    (11, 12, 13)
    """

    arch: str = option(
        "resgcn", "{}, or package.module:Class.", choices=ARCHS, own_class=True, noun="architecture"
    )
    depth: int = option(28, "Layers.", "L")
    conv: str = option(
        "edge",
        f"Graph convolution: {', '.join(CONVS)}, a class of torch_geometric.nn, or "
        "package.module:Class.",
        own_class=True,
    )
    width: int = option(
        64,
        "Channels of a layer; of densegcn the growth rate, 32 as published.",
        "C",
        within=CHANNELS,
    )
    fusion_channels: int = option(
        1024, "Channels of the fusion, and of the vector for the whole block.", within=CHANNELS
    )
    k: int = option(
        16,
        "Neighbours; as published 8 for densegcn, 20 for dgcnn.",
        "K",
        flag="-k",
        within=NEIGHBOURS,
    )
    dilation: bool = option(True, "Take every d-th of the k·d nearest.", commands=TRAININGS)
    epsilon: float = option(
        0.2, "Probability of stochastic dilation.", "P", within=FRACTION, commands=TRAININGS
    )
    knn: str = option("dynamic", "Graph: {}.", choices=KNNS, noun="k-NN graph", commands=TRAININGS)
    knn_every: int = option(
        1, "Layers in a row that share a graph.", "M", within=COUNT, commands=TRAININGS
    )
    knn_until: int | None = option(
        None,
        "Layer after which no new graph is made; the later ones share its own. [default: the last]",
        "L",
        within=COUNT,
        commands=TRAININGS,
    )
    spatial: str | None = option(
        None,
        "Dilations of the last layers, which take their neighbours in space, such as 4,4,8,8. "
        "[default: no layer does]",
        "D,D,…",
        commands=TRAININGS,
    )
    layout: str = option("paper", "Release: {}.", choices=LAYOUTS, commands=TRAININGS)
    dropout: float = option(
        0.3, "Rate before the last layer.", "P", within=FRACTION, commands=TRAININGS
    )
    rgb: bool = option(
        True,
        "Colours as input; without, every point is grey to it.",
        commands=(*TRAININGS, "plan"),
    )
    in_channels: int = option(9, "Channels of a point.", within=CHANNELS, commands=())
    num_classes: int = option(13, "Classes.", within=CHANNELS, commands=())

    def __post_init__(self) -> None:
        check_options(self)
        Bounds(1 if self.arch == "dgcnn" else 2, DEEPEST).check("--depth", self.depth)
        if not self.rgb and self.in_channels != ModelConfig.in_channels:
            raise ConfigError(
                f"--no-rgb: found {self.in_channels} channels, expected {ModelConfig.in_channels}, "
                "of which the colours are 3 to 5."
            )
        self._check_graphs()

    def _check_graphs(self) -> None:
        given = {
            "--knn-every": self.knn_every != 1,
            "--knn-until": self.knn_until is not None,
            "--spatial": bool(self.spatial),
        }
        if self.knn == "fixed" and (flags := [flag for flag, is_set in given.items() if is_set]):
            raise ConfigError(
                f"{flags[0]}: with --knn fixed all layers share the first graph already."
            )
        parts = self.spatial.split(",") if self.spatial else []
        for part in parts:
            if not (part.isascii() and part.isdigit() and len(part) < 8):
                raise ConfigError(
                    f"--spatial: found {self.spatial!r:.60}, expected whole numbers and commas, "
                    "such as 4,4,8,8."
                )
            NEIGHBOURS.check("--spatial", int(part))
        if len(parts) > self.depth:
            raise ConfigError(
                f"--spatial: found {len(parts)} dilations, expected at most one for each of the "
                f"{self.depth} layers."
            )

    @classmethod
    def published(cls, arch: str, depth: int | None = None, **changes: Any) -> ModelConfig:
        """Return the published network `arch` at `depth`, with those `changes` that are not None.

        >>> ModelConfig.published("densegcn", 28).width
        32
        """
        values: dict[str, Any] = {"arch": arch, **PUBLISHED.get(arch, {})}
        if depth == 56 and arch in ("plaingcn", "resgcn"):
            values["k"] = 8
        changes["depth"] = depth
        return cls(**values | {name: value for name, value in changes.items() if value is not None})

    def changed(self, **changes: Any) -> ModelConfig:
        """Return this network with changed settings; a fixed graph is what all layers share then.

        >>> ModelConfig(knn_until=4).changed(knn="fixed").sharing
        'fixed k-NN'
        """
        if changes.get("knn") == "fixed":
            changes = {"knn_every": 1, "knn_until": None, "spatial": None, **changes}
        return dataclasses.replace(self, **changes)

    def of_depth(self, depth: int) -> ModelConfig:
        """Return a network like this of another depth; no more layers in space than it has.

        >>> ModelConfig(spatial="4,4,8").of_depth(2).spatial
        '4,8'
        """
        spatial = ",".join((self.spatial or "").split(",")[-depth:]) or None
        return dataclasses.replace(self, depth=depth, spatial=spatial)

    @property
    def label(self) -> str:
        """The network in short: "resgcn-28 (edge, C 64, k 16)".

        >>> ModelConfig(knn_every=4, knn_until=12).label
        'resgcn-28 (edge, C 64, k 16, k-NN every 4 until 12)'
        """
        sizes = f"{self.conv}, C {self.width}, k {self.k}"
        colors = "" if self.rgb else ", no colours"
        return f"{self.arch}-{self.depth} ({sizes}{self.sharing and f', {self.sharing}'}{colors})"

    @property
    def sharing(self) -> str:
        """How graphs differ from one in each layer's own features, in short; else ""."""
        return sharing(self.depth, self.knn, self.knn_every, self.knn_until, self.spatial)

    def label_with(self, block_size: float, voxel: float = 0.0) -> str:
        """Return the network in short, with its blocks and voxels unless they are as published.

        >>> ModelConfig().label_with(2, 0.04)
        'resgcn-28 (edge, C 64, k 16), blocks of 2 m, voxels of 0.04 m'
        """
        blocks = f", blocks of {block_size:g} m" if block_size != BLOCK_SIZE else ""
        return self.label + blocks + (f", voxels of {voxel:g} m" if voxel else "")

    @property
    def own_classes(self) -> tuple[str, ...]:
        """The classes that are neither ours nor PyTorch Geometric's, as "package.module:Class"."""
        return tuple(name for name in (self.arch, self.conv) if ":" in name)

    @property
    def first_spatial(self) -> int:
        """The first layer, from 0, that takes its neighbours in space; `depth`: none does."""
        return self.depth - len(self.spatial_dilations())

    def spatial_dilations(self) -> tuple[int, ...]:
        """Return the dilations of the layers that take their neighbours in space.

        >>> ModelConfig(spatial="4,4,8,8").spatial_dilations()
        (4, 4, 8, 8)
        """
        return tuple(map(int, self.spatial.split(","))) if self.spatial else ()

    def graph_layers(self) -> tuple[int, ...]:
        """Return for each layer the layer, from 0, whose graph it takes.

        >>> ModelConfig(depth=6, knn_every=2, knn_until=3).graph_layers()
        (0, 0, 2, 2, 2, 2)
        >>> ModelConfig(depth=6, spatial="4,4,8").graph_layers()
        (0, 1, 2, 3, 3, 5)
        """
        first, spatial = self.first_spatial, self.spatial_dilations()
        last = 0 if self.knn == "fixed" else min(self.knn_until or first, first) - 1
        every = self.knn_every
        shared = [min(layer, last) // every * every for layer in range(first)]
        return (*shared, *(first + spatial.index(dilation) for dilation in spatial))

    def dilations(self) -> tuple[int, ...]:
        """Return the dilation d of each layer's graph: 1, 1, 2, 3, … or 1 throughout.

        >>> ModelConfig(depth=6, spatial="4,4,8").dilations()
        (1, 1, 2, 4, 4, 8)
        """
        grows = self.dilation and self.arch != "dgcnn"
        others = self.graph_layers()[: self.first_spatial]
        return (*(max(layer, 1) if grows else 1 for layer in others), *self.spatial_dilations())

    @property
    def widest(self) -> int:
        """How many nearest points the widest neighbourhood is drawn from: k·d."""
        return self.k * max(self.dilations())

    def check_points(self, num_points: int) -> None:
        """Raise ConfigError if the widest neighbourhood k·d does not fit into a block."""
        dilations = self.dilations()
        dilation = max(dilations)
        if self.widest > num_points:
            most = num_points // dilation
            smaller = f"a smaller -k (at most {most}), " if most else ""
            layer = max(layer for layer, each in enumerate(dilations) if each == dilation)
            other = "--depth" if layer < self.first_spatial else "--spatial"
            raise ConfigError(
                f"k·d: layer {layer} takes neighbours from the {self.widest} "
                f"nearest points (k {self.k} × dilation {dilation}), a block has only "
                f"{num_points}.\n"
                f"Use {smaller}a smaller {other}, more --num-points, or --no-dilation."
            )


@dataclass(frozen=True)
class Hints:
    """Settings of a network that its tensors do not show; None: as published."""

    k: int | None = option(None, "Neighbours per point.", "N", flag="-k")
    conv: str | None = option(
        None, "Graph convolution: {}.", choices=RELEASED_CONVS, noun="graph convolution"
    )
    arch: str | None = option(
        None, f"Backbone: {', '.join(IMPORTED)}.", choices=RELEASED_ARCHS, noun="architecture"
    )
    layout: str | None = option(
        None, "{}: order in the MLP, first graph's channels.", choices=LAYOUTS, commands=IMPORT
    )
    knn: str | None = option(None, "Graph: {}.", choices=KNNS, noun="k-NN graph", commands=IMPORT)
    dilation: bool | None = option(
        None, "Dilated neighbours.", flag="--dilation/--no-dilation", commands=IMPORT
    )
    epsilon: float | None = option(None, "Probability of stochastic dilation.", commands=())
    num_points: int | None = option(
        None, "Points of a block in its training.", within=POINTS, commands=IMPORT
    )
    block_size: float | None = option(
        None, "Side of a block in its training, metres.", "M", within=BLOCK_SIDE, commands=IMPORT
    )
    voxel: float | None = option(
        None, "Side of the voxels in its training, metres.", "M", within=VOXEL, commands=IMPORT
    )

    def __post_init__(self) -> None:
        check_options(self)

    def or_else(self, other: Hints) -> Hints:
        """Return these settings, and those of `other` where they are None."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **known)

    def settings(self) -> dict[str, Any]:
        """Return the settings of the network that are not None."""
        of_blocks = ("num_points", "block_size", "voxel")
        return {n: v for n, v in vars(self).items() if v is not None and n not in of_blocks}
