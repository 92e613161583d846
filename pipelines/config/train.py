"""Options of `train` (standard library only)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError

from .choices import AREA, DEVICES, LOGGERS, POSITIVE, PRECISIONS, SAMPLE, SEED, TRAIN
from .model import BLOCK_SIDE, BLOCK_SIZE, VOXEL, ModelConfig
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
from .recipes import ADAM_LR, FROM_WEIGHTS, MODERN_0_1, PARTS, RECIPES, SGD_LR, parts_of
from .rooms import SCANNERS, TRAINED, check_filmed, density_range


@dataclass(frozen=True)
class TrainConfig:
    """One training run; `test_area` None is the one that `prepare` recorded, 0 is none."""

    model: ModelConfig = field(default_factory=ModelConfig)
    test_area: int | None = option(
        None, "Area to leave out; 0: none. [default: as prepared]", flag="--area", within=AREA
    )
    weights: str | None = option(
        None,
        "Start from weights: a file, a run or a name of the catalogue. The network is theirs; a "
        "greater --depth adds layers.",
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
    batch_size: int = option(16, "Blocks a step.", within=Bounds(1, 1 << 20))
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
        for part in FROM_WEIGHTS:
            if part in self.parts and self.weights is None:
                raise ConfigError(
                    f"--with {part}: found it without --weights, expected weights to start from."
                )
        if "frozen-norm" in self.parts and self.sync_bn:
            raise ConfigError(
                "--with frozen-norm: found it and --sync-bn, expected statistics of the weights or "
                "of a batch.\nLeave one of the two out."
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
        _, highest = density_range(self.density or "")
        check_filmed(highest, self.scanner or "")

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
