"""A scan as a table in memory: what the reader of a format returns and its writer takes.

The rows are one structured array, which is memory-mapped and so need not fit in memory: from the
file itself, or, if it has to be parsed or decompressed, `spooled` to an unnamed temporary file.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import ConfigError, DatasetError
from pipelines.progress import Task, counted

from .columns import find_roles, parse_columns
from .frame import PASSES, Frame, locate

CHUNK = 1 << 20  # points handled at a time
# Which of a scan's axes become the network's x, y and z: cyclic, so nothing is mirrored.
AXES = {"z": (0, 1, 2), "y": (2, 0, 1), "x": (1, 2, 0)}
COLOR_NAMES = ("red", "green", "blue")
LONGEST_HEADER = 1 << 16  # bytes; of PLY and PCD
NO_COLOR = 0x7FC00000  # NaN as a packed colour; its alpha would be 127
COLOR_INVALID = "isColorInvalid"  # a column that is not 0 where a point has no colour, as in E57
SPELLED = str.maketrans({"ß": "ss", "æ": "ae", "ø": "o", "œ": "oe", "ł": "l", "đ": "d"})
UNLABELLED = 255  # class of a point without coordinates
LABELLED = "labelled by deepgcn"  # marks a file in which plain colours are those of the classes
BRIGHTEST_FRACTION = 1.01  # of colours 0–1: white may be 1.0000001
OVERSHOOT = 1.99  # of floats in files: of colours 0–1 that renderers made, some are brighter
WHITE = (256, 1023, 4095, 65535)  # of 8 bits (some programs multiply by 256), 10, 12 and 16
FEW = 1e-3  # fraction of the values of colours that can be mistakes


@dataclass(frozen=True)
class ScanOptions:
    """What a scan's file does not say about it."""

    up: str = "z"  # the vertical axis: "z", "y" or "x"
    scale: float = 1.0  # metres per unit of the coordinates
    # Roles of the columns of a text file or plain array, as "x,y,z,r,g,b,-"; "-" is any other
    # column. None: they are detected.
    columns: str | None = None
    # A column of a text file that `Scan.rows` holds too, by its name in the header or "column_7"
    # (from 1), or an array (N,) of an NPZ file. Other formats hold all columns anyway.
    label: str | None = None
    # Is advanced by the megabytes that are read of a file that has to be parsed.
    task: Task = field(default_factory=Task, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.up not in AXES:
            raise ConfigError(f"--up: found {self.up!r}, expected one of: {', '.join(AXES)}.")
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ConfigError(
                f"--scale: found {self.scale}, expected metres per unit, as 0.001 for millimetres."
            )
        if self.columns is not None:
            parse_columns(self.columns)


@dataclass(frozen=True)
class Scan:
    """A scan as it is in its file."""

    path: Path
    rows: np.ndarray  # (N,) structured, in the order of the file, N > 0
    position: tuple[str, ...]  # the columns of `rows` that are the scan's own x, y and z
    color: tuple[str, ...] | None  # the columns of `rows` that are red, green and blue
    fields: tuple[str, ...]  # the columns that a writer keeps, coordinates and colours included
    notes: tuple[str, ...] = ()  # what was detected and the user should know
    dropped: dict[str, int] = field(default_factory=dict)  # lists that are left out: their points
    options: ScanOptions = field(default_factory=ScanOptions)
    source: Any = None  # what else the writer of the same format needs
    packed: str | None = None  # a column of 32-bit colours, of which NO_COLOR is none
    size: int | None = None  # bytes of its file when it was opened

    def __post_init__(self) -> None:
        if len(self.rows) == 0:
            raise DatasetError(f"{self.path}: found 0 points, expected at least one.")

    def __len__(self) -> int:
        return len(self.rows)

    def positions(
        self, frame: str = "published", task: Task | None = None
    ) -> tuple[np.ndarray, Frame]:
        """Return coordinates in their frame (N, 3) float32, m, z up, and the frame (`locate`).

        A point is NaN, and not counted, if any coordinate is not finite. The task is advanced by
        the points.
        """

        def read(part: slice) -> np.ndarray:
            if task is not None and part.step is None:  # no sample
                task.advance((part.stop - part.start) / PASSES[frame])
            return self.coordinates(part)

        return locate(len(self), read, frame, self.options.scale)

    def coordinates(self, part: slice) -> np.ndarray:
        """Return some points (n, 3) float64, z up, in the file's unit; NaN if not finite."""
        columns = (self.rows[self.position[axis]] for axis in AXES[self.options.up])
        return np.stack([column[part].astype(np.float64) for column in columns]).T

    def colors(self) -> np.ndarray | None:
        """Return the colours (N, 3) uint8, or None if none is above 0, as programs write for none.

        A point without colour (`uncolored`) is 0 here: see `colors.fill_colors`.
        """
        if self.color is None or (largest := self.brightest()) == 0:
            return None
        scale = color_scale(self.rows.dtype[self.color[0]], largest)
        found = np.empty((len(self), 3), np.uint8)
        for part in chunks(len(self)):
            for channel, name in enumerate(self.color):
                found[part, channel] = color_bytes(self.rows[name][part], scale)
        found[self.uncolored()] = 0
        return found

    def uncolored(self) -> np.ndarray:
        """Return which points (N,) bool have no colour, though the scan has.

        Their colour is NaN, infinite or negative, far above all others, or marked as invalid.
        """
        found = np.zeros(len(self), bool)
        kinds, most = self.rows.dtype, self._usual_range
        names = [n for n in self.color or () if kinds[n].kind != "u" or most < math.inf]
        marked = COLOR_INVALID in self.fields
        for part in chunks(len(self)):
            for name in names:
                values = self.rows[name][part]
                found[part] |= ~((values >= 0) & (values <= most) & np.isfinite(values))
            if marked:
                found[part] |= self.rows[COLOR_INVALID][part] != 0
            if self.packed is not None:
                found[part] |= self.rows[self.packed][part] == NO_COLOR
        return found

    @cached_property
    def _usual_range(self) -> float:
        """The limit of colours, of 0–1 or 8 bits, that at most a `FEW` exceed; infinite if none is.

        One value of 255 among those from 0 to 1 would make all others black.
        """
        names = [name for name in self.color or () if self.rows.dtype[name] != np.uint8]
        is_float = all(self.rows.dtype[name].kind == "f" for name in names)
        limits = [*([OVERSHOOT] if is_float else []), float(WHITE[0])]
        above, below = np.zeros(len(limits), np.int64), np.zeros(len(limits))
        for part in chunks(len(self)):
            for name in names:
                values = self.rows[name][part]
                for n, limit in enumerate(limits):
                    is_above = (values > limit) & (values < np.inf)
                    above[n] += is_above.sum()
                    below[n] = max(below[n], values.max(initial=0, where=values <= limit))
        for limit, over, largest in zip(limits, above, below, strict=True):
            # If nearly all are 0, those that are not are the colours.
            if 0 < over <= FEW * len(self) * len(names) and largest > limit / 20:
                return limit
        return math.inf

    def brightest(self) -> float:
        """Return the largest value among the colours; 0 if no point has any."""
        known = ~self.uncolored()
        found = (
            self.rows[name][part].max(initial=0, where=known[part])
            for name in self.color or ()
            for part in chunks(len(self))
        )
        return float(max(found, default=0))

    def without_color(self) -> str:
        """Describe, for an error message, a scan whose `colors()` are None."""
        if self.color is not None:
            found = "no value" if self.uncolored().all() else "only 0"
            return f"{found} in the colours {', '.join(self.color)}"
        return f"no colour among {', '.join(self.rows.dtype.names or ())[:200]}"


@dataclass(frozen=True)
class Labels:
    """What the network predicted for each point, and what its classes are."""

    label: np.ndarray  # (N,) uint8, UNLABELLED for a point without coordinates
    confidence: np.ndarray  # (N,) float32, 0 to 1
    classes: Sequence[str]  # the names, in the order of the labels
    class_colors: Sequence[Sequence[int]]  # (red, green, blue) 0–255 for each class
    probabilities: np.ndarray | None = None  # (N, C) float32
    frame: str = ""  # the rule of the scan's frame, what it left out, a precision other than 32
    task: Task = field(default_factory=Task)  # is advanced by the points that are written

    def columns(self) -> dict[str, np.ndarray]:
        """Return the columns (N,) that labelling adds to a scan, by their names."""
        found = {"class": self.label, "confidence": self.confidence}
        if self.probabilities is not None:
            # Every format can hold these names.
            plain = (re.sub(r"[^A-Za-z0-9_]+", "_", ascii_text(name)) for name in self.classes)
            names = [f"p_{name[:24]}" for name in plain]
            if len(set(names)) < len(names):
                names = [f"p_{number}" for number in range(len(names))]
            found |= zip(names, self.probabilities.T, strict=True)
        return found

    def colors(self, part: slice) -> np.ndarray:
        """Return the class colours (n, 3) uint8 of some points; grey without label."""
        palette = np.full((256, 3), 128, np.uint8)
        palette[: len(self.class_colors)] = np.asarray(self.class_colors, np.uint8)
        return palette[self.label[part]]

    def comments(self) -> list[str]:
        """Return lines that say what the labels mean."""
        numbered = [f"class {number} {name}" for number, name in enumerate(self.classes)]
        frame = f"; frame {self.frame}" if self.frame else ""
        return [f"{LABELLED}{frame}; class {UNLABELLED} is a point without label", *numbered]


def ascii_text(text: str) -> str:
    """Return a text for a format that holds ASCII only: letters without their marks, else escaped.

    >>> ascii_text("Tür, Größe, 墙")
    'Tur, Grosse, \\\\u5899'
    """
    letters = unicodedata.normalize("NFKD", text.translate(SPELLED))
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return plain.encode("ascii", "backslashreplace").decode("ascii")


def check_rest(path: Path, start: int, least: int, what: str) -> None:
    """Raise DatasetError unless a file has `least` bytes for `what` from byte `start` on."""
    if (rest := max(0, path.stat().st_size - start)) < least:
        raise DatasetError(
            f"{path}: found {counted(rest, 'byte')} after the header, expected at least "
            f"{least:,} for {what}.\nThe file was cut off: copy or export it again."
        )


def chunks(count: int) -> Iterator[slice]:
    """Yield slices of at most CHUNK points that cover `count`."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))


def tables(
    columns: Mapping[str, np.ndarray], kind: np.dtype | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield chunks of columns (N, …) as tables, each with the slice of its points.

    `kind` can give the columns other types, and have more fields for the caller to fill.
    """
    kind = kind or column_kind(columns)
    for part in chunks(len(next(iter(columns.values())))):
        table = np.empty(part.stop - part.start, kind)
        with np.errstate(over="ignore"):  # of floats: infinite
            for name, column in columns.items():
                table[name] = column[part]
        yield part, table


def column_kind(columns: Mapping[str, np.ndarray]) -> np.dtype:
    """Return the structured type of rows of columns (N, …)."""
    return np.dtype([(name, (column.dtype, column.shape[1:])) for name, column in columns.items()])


def named_scan(
    path: Path, rows: np.ndarray, options: ScanOptions, *, labelled: bool = False, **more: Any
) -> Scan:
    """Return a scan whose coordinates and colours are found by their names (`find_roles`)."""
    names = rows.dtype.names or ()
    # Only fields of one number each can be coordinates or colours.
    single = [n for n in names if rows.dtype[n].shape == () and rows.dtype[n].kind in "iuf"]
    found = find_roles(single, labelled=labelled)
    if not {*"xyz"} <= found.keys():
        raise DatasetError(
            f"{path}: found the properties {', '.join(single)[:300]}; expected coordinates x, y, z."
        )
    color = tuple(found[role] for role in "rgb") if "r" in found else None
    return Scan(path, rows, tuple(found[a] for a in "xyz"), color, names, options=options, **more)


def kept_names(
    names: Collection[str], added: Collection[str], colors: Collection[str] = ()
) -> dict[str, str]:
    """Return each field's name in the result; one that is taken gets `scan_` in front.

    So do the scan's own `colors` where those of the classes are added, under whatever names.
    """
    kept: dict[str, str] = {}
    for name in names:
        new = f"scan_{name}" if name in colors and not name.startswith("scan_") else name
        while new in added or new in kept.values() or (new != name and new in names):
            new = f"scan_{new}"
        kept[name] = new
    return kept


def color_scale(kind: np.dtype, largest: float) -> float:
    """Return the factor to 0–255: floats up to 1 are 0–1, others of 8 bits or as many as needed."""
    if kind.kind == "f" and largest <= OVERSHOOT:
        return 255.0
    return max((255 / white for white in WHITE[1:] if WHITE[0] < largest <= white), default=1.0)


def color_bytes(values: np.ndarray, scale: float) -> np.ndarray:
    """Return colour channels of any shape times the `color_scale` as uint8; NaN becomes 0."""
    scaled = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0) * scale
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)


def spooled(
    path: Path, parts: Iterable[np.ndarray], kind: np.dtype, *, writable: bool = False
) -> np.ndarray:
    """Collect parts of a table in an unnamed temporary file, and return it (N,) memory-mapped."""
    count = 0
    file = tempfile.TemporaryFile()  # noqa: SIM115
    try:
        for part in parts:
            try:
                file.write(part.astype(kind, copy=False).tobytes())
                file.flush()
            except OSError as error:
                raise DatasetError(
                    f"{path}: cannot be unpacked in {tempfile.gettempdir()} ({error.strerror}).\n"
                    "Free some space there or set TMPDIR to a folder on a larger disk."
                ) from error
            count += len(part)
        if count == 0:
            return np.empty(0, kind)
        return np.memmap(file, kind, mode="r+" if writable else "r", shape=(count,))
    finally:
        with contextlib.suppress(OSError):  # of a full disk: it is raised already
            file.close()  # a memory map keeps the file open for itself


def watched(
    parts: Iterable[np.ndarray], count: int, path: Path, task: Task
) -> Iterator[np.ndarray]:
    """Yield parts of a table of `count` rows, and advance the task by their part of the file."""
    size = path.stat().st_size / 1e6
    for part in parts:
        yield part
        task.advance(size * len(part) / max(count, 1))


def spooled_columns(path: Path, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return columns (N, …) as rows in a spool."""
    return spooled(path, (table for _, table in tables(columns)), column_kind(columns))
