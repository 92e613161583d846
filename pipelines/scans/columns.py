"""How text scans and plain arrays are laid out: cut into columns, of which some have a role."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from pipelines.errors import ConfigError, DatasetError
from pipelines.progress import counted

COLUMN_NAMES = {"r": "red", "g": "green", "b": "blue"}  # of roles that have a longer name
_POSITIONS = (
    *("{0}", "p{0}", "pos{0}", "pos_{0}", "{0}_pos", "{0} coordinate", "{0}_coordinate"),
    *("{0}coord", "{0}_coord", "coord_{0}", "points:{1}", "points_{1}"),
)
_CHANNELS = (
    *("{0}", "{1}", "{1}f", "diffuse_{0}", "scalar_{0}", "color_{0}", "{0}_color"),
    *("color{0}", "color_{1}", "rgb:{2}", "rgb_{2}", "colors:{2}", "colors_{2}"),
)
_SPELLINGS = {
    axis: (*(form.format(axis, n) for form in _POSITIONS), *more)
    for n, (axis, more) in enumerate(
        {"x": ("easting",), "y": ("northing",), "z": ("height", "elevation")}.items()
    )
} | {
    name[0]: tuple(form.format(name, name[0], n) for form in _CHANNELS)
    for n, name in enumerate(("red", "green", "blue"))
}
_UNIT = re.compile(r"[ _]*(\[.*\]|\(.*\))$|_m$")  # behind a name, as in `X [m]`
NUMBERED = 10  # points from which 1, 2, 3 … in the first column are their numbers
LABEL = "label"  # the role of a column that is read because `ScanOptions.label` names it
# What programs write for no number: C libraries, Microsoft's (padded to the decimals asked for),
# databases and statistics, people, spreadsheets in some languages.
_MICROSOFT = [
    f"1{s}#{w}{'0' * n}" for s in ".," for w in ("qnan", "snan", "ind", "inf") for n in range(17)
]
_NO_NUMBERS = (
    *(
        f"{sign}{word}"
        for sign in ("", "-", "+")
        for word in ("nan", "nan(ind)", "nan(snan)", *_MICROSOFT)
    ),
    *("na", "n/a", "n.a.", "<na>", "null", "(null)", "nil", "none", "missing", "undefined", "\\n"),
    *("nodata", "", "-", "--", "---", ".", "?", "*"),
)
_ERRORS = (
    *("#N/A", "#NA", "#NUM!", "#VALUE!", "#DIV/0!", "#REF!", "#NAME?", "#NULL!"),
    # The same in German, French, Spanish, Italian, Portuguese and Dutch, as far as it is ASCII.
    *("#NV", "#ZAHL!", "#WERT!", "#BEZUG!", "#N/D", "#NOMBRE!", "#VALEUR!", "#VALORE!", "#VALOR!"),
    *("#RIF!", "#NOME?", "#NOM?", "#N/B", "#GETAL!", "#WAARDE!", "#VERW!", "#NAAM?"),
)
NOT_A_NUMBER = {
    *_ERRORS,
    "NaN",
    "-NaN",
    "+NaN",
    *chain.from_iterable((word, word.upper(), word.capitalize()) for word in _NO_NUMBERS),
}
_COMMENTS = (b"#", b"//")
_ERROR_BYTES = tuple(word.encode() for word in _ERRORS)
_DELIMITERS = {" ": "space or tab", ",": "comma", ";": "semicolon", "|": "bar", "\t": "tab"}
# Delimiters and decimal signs, in the order in which they are tried.
_CUTS = ((";", "."), (";", ","), ("|", "."), (" ", "."), (" ", ","), (",", "."), ("\t", "."))


@dataclass(frozen=True)
class Cut:
    """How lines are cut into words."""

    delimiter: str = " "  # one character; a space is any run of spaces and tabs
    decimal: str = "."  # the sign, a point or a comma
    count: int = 0  # words in a line

    def split(self, line: bytes) -> list[str]:
        if self.delimiter == " ":  # as `count_words`: a text has more kinds of spaces than bytes
            return [word.decode("utf-8", "replace") for word in line.split()]
        text = line.decode("utf-8", "replace")
        words = text.split(self.delimiter)
        if '"' in text:
            # A quote that csv refuses is a letter, so its word is not a number.
            with suppress(csv.Error):
                words = next(csv.reader([text], delimiter=self.delimiter))
        return [word.strip() for word in words]

    def count_words(self, line: bytes) -> int:
        if self.delimiter == " ":
            return len(line.split())
        return len(self.split(line)) if b'"' in line else line.count(self.delimiter.encode()) + 1


@dataclass(frozen=True)
class Layout:
    """How a text scan is written."""

    cut: Cut
    roles: tuple[str, ...]  # "x", "y", "z", "r", "g", "b", LABEL or "-" for each column
    head_lines: int  # before the first point
    header: int | None  # which of them (from 0) names the columns
    counted: bool  # whether lines with a number of points precede the points, as in a PTS file
    joint: str  # what separates two columns
    note: str  # what was detected
    label: str = LABEL  # the name of the column with the role LABEL
    names: tuple[str, ...] = ()  # what the label may be called, for each column

    def read(self) -> dict[str, int]:
        """Return the column of each field that is read, by the field's name."""
        roles = [role for role in (*"xyzrgb", LABEL) if role in self.roles]
        names = {**COLUMN_NAMES, LABEL: self.label}
        return {names.get(role, role): self.roles.index(role) for role in roles}

    def split_counts(self, lines: list[bytes]) -> tuple[list[bytes], list[int]]:
        """Return lines with the numbers of points among them blanked, and these numbers."""
        if not self.counted:
            return lines, []
        found = [int(line) for line in lines if is_count(line)]
        return [b"" if is_count(line) else line for line in lines], found


def find_layout(
    path: Path,
    lines: Sequence[bytes],
    more: Sequence[bytes] = (),
    columns: str | None = None,
    label: str | None = None,
) -> Layout:
    """Detect from its first lines, and some `more`, without line ends, how a text is written."""
    data = [number for number, line in enumerate(lines) if is_data(line)]
    if not data:
        raise DatasetError(f"{path}: found 0 points in its first lines, expected lines of numbers.")
    counted, header, cut = False, None, None
    for first in data:  # numbers of points and a line of names can be before the data
        if is_count(lines[first]):
            counted = True
        elif (cut := _cut(lines[first])) or header is not None:
            break
        else:
            header = first
    if cut is None:
        raise DatasetError(
            f"{path}:{first + 1}: found {shown(lines[first])}, expected a point: at least three "
            "numbers x y z, cut by spaces, tabs, commas, semicolons or bars."
        )
    points = [line for line in (*lines[first:], *more) if is_data(line) and not is_count(line)]
    cut = _by_tabs(cut, points)
    for number, line in enumerate(lines[:first] if header is None else ()):
        names = _names(line, cut)  # a comment can have them, as CloudCompare's `//X Y Z R G B`
        if len(names) == cut.count and {*"xyz"} <= {*names}:
            header = number
    names = [] if header is None else _names(lines[header], cut)
    sample = list(map(cut.split, points))
    sample = [words for words in sample if len(words) == cut.count]
    cut = replace(cut, decimal=_decimal(cut, sample))
    values = _values(sample, cut)
    if len(names) == cut.count - 1 and _are_numbers_of_points(values):  # R names no column for them
        names = ["", *names]
    roles, how = _roles(path, cut, names, sample, values, columns)
    called = names if len(names) == cut.count else [f"column_{n + 1}" for n in range(cut.count)]
    if label:
        roles = _with_label(path, roles, called, label)
    note = f"columns {','.join(roles)} ({how}), cut by {_DELIMITERS[cut.delimiter]}"
    note += ", with decimal commas" if cut.decimal == "," else ""
    joint = "\t" if cut.delimiter == " " and b"\t" in lines[first] else cut.delimiter
    return Layout(cut, roles, first, header, counted, joint, note, label or LABEL, tuple(called))


def _with_label(
    path: Path, roles: tuple[str, ...], names: list[str], label: str
) -> tuple[str, ...]:
    """Return the roles with that of the column `label`, unless it has one already."""
    named = [*names, *(f"column_{n}" for n in range(1, len(roles) + 1))]
    at = named.index(label.lower()) % len(roles) if label.lower() in named else None
    if at is None or roles[at] != "-":
        return roles
    if label in [COLUMN_NAMES.get(role, role) for role in roles]:
        raise ConfigError(
            f"{path}: found the label {label!r}, which names a coordinate or colour too.\n"
            f"Name its column by the number: column_{at + 1}"
        )
    return (*roles[:at], LABEL, *roles[at + 1 :])


def _cut(line: bytes) -> Cut | None:
    """Return the cut that gives most numbers, and at least three."""
    best, most = None, 2
    for delimiter, decimal in _CUTS:
        words = Cut(delimiter, decimal).split(line)
        if delimiter == " " and any(word.endswith(",") for word in words):
            continue  # `1, 2, 3` is cut by commas
        numbers = sum(is_number(word, decimal) for word in words)
        if numbers > most:
            best, most = Cut(delimiter, decimal, len(words)), numbers
    return best


def _by_tabs(cut: Cut, lines: Sequence[bytes]) -> Cut:
    """Return the cut by tabs if each line has as many as the longest needs: fields can be empty."""
    most = max(len(line.split()) for line in lines)
    tabs = replace(cut, delimiter="\t", count=most)
    plain = all(tabs.count_words(line) == most and b" " not in line for line in lines)
    return tabs if cut.delimiter == " " and plain else cut


def _decimal(cut: Cut, sample: Sequence[Sequence[str]]) -> str:
    """Return the decimal sign; the first line, which gave `cut`, may have only whole numbers."""
    for word in chain.from_iterable(sample if cut.delimiter != "," else ()):
        if is_number(word, ".") != is_number(word, ","):
            return "." if is_number(word, ".") else ","
    return cut.decimal


def _names(line: bytes, cut: Cut) -> list[str]:
    line = line.lstrip(b"#/%;! ")
    if cut.delimiter == " " and b'"' in line:  # a name in quotes can hold a space
        text = line.decode("utf-8", "replace").replace("\t", " ")
        with suppress(csv.Error):  # no header: a carriage return within, or an endless quote
            return [word.lower() for word in next(csv.reader([text], delimiter=" ")) if word]
    return [word.strip('"').lower() for word in cut.split(line)]


def _roles(
    path: Path,
    cut: Cut,
    names: list[str],
    sample: list[list[str]],
    values: np.ndarray,
    columns: str | None,
) -> tuple[tuple[str, ...], str]:
    """Return the role of each column, and how it is known."""
    if columns is not None:
        return given_roles(path, columns, cut.count), "as given"
    found = find_roles(names)
    has_places, first = {*"xyz"} <= found.keys(), int(_are_numbers_of_points(values))
    if has_places and len(names) == cut.count:
        roles = {names.index(name): role for role, name in found.items()}
        return tuple(roles.get(n, "-") for n in range(cut.count)), "from the header"
    places = [names.index(found[axis]) for axis in "xyz"] if has_places else [0, 1, 2]
    words = [word for word in sample[0][first : first + 3] if word]
    as_guessed = places in ([0, 1, 2], [first, first + 1, first + 2])
    if not (as_guessed and all(is_number(word, cut.decimal) for word in words)):
        other = f" for {cut.count} in the lines" if len(names) not in (0, cut.count) else ""
        raise DatasetError(
            f"{path}: found the columns {', '.join(names or sample[0])[:200]}{other}; expected x, "
            "y, z.\nSay which they are: --columns x,y,z,r,g,b,- (- for any other column)"
        )
    return guessed_roles(values, intensity_first=path.suffix.lower() == ".pts"), "detected"


def _values(sample: list[list[str]], cut: Cut) -> np.ndarray:
    """Return the numbers of some lines (n, columns), NaN where a word is none."""
    values = np.full((len(sample), cut.count), np.nan)
    for row, words in enumerate(sample):
        for column, word in enumerate(words):
            if is_number(bare := word.strip('"'), cut.decimal):
                values[row, column] = to_float(bare, cut.decimal)
    return values


def _are_numbers_of_points(values: np.ndarray) -> bool:
    """Return whether the first of some columns (n, columns) only numbers the points.

    The lines can be from several places: most of them are one after the other.
    """
    if values.shape[1] < 4 or len(values) < NUMBERED:
        return False
    steps = np.diff(values[:, 0])
    is_whole = (values[:, 0] == np.rint(values[:, 0])).all()
    return bool(is_whole and (steps > 0).all() and np.mean(steps == np.median(steps)) > 0.9)


def is_data(line: bytes) -> bool:
    """Return whether a line is neither empty nor a comment; `#N/A` begins no comment."""
    if not line or line.isspace():
        return False
    return not line.startswith(_COMMENTS) or line.startswith(_ERROR_BYTES)


def is_count(line: bytes) -> bool:
    """Return whether a line is only a number of points."""
    return len(line) < 20 and line.strip().isdigit()


def to_float(word: str, decimal: str) -> float:
    """Convert a word; one for no number becomes NaN."""
    return float("nan" if word in NOT_A_NUMBER else word.replace(decimal, "."))


def is_number(word: str, decimal: str = ".", kind: str = "f8") -> bool:
    """Return whether a word is a number of a kind: "f8" (also NaN, infinity), "i8" or "u8"."""
    if not word or "_" in word or (decimal == "," and ("." in word or word.strip(",") != word)):
        return False
    try:
        number = to_float(word, decimal) if kind == "f8" else int(word)
    except ValueError:
        return False
    lowest, highest = (0, 2**64) if kind == "u8" else (-(2**63), 2**63)
    if kind == "f8":  # pandas does not know NaN in all cases of letters
        return not math.isnan(number) or word in NOT_A_NUMBER
    return lowest <= number < highest


def shown(line: bytes) -> str:
    """Shorten a line for a message."""
    return repr(line[:60].decode("latin-1").strip())


def parse_columns(columns: str) -> list[str]:
    """Return the roles in an option such as "x,y,z,r,g,b,-", or raise ConfigError."""
    names = [name.strip().lower() for name in columns.split(",")]
    used = [name for name in names if name != "-"]
    complete = {*"xyz"} <= set(used) and len({*"rgb"} & set(used)) in (0, 3)
    if not complete or len(set(used)) < len(used) or not set(used) <= {*"xyzrgb"}:
        raise ConfigError(
            f"--columns: found {columns!r}, expected x, y and z, with or without r, g and b, each "
            "once, and - for any other column: x,y,z,r,g,b,-"
        )
    return names


def given_roles(path: Path, columns: str, count: int) -> tuple[str, ...]:
    """Return the role of each of `count` columns as the option gives them; "-" for the rest."""
    given = parse_columns(columns)
    if len(given) > count:
        raise ConfigError(
            f"--columns {columns}: found {counted(len(given), 'name')}, expected at most {count}, "
            f"the number of columns of {path}."
        )
    return (*given, *["-"] * (count - len(given)))


def find_roles(names: Sequence[str], *, labelled: bool = False) -> dict[str, str]:
    """Return the name, in any case, of the column for each role x, y, z, r, g, b that has one.

    The scan's own colour, `scan_red` …, takes precedence over the class colours that labelling
    wrote. In a `labelled` file plain names are class colours.
    """
    # Of two like it, the first; a name as it is before one with a unit.
    spelled = {_UNIT.sub("", name.lower()): name for name in reversed(names)}
    spelled |= {name.lower(): name for name in reversed(names)}
    for prefix in ("scan_",) if labelled else ("scan_", ""):
        found: dict[str, str] = {}
        for role, spellings in _SPELLINGS.items():
            before = prefix if role in "rgb" else ""
            known = [spelled[before + name] for name in spellings if before + name in spelled]
            found |= {role: known[0]} if known else {}
        if {*"rgb"} <= found.keys():
            return found
    return {role: name for role, name in found.items() if role in "xyz"}


def guessed_roles(
    values: np.ndarray, *, intensity_first: bool = False, numbered: bool = True
) -> tuple[str, ...]:
    """Return the roles of unnamed columns from some of their values (n, columns).

    Numbers of the points (1, 2, 3 …) can precede the coordinates, if they may be `numbered`. After
    these the colours are the first adjacent columns with whole numbers 0–65535 and not only 0 and 1
    (as normals may), else only 0 and 1, else values from 0 to 1. In a PTS file (`intensity_first`)
    an intensity precedes them; in others it does if the three columns behind it are much more
    alike. What is not finite fits anything, if not everywhere, and so does −1, which stands for no
    colour, among whole numbers.
    """
    if numbered and _are_numbers_of_points(values):
        how = {"intensity_first": intensity_first, "numbered": False}
        return ("-", *guessed_roles(values[:, 1:], **how))
    count, missing = values.shape[1], ~np.isfinite(values)
    largest = np.where(missing, -np.inf, values).max(axis=0, initial=-np.inf)
    whole = missing | ((values >= 0) & (values <= 65535) & (values == np.rint(values)))
    fraction = missing | ((values >= 0) & (values <= 1))
    # Right after the coordinates and after normals is likelier than any other place. In a labelled
    # PTS file the first word that is no number follows the scan's own columns.
    words = np.flatnonzero(np.isnan(values).all(axis=0))
    has_intensity = intensity_first and words.min(initial=count) >= 7
    starts = [4] if has_intensity else [3, 6, *range(4, count - 2)]
    starts = [start for start in starts if start + 3 <= count]
    for fits, above in ((whole | (values == -1), 1), (whole, -1), (fraction, -1)):
        for start in starts:
            three = slice(start, start + 3)
            known = largest[three].min() >= 0  # some values of each
            if fits[:, three].all() and known and largest[three].max() > above:
                while start + 3 < count and fits[:, start + 3].all():
                    if not _is_intensity(values[:, start : start + 4]):
                        break
                    start += 1
                return (*"xyz", *["-"] * (start - 3), *"rgb", *["-"] * (count - start - 3))
    return (*"xyz", *["-"] * (count - 3))


def _is_intensity(values: np.ndarray) -> bool:
    """Return whether of four columns (n, 4) the last three are the colours, not the first three.

    The channels of a colour are alike: most things are nearly grey. Of 15 real rooms, none is
    misjudged whose colours come first, whatever follows them.
    """
    known = values[np.isfinite(values).all(axis=1) & (values >= 0).all(axis=1)]
    if len(known) < NUMBERED or known[:, 3].max() <= 1:
        return False
    first, last = (np.ptp(known[:, some], axis=1).mean() for some in (slice(3), slice(1, 4)))
    return bool(last < first / 2)
