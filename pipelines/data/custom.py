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
import typing
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import AREAS
from pipelines.documents import composed, read_yaml, shown
from pipelines.errors import ConfigError, DatasetError, DeepGCNError, did_you_mean
from pipelines.progress import counted
from pipelines.scans import open_scan, without_results
from pipelines.scans.colors import GREY, fill_colors
from pipelines.scans.columns import Layout
from pipelines.scans.numpy import read_arrays
from pipelines.scans.table import Scan, ScanOptions, color_bytes, color_scale
from pipelines.serialization import fits

from .names import labels_in, name_pattern
from .s3dis.raw import RawFile, RoomFiles
from .s3dis.rooms import RoomNotes
from .store import IGNORED, Room, sort_points

OPTIONS = ("up", "scale", "columns")  # fields of ScanOptions
KEYS = ("classes", "areas", "label", "values", "ignore", "test_area", *OPTIONS, "no_color_ok")
LONGEST_PATTERN = 4096  # characters, as of a path
COORDINATES = "coord.npy"  # stands for a room that is a folder of arrays
_CLASS = re.compile(r"[^\W\d_][\w-]{0,31}")
Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class CustomDataset:
    """A described data set."""

    source: Path  # the YAML file
    rooms: tuple[RoomFiles, ...]  # by area and name
    classes: tuple[str, ...]  # in the order of the labels
    class_colors: tuple[Rgb, ...]
    in_name: re.Pattern[str] | None  # finds a label in a file's name; None: in a column
    found: Mapping[str, str]  # what it finds in each file's name, which is `composed`
    values: Mapping[str, int]  # label → class number or IGNORED
    options: ScanOptions  # the scans' vertical axis, unit and columns, also that of the labels
    no_color_ok: bool  # scans without colour are taken as grey
    test_area: int | None
    frame: str = "robust"  # the rule by which a room's floor and extent are found
    root: str = ""  # this and the next two as in `RawDataset`
    rotated: bool = False
    published: int = 0
    note: str = ""  # what the user should know before it is read

    @property
    def description(self) -> str:
        """Where what is missing has to be described."""
        return str(self.source) if self.source.is_file() else "a description of them (--dataset)"

    @property
    def digest(self) -> str:
        """The digest of everything that decides how a room is read."""
        label = self.options.label or ""
        reading = (label, self.in_name, sorted(self.values.items()), self.options)
        more = self.no_color_ok, self.classes, self.frame, "colours that lack are filled in"
        text = repr((*reading, *more))
        if self.in_name is not None:
            text += repr(self.in_name.pattern)[200:]  # which Python leaves out of a long pattern
            text += "grey apart from colours" if self.no_color_ok else ""
        return hashlib.sha256(text.encode()).hexdigest()


def read_description(path: Path, frame: str = "robust") -> CustomDataset:
    """Read a YAML description and find the rooms, whose frames are of the rule `frame`."""
    given = read_yaml(path, "--dataset")
    try:
        return replace(_dataset(path, _checked(given)), frame=frame)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _checked(given: Any) -> dict[str, Any]:
    """Return a description with known keys."""
    if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
        raise ConfigError("found no keys, expected at least classes, areas and label.")
    for key in sorted(set(given) - set(KEYS)):
        raise ConfigError(
            f"found the unknown key {shown(key)}.{did_you_mean(key, KEYS)}\n"
            f"Expected some of: {', '.join(KEYS)}."
        )
    hints = typing.get_type_hints(ScanOptions)
    for key in (key for key in OPTIONS if key in given):
        wanted = {str: "a text", float: "a number"}.get(hints[key], "a text")
        _check(fits(hints[key], given[key]), f"{key} {shown(given[key])}", wanted)
    return given


def _check(is_right: Any, found: str, expected: str) -> None:
    if not is_right:
        raise ConfigError(f"found {found}, expected {expected}.")


def _dataset(path: Path, given: Mapping[str, Any]) -> CustomDataset:
    classes = _classes(given.get("classes"))
    label, in_name = _label(given.get("label"))
    values = _values(given, tuple(classes), in_name is not None)
    options = ScanOptions(label=label, **{key: given[key] for key in OPTIONS if key in given})
    rooms = tuple(_rooms(path.parent, given.get("areas"), by_folder=in_name is not None))
    areas, test_area = sorted({room.area for room in rooms}), given.get("test_area")
    no_color_ok = given.get("no_color_ok", False)
    _check(isinstance(no_color_ok, bool), f"no_color_ok {shown(no_color_ok)}", "true or false")
    _check(
        not isinstance(test_area, bool) and test_area in (None, *areas),
        f"test_area {shown(test_area)}",
        f"one of its areas: {areas}",
    )
    return CustomDataset(
        source=path,
        rooms=rooms,
        classes=tuple(classes),
        class_colors=tuple(classes.values()),
        in_name=in_name,
        found=labels_in(_stems(rooms), in_name) if in_name else {},
        values=values,
        options=options,
        no_color_ok=no_color_ok,
        test_area=test_area,
    )


def _stems(rooms: Iterable[RoomFiles]) -> list[str]:
    """Return the names of all files without suffixes, each once."""
    names = (composed(Path(file.name).stem) for room in rooms for file in room.files)
    return list(dict.fromkeys(names))


def _classes(given: Any) -> dict[str, Rgb]:
    """Return names and colours; a plain list of names gets colours spread over the hues."""
    several = isinstance(given, (dict, list)) and 2 <= len(given) < IGNORED
    _check(several, f"classes {shown(given)}", "two or more names, or name: [r, g, b]")
    if isinstance(given, list):
        for name in given:  # a repeated name would shift the numbers of those after it
            _check(given.count(name) == 1, f"the class {shown(name)} twice", "each once")
    for name in given:  # YAML takes yes, no, on, off, null and numbers for other than texts
        quoted = "a text: yes, no, null and numbers need quotes"
        _check(isinstance(name, str), f"the class {shown(name)}", quoted)
        expected = "a letter, then letters, digits, - and _, at most 32 in all"
        _check(_CLASS.fullmatch(name), f"the class {shown(name)}", expected)
    if isinstance(given, list):
        given = dict.fromkeys(given)
    colors = dict(zip(given, spread_colors(len(given)), strict=True))
    for name, color in given.items():
        if color is not None:
            three = isinstance(color, list) and len(color) == 3
            is_rgb = three and all(isinstance(part, int) and 0 <= part <= 255 for part in color)
            _check(is_rgb, f"the colour {shown(color)} of {name}", "[r, g, b], each 0 to 255")
            colors[name] = color[0], color[1], color[2]
    return colors


def spread_colors(count: int) -> tuple[Rgb, ...]:
    """Return colours that differ in hue, and neighbours also in lightness.

    >>> spread_colors(2)
    ((242, 61, 61), (38, 153, 153))
    """
    found = []
    for number in range(count):
        color = colorsys.hsv_to_rgb(number / count, 0.75, 0.6 if number % 2 else 0.95)
        red, green, blue = (round(255 * value) for value in color)
        found.append((red, green, blue))
    return tuple(found)


def _label(given: Any) -> tuple[str | None, re.Pattern[str] | None]:
    """Return the property that holds the labels, or the pattern that finds them in names."""
    if isinstance(given, str) and given:
        return given, None
    if isinstance(given, dict) and list(given) == ["file"] and isinstance(given["file"], str):
        return None, name_pattern(given["file"])
    raise ConfigError(
        f"found label {shown(given)}, expected the name of a property or column, or "
        "{file: PATTERN}."
    )


def _values(given: Mapping[str, Any], classes: tuple[str, ...], by_name: bool) -> dict[str, int]:
    """Return the class number, or IGNORED, of each label, written as text."""
    meant, ignored = given.get("values"), given.get("ignore", [])
    _check(meant is None or isinstance(meant, dict), f"values {shown(meant)}", "label: class pairs")
    _check(isinstance(ignored, list), f"ignore {shown(ignored)}", "a list of labels")
    found = {}
    if by_name or meant is None:
        found = {name if by_name else str(number): number for number, name in enumerate(classes)}
    for value, name in (meant or {}).items():
        if name not in classes:
            raise ConfigError(
                f"found the class {shown(name)} under values.{did_you_mean(str(name), classes)}\n"
                f"Expected one of: {', '.join(classes)}."
            )
        found[_text(value)] = classes.index(name)
    for value in ignored:
        once = meant is None or _text(value) not in found
        _check(once, f"the label {shown(value)} under values and under ignore", "one")
    return {**found, **{_text(value): IGNORED for value in ignored}}


def _rooms(folder: Path, given: Any, *, by_folder: bool) -> Iterator[RoomFiles]:
    is_map = isinstance(given, dict) and given
    _check(is_map, f"areas {shown(given)}", "area: [patterns of files]")
    taken: dict[Path, int] = {}
    for area, patterns in sorted(given.items(), key=str):
        _check(area in AREAS, f"the area {shown(area)}", "a number from 1 to 6")
        patterns = [patterns] if isinstance(patterns, str) else patterns
        is_list = isinstance(patterns, list) and all(isinstance(p, str) for p in patterns)
        _check(is_list, f"area {area}: {shown(patterns)}", "patterns")
        files = sorted({file for pattern in patterns for file in _files(folder, area, pattern)})
        for file in files:
            if (other := taken.setdefault(file.resolve(), area)) != area:
                raise ConfigError(
                    f"found {file} in the areas {other} and {area}; expected each file in "
                    "one, or the test area's rooms would be trained on."
                )
        yield from _group(folder, area, files, by_folder=by_folder)


def _files(folder: Path, area: int, pattern: str) -> list[Path]:
    below = not Path(pattern).is_absolute() and ".." not in Path(pattern).parts
    _check(
        below and len(pattern) <= LONGEST_PATTERN,
        f"the pattern {shown(pattern)}",
        f"one without .. of files in the description's folder, {folder.resolve()}, or below it",
    )
    # A pattern with letters composed finds names with them decomposed, too.
    try:
        patterns = dict.fromkeys((pattern, unicodedata.normalize("NFD", pattern)))
        found = _matching(folder, patterns)
    except (ValueError, NotImplementedError, OSError, re.error) as error:
        raise ConfigError(f"area {area}: found the pattern {shown(pattern)}: {error}.") from error
    matched = without_results(found, pattern)
    if not matched:
        raise ConfigError(f"area {area}: found no file like {folder / pattern}.")
    return matched


def _matching(folder: Path, patterns: Iterable[str]) -> list[Path]:
    """Return the files like some patterns, in order; hidden ones only if a pattern names such."""
    found: set[Path] = set()
    for pattern in patterns:
        hidden = "." in {part[:1] for part in Path(pattern).parts}
        for path in folder.glob(pattern):
            shown = hidden or not any(p.startswith(".") for p in path.relative_to(folder).parts)
            if shown and path.is_file():
                found.add(path)
    return sorted(found)


def _group(folder: Path, area: int, files: list[Path], *, by_folder: bool) -> Iterator[RoomFiles]:
    """Yield the rooms of an area: one for each file, or for each folder of object files."""
    rooms: dict[str, list[Path]] = {}
    named_by: dict[str, object] = {}
    for file in files:
        parts = file.relative_to(folder).with_suffix("").parts
        if file.name == COORDINATES:
            parts = parts[:-1]
        if by_folder:
            parts = tuple(part for part in parts[:-1] if part != "Annotations")
        name = re.sub(r"[^\w.-]+", "_", "_".join(parts)) or "room"
        members, room = rooms.setdefault(name, []), parts if by_folder else file
        if named_by.setdefault(name, room) != room:
            two = "two folders" if by_folder else "two files"
            raise ConfigError(f"{members[0]}, {file}: found {two} for a room {name}; rename one.")
        members.append(file)
    for name, members in sorted(rooms.items()):
        yield RoomFiles(area, name, tuple(map(scan_file, members)))


def scan_file(path: Path) -> RawFile:
    """Return the record of a scan's file; of a folder of arrays, that of all of them."""
    arrays = path.name == COORDINATES
    files = [
        RawFile.of(p, p.name) for p in (sorted(path.parent.glob("*.npy")) if arrays else [path])
    ]
    return RawFile(str(path), sum(f.size for f in files), " ".join(f.stamp for f in files))


def read_custom_room(dataset: CustomDataset, room: RoomFiles) -> tuple[Room, RoomNotes]:
    """Read one room; DatasetError if a file lacks colour or label, or has an undescribed label."""
    parts = [_read_file(dataset, Path(file.name)) for file in room.files]
    positions, colors, masks, labels = zip(*parts, strict=True)
    pos, missing, label = map(np.concatenate, (positions, masks, labels))
    placed = ~np.isnan(pos[:, 0])
    if not placed.any():
        first = room.files[0].name
        raise DatasetError(f"{first}: found no point with coordinates in room {room.name}.")
    color = np.concatenate(_bytes(colors, masks))
    pos, color, missing, label = (each[placed] for each in (pos, color, missing, label))
    if missing.any():
        fill_colors(pos, color, missing)
    order, low, local, grid = sort_points(f"Area_{room.area}/{room.name}", pos, dataset.frame)
    made = Room(room.area, room.name, low, local, color[order], label[order], grid)
    notes = RoomNotes(
        unlabelled=int((label == IGNORED).sum()),
        unplaced=int((~placed).sum()),
        uncolored=int(missing.sum()),
        uncolored_stray=int(missing[order[made.inside :]].sum()),
        black=int((color.max(axis=1) == 0).sum()),
        stray=len(pos) - made.inside,
    )
    return made, notes


def _bytes(colors: Iterable[np.ndarray | None], masks: Iterable[np.ndarray]) -> list[np.ndarray]:
    """Return the colours of a room's files (n, 3) as uint8, grey for a file without.

    Their range (0–1, 0–255, 0–65535) follows from all files together: that of a dark object alone
    would be misjudged.
    """
    both = list(zip(colors, masks, strict=True))
    known = (values[~gone] for values, gone in both if values is not None)
    largest = max((float(values.max(initial=0)) for values in known), default=0.0)
    return [
        np.full((len(gone), 3), GREY, np.uint8)
        if values is None
        else color_bytes(values, color_scale(values.dtype, largest))
        for values, gone in both
    ]


def _read_file(
    dataset: CustomDataset, path: Path
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray]:
    """Return the points of a file.

    They are pos (n, 3) float64 metres, NaN if unknown, color (n, 3) as it is in the file, None if
    it has none, which of its points have none (n,) bool, and label (n,) uint8.
    """
    try:
        arrays = path.name == COORDINATES
        scan = open_scan(path.parent if arrays else path, dataset.options, folder=read_arrays)
        local, frame = scan.positions(dataset.frame)
    except DatasetError:
        raise
    except DeepGCNError as error:
        raise DatasetError(str(error)) from error
    # One object may be all black, a whole room only if it has no colour.
    if scan.color is None or (dataset.in_name is None and scan.brightest() == 0):
        if not dataset.no_color_ok:
            raise DatasetError(
                f"{path}: found {scan.without_color()}; expected red, green, blue.\n"
                f"To take such scans as grey, write no_color_ok: true into {dataset.description}."
            )
        color, missing = None, np.zeros(len(local), bool)
    else:
        missing = scan.uncolored()
        color = np.stack([scan.rows[name] for name in scan.color], axis=1)
    return local + frame.origin, color, missing, _labels(dataset, path, scan)


def _labels(dataset: CustomDataset, path: Path, scan: Scan) -> np.ndarray:
    """Return the labels (n,) uint8 of a file's points."""
    if dataset.in_name is not None:
        texts = [dataset.found[composed(path.stem)]]
        shown = [f"{repr(texts[0]) if texts[0] else 'nothing'} in its name"]
        inverse = np.zeros(len(scan), np.int64)
    else:
        column = _label_column(dataset, path, scan)
        found, inverse, counts = np.unique(column, return_inverse=True, return_counts=True)
        texts = [_text(value) for value in found]
        shown = [
            f"{text} ({counted(count, 'point')})" for text, count in zip(texts, counts, strict=True)
        ]
    for text, what in zip(texts, shown, strict=True):
        if text not in dataset.values:
            raise DatasetError(
                f"{path}: found the label {what}, expected one of: {', '.join(dataset.values)}.\n"
                f"Describe it under values or ignore in {dataset.description}."
            )
    numbers = np.array([dataset.values[text] for text in texts], np.uint8)
    return numbers[inverse.reshape(-1)]


def _label_column(dataset: CustomDataset, path: Path, scan: Scan) -> np.ndarray:
    rows, label = scan.rows, str(dataset.options.label)
    names = rows.dtype.names or ()
    name = {name.lower(): name for name in names}.get(label.lower())
    if name is None:
        names = scan.source.names if isinstance(scan.source, Layout) else names
        problem = (
            f"found the columns {', '.join(names)[:200]}; expected the label "
            f"{label!r}.{did_you_mean(label, names)}"
        )
    elif rows.dtype[name].shape:
        problem = f"found several values a point in {label!r}, expected one label."
    else:
        return rows[name]
    raise DatasetError(f"{path}: {problem}\nCorrect label in {dataset.description}.")


def _text(value: Any) -> str:
    """Return a label as it is written in a description: whole numbers without a point."""
    if isinstance(value, bytes):
        try:
            return composed(value.decode())
        except UnicodeDecodeError:
            return value.decode("latin-1")
    if isinstance(value, (float, np.floating)):
        return str(int(value)) if float(value).is_integer() else str(float(value))
    return composed(str(value))
