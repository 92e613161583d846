"""Every option's name, default and check, in frozen dataclasses (standard library only).

The command line translates flags to these; a stage takes one of them and nothing else; a run saves
its own as `config.json`. A default lives here and nowhere else, except that the published depths
have defaults of their own (`ModelConfig.published`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import (
    check_area,
    check_at_least,
    check_choice,
    check_fraction,
    check_num_points,
    check_seed,
)
from .errors import ConfigError

ARCHS = ("plaingcn", "resgcn", "densegcn", "dgcnn")
CONVS = ("edge", "mr", "sage", "sage-n", "gin", "gin-0")
LAYOUTS = ("paper", "torch")
KNNS = ("dynamic", "fixed")
DEVICES = ("auto", "cpu", "cuda")
LOGGERS = ("mlflow", "wandb")  # beside TensorBoard
PRECISIONS = ("32", "tf32", "bf16", "16")
# All that a recipe can be made of.
PARTS = (
    *("balance", "resample"),  # which blocks and points are drawn
    *("rotate", "flip", "scale", "jitter", "contrast", "color-drop"),  # what is done to them
    *("smoothing", "adamw", "sgd", "cosine", "clip", "ema"),  # the optimisation
)
# "paper" is the published one: Adam, each block's points drawn once, no augmentation.
RECIPES: dict[str, tuple[str, ...]] = {
    "paper": (),
    "modern": tuple(part for part in PARTS if part != "sgd"),
}
ADAM_LR = 1e-3  # as published
SGD_LR = 0.1  # DGCNN's PyTorch release trains with SGD at 100 times its rate for Adam
PROTOCOLS = ("room", "block-s1", "block-s05")
REPORTS = ("md", "json", "csv", "html", "tex")
ABSENT = ("exclude", "zero", "one", "minus-one")
PALETTES = ("s3dis", "safe")
WORKS = ("forward", "step", "knn")
INPUTS = ("scan", "noise")  # of the network that `bench` measures
STUDIES = ("paper-table1", "paper-variants", "depth", "recipe", "six-fold", "smoke")
LAUNCHERS = ("local", "slurm")
MOST_ROOMS, DENSEST = 10_000, 1_000_000  # of an area; points/m²: a scan has some thousands


@dataclass(frozen=True)
class ModelConfig:
    """A network of the DeepGCN family.

    `conv` is one of CONVS or the class name of a `torch_geometric.nn` convolution.
    `width` is C, the channels of a layer; for `densegcn` the growth rate.
    `epsilon` is the probability of stochastic dilation per layer and training step.
    `layout` chooses between the two releases (order in the MLP, batch-norm epsilon, the channels
    that span the first graph, the order of dense concatenation, the initialisation).
    """

    arch: str = "resgcn"
    depth: int = 28
    conv: str = "edge"
    width: int = 64
    k: int = 16
    dilation: bool = True
    epsilon: float = 0.2
    knn: str = "dynamic"
    layout: str = "paper"
    dropout: float = 0.3
    fusion_channels: int = 1024
    in_channels: int = 9
    num_classes: int = 13

    def __post_init__(self) -> None:
        check_choice("architecture", self.arch, ARCHS, flag="--arch")
        check_choice("layout", self.layout, LAYOUTS, flag="--layout")
        check_choice("k-NN graph", self.knn, KNNS, flag="--knn")
        minimum = 1 if self.arch == "dgcnn" else 2
        check_at_least("--depth", self.depth, minimum)
        check_at_least("-k", self.k, 1)
        for name in ("width", "fusion_channels", "in_channels", "num_classes"):
            check_at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        for name in ("epsilon", "dropout"):
            check_fraction(f"--{name}", getattr(self, name))

    @classmethod
    def published(cls, arch: str, depth: int | None = None, **changes: Any) -> ModelConfig:
        """Return the network that the paper calls `arch` at `depth`, with `changes` applied.

        DenseGCN has growth rate 32 and k 8, depth 56 has k 8, PlainGCN has neither dilation nor
        stochastic dilation, DGCNN has three dynamic EdgeConv blocks with k 20.
        Changes that are None are left out.
        """
        check_choice("architecture", arch, ARCHS, flag="--arch")
        values: dict[str, Any] = {"arch": arch, **_PUBLISHED[arch]}
        if depth is not None:
            values["depth"] = depth
            if depth == 56 and arch in ("plaingcn", "resgcn"):
                values["k"] = 8
        values.update({name: value for name, value in changes.items() if value is not None})
        return cls(**values)

    def dilations(self) -> tuple[int, ...]:
        """Return the dilation d of each layer: 1, 1, 2, 3, … or 1 throughout."""
        if not self.dilation or self.arch == "dgcnn" or self.knn == "fixed":
            return (1,) * self.depth
        return tuple(max(layer, 1) for layer in range(self.depth))

    def check_points(self, num_points: int) -> None:
        """Raise ConfigError if the widest neighbourhood k·d does not fit into a block."""
        widest = self.k * max(self.dilations())
        if widest > num_points:
            most = num_points // max(self.dilations())
            smaller = f"a smaller -k (at most {most}), " if most else ""
            raise ConfigError(
                f"k·d: layer {self.depth - 1} takes neighbours from the {widest} nearest points "
                f"(k {self.k} × dilation {max(self.dilations())}), a block has only {num_points}.\n"
                f"Use {smaller}a smaller --depth, more --num-points, or --no-dilation."
            )


_PUBLISHED: dict[str, dict[str, Any]] = {
    "plaingcn": {"dilation": False, "epsilon": 0.0},
    "resgcn": {},
    "densegcn": {"width": 32, "k": 8},
    "dgcnn": {
        "depth": 3,
        "k": 20,
        "dilation": False,
        "epsilon": 0.0,
        "dropout": 0.5,
    },
}


@dataclass(frozen=True)
class SynthConfig:
    """A synthetic building in the raw S3DIS layout."""

    out: Path
    areas: int = 6
    rooms: int = 3
    seed: int = 0
    density: float = 3000.0  # points per square metre of surface that the scanner sees well

    def __post_init__(self) -> None:
        check_at_least("--areas", self.areas, 1)
        check_at_least("--rooms", self.rooms, 1)
        check_seed(self.seed)
        if self.areas > 6:
            raise ConfigError(f"--areas: found {self.areas}, S3DIS has areas 1 to 6.")
        if self.rooms > MOST_ROOMS:
            raise ConfigError(f"--rooms: found {self.rooms}, expected at most {MOST_ROOMS:,}.")
        if not 1 <= self.density <= DENSEST:
            raise ConfigError(
                f"--density: found {self.density}, expected 1 to {DENSEST:,} points/m²."
            )


@dataclass(frozen=True)
class PrepareConfig:
    """Raw rooms to the HDF5 store. `raw` None: look for S3DIS in the current folder."""

    raw: Path | None = None
    dataset: Path | None = None  # a YAML description of other data, instead of `raw`
    data: Path = Path("data")
    test_area: int | None = None  # None: 5, or what the description says
    workers: int = 0  # 0: one per core
    export: str | None = None
    allow_incomplete: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.test_area is not None:
            check_area(self.test_area)
        check_at_least("--workers", self.workers, 0)
        check_seed(self.seed)
        if self.raw is not None and self.dataset is not None:
            raise ConfigError("RAW and --dataset: found both, expected one of them.")
        if self.export is not None and self.dataset is not None:
            raise ConfigError("--export: found it with --dataset, but the form is of S3DIS only.")
        if self.export is not None:
            check_choice("export format", self.export, ("pointnet-h5",), flag="--export")


@dataclass(frozen=True)
class TrainConfig:
    """One training run. `test_area` None: the fold that `prepare` recorded."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: Path = Path("data")
    runs: Path = Path("runs")
    name: str | None = None  # None: made from the network, the area and the time
    test_area: int | None = None
    recipe: str = "paper"
    without: tuple[str, ...] = ()  # parts of the recipe that are left out
    extra: tuple[str, ...] = ()  # parts of another recipe that are added
    epochs: int = 100
    max_steps: int | None = None
    batch_size: int = 16
    micro_batch: int | None = None  # blocks at once; None: all of them, or the most that fit
    checkpoint_layers: int | None = None  # computed again at once; 0: none; None: if need be
    num_points: int = 4096
    lr: float | None = None  # None: ADAM_LR, or SGD_LR with the part "sgd"
    val_fraction: float = 0.1  # of the training areas' rooms, for choosing `best`
    workers: int = 0
    seed: int = 0
    device: str = "auto"
    threads: int | None = None  # CPU threads of a process; None: PyTorch's own choice, shared
    devices: int = 1  # processes, each on a GPU of its own or on a share of the CPU's threads
    sync_bn: bool = False  # batch norm over the whole batch, not over each process's share
    precision: str = "32"  # of the dense products
    loggers: tuple[str, ...] = ()  # of LOGGERS

    def __post_init__(self) -> None:
        if self.test_area is not None:
            check_area(self.test_area)
        for logger in self.loggers:
            check_choice("logger", logger, LOGGERS, flag="--logger")
        check_choice("recipe", self.recipe, tuple(RECIPES), flag="--recipe")
        for part in self.without:
            if part not in RECIPES[self.recipe]:
                raise ConfigError(
                    f"--without: found {part!r}, which recipe {self.recipe} does not have.\n"
                    f"Its parts: {', '.join(RECIPES[self.recipe]) or 'none'}."
                )
        for part in self.extra:
            check_choice("part", part, PARTS, flag="--with")
        if {"adamw", "sgd"} <= {*self.parts}:
            raise ConfigError(
                "--with: found adamw and sgd, expected one optimizer.\n"
                "Leave one out, as with: --without adamw --with sgd"
            )
        check_choice("device", self.device, DEVICES, flag="--device")
        check_choice("precision", self.precision, PRECISIONS, flag="--precision")
        for name in ("epochs", "batch_size", "devices"):
            check_at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        if self.devices > self.batch_size:
            raise ConfigError(
                f"--devices: found {self.devices} with batches of {self.batch_size}, expected at "
                "least one block for each.\n"
                f"Use --batch-size {self.devices} or more, or fewer devices."
            )
        if self.max_steps is not None:
            check_at_least("--max-steps", self.max_steps, 1)
        if self.checkpoint_layers is not None:
            check_at_least("--checkpoint-layers", self.checkpoint_layers, 0)
        if self.micro_batch is not None:
            check_at_least("--micro-batch", self.micro_batch, 1)
            if self.micro_batch > self.share:
                raise ConfigError(
                    f"--micro-batch: found {self.micro_batch}, expected at most the "
                    f"{self.share} blocks of a step (--batch-size) that a process has."
                )
            if self.sync_bn and self.micro_batch < self.share:
                raise ConfigError(
                    f"--micro-batch: found {self.micro_batch} with --sync-bn, expected "
                    f"{self.share}, all blocks of a process: batch norm over the whole batch needs "
                    "them at once.\nLeave one of the two out."
                )
        if self.threads is not None:
            check_at_least("--threads", self.threads, 1)
        check_at_least("--workers", self.workers, 0)
        check_seed(self.seed)
        if self.lr is not None and not self.lr > 0:
            raise ConfigError(f"--lr: found {self.lr}, expected a number above 0.")
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"--val-fraction: found {self.val_fraction}, expected 0 < x < 1.")
        check_num_points(self.num_points, least=2)  # one point has no variance
        self.model.check_points(self.num_points)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the recipe as it is used, in the order of PARTS."""
        wanted = {*RECIPES[self.recipe], *self.extra} - {*self.without}
        return tuple(part for part in PARTS if part in wanted)

    @property
    def share(self) -> int:
        """The blocks of a step that a process has, at most."""
        return -(-self.batch_size // self.devices)

    @property
    def first_lr(self) -> float:
        """The learning rate that the schedule starts from."""
        return self.lr or (SGD_LR if "sgd" in self.parts else ADAM_LR)

    @property
    def recipe_text(self) -> str:
        """The recipe for people: "modern", "modern without flip", "paper with cosine"."""
        left_out = f" without {', '.join(self.without)}" if self.without else ""
        added = f" with {', '.join(self.extra)}" if self.extra else ""
        return f"{self.recipe}{left_out}{added}"


@dataclass(frozen=True)
class EvalConfig:
    """Scores of finished runs on their held-out areas. No runs: the latest finished one."""

    run_dirs: tuple[Path, ...] = ()
    data: Path | None = None  # None: the store that the run was trained on
    runs: Path = Path("runs")
    protocols: tuple[str, ...] = ("room",)
    reports: tuple[str, ...] = ("md",)
    checkpoint: str = "best"
    absent: str = "exclude"  # what a class that never occurs counts as in the means
    votes: int = 1  # passes over each room under protocol `room`, turned, mirrored and scaled
    pictures: bool = True
    palette: str = "s3dis"  # "safe": colours that stay apart for colour-blind readers
    view: bool = False  # also write rooms as pages to look at in 3-D
    batch_size: int = 8
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        for protocol in self.protocols:
            check_choice("protocol", protocol, PROTOCOLS, flag="--protocol")
        for report in self.reports:
            check_choice("report", report, REPORTS, flag="--report")
        check_choice("checkpoint", self.checkpoint, ("best", "last"), flag="--checkpoint")
        check_choice("convention", self.absent, ABSENT, flag="--absent")
        check_choice("palette", self.palette, PALETTES, flag="--palette")
        check_at_least("--votes", self.votes, 1)
        check_choice("device", self.device, DEVICES, flag="--device")
        check_at_least("--batch-size", self.batch_size, 1)
        check_seed(self.seed)


@dataclass(frozen=True)
class AblateConfig:
    """Trainings that differ in one thing each, scored alike, in one table.

    `base` has the settings that every row takes where it has none of its own: fields of
    TrainConfig and ModelConfig by name.
    """

    preset: str | None = None
    grid: Path | None = None  # a YAML file with rows of one's own, instead of `preset`
    name: str | None = None  # of the study; None: the preset's, or the file's
    base: Mapping[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ()  # none: all of them
    seeds: int | None = None  # of each row: 0, 1, …; None: what the grid says, or 1
    deepest: bool = False  # of preset depth: 1,001 layers too
    data: Path = Path("data")
    runs: Path = Path("runs")
    workers: int | None = None  # trainings at a time; None: 1, on a cluster what it allows
    launcher: str = "local"
    slurm: Mapping[str, Any] = field(default_factory=dict)  # fields of SlurmOptions
    protocol: str = "room"
    votes: int = 1
    checkpoint: str = "best"
    reports: tuple[str, ...] = ("md",)
    pictures: bool = True

    def __post_init__(self) -> None:
        if (self.preset is None) == (self.grid is None):
            found = "neither" if self.preset is None else "both"
            raise ConfigError(f"--preset and --grid: found {found}, expected one of them.")
        if self.preset is not None:
            check_choice("study", self.preset, STUDIES, flag="--preset")
        if self.deepest and self.preset != "depth":
            raise ConfigError("--deepest: found it without --preset depth, which it belongs to.")
        if self.seeds is not None:
            check_at_least("--seeds", self.seeds, 1)
        if self.workers is not None:
            check_at_least("--workers", self.workers, 1)
        check_choice("launcher", self.launcher, LAUNCHERS, flag="--launcher")
        if self.slurm and self.launcher != "slurm":
            raise ConfigError(
                f"--slurm: found {', '.join(self.slurm)} without --launcher slurm.\n"
                "Add --launcher slurm, or leave --slurm out."
            )
        check_choice("protocol", self.protocol, PROTOCOLS, flag="--protocol")
        check_at_least("--votes", self.votes, 1)
        check_choice("checkpoint", self.checkpoint, ("best", "last"), flag="--checkpoint")
        for report in self.reports:
            check_choice("report", report, REPORTS, flag="--report")


@dataclass(frozen=True)
class PredictConfig:
    """Labels for scans. Neither run nor weights: the latest finished run."""

    scans: tuple[Path, ...] = ()
    run: Path | None = None
    weights: Path | None = None
    runs: Path = Path("runs")
    out: Path | None = None  # a folder, or for one scan a file; None: beside the scan
    format: str | None = None  # of the results, where `out` names no file; None: the scan's own
    no_color_ok: bool = False
    drop_nan: bool = False
    view: bool = False  # also write a page to look at in 3-D, beside the labelled scan
    probabilities: bool = False  # also write every class's probability
    up: str = "z"  # the scans' vertical axis
    scale: float = 1.0  # metres per unit of their coordinates
    columns: str | None = None  # of text files and plain arrays; None: detected
    num_points: int | None = None  # None: as in training
    batch_size: int = 8
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.run is not None and self.weights is not None:
            raise ConfigError("--run and --weights: found both, expected one of them.")
        if self.num_points is not None:
            check_num_points(self.num_points)
        check_at_least("--batch-size", self.batch_size, 1)
        check_seed(self.seed)
        check_choice("device", self.device, DEVICES, flag="--device")


@dataclass(frozen=True)
class BenchConfig:
    """Times and memory of a network on this machine, against the released algorithm."""

    model: ModelConfig = field(default_factory=ModelConfig)
    works: tuple[str, ...] = WORKS
    batch_size: int = 1
    num_points: int = 4096
    input: str = "scan"  # of the network: blocks of a synthetic room; "noise": uniform numbers
    repeats: int = 5
    naive: bool = True  # measure the released algorithm in the same run
    checkpoint_layers: int = 0  # of a step: computed again at once in the backward pass; 0: none
    scaling: bool = False  # a table over N and depth instead, without the comparison
    device: str = "auto"
    threads: int | None = None
    out: Path = Path("bench.json")

    def __post_init__(self) -> None:
        for work in self.works:
            check_choice("work", work, WORKS, flag="--work")
        check_choice("input", self.input, INPUTS, flag="--input")
        for name in ("batch_size", "repeats"):
            check_at_least(f"--{name.replace('_', '-')}", getattr(self, name), 1)
        check_num_points(self.num_points, least=2)
        check_at_least("--checkpoint-layers", self.checkpoint_layers, 0)
        if self.threads is not None:
            check_at_least("--threads", self.threads, 1)
        check_choice("device", self.device, DEVICES, flag="--device")
