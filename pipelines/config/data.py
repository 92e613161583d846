"""Options of `synth` and `prepare` (standard library only)."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from pipelines.errors import ConfigError

from .choices import AREA, FRAMES, SEED
from .options import Bounds, check_options, option
from .rooms import DENSITY, SCANNERS, check_filmed


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
        check_filmed(self.density, self.scanner)


@dataclass(frozen=True)
class PrepareConfig:
    """Raw rooms to the HDF5 store.

    `test_area` None: what the description says, else as in the store before, else 5; 0: none.
    """

    raw: Path | None = option(
        None,
        "S3DIS: raw or the published HDF5, as a folder or zip; or .npy rooms. [default: raw S3DIS "
        "in the current folder]",
        "[RAW]",
        flag="",
    )
    test_area: int | None = option(
        None,
        "Area that train leaves out and eval scores; 0: none. [default: as before, else 5]",
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
