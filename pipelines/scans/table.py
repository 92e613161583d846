"""A scan as a table: what every format's reader returns and every format's writer takes.

A reader gives the rows as one structured array. Binary formats are memory maps of the file itself;
what has to be parsed or decompressed goes through a `Spool`, a nameless temporary file that is
mapped too. So a scan's own columns never have to fit in memory.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.errors import ConfigError, DatasetError

CHUNK = 1 << 20  # points handled at a time
# Which of a scan's axes become the network's x, y and z. They are cyclic, so nothing is mirrored.
AXES = {"z": (0, 1, 2), "y": (2, 0, 1), "x": (1, 2, 0)}
COLOR_NAMES = ("red", "green", "blue")
LABELLED = "labelled by deepgcn"  # marks a file whose plain colours are the classes'
BRIGHTEST_FRACTION = 1.01  # of colours 0–1, whose white may be 1.0000001
_POSITION = (("x", "y", "z"), ("px", "py", "pz"), ("posx", "posy", "posz"))
_COLOR = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
    ("scalar_red", "scalar_green", "scalar_blue"),
)


@dataclass(frozen=True)
class ScanOptions:
    """What a person knows about a scan and its file does not say.

    Attributes:
        up: the scan's vertical axis: "z", "y" or "x".
        scale: metres per unit of its coordinates.
        columns: names of the columns of a text file or plain array, as "x,y,z,r,g,b,-"; "-" is a
            column without meaning here. None: they are detected.
        label: a column of a text file that `Scan.rows` is to hold besides, of numbers, by its name
            in the header or as "column_7" (from 1), or an array (N,) of an NPZ file. Other formats
            hold all of theirs anyway.
    """

    up: str = "z"
    scale: float = 1.0
    columns: str | None = None
    label: str | None = None

    def __post_init__(self) -> None:
        if self.up not in AXES:
            raise ConfigError(f"--up: found {self.up!r}, expected one of: {', '.join(AXES)}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"--scale: found {self.scale}, expected metres per unit, as 0.001 for millimetres."
            )
        if self.columns is not None:
            named_columns(self.columns)


def named_columns(columns: str) -> list[str]:
    """Return the names in an option such as "x,y,z,r,g,b,-".

    Raises:
        ConfigError: a coordinate is missing, a name is not known or occurs twice.
    """
    names = [name.strip().lower() for name in columns.split(",")]
    used = [name for name in names if name != "-"]
    known = {*"xyzrgb"}
    whole = {*"xyz"} <= set(used) and len({*"rgb"} & set(used)) in (0, 3)
    if not whole or len(set(used)) < len(used) or not set(used) <= known:
        raise ConfigError(
            f"--columns: found {columns!r}, expected x, y and z, with or without r, g and b, each "
            "once, and - for any other column: x,y,z,r,g,b,-"
        )
    return names


@dataclass(frozen=True)
class Scan:
    """A scan as it stands in its file.

    Attributes:
        path: the file.
        rows: (N,) structured array, in the file's order, N > 0.
        position: the three columns of `rows` that are the scan's own x, y and z.
        color: the three columns of `rows` that are its colour, or None.
        fields: what else its writer keeps, by the file's own names (coordinates and colours too).
        notes: what was detected and a person should know.
        dropped: what the file holds besides points, with counts; it is not written again.
        options: the vertical axis and the unit.
        source: what the writer of its format has to know besides.
    """

    path: Path
    rows: np.ndarray
    position: tuple[str, ...]
    color: tuple[str, ...] | None
    fields: tuple[str, ...]
    notes: tuple[str, ...] = ()
    dropped: dict[str, int] = field(default_factory=dict)
    options: ScanOptions = field(default_factory=ScanOptions)
    source: Any = None

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise DatasetError(f"{self.path}: found 0 points, expected at least one.")

    def __len__(self) -> int:
        return len(self.rows)

    def positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Return coordinates from their minimum (N, 3) float32, and that minimum (3,) float64.

        Both are in metres with z up. Points far from the origin keep their precision: the
        difference is taken in float64. A point with a NaN or infinite coordinate is NaN, and its
        other coordinates are not looked at for the minimum.
        """
        columns = [self.rows[self.position[axis]] for axis in AXES[self.options.up]]
        origin = _corner(columns)
        local = np.empty((len(self), 3), np.float32)
        for part in chunks(len(self)):
            for axis, column in enumerate(columns):
                # Beyond what the numbers hold is infinite, so NaN below.
                with np.errstate(over="ignore", invalid="ignore"):
                    far = column[part].astype(np.float64) - origin[axis]
                    local[part, axis] = far * self.options.scale
            local[part][~np.isfinite(local[part]).all(axis=1)] = np.nan
        return local, origin * self.options.scale

    def colors(self) -> np.ndarray | None:
        """Return the colours (N, 3) uint8, or None for a scan without.

        The range follows from the type and the largest value: see `color_scale`. Colours that are
        all 0 are none: programs write them where they have no colour to write.
        """
        if self.color is None:
            return None
        columns = [self.rows[name] for name in self.color]
        if (largest := self.brightest()) == 0:
            return None
        scale = color_scale(columns[0].dtype, largest)
        found = np.empty((len(self), 3), np.uint8)
        for part in chunks(len(self)):
            for channel, column in enumerate(columns):
                found[part, channel] = color_bytes(column[part], scale)
        return found

    def brightest(self) -> float:
        """Return the largest finite number among its colours; 0 for a scan without."""
        return max((_largest(self.rows[name]) for name in self.color or ()), default=0.0)

    def without_color(self) -> str:
        """Return what a message says was found in a scan whose `colors()` are None."""
        if self.color is not None:
            return f"only 0 in the colours {', '.join(self.color)}"
        return f"no colour among {', '.join(self.rows.dtype.names or ())[:200]}"


@dataclass(frozen=True)
class Labels:
    """What the network found.

    Attributes:
        label: (N,) uint8, 255 for a point without label.
        confidence: (N,) float32, 0 to 1.
        classes: the names, in the order of the labels.
        class_colors: a colour (red, green, blue) 0–255 for each class.
        probabilities: (N, number of classes) float32, or None where they are not wanted.
    """

    label: np.ndarray
    confidence: np.ndarray
    classes: Sequence[str]
    class_colors: Sequence[Sequence[int]]
    probabilities: np.ndarray | None = None

    def columns(self) -> dict[str, np.dtype]:
        """Return the names and types of the columns that labelling adds."""
        probabilities = self.probability_names() if self.probabilities is not None else []
        return {
            "class": np.dtype("u1"),
            **dict.fromkeys(("confidence", *probabilities), np.dtype("<f4")),
        }

    def probability_names(self) -> list[str]:
        """Return a name for each class's probability that every format can hold."""
        names = ["p_" + re.sub(r"\W+", "_", name, flags=re.ASCII)[:24] for name in self.classes]
        if len(set(names)) < len(names):
            return [f"p_{number}" for number in range(len(names))]
        return names

    def part(self, part: slice) -> dict[str, np.ndarray]:
        """Return the added columns of some points."""
        found = {"class": self.label[part], "confidence": self.confidence[part]}
        if self.probabilities is not None:
            for number, name in enumerate(self.probability_names()):
                found[name] = self.probabilities[part, number]
        return found

    def colors(self, part: slice) -> np.ndarray:
        """Return the class colours (n, 3) uint8 of some points; grey without label."""
        palette = np.full((256, 3), 128, np.uint8)
        palette[: len(self.class_colors)] = np.asarray(self.class_colors, np.uint8)
        return palette[self.label[part]]

    def comments(self) -> list[str]:
        """Return lines that say what the labels mean."""
        numbered = [f"class {number} {name}" for number, name in enumerate(self.classes)]
        return [f"{LABELLED}; class 255 is a point without label", *numbered]


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of at most CHUNK points that cover `count`."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def single_fields(kind: np.dtype) -> list[str]:
    """Return the names of the fields that hold one number: others are no coordinate or colour."""
    names = kind.names or ()
    return [name for name in names if kind[name].shape == () and kind[name].kind in "iuf"]


def find_position(path: Path, names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the coordinates.

    Raises:
        DatasetError: there are none.
    """
    found = _find(names, _POSITION)
    if found is None:
        raise DatasetError(
            f"{path}: found the properties {', '.join(names)[:300]}; expected coordinates x, y, z."
        )
    return found


def find_color(names: Sequence[str], *, labelled: bool = False) -> tuple[str, ...] | None:
    """Return the names of the colours, or None.

    The scan's own colour goes before the class colour that labelling wrote; of a labelled file
    only the first counts.
    """
    own = tuple(tuple(f"scan_{name}" for name in wanted) for wanted in _COLOR)
    return _find(names, own if labelled else own + _COLOR)


def _find(names: Sequence[str], sets: Sequence[tuple[str, ...]]) -> tuple[str, ...] | None:
    """Return the first set of names that all occur, as they are spelled, whatever their case."""
    spelled = {name.lower(): name for name in names}
    for wanted in sets:
        if all(name in spelled for name in wanted):
            return tuple(spelled[name] for name in wanted)
    return None


def kept_names(names: Sequence[str], added: Sequence[str]) -> dict[str, str]:
    """Return each field's name in the result; one that is taken gets `scan_` in front."""
    kept: dict[str, str] = {}
    for name in names:
        new = name
        while new in added or new in kept.values() or (new != name and new in names):
            new = f"scan_{new}"
        kept[name] = new
    return kept


def color_scale(kind: np.dtype, largest: float) -> float:
    """Return the factor that takes a colour channel to 0–255.

    Floats up to 1 (or, rounded somewhere, little more) are 0–1, anything above 255 is 0–65535, and
    all else is 0–255 already.
    """
    if kind.kind == "f" and largest < BRIGHTEST_FRACTION:
        return 255.0
    return 255 / 65535 if largest > 255 else 1.0


def color_bytes(values: np.ndarray, scale: float) -> np.ndarray:
    """Return colour channels of any shape times `color_scale`'s factor as uint8; NaN becomes 0."""
    scaled = np.nan_to_num(values.astype(np.float64)) * scale
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def _corner(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return the minimum (3,) float64 of the points all of whose coordinates are finite.

    The finite coordinates of an invalid point say nothing of the scan. Without valid points: 0.
    """
    corner = np.full(len(columns), np.inf)
    for part in chunks(len(columns[0])):
        values = np.stack([column[part].astype(np.float64) for column in columns])
        valid = np.isfinite(values).all(axis=0)
        np.minimum(corner, values.min(axis=1, initial=np.inf, where=valid), out=corner)
    return np.where(np.isfinite(corner), corner, 0.0)


def _largest(column: np.ndarray) -> float:
    """Return the largest finite number of a column; 0 if it has none."""
    best = 0.0
    for part in chunks(len(column)):
        values = column[part].astype(np.float64)
        best = max(best, float(np.max(values, initial=0.0, where=np.isfinite(values))))
    return best


class Spool:
    """A growing table in a nameless temporary file, so that its size is not memory's.

    To be used in a `with` block; the rows outlive it.
    """

    def __init__(self, path: Path, kind: np.dtype) -> None:
        """Begin an empty table of rows of `kind` for the scan at `path`."""
        self._path, self._kind, self._count = path, kind, 0
        self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):  # of a full disk, which `append` has said
            self._file.close()  # a map keeps its own hold on the file

    def append(self, rows: np.ndarray) -> None:
        """Add rows.

        Raises:
            DatasetError: the disk is full.
        """
        try:
            self._file.write(rows.astype(self._kind, copy=False).tobytes())
            self._file.flush()
        except OSError as error:
            raise DatasetError(
                f"{self._path}: cannot be unpacked in {tempfile.gettempdir()} ({error.strerror}).\n"
                "Make room there or set TMPDIR to a folder on a larger disk."
            ) from error
        self._count += len(rows)

    def rows(self, *, writable: bool = False) -> np.ndarray:
        """Return everything appended (N,) as a memory map, to be read only unless `writable`."""
        if self._count == 0:
            return np.empty(0, self._kind)
        mode: Literal["r", "r+"] = "r+" if writable else "r"
        return np.memmap(self._file, self._kind, mode=mode, shape=(self._count,))
