"""Every option once, in frozen dataclasses (standard library only).

A field carries its default, its help, its bounds or choices and what it shapes (`options`). The
command line turns flags into one of these, a stage takes one and nothing else, and a run saves its
own as `config.json`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError

from .budget import seconds_of
from .model import (
    ARCHS,
    BLOCK_SIDE,
    BLOCK_SIZE,
    CONVS,
    KNNS,
    LAYOUTS,
    OWN_CLASSES,
    POINTS,
    VOXEL,
    ModelConfig,
)
from .options import (
    COUNT,
    DATA,
    LENGTH,
    MEMORY,
    PLACE,
    PROCESSES,
    RECIPE,
    SPEED,
    Bounds,
    check_options,
    option,
)
from .recipes import ADAM_LR, MODERN_0_1, PARTS, RECIPES, SGD_LR, parts_of
from .rooms import DENSITY, SCANNERS, TRAINED, density_range

# Of the network.
__all__ = ["ARCHS", "BLOCK_SIZE", "CONVS", "KNNS", "LAYOUTS", "POINTS", "ModelConfig"]

DEVICES = ("auto", "cpu", "cuda")
LOGGERS = ("mlflow", "wandb")  # beside TensorBoard
PRECISIONS = ("32", "tf32", "bf16", "16")
PROTOCOLS = ("room", "block-s1", "block-s05")
CHECKPOINTS = ("best", "last")
REPORTS = ("md", "json", "csv", "html", "tex")
STUDIES = ("paper-table1", "paper-variants", "graphs", "depth", "recipe", "six-fold", "smoke")
FRAMES = ("published", "robust")
AREAS = (1, 2, 3, 4, 5, 6)  # of S3DIS
AREA = Bounds(0, 6, "an area, or 0 for none,")
SAMPLE = Bounds(2, 1 << 20, "points of a block")  # to train with: one point has no variance
POSITIVE = Bounds(0, exclusive=True)
SEED = Bounds(0, 2**63 - 1)  # what NumPy, PyTorch and SQLite can all take
PAGE_COLUMNS = "Columns of text on the pages that tex is for, 1 or 2."
TRAIN = ("train",)


@dataclass(frozen=True)
class SynthConfig:
    """A synthetic building in the raw S3DIS layout."""

    out: Path = option(MISSING, "Folder to write.", "OUT", flag="")
    areas: int = option(6, "Areas, 1 to 6.", within=Bounds(1, 6))
    rooms: int = option(3, "Rooms per area.", within=Bounds(1, 100_000))
    seed: int = option(0, "Seed of the building.", within=SEED)
    density: float = option(3000.0, "Points per m² of surface.", within=DENSITY)
    scanner: str = option(
        "laser",
        "{}: whole rooms as in S3DIS; by a hand-held camera; by both. The last two turn, cut and"
        " recolour rooms.",
        choices=SCANNERS,
    )
    furniture: Path | None = option(
        None,
        "Folder with furniture libraries of Sweet Home 3D (.sh3f), mixed with the built-in shapes.",
        "DIR",
    )
    workers: int = option(0, "Rooms made at a time, 0 for one per core.", within=Bounds(0))

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True)
class PrepareConfig:
    """Raw rooms to the HDF5 store. `test_area` None: 5, or what the description says; 0: none."""

    raw: Path | None = option(
        None,
        "S3DIS: raw or the published HDF5, as a folder or zip; or .npy rooms. [default: raw S3DIS "
        "in the current folder]",
        "[RAW]",
        flag="",
    )
    test_area: int | None = option(
        None,
        "Area that train leaves out and eval scores; 0: none. [default: 5]",
        flag="--area",
        within=AREA,
    )
    dataset: Path | None = option(
        None, "YAML description of labelled data of your own, instead of RAW.", "FILE"
    )
    unknown: str = option(
        "clutter",
        "What objects of classes that S3DIS lacks become: {}.",
        choices=("clutter", "ignore", "error"),
        noun="treatment",
    )
    frame: str | None = option(
        None,
        "Floor and extent of a room of --dataset: {} (without stray points). [default: robust]",
        choices=FRAMES,
        noun="rule",
    )
    data: Path = option(
        None, "Folder to write. [default: data; with --dataset rooms.yaml data-rooms]"
    )
    replace: bool = option(False, "Replace a store of other data in the folder, all of it.")
    workers: int = option(0, "Rooms read at a time, 0 for one per core.", within=Bounds(0))
    export: str | None = option(
        None, "Also write a published form: {}.", "FORMAT", choices=("pointnet-h5",)
    )
    allow_incomplete: bool = option(False, "Leave out rooms that cannot be read.")
    seed: int = option(0, "Seed of the exported draws.", within=SEED)

    def __post_init__(self) -> None:
        check_options(self)
        if self.raw is not None and self.dataset is not None:
            raise ConfigError("RAW and --dataset: found both, expected one of them.")
        if self.data is None:
            own = f"data-{self.dataset.stem}" if self.dataset else "data"
            object.__setattr__(self, "data", Path(own))
        if self.frame is not None and self.dataset is None:
            raise ConfigError(
                "--frame: found it without --dataset; rooms of S3DIS have the published frame."
            )
        if self.unknown != "clutter" and self.dataset is not None:
            raise ConfigError(
                "--unknown: found it with --dataset, whose description says what labels mean.\n"
                "Write them there, under values or ignore."
            )
        if self.export is not None and self.dataset is not None:
            raise ConfigError("--export: found it with --dataset, but it is for S3DIS only.")


@dataclass(frozen=True)
class TrainConfig:
    """One training run; `test_area` None is the one that `prepare` recorded, 0 is none."""

    model: ModelConfig = field(default_factory=ModelConfig)
    test_area: int | None = option(
        None, "Area to leave out; 0: none. [default: as prepared]", flag="--area", within=AREA
    )
    weights: str | None = option(
        None,
        "Start from weights: a file, a run or a name of the catalogue. The network is theirs.",
        "WEIGHTS",
    )
    weights_sha256: str | None = None  # of their file, once the configuration is resolved
    freeze: int = option(
        0, "With --weights: so many first layers stay as they are.", "N", within=Bounds(0)
    )
    recipe: str = option("paper", "{}.", choices=tuple(RECIPES), shapes=RECIPE)
    without: tuple[str, ...] = option(
        (),
        f"Part of the recipe to leave out, repeatable; of modern: {', '.join(RECIPES['modern'])}.",
        "PART",
        shapes=RECIPE,
    )
    extra: tuple[str, ...] = option(
        (),
        "Part to add, repeatable: {}.",
        "PART",
        flag="--with",
        choices=PARTS,
        noun="part",
        shapes=RECIPE,
    )
    parts: tuple[str, ...] = field(init=False)  # of the recipe as it is used, ordered as in PARTS
    epochs: int = option(100, "Passes over the training blocks.", within=COUNT, shapes=LENGTH)
    max_steps: int | None = option(
        None, "Stop after so many steps at the latest.", within=COUNT, shapes=LENGTH
    )
    batch_size: int = option(16, "Blocks a step.", within=COUNT)
    micro_batch: int | None = option(
        None,
        "Blocks computed at once, their gradients added up. [default: as many as fit]",
        within=COUNT,
        shapes=MEMORY,
    )
    checkpoint_layers: int | None = option(
        None,
        "Layers recomputed in the backward pass, to save memory; 0: none. "
        "[default: only where memory is short]",
        within=Bounds(0),
        shapes=MEMORY,
    )
    num_points: int = option(4096, "Points drawn from a block.", within=SAMPLE)
    block_size: float | None = option(
        None,
        "Side of a block in metres, 0.5 to 8 in steps of 0.5. [default: 1, with --weights theirs]",
        "M",
        within=BLOCK_SIDE,
    )
    voxel: float | None = option(
        None,
        "Draw at most one point of each cube of this side in metres; labels are spread back to "
        "all. 0: no thinning. [default: 0, with --weights theirs]",
        "M",
        within=VOXEL,
    )
    lr: float | None = option(
        None,
        f"First learning rate. [default: {ADAM_LR:g}, with sgd {SGD_LR:g}]",
        within=POSITIVE,
    )
    val_fraction: float = option(
        0.1,
        "Fraction of the training rooms, or of an only one's points, that chooses the best "
        "checkpoint; 0: none.",
        "P",
        within=Bounds(0, 0.9),
    )
    val_fold: str | None = option(
        None,
        "Instead, part I of K of the training rooms, of which each is in one: 1/3, 2/3, 3/3.",
        "I/K",
    )
    val_blocks: int | None = option(
        None,
        "Validation blocks scored after each epoch, spread evenly. [default: all]",
        within=COUNT,
    )
    seed: int = option(0, "Seed of all randomness.", within=SEED, commands=TRAIN)
    device: str = option("auto", "{}.", choices=DEVICES, shapes=SPEED)
    devices: int = option(
        1,
        "Processes that share each batch: GPUs, or parts of the CPU.",
        within=COUNT,
        shapes=PROCESSES,
        commands=TRAIN,
    )
    sync_bn: bool = option(
        False,
        "Batch norm over the whole batch, not over each process's local batch.",
        flag="--sync-bn/--no-sync-bn",
        commands=TRAIN,
    )
    precision: str = option("32", "Matmul precision: {}.", choices=PRECISIONS)
    threads: int | None = option(
        None, "CPU threads. [default: as PyTorch chooses]", within=COUNT, shapes=SPEED
    )
    workers: int = option(
        0, "Threads that prepare batches.", within=Bounds(0), shapes=SPEED, commands=TRAIN
    )
    loggers: tuple[str, ...] = option(
        (),
        "Also log to {}, repeatable; TensorBoard always.",
        flag="--logger",
        choices=LOGGERS,
        shapes=SPEED,
        commands=TRAIN,
    )
    data: Path = option(Path("data"), "Folder of the prepared data.", shapes=PLACE, commands=TRAIN)
    synth: bool = option(
        False,
        "Train on synthetic rooms instead, which are made meanwhile, new ones for ever.",
        shapes=DATA,
        commands=TRAIN,
    )
    synth_rooms: int | None = option(
        None,
        f"With --synth: rooms of an epoch. [default: {TRAINED['synth_rooms']}]",
        within=Bounds(1, 1_000_000),
        shapes=DATA,
        commands=TRAIN,
    )
    synth_workers: int | None = option(
        None,
        "With --synth: processes that make rooms. [default: one less than there are cores]",
        within=COUNT,
        shapes=SPEED,
        commands=TRAIN,
    )
    scanner: str | None = option(
        None,
        f"With --synth: {{}}. [default: {TRAINED['scanner']}]",
        choices=SCANNERS,
        shapes=DATA,
        commands=TRAIN,
    )
    density: str | None = option(
        None,
        "With --synth: points per m² of surface, or a range, from which each room's density is "
        f"drawn. [default: {TRAINED['density']}]",
        "X|X-Y",
        shapes=DATA,
        commands=TRAIN,
    )
    furniture: Path | None = option(
        None,
        "With --synth: folder of furniture libraries (.sh3f), as for synth.",
        "DIR",
        shapes=PLACE,
        commands=TRAIN,
    )
    runs: Path = option(Path("runs"), "Folder of the runs.", shapes=PLACE, commands=TRAIN)
    name: str | None = option(
        None, "Name of the run. [default: network, area and time]", shapes=PLACE, commands=TRAIN
    )

    def __post_init__(self) -> None:
        check_options(self)
        parts = parts_of(self.recipe, self.without, self.extra)
        object.__setattr__(self, "parts", parts)  # as a frozen dataclass computes a field
        self._check_local_batch()
        if self.val_fold is not None:
            self.fold  # noqa: B018 (raises)
        self._settle_rooms()
        if self.freeze and self.weights is None:
            raise ConfigError(
                f"--freeze: found {self.freeze} without --weights, expected weights to keep."
            )
        if self.weights is None or self.weights_sha256 is not None:  # else not yet the network
            self._check_network()

    def _settle_rooms(self) -> None:
        """Fill in what synthetic rooms leave open, and check that nothing else is asked for."""
        if not self.synth:
            asked = ("synth_rooms", "synth_workers", "scanner", "density", "furniture")
            if given := [name for name in asked if getattr(self, name) is not None]:
                raise ConfigError(
                    f"--{given[0].replace('_', '-')}: found it without --synth, which makes the "
                    "rooms that it is about.\nAdd --synth, or leave it out."
                )
            return
        if self.data != TrainConfig.data or self.test_area or self.val_fold:
            flag = "--area" if self.test_area else "--val-fold" if self.val_fold else "--data"
            raise ConfigError(
                f"{flag}: found it with --synth, whose rooms are made during the training.\n"
                "Leave one of the two out."
            )
        for name, value in TRAINED.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        density_range(self.density or "")  # raises

    def _check_network(self) -> None:
        self.model.check_points(self.num_points)
        if self.freeze > self.model.depth:
            raise ConfigError(
                f"--freeze: found {self.freeze}, expected at most {self.model.depth}, the layers "
                f"of {self.model.label}."
            )

    def _check_local_batch(self) -> None:
        if self.devices > self.batch_size:
            raise ConfigError(
                f"--devices: found {self.devices} with batches of {self.batch_size}, expected at "
                "least one block for each.\n"
                f"Use --batch-size {self.devices} or more, or fewer devices."
            )
        micro_batch = self.micro_batch or self.local_batch
        if micro_batch > self.local_batch:
            raise ConfigError(
                f"--micro-batch: found {micro_batch}, expected at most "
                f"{self.local_batch}, the blocks of a step (--batch-size) that a process has."
            )
        if self.sync_bn and micro_batch < self.local_batch:
            raise ConfigError(
                f"--micro-batch: found {micro_batch} with --sync-bn, expected "
                f"{self.local_batch}, all blocks of a process: batch norm over the whole batch "
                "needs them at once.\nLeave one of the two out."
            )

    @classmethod
    def from_saved(cls, values: dict[str, Any]) -> TrainConfig:
        """Return a saved configuration; its recipe keeps the parts that it was saved with."""
        parts, recipe = values.pop("parts", None), values.get("recipe", cls.recipe)
        values.setdefault("block_size", BLOCK_SIZE)  # the first versions knew no other
        values.setdefault("voxel", 0.0)
        if (now := RECIPES.get(recipe)) is None:
            return cls(**values)
        without, extra = {*values.get("without", ())}, {*values.get("extra", ())}
        if parts is None:  # version 0.1 saved none
            parts = {*(MODERN_0_1 if recipe == "modern" else ()), *extra} - without
        if not without <= {*now} or {*parts} != {*now, *extra} - without:
            # What the recipe has gained since is left out, what it has lost is added.
            values["without"] = tuple(part for part in now if part not in parts)
            values["extra"] = tuple(part for part in PARTS if part in parts and part not in now)
        return cls(**values)

    @property
    def fold(self) -> tuple[int, int] | None:
        """Which part of how many of the training rooms validates, from 1; None: no folds."""
        if self.val_fold is None:
            return None
        number, _, count = self.val_fold.partition("/")
        decimal = number.isdecimal() and count.isdecimal() and len(self.val_fold) < 12
        if not decimal or not 1 <= int(number) <= int(count) or int(count) < 2:
            raise ConfigError(
                f"--val-fold: found {self.val_fold!r:.40}, expected a part of two or more: 1/2."
            )
        return int(number), int(count)

    @property
    def local_batch(self) -> int:
        """The largest number of blocks that one process has in a step."""
        return -(-self.batch_size // self.devices)

    @property
    def block_side(self) -> float:
        """The side of a block in metres."""
        return self.block_size or BLOCK_SIZE

    @property
    def voxel_side(self) -> float:
        """The side of a voxel in metres; 0: no thinning."""
        return self.voxel or 0.0

    @property
    def label(self) -> str:
        """The network in short, with the side of its blocks unless that is as published."""
        return self.model.label_with(self.block_side, self.voxel_side)

    @property
    def data_text(self) -> str:
        """What is trained on, for people: a folder, or how synthetic rooms are made."""
        if not self.synth:
            return str(self.data)
        furniture = f", furniture of {self.furniture}" if self.furniture else ""
        return f"synthetic rooms, scanner {self.scanner}, {self.density} points per m²{furniture}"

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
    """Scores of finished runs on their held-out areas, or of any weights on any prepared rooms.

    Neither runs nor weights: the latest finished run.
    """

    run_dirs: tuple[Path, ...] = option(
        (), "Run folders; none: the latest finished run.", "[RUN]", flag=""
    )
    weights: tuple[str, ...] = option(
        (),
        "Score weights instead: a file, a run or a name of the catalogue; repeatable.",
        "WEIGHTS",
        flag="--weights",
    )
    test_area: int | None = option(
        None,
        "With --weights: the area to score. [default: all that they were not trained on]",
        flag="--area",
        within=Bounds(1, 6, "an area"),
    )
    average: bool = option(
        False, "With several --weights: also score what they predict together, by summed logits."
    )
    protocols: tuple[str, ...] = option(
        ("room",),
        "What is scored: room, block-s1, block-s05 or all; repeatable.",
        flag="--protocol",
        choices=(*PROTOCOLS, "all"),
    )
    reports: tuple[str, ...] = option(
        ("md",), "Report to write: {}; repeatable.", "FORMAT", flag="--report", choices=REPORTS
    )
    page_columns: int = option(1, PAGE_COLUMNS, within=Bounds(1, 2, "columns"))
    checkpoint: str = option("best", "{}.", choices=CHECKPOINTS)
    absent: str = option(
        "exclude",
        "What a class that never occurs counts as in the means: {}.",
        choices=("exclude", "zero", "one", "minus-one"),
        noun="convention",
    )
    votes: int = option(
        1,
        "Passes over each room, turned, mirrored and scaled, whose logits are summed.",
        within=COUNT,
    )
    pictures: bool = option(True, "Draw rooms, errors, confusion, curves.")
    palette: str = option(
        "s3dis", "Colours of the classes: {} (for colour-blind readers).", choices=("s3dis", "safe")
    )
    view: bool = option(False, "Also write rooms as HTML pages to look at in 3-D.")
    data: Path | None = option(
        None, "Folder of the prepared data. [default: the run's; with --weights data]", "DIR"
    )
    runs: Path = option(Path("runs"), "Folder of the runs.")
    own_classes: tuple[str, ...] = OWN_CLASSES
    batch_size: int = option(8, "Blocks computed at a time.", within=COUNT)
    seed: int = option(0, "Seed of all randomness.", within=SEED)
    device: str = option("auto", "{}.", choices=DEVICES)

    def __post_init__(self) -> None:
        check_options(self)
        if "all" in self.protocols:
            object.__setattr__(self, "protocols", PROTOCOLS)
        if self.weights and self.run_dirs:
            raise ConfigError(
                "RUN and --weights: found both, expected one of them; --weights takes runs too."
            )
        if self.test_area is not None and not self.weights:
            raise ConfigError(
                "--area: found it without --weights; a run is scored on the area that it left out."
            )
        if self.average and (len(self.weights) < 2 or self.protocols != ("room",)):
            raise ConfigError(
                "--average: found it without several --weights and protocol room alone, "
                "expected these."
            )

    def check_blocks(self, name: str, block_size: float, voxel: float) -> None:
        """Raise ConfigError if a protocol of published blocks is to score a network of others."""
        published = [protocol for protocol in self.protocols if protocol != "room"]
        if published and (block_size, voxel) != (BLOCK_SIZE, 0):
            found = f"blocks of {block_size:g} m"
            found += f" and voxels of {voxel:g} m" if voxel else ""
            raise ConfigError(
                f"--protocol {published[0]}: found {name} with {found}, "
                f"expected blocks of {BLOCK_SIZE:g} m with all points, as published.\n"
                "Score it with --protocol room, which takes a network's own blocks."
            )


@dataclass(frozen=True)
class AblateConfig:
    """Trainings that differ in one thing each, scored alike, in one table."""

    preset: str | None = option(None, "Study: {}.", choices=STUDIES, noun="study")
    grid: Path | None = option(None, "YAML file with rows of your own, instead.", "FILE")
    name: str | None = option(None, "Name of the study. [default: the preset's]")
    rows: tuple[str, ...] = option(
        (), "Only this row, repeatable; the reference is always there.", "ROW"
    )
    seeds: int | None = option(
        None, "Trainings of each row: seeds 0, 1, … [default: 1]", within=COUNT
    )
    deepest: bool = option(False, "With --preset depth: 1,001 layers too.")
    workers: int | None = option(
        None, "Trainings at a time. [default: 1; with slurm what it allows]", within=COUNT
    )
    launcher: str = option("local", "{}.", choices=("local", "slurm"))
    slurm: Mapping[str, Any] = option(
        {},
        "Option of a SLURM job, repeatable: partition, minutes, gpus, cpus, memory_gb, requeues, "
        "setup; any other is sbatch's.",
        "NAME=VALUE",
    )
    protocol: str = option("room", "What is scored: {}.", choices=PROTOCOLS)
    votes: int = option(1, "Passes over each room.", within=COUNT)
    checkpoint: str = option("best", "What is scored: {}.", choices=CHECKPOINTS)
    reports: tuple[str, ...] = option(
        ("md",), "Table to write: {}; repeatable.", "FORMAT", flag="--report", choices=REPORTS
    )
    page_columns: int = option(1, PAGE_COLUMNS, within=Bounds(1, 2, "columns"))
    pictures: bool = option(True, "Draw mIoU over depth, width and k.")
    data: Path = option(Path("data"), "Folder of the prepared data.")
    runs: Path = option(Path("runs"), "Folder of the runs.")
    own_classes: tuple[str, ...] = OWN_CLASSES
    # Fields of TrainConfig and ModelConfig, for rows that have no setting of their own.
    base: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)
        if (self.preset is None) == (self.grid is None):
            found = "neither" if self.preset is None else "both"
            raise ConfigError(f"--preset and --grid: found {found}, expected one of them.")
        if self.deepest and self.preset != "depth":
            raise ConfigError("--deepest: found it without --preset depth, which it extends.")
        if self.slurm and self.launcher != "slurm":
            raise ConfigError(
                f"--slurm: found {', '.join(self.slurm)} without --launcher slurm.\n"
                "Add --launcher slurm, or leave --slurm out."
            )


@dataclass(frozen=True)
class PlanConfig:
    """A training that follows from the data, a machine and the time that it may take."""

    time: str = option(
        "1h",
        "What the training may take, with the scores of the test area: 90s, 30m, 1h30m, 1d.",
        "TIME",
    )
    data: Path = option(Path("data"), "Folder of the prepared data.")
    runs: Path = option(Path("runs"), "Folder of the runs, which --weights may name.")
    out: Path = option(Path("plan.json"), "File to write.", "FILE")
    cores: int | None = option(
        None, "Plan for another machine, with so many cores. [default: this one]", within=COUNT
    )
    memory: float | None = option(
        None, "Plan for another machine, with so many GB of memory.", "GB", within=POSITIVE
    )
    gpu_memory: float | None = option(
        None, "Plan for another machine, with a GPU of so many GB.", "GB", within=POSITIVE
    )
    candidates: int = option(
        1,
        "Also train so many variants, for a tenth of the time each, and keep what the validation "
        "rooms prefer.",
        within=Bounds(1, 4),
    )
    # Fields of TrainConfig and ModelConfig that are not to be chosen.
    base: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)
        seconds_of(self.time)  # raises
        if self.gpu_memory is not None and (self.cores or self.memory) is not None:
            flag = "--cores" if self.cores else "--memory"
            raise ConfigError(f"--gpu-memory and {flag}: found both, expected one of them.")

    @property
    def elsewhere(self) -> bool:
        """Whether the plan is for another machine than this."""
        return (self.cores, self.memory, self.gpu_memory) != (None, None, None)


@dataclass(frozen=True)
class PredictConfig:
    """Labels for scans. Neither run nor weights: the latest finished run, else the package's."""

    scans: tuple[Path, ...] = option(
        (), "PLY, PCD, LAS, LAZ, E57, PTX, text, NPY, NPZ, room folders; patterns.", "SCAN", flag=""
    )
    run: Path | None = option(None, "Run folder. [default: the latest finished run]", "RUN")
    weights: tuple[str, ...] = option(
        (),
        "Weights instead: a file, a run or a name of the catalogue; of several the logits are "
        "summed.",
        "WEIGHTS",
        flag="--weights",
    )
    votes: int = option(
        1,
        "Passes over each scan, turned, mirrored and scaled, whose logits are summed.",
        within=COUNT,
    )
    runs: Path = option(Path("runs"), "Folder of the runs.")
    out: Path | None = option(
        None, "Folder, or for one scan a file. [default: beside the scan]", "PATH"
    )
    format: str | None = option(
        None, "Format of the results: the scan's own (of LAS and LAZ either), or ply; npz for npy."
    )
    no_color_ok: bool = option(False, "Take scans without colour, as grey.")
    drop_nan: bool = option(False, "Leave out points without coordinates.")
    view: bool = option(False, "Also write an HTML page to look at it in 3-D, offline.")
    picture: bool = option(False, "Also write a PNG of it, without the ceiling.")
    probabilities: bool = option(False, "Also write the probability of every class.")
    up: str = option("z", "The scans' vertical axis: z, y or x.", "AXIS")
    scale: float = option(1.0, "Metres per unit of their coordinates; 0.001 for millimetres.")
    columns: str | None = option(
        None, "Columns of text files, as x,y,z,r,g,b,-. [default: detected]", "NAMES"
    )
    frame: str = option(
        "robust",
        "Floor and extent of a scan: {} (without stray points).",
        choices=FRAMES,
        noun="rule",
    )
    num_points: int | None = option(
        None, "Points drawn at a time. [default: as in training]", within=POINTS
    )
    own_classes: tuple[str, ...] = OWN_CLASSES
    batch_size: int = option(8, "Blocks computed at a time.", within=COUNT)
    seed: int = option(0, "Seed of all randomness.", within=SEED)
    precision: str = option(
        "32", "Matmul precision: {}. Less than 32 changes some labels.", choices=PRECISIONS
    )
    device: str = option("auto", "{}.", choices=DEVICES)

    def __post_init__(self) -> None:
        check_options(self)
        if self.run is not None and self.weights:
            raise ConfigError("--run and --weights: found both, expected one of them.")


@dataclass(frozen=True)
class BenchConfig:
    """Times and memory of a network on this machine, against the released algorithm."""

    model: ModelConfig = field(default_factory=ModelConfig)
    works: tuple[str, ...] = option(
        ("forward", "step", "knn"),
        "What is measured: {}; repeatable.",
        flag="--work",
        choices=("forward", "step", "knn"),
    )
    batch_size: int = option(1, "Blocks at a time.", within=COUNT)
    num_points: int = option(4096, "Points of a block.", within=SAMPLE)
    input: str = option(
        "scan",
        "The network's input: scan (a synthetic room) or noise, the slowest to search.",
        "scan|noise",
        choices=("scan", "noise"),
    )
    repeats: int = option(5, "Timed runs, after one that warms up.", within=COUNT)
    naive: bool = option(True, "Measure the released algorithm too.")
    scaling: bool = option(False, "Measure N from 1,024 to 65,536 and depth 7 to 152 instead.")
    checkpoint_layers: int = option(
        0,
        "Layers that a step recomputes in its backward pass, to save memory; 0: none.",
        within=Bounds(0),
    )
    device: str = option("auto", "{}.", choices=DEVICES)
    threads: int | None = option(None, "CPU threads. [default: as PyTorch chooses]", within=COUNT)
    out: Path = option(Path("bench.json"), "JSON file to write.", "FILE")

    def __post_init__(self) -> None:
        check_options(self)
