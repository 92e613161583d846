"""Options of `ablate`, `plan` and `bench` (standard library only)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.errors import ConfigError

from .budget import seconds_of
from .choices import (
    CHECKPOINTS,
    DEVICES,
    PAGE_COLUMNS,
    PROTOCOLS,
    REPORTS,
    SAMPLE,
    STUDIES,
    VOTES,
)
from .model import OWN_CLASSES, ModelConfig
from .options import COUNT, Bounds, check_options, option


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
    votes: int = option(1, "Passes over each room.", within=VOTES)
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


CORES = Bounds(1, 1_000_000)
GIGABYTES = Bounds(0, 1e6, "GB", exclusive=True)
CANDIDATES = Bounds(1, 4)


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
        None, "Plan for another machine, with so many cores. [default: this one]", within=CORES
    )
    memory: float | None = option(
        None, "Plan for another machine, with so many GB of memory.", "GB", within=GIGABYTES
    )
    gpu_memory: float | None = option(
        None, "Plan for another machine, with a GPU of so many GB.", "GB", within=GIGABYTES
    )
    candidates: int = option(
        1,
        "Also train so many variants, for a tenth of the time each, and keep what the validation "
        "rooms prefer.",
        within=CANDIDATES,
    )
    # Fields of TrainConfig and ModelConfig that are not to be chosen.
    base: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)
        seconds_of(self.time)  # raises
        if self.gpu_memory is not None and (self.cores or self.memory) is not None:
            flag = "--cores" if self.cores else "--memory"
            raise ConfigError(f"--gpu-memory and {flag}: found both, expected one of them.")
        if self.elsewhere:
            gpu, device = self.gpu_memory is not None, self.base.get("device", "auto")
            flag = "--gpu-memory" if gpu else "--cores" if self.cores else "--memory"
            if device == ("cpu" if gpu else "cuda"):
                raise ConfigError(f"{flag}: found it with --device {device}, expected one of them.")

    @property
    def elsewhere(self) -> bool:
        """Whether the plan is for another machine than this."""
        return (self.cores, self.memory, self.gpu_memory) != (None, None, None)


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
