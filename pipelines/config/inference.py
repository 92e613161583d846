"""Options of `eval` and `predict` (standard library only)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipelines.errors import ConfigError

from .choices import (
    CHECKPOINTS,
    DEVICES,
    FRAMES,
    PAGE_COLUMNS,
    PRECISIONS,
    PROTOCOLS,
    REPORTS,
    SEED,
    VOTES,
)
from .model import BLOCK_SIZE, OWN_CLASSES, POINTS
from .options import COUNT, Bounds, check_options, option


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
        within=VOTES,
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
        within=VOTES,
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
