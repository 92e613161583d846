"""Which columns of a text scan, or of a plain array, are coordinates and colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipelines.errors import ConfigError, DatasetError

from .lines import Columns, is_data, is_number, shown
from .table import named_columns

SAMPLE = 200  # lines whose values are looked at
_ROLES = {
    "x": ("x", "px", "posx", "pos_x", "easting", "x coordinate"),
    "y": ("y", "py", "posy", "pos_y", "northing", "y coordinate"),
    "z": ("z", "pz", "posz", "pos_z", "height", "elevation", "z coordinate"),
    "r": ("r", "red", "rf", "scan_red", "scan_r"),
    "g": ("g", "green", "gf", "scan_green", "scan_g"),
    "b": ("b", "blue", "bf", "scan_blue", "scan_b"),
}
LABEL = "label"  # the role of a column that was asked for besides
_DELIMITERS = {" ": "space or tab", ",": "comma", ";": "semicolon", "|": "bar", "\t": "tab"}
# What a line may be cut by, and its decimal sign, in the order of trial.
_CUTS = ((";", "."), (";", ","), ("|", "."), (" ", "."), (" ", ","), (",", "."), ("\t", "."))


@dataclass(frozen=True)
class Layout:
    """How a text scan is written.

    Attributes:
        columns: how its lines are cut, and which columns are read.
        roles: "x", "y", "z", "r", "g", "b" or "-" for each column.
        head_lines: lines before the first point.
        header: which of them (from 0) names the columns, if one does.
        counted: whether the first line is the number of points, as in a PTS file.
        joint: what stands between two columns.
        notes: what was detected.
    """

    columns: Columns
    roles: tuple[str, ...]
    head_lines: int
    header: int | None
    counted: bool
    joint: str
    notes: tuple[str, ...]
    label: tuple[str, ...] = ()

    @property
    def has_color(self) -> bool:
        """Whether there are colours."""
        return "r" in self.roles

    def names(self) -> list[str]:
        """Return a name for each column of a scan without a header."""
        found = [f"column_{n}" if r == "-" else r for n, r in enumerate(self.roles, start=1)]
        return [{"r": "red", "g": "green", "b": "blue"}.get(name, name) for name in found]

    def used_order(self) -> list[int]:
        """Return where x, y, z (and r, g, b) are among the columns that are read."""
        wanted = [*("xyzrgb" if self.has_color else "xyz"), *(LABEL for _ in self.label)]
        return [self.columns.used.index(self.roles.index(role)) for role in wanted]


def find_layout(
    path: Path, lines: Sequence[bytes], columns: str | None = None, label: str | None = None
) -> Layout:
    """Detect how a text scan is written from its first lines.

    Args:
        path: the file.
        lines: its first lines, without line ends.
        columns: the names of the columns, if they are known.
        label: a further column to read, see `ScanOptions`.

    Raises:
        ConfigError: `columns` does not fit.
        DatasetError: no line of at least three numbers follows at most one header line.
    """
    first, counted = _first_data(path, lines)
    names_at = None
    cut = _cut(lines[first])
    if cut is None and first + 1 < len(lines):  # the line of names, then the data
        names_at = first
        first = next((n for n in range(first + 1, len(lines)) if is_data(lines[n])), first)
        cut = _cut(lines[first])
    if cut is None:
        raise DatasetError(
            f"{path}:{first + 1}: found {shown(lines[first])}, expected a point: at least three "
            "numbers x y z, cut by spaces, tabs, commas, semicolons or bars."
        )
    if names_at is None:
        names_at = _commented_names(lines[:first], cut)
    names = _names(lines[names_at], cut) if names_at is not None else None
    sample = [cut.split(line) for line in lines[first:] if is_data(line)]
    sample = [words for words in sample if len(words) == cut.count]
    cut = replace(cut, decimal=_decimal(cut, sample))
    sample = sample[:SAMPLE]
    roles, how = _roles(path, cut, names, sample, columns)
    found: tuple[str, ...] = ()
    if label is not None and (place := _place_of(label, names, roles)) is not None:
        roles = tuple(LABEL if n == place else role for n, role in enumerate(roles))
        found = (label,)
    used = tuple(n for n, role in enumerate(roles) if role != "-")
    cut = Columns(cut.count, used, ("f8",) * len(used), cut.delimiter, cut.decimal)
    joint = "\t" if cut.delimiter == " " and b"\t" in lines[first] else cut.delimiter
    note = f"columns {','.join(roles)} ({how}), cut by {_DELIMITERS[cut.delimiter]}"
    if cut.decimal == ",":
        note += ", with decimal commas"
    return Layout(cut, roles, first, names_at, counted, joint, (note,), found)


def _place_of(label: str, names: Sequence[str] | None, roles: Sequence[str]) -> int | None:
    """Return which column (from 0) is meant, unless it is none or has another role."""
    named = [*(names or ()), *(f"column_{n}" for n in range(1, len(roles) + 1))]
    wanted = label.lower()
    if wanted not in named:
        return None
    place = named.index(wanted) % len(roles)
    return place if roles[place] == "-" else None


def _first_data(path: Path, lines: Sequence[bytes]) -> tuple[int, bool]:
    """Return the first line that is data or names, and whether a count stood before it."""
    data = [number for number, line in enumerate(lines) if is_data(line)]
    counted = len(data) > 1 and data[0] == 0 and lines[0].strip().isdigit()
    if not data:
        raise DatasetError(f"{path}: found 0 points in its first lines, expected lines of numbers.")
    return data[1 if counted else 0], counted


def _cut(line: bytes) -> Columns | None:
    """Return how a line is cut such that most of its columns, and at least three, are numbers."""
    best, most = None, 2
    for delimiter, decimal in _CUTS:
        words = Columns(0, (), (), delimiter, decimal).split(line)
        if delimiter == " " and any(word.endswith(",") for word in words):
            continue  # `1, 2, 3` is cut by commas
        numbers = sum(is_number(word, decimal) for word in words)
        if numbers > most:
            best, most = Columns(len(words), (), (), delimiter, decimal), numbers
    return best


def _decimal(cut: Columns, sample: Sequence[Sequence[str]]) -> str:
    """Return the decimal sign: the first line may hold whole numbers only."""
    if cut.delimiter == ",":
        return cut.decimal
    for words in sample:
        for word in words:
            if is_number(word, ".") != is_number(word, ","):
                return "." if is_number(word, ".") else ","
    return cut.decimal


def _names(line: bytes, cut: Columns) -> list[str]:
    words = cut.split(line.lstrip(b"#/ "))
    return [word.strip('"').lower() for word in words]


def _commented_names(lines: Sequence[bytes], cut: Columns) -> int | None:
    """Return which comment names the columns, as CloudCompare's `//X Y Z R G B` does."""
    for number in reversed(range(len(lines))):
        names = _names(lines[number], cut)
        if len(names) == cut.count and {*"xyz"} <= set(names):
            return number
    return None


def _roles(
    path: Path,
    cut: Columns,
    names: list[str] | None,
    sample: list[list[str]],
    columns: str | None,
) -> tuple[tuple[str, ...], str]:
    """Return the role of each column, and how it is known."""
    if columns is not None:
        return given_roles(path, columns, cut.count), "as told"
    if names is not None and len(names) == cut.count:
        roles = _named_roles(names)
        if {*"xyz"} <= set(roles):
            return roles, "from the header"
    values = np.full((len(sample), cut.count), np.nan)
    for row, words in enumerate(sample):
        for column, word in enumerate(words):
            if is_number(word, cut.decimal):
                values[row, column] = float(word.replace(cut.decimal, ".") or "nan")
    if not all(is_number(word, cut.decimal) for word in sample[0][:3] if word):
        raise DatasetError(
            f"{path}: found the columns {', '.join(names or sample[0])[:200]}; expected x, y, z.\n"
            "Say which they are: --columns x,y,z,r,g,b,- (- for any other column)"
        )
    return guessed_roles(values, intensity_first=path.suffix.lower() == ".pts"), "detected"


def given_roles(path: Path, columns: str, count: int) -> tuple[str, ...]:
    """Return the roles that a person gave; columns behind them have none.

    Raises:
        ConfigError: there are fewer columns than that.
    """
    given = named_columns(columns)
    if len(given) > count:
        raise ConfigError(
            f"--columns {columns}: found {len(given)} names, expected at most {count}, the number "
            f"of columns of {path}."
        )
    return (*given, *["-"] * (count - len(given)))


def _named_roles(names: list[str]) -> tuple[str, ...]:
    """Return the roles of columns by their names; a scan's own colour goes before a class's."""
    roles = ["-"] * len(names)
    own = all(f"scan_{name}" in names for name in ("red", "green", "blue"))
    for role, spellings in _ROLES.items():
        order = reversed(spellings) if own else spellings
        found = next((names.index(name) for name in order if name in names), None)
        if found is not None:
            roles[found] = role
    if not {*"rgb"} <= set(roles):
        roles = ["-" if role in "rgb" else role for role in roles]
    return tuple(roles)


def guessed_roles(values: np.ndarray, *, intensity_first: bool = False) -> tuple[str, ...]:
    """Return the roles of unnamed columns from some of their values (n, columns).

    The first three are coordinates. Colours are the first three neighbours behind that are whole
    numbers 0–65535 and not all 0 or 1 (as normals may be), or else such as those, or else all
    within 0–1. In a PTS file (`intensity_first`) an intensity stands before them.
    """
    count = values.shape[1]
    roles = ["x", "y", "z", *["-"] * (count - 3)]
    # Before any other place: behind the coordinates, and behind normals.
    starts = [4] if intensity_first and count >= 7 else [3, 6, *range(4, count - 2)]
    starts = [start for start in starts if start + 3 <= count]
    for test in (_bytes, _whole, _fraction):
        for start in starts:
            if test(values[:, start : start + 3]):
                roles[start : start + 3] = ["r", "g", "b"]
                return tuple(roles)
    return tuple(roles)


def _bytes(values: np.ndarray) -> bool:
    return _whole(values) and bool(values.max(initial=0) > 1)


def _whole(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 65535) & (values == np.rint(values))).all())


def _fraction(values: np.ndarray) -> bool:
    return bool(((values >= 0) & (values <= 1)).all())
