"""Your own labelled data set, described by a YAML file.

    classes: {floor: [0, 0, 255], wall: [0, 255, 255], chair: [255, 0, 0]}   # or a list of names
    areas:                        # up to six; patterns of files, from the folder of this file
      1: [train/*.ply]
      2: [test/*.ply]
    label: class                  # the property or column with a point's label …
    values: {1: floor, 2: wall}   # … and what its values mean; default: 0, 1, 2 … as in classes
    ignore: [0]                   # values of points that are neither learned nor scored
    test_area: 2                  # left out by train, scored by eval
    up: z                         # the vertical axis; likewise scale (metres per unit), columns
    no_color_ok: true             # scans without colour are taken as grey

Each file is a room, in any format of `scans`. Where a room is a folder of one file per object,
as in S3DIS, the label follows from the file's name:

    label: {file: "([a-z]+)_"}    # a regular expression whose first group is a class or a value

S3DIS itself is such a data set, but with a reader of its own that knows its defects.
"""

from __future__ import annotations

import colorsys
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import AREAS
from pipelines.errors import ConfigError, DatasetError, DeepGCNError, did_you_mean
from pipelines.scans import open_scan, without_results
from pipelines.scans.table import ScanOptions, color_bytes, color_scale

from .s3dis.rooms import RoomNotes
from .store import IGNORED, Room, make_room

OPTIONS = ("up", "scale", "columns")  # as of ScanOptions
KEYS = ("classes", "areas", "label", "values", "ignore", "test_area", *OPTIONS, "no_color_ok")
LARGEST_FILE = 1 << 20  # bytes of a description
GREY = 128  # of a scan without colour
_CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class CustomRoom:
    """One room: its area, its name and the files with its points."""

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
    """A described data set."""

    source: Path  # the YAML file
    rooms: tuple[CustomRoom, ...]  # by area and name
    classes: tuple[str, ...]  # in the order of the labels
    class_colors: tuple[Rgb, ...]
    label: str  # the property that holds a label; "" if the file's name gives it
    in_name: re.Pattern[str] | None  # finds a label in a file's name
    values: Mapping[str, int]  # label → class number or IGNORED
    options: ScanOptions  # the scans' vertical axis, unit and columns
    no_color_ok: bool  # scans without colour are taken as grey
    test_area: int | None
    root: str = ""
    rotated: bool = False
    published: int = 0  # rooms; your own data set has no published number

    @property
    def digest(self) -> str:
        """The digest of everything that decides how a room is read."""
        reading = (self.label, self.in_name, sorted(self.values.items()), self.options)
        text = repr((*reading, self.no_color_ok, self.classes))
        return hashlib.sha256(text.encode()).hexdigest()


def read_description(path: Path) -> CustomDataset:
    """Read a YAML description and find the rooms."""
    try:
        return _dataset(path, _load(path))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _load(path: Path) -> dict[str, Any]:
    import yaml

    if not path.is_file():
        raise ConfigError("found no file there, expected a YAML description of a data set.")
    if path.stat().st_size > LARGEST_FILE:
        raise ConfigError(f"found over {LARGEST_FILE:,} bytes, expected a description.")
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        shown = " ".join(str(error).split())[:200]
        quotes = (
            "\nPut patterns that begin with * or ? in quotes."
            if "alias" in shown or "'?'" in shown
            else ""
        )
        raise ConfigError(f"cannot be read as YAML: {shown}{quotes}") from error
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConfigError("found no keys, expected at least classes, areas and label.")
    unknown = sorted(set(given) - set(KEYS))
    if unknown:
        raise ConfigError(
            f"found the unknown key {unknown[0]!r}.{did_you_mean(unknown[0], KEYS)}\n"
            f"Expected some of: {', '.join(KEYS)}."
        )
    return given


def _dataset(path: Path, given: Mapping[str, Any]) -> CustomDataset:
    classes, colors = _classes(given.get("classes"))
    label, in_name = _label(given.get("label"))
    values = _values(given, classes, in_name is not None)
    options = replace(_options(given), label=label or None)
    rooms = tuple(_rooms(path.parent, given.get("areas"), by_folder=in_name is not None))
    areas, test_area = sorted({room.area for room in rooms}), given.get("test_area")
    if test_area is not None and test_area not in areas:
        raise ConfigError(f"found test_area {test_area!r}, expected one of its areas: {areas}.")
    return CustomDataset(
        source=path,
        rooms=rooms,
        classes=classes,
        class_colors=colors,
        label=label,
        in_name=in_name,
        values=values,
        options=options,
        no_color_ok=bool(given.get("no_color_ok", False)),
        test_area=test_area,
    )


def _options(given: Mapping[str, Any]) -> ScanOptions:
    try:
        return ScanOptions(**{key: given[key] for key in OPTIONS if key in given})
    except TypeError as error:  # a value of another kind
        raise ConfigError(str(error)) from error


def _classes(given: Any) -> tuple[tuple[str, ...], tuple[Rgb, ...]]:
    """Return names and colours; a plain list of names gets colours spread over the hues."""
    if isinstance(given, list):
        for name in given:
            if given.count(name) > 1:  # the ones behind it would get other numbers
                raise ConfigError(f"found the class {name!r} twice, expected each once.")
        # A list or map among them is not a name; as text it is refused below.
        given = {name if isinstance(name, str) else repr(name): None for name in given}
    if not isinstance(given, dict) or not 2 <= len(given) < IGNORED:
        raise ConfigError(
            f"found classes {_shown(given)}, expected two or more names, or name: [r, g, b]."
        )
    for name in given:
        if not isinstance(name, str) or not _CLASS.fullmatch(name):
            raise ConfigError(
                f"found the class {name!r}, expected letters, digits, - and _ (at most 32)."
            )
    defaults = spread_colors(len(given))
    colors = [_color(*item, default) for item, default in zip(given.items(), defaults, strict=True)]
    return tuple(given), tuple(colors)


def _color(name: str, color: Any, default: Rgb) -> Rgb:
    if color is None:
        return default
    is_list = isinstance(color, list) and len(color) == 3
    if not is_list or not all(isinstance(part, int) and 0 <= part <= 255 for part in color):
        raise ConfigError(
            f"found the colour {_shown(color)} of {name}, expected [r, g, b], each 0 to 255."
        )
    return color[0], color[1], color[2]


def spread_colors(count: int) -> tuple[Rgb, ...]:
    """Return colours that differ in hue, and neighbours also in lightness.

    >>> spread_colors(2)
    ((242, 61, 61), (38, 153, 153))
    """
    found = []
    for number in range(count):
        value = 0.95 if number % 2 == 0 else 0.6
        red, green, blue = colorsys.hsv_to_rgb(number / count, 0.75, value)
        found.append((round(255 * red), round(255 * green), round(255 * blue)))
    return tuple(found)


def _label(given: Any) -> tuple[str, re.Pattern[str] | None]:
    """Return the property that holds the labels, or the pattern that finds them in names."""
    if isinstance(given, str) and given:
        return given, None
    if isinstance(given, dict) and list(given) == ["file"] and isinstance(given["file"], str):
        try:
            pattern = re.compile(given["file"])
        except re.error as error:
            shown = repr(given["file"])
            raise ConfigError(f"found the pattern {shown} under label: {error}.") from error
        if pattern.groups:
            return "", pattern
    raise ConfigError(
        f"found label {_shown(given)}, expected the name of a property or column, or "
        "{file: PATTERN} with a group that finds the class in a file's name."
    )


def _values(given: Mapping[str, Any], classes: tuple[str, ...], by_name: bool) -> dict[str, int]:
    """Return the class number, or IGNORED, of each label, written as text."""
    numbers = {name: number for number, name in enumerate(classes)}
    meant, ignored = given.get("values"), given.get("ignore", [])
    found = dict(numbers) if by_name else {}
    if isinstance(meant, dict):
        for value, name in meant.items():
            if not isinstance(name, str) or name not in numbers:
                raise ConfigError(
                    f"found the class {name!r} under values.{did_you_mean(str(name), classes)}\n"
                    f"Expected one of: {', '.join(classes)}."
                )
            found[str(value)] = numbers[name]
    elif meant is not None:
        raise ConfigError(f"found values {_shown(meant)}, expected label: class pairs.")
    elif not by_name:
        found = {str(number): number for number in numbers.values()}
    if not isinstance(ignored, list):
        raise ConfigError(f"found ignore {_shown(ignored)}, expected a list of labels.")
    for value in ignored:
        if str(value) in found and meant is not None:
            raise ConfigError(
                f"found the label {value} under values and under ignore, expected one."
            )
    return {**found, **{str(value): IGNORED for value in ignored}}


def _rooms(folder: Path, given: Any, *, by_folder: bool) -> Iterator[CustomRoom]:
    if not isinstance(given, dict) or not given:
        raise ConfigError(f"found areas {_shown(given)}, expected area: [patterns of files].")
    taken: dict[Path, int] = {}
    for area, patterns in sorted(given.items(), key=str):
        if area not in AREAS:
            raise ConfigError(f"found the area {area!r}, expected a number from 1 to 6.")
        patterns = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise ConfigError(f"found area {area}: {_shown(patterns)}, expected patterns.")
        files = sorted({file for pattern in patterns for file in _files(folder, area, pattern)})
        for file in files:
            if taken.setdefault(file, area) != area:
                raise ConfigError(
                    f"found {file} in the areas {taken[file]} and {area}; expected each file in "
                    "one, or the test area's rooms would be trained on."
                )
        yield from _group(folder, area, files, by_folder=by_folder)


def _files(folder: Path, area: int, pattern: str) -> list[Path]:
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ConfigError(f"found the pattern {pattern!r}, expected one below {folder}.")
    matched = without_results(filter(Path.is_file, folder.glob(pattern)), pattern)
    if not matched:
        raise ConfigError(f"area {area}: found no file like {folder / pattern}.")
    return matched


def _group(folder: Path, area: int, files: list[Path], *, by_folder: bool) -> Iterator[CustomRoom]:
    """Yield the rooms of an area: one for each file, or for each folder of object files."""
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


def read_custom_room(dataset: CustomDataset, room: CustomRoom) -> tuple[Room, RoomNotes]:
    """Read one room; DatasetError if a file lacks colour or label, or has an undescribed label."""
    parts = [_read_file(dataset, file) for file in room.files]
    pos, label = (np.concatenate([part[name] for part in parts]) for name in ("pos", "label"))
    if not len(pos):
        raise DatasetError(f"{room.files[0]}: found no point with coordinates in room {room.name}.")
    made = make_room(room.area, room.name, pos, _colors(parts), label)
    return made, RoomNotes(unlabelled=int((label == IGNORED).sum()))


def _read_file(dataset: CustomDataset, path: Path) -> dict[str, np.ndarray]:
    """Return pos (n, 3) float64 metres, label (n,) uint8 and color (n, 3), as it is in the file."""
    try:
        scan = open_scan(path, dataset.options)
        local, origin = scan.positions()
    except DatasetError:
        raise
    except DeepGCNError as error:
        raise DatasetError(str(error)) from error
    # One object may be all black, a whole room only if it has no colour.
    if scan.color is None or (dataset.in_name is None and scan.brightest() == 0):
        if not dataset.no_color_ok:
            raise DatasetError(
                f"{path}: found {scan.without_color()}; expected red, green, blue.\n"
                f"To take such scans as grey, write no_color_ok: true into {dataset.source}."
            )
        color = np.full((len(local), 3), GREY, np.uint8)
    else:
        color = np.stack([scan.rows[name] for name in scan.color], axis=1)
    if dataset.in_name is not None:
        label = np.full(len(local), _label_of_name(dataset, path), np.uint8)
    else:
        label = _labels_of_rows(dataset, path, scan.rows)
    known = ~np.isnan(local[:, 0])
    return {"pos": local[known] + origin, "color": color[known], "label": label[known]}


def _colors(parts: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Return a room's colours (n, 3) uint8.

    Their range (0–1, 0–255, 0–65535) is judged by all files together: a dark object alone would be
    misjudged.
    """
    colors = [part["color"] for part in parts]
    largest = max(float(np.nan_to_num(values, posinf=0).max(initial=0)) for values in colors)
    return np.concatenate(
        [color_bytes(values, color_scale(values.dtype, largest)) for values in colors]
    )


def _label_of_name(dataset: CustomDataset, path: Path) -> int:
    assert dataset.in_name is not None
    match = dataset.in_name.search(path.stem)
    value = str(match.group(1)) if match else ""
    if value not in dataset.values:
        raise _undescribed(dataset, path, f"{repr(value) if value else 'nothing'} in its name")
    return dataset.values[value]


def _labels_of_rows(dataset: CustomDataset, path: Path, rows: np.ndarray) -> np.ndarray:
    names = {name.lower(): name for name in rows.dtype.names or ()}
    name = names.get(dataset.label.lower())
    if name is None:
        raise DatasetError(
            f"{path}: found the columns {', '.join(names.values())[:200]}; expected the label "
            f"{dataset.label!r}.{did_you_mean(dataset.label, names.values())}\n"
            f"Correct label in {dataset.source}."
        )
    if rows.dtype[name].shape:
        raise DatasetError(
            f"{path}: found several values a point in {dataset.label!r}, expected one label.\n"
            f"Correct label in {dataset.source}."
        )
    found, inverse, counts = np.unique(rows[name], return_inverse=True, return_counts=True)
    texts = [_text(value) for value in found]
    for text, count in zip(texts, counts, strict=True):
        if text not in dataset.values:
            raise _undescribed(dataset, path, f"{text} ({count:,} points)")
    numbers = np.array([dataset.values[text] for text in texts], np.uint8)
    return numbers[inverse.reshape(-1)]


def _undescribed(dataset: CustomDataset, path: Path, label: str) -> DatasetError:
    return DatasetError(
        f"{path}: found the label {label}, expected one of: {', '.join(dataset.values)}.\n"
        f"Describe it under values or ignore in {dataset.source}."
    )


def _text(value: Any) -> str:
    """Return a label as it is written in a description: whole numbers without a point."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(float(value)) if isinstance(value, np.floating) else str(value)
