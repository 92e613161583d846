"""A labelled data set of one's own, described by a YAML file.

    classes: {floor: [0, 0, 255], wall: [0, 255, 255], chair: [255, 0, 0]}   # or a list of names
    areas:                        # up to six folds; files are found from where this file lies
      1: [train/*.ply]
      2: [test/*.ply]
    label: class                  # the property or column that holds a point's label …
    values: {1: floor, 2: wall}   # … and what its values mean; left out: 0, 1, 2 … as in classes
    ignore: [0]                   # values of points that are neither learned nor scored
    test_area: 2                  # left out by train, scored by eval
    up: z                         # the vertical axis; likewise scale (metres per unit), columns

Each file is a room, in any format of `scans`. Where a room is a folder of one file per object,
as in S3DIS, the label follows from the file's name:

    label: {file: "([a-z]+)_"}    # a regular expression whose first group is a class or a value

S3DIS itself is such a data set, only with a reader of its own that knows its defects.
"""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.config import AREAS
from pipelines.data.store import IGNORED
from pipelines.errors import ConfigError, did_you_mean
from pipelines.scans import RESULT
from pipelines.scans.table import ScanOptions

KEYS = (
    *("classes", "areas", "label", "values", "ignore", "test_area", "up", "scale", "columns"),
    "no_color_ok",
)
LARGEST_FILE = 1 << 20  # bytes of a description
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True)
class CustomRoom:
    """One room: its area, its name and the files that its points are in."""

    area: int
    name: str
    files: tuple[Path, ...]

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.files)

    def fingerprint(self) -> str:
        """Return a digest that changes when any of the files does."""
        stats = ((path, path.stat()) for path in self.files)
        text = "".join(f"{path}\t{stat.st_size}\t{stat.st_mtime_ns}\n" for path, stat in stats)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class CustomDataset:
    """A described data set.

    Attributes:
        source: the YAML file.
        rooms: by area and name.
        classes: names, in the order of the labels.
        class_colors: one RGB colour per class.
        label: the property that holds a label; "" if the file's name tells it.
        in_name: what finds a label in a file's name, or None.
        values: label → class number or IGNORED.
        options: the scans' vertical axis, unit and columns.
        no_color_ok: whether scans without colour are taken as grey.
        test_area: the fold that it names, or None.
        digest: of what decides how a room is read.
    """

    source: Path
    rooms: tuple[CustomRoom, ...]
    classes: tuple[str, ...]
    class_colors: tuple[tuple[int, int, int], ...]
    label: str
    in_name: re.Pattern[str] | None
    values: Mapping[str, int]
    options: ScanOptions
    no_color_ok: bool
    test_area: int | None
    digest: str
    root: str = ""
    rotated: bool = False
    published: int = 0  # rooms; a data set of one's own has no published number


def read_description(path: Path) -> CustomDataset:
    """Read a YAML description and find the rooms.

    Raises:
        ConfigError: it cannot be read or something in it does not fit; says what was expected.
    """
    given = _load(path)
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise ConfigError(
            f"{path}: found the unknown key {unknown[0]!r}.{did_you_mean(unknown[0], KEYS)}\n"
            f"Expected some of: {', '.join(KEYS)}."
        )
    classes, colors = _classes(path, given.get("classes"))
    label, in_name = _label(path, given.get("label"))
    values = _values(path, given, classes, in_name is not None)
    options = replace(_options(path, given), label=label or None)
    rooms = tuple(_rooms(path, given.get("areas"), by_folder=in_name is not None))
    areas = sorted({room.area for room in rooms})
    test_area = given.get("test_area")
    if test_area is not None and test_area not in areas:
        raise ConfigError(
            f"{path}: found test_area {test_area!r}, expected one of its areas: {areas}."
        )
    no_color_ok = bool(given.get("no_color_ok", False))
    reading = repr((label, in_name, sorted(values.items()), options, no_color_ok, classes))
    return CustomDataset(
        source=path,
        rooms=rooms,
        classes=classes,
        class_colors=colors,
        label=label,
        in_name=in_name,
        values=values,
        options=options,
        no_color_ok=no_color_ok,
        test_area=test_area,
        digest=hashlib.sha256(reading.encode()).hexdigest(),
    )


def _load(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise ConfigError(
            f"{path}: found no file there, expected a YAML description of a data set."
        )
    if path.stat().st_size > LARGEST_FILE:
        raise ConfigError(f"{path}: found over {LARGEST_FILE:,} bytes, expected a description.")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        shown = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: cannot be read as YAML: {shown}") from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConfigError(f"{path}: found no keys, expected at least classes, areas and label.")
    return given


def _classes(path: Path, given: Any) -> tuple[tuple[str, ...], tuple[tuple[int, int, int], ...]]:
    """Return names and colours; of a plain list of names, colours spread over the hues."""
    if isinstance(given, list):
        for name in given:
            if given.count(name) > 1:  # the ones behind it would get other numbers
                raise ConfigError(f"{path}: found the class {name!r} twice, expected each once.")
        # A list or map among them is no name; as text it is refused below.
        given = {name if isinstance(name, str) else repr(name): None for name in given}
    if not isinstance(given, dict) or not 2 <= len(given) < IGNORED:
        raise ConfigError(
            f"{path}: found classes {_shown(given)}, expected two or more names, "
            "or name: [r, g, b]."
        )
    for name in given:
        if not isinstance(name, str) or not _CLASS.fullmatch(name):
            raise ConfigError(
                f"{path}: found the class {name!r}, expected letters, digits, - and _ (at most 32)."
            )
    spread = spread_colors(len(given))
    colors = [_color(path, name, color, spread[n]) for n, (name, color) in enumerate(given.items())]
    return tuple(given), tuple(colors)


def _color(
    path: Path, name: str, color: Any, otherwise: tuple[int, int, int]
) -> tuple[int, int, int]:
    if color is None:
        return otherwise
    whole = isinstance(color, list) and len(color) == 3
    if not whole or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
        raise ConfigError(
            f"{path}: found the colour {_shown(color)} of {name}, "
            "expected [r, g, b], each 0 to 255."
        )
    return color[0], color[1], color[2]


def spread_colors(count: int) -> tuple[tuple[int, int, int], ...]:
    """Return colours that differ in hue, and neighbours also in lightness."""
    found = []
    for number in range(count):
        value = 0.95 if number % 2 == 0 else 0.6
        red, green, blue = colorsys.hsv_to_rgb(number / count, 0.75, value)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(found)


def _label(path: Path, given: Any) -> tuple[str, re.Pattern[str] | None]:
    if isinstance(given, str) and given:
        return given, None
    if isinstance(given, dict) and list(given) == ["file"] and isinstance(given["file"], str):
        try:
            pattern = re.compile(given["file"])
        except re.error as error:
            raise ConfigError(
                f"{path}: found the pattern {given['file']!r} under label: {error}."
            ) from error
        if pattern.groups:
            return "", pattern
    raise ConfigError(
        f"{path}: found label {_shown(given)}, expected the name of a property or column, or "
        "{file: PATTERN} with a group that finds the class in a file's name."
    )


def _values(
    path: Path, given: Mapping[str, Any], classes: tuple[str, ...], names: bool
) -> dict[str, int]:
    """Return what each label means, by its text: class number, or IGNORED."""
    numbers = {name: number for number, name in enumerate(classes)}
    meant = given.get("values")
    if meant is None:
        found = dict(numbers) if names else {str(n): n for n in numbers.values()}
    elif isinstance(meant, dict):
        found = {}
        for value, name in meant.items():
            if not isinstance(name, str) or name not in numbers:
                raise ConfigError(
                    f"{path}: found the class {name!r} under values."
                    f"{did_you_mean(str(name), classes)}\nExpected one of: {', '.join(classes)}."
                )
            found[str(value)] = numbers[name]
        if names:
            found = {**numbers, **found}
    else:
        raise ConfigError(f"{path}: found values {_shown(meant)}, expected label: class pairs.")
    ignored = given.get("ignore", [])
    if not isinstance(ignored, list):
        raise ConfigError(f"{path}: found ignore {_shown(ignored)}, expected a list of labels.")
    for value in ignored:
        if str(value) in found and meant is not None:
            raise ConfigError(
                f"{path}: found the label {value} under values and under ignore, expected one."
            )
    return {**found, **{str(value): IGNORED for value in ignored}}


def _options(path: Path, given: Mapping[str, Any]) -> ScanOptions:
    chosen = {name: given[name] for name in ("up", "scale", "columns") if name in given}
    try:
        return ScanOptions(**chosen)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _rooms(path: Path, given: Any, *, by_folder: bool) -> Iterable[CustomRoom]:
    if not isinstance(given, dict) or not given:
        raise ConfigError(
            f"{path}: found areas {_shown(given)}, expected area: [patterns of files]."
        )
    taken: dict[Path, int] = {}
    for area, patterns in sorted(given.items(), key=str):
        if area not in AREAS:
            raise ConfigError(f"{path}: found the area {area!r}, expected a number from 1 to 6.")
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(f"{path}: found area {area}: {_shown(patterns)}, expected patterns.")
        files = _files(path, area, patterns)
        for file in files:
            if taken.setdefault(file, area) != area:
                raise ConfigError(
                    f"{path}: found {file} in the areas {taken[file]} and {area}; expected each "
                    "file in one, or scores would be of what was learned."
                )
        yield from _group(path.parent, area, files, by_folder=by_folder)


def _files(path: Path, area: int, patterns: list[str]) -> list[Path]:
    found: set[Path] = set()
    for pattern in patterns:
        if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
            raise ConfigError(
                f"{path}: found the pattern {pattern!r}, expected one below {path.parent}."
            )
        matched = [file for file in path.parent.glob(pattern) if file.is_file()]
        if RESULT not in pattern:  # what predict wrote beside a room is not one more of them
            matched = [file for file in matched if not file.stem.endswith(RESULT)]
        if not matched:
            raise ConfigError(f"{path}: area {area}: found no file like {path.parent / pattern}.")
        found.update(matched)
    return sorted(found)


def _group(folder: Path, area: int, files: list[Path], *, by_folder: bool) -> Iterable[CustomRoom]:
    rooms: dict[str, list[Path]] = {}
    named_by: dict[str, tuple[str, ...]] = {}
    for file in files:
        parts = file.relative_to(folder).with_suffix("").parts
        if by_folder:
            parts = tuple(part for part in parts[:-1] if part != "Annotations")
        name = re.sub(r"[^\w.-]+", "_", "_".join(parts)) or "room"
        members = rooms.setdefault(name, [])
        if members and (named_by[name] != parts or not by_folder):
            two = "two folders" if by_folder else "two files"
            raise ConfigError(f"{members[0]}, {file}: found {two} for a room {name}; rename one.")
        named_by[name] = parts
        members.append(file)
    for name, members in sorted(rooms.items()):
        yield CustomRoom(area, name, tuple(members))


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]
