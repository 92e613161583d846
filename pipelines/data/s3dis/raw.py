"""Raw S3DIS: a folder or a zip with Area_k/<room>/Annotations/<class>_<n>.txt.

`find_raw` lists the rooms of a data set, wherever in the given folder or archive it lies; nothing
is unpacked. `opened` opens its files.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from pipelines.errors import DatasetError, command
from pipelines.files import ZIP_ERRORS, check_apart, is_zip

from . import CLASS_COLORS, CLASSES, PUBLISHED_ROOMS

inflate: Any = zlib
with suppress(ImportError):  # no wheel for this platform
    # ISA-L inflates twice as fast: half of the time of preparing S3DIS would go into zlib.
    from isal import isal_zlib as inflate

LARGEST_FILE = 1 << 33  # bytes of one text file; the largest of S3DIS has about 400 MB
LARGEST_RATIO = 100  # of a text to what it is packed in; coordinates and colours pack to a quarter
SMALL = 1 << 20  # bytes of a text that may pack better
LARGEST_TABLE = 1 << 20  # bytes of a table of angles; those of S3DIS have 2 kB
HEADER_LINES = 2  # of such a table
_ROOM_FILE = re.compile(r"(?P<root>(?:.*/)?)Area_(?P<area>[1-6])/(?P<room>[^/]+)/(?P<rest>.+\.txt)")
_ANGLES = re.compile(r"(?P<root>(?:.*/)?)Area_(?P<area>[1-6])/Area_[1-6]_alignmentAngle\.txt")
# "aligned", but not "non-aligned" or "unaligned".
_ALIGNED = re.compile(r"(?<!non)(?<!non[-_ ])(?<!not[-_ ])(?<!un)aligned", re.IGNORECASE)
_COPY = re.compile(r"(.*) \(\d+\)\.txt")
_AREA = re.compile(r"Area_[1-6]")
PREPARED = (
    "indoor3d_sem_seg_hdf5_data, or rooms as Area_1_office_1.npy or Area_1/office_1/coord.npy"
)
_SKIPPED = {"__MACOSX", "Icon"}
# What reading a damaged folder or zip can raise.
READ_ERRORS: tuple[type[Exception], ...] = (OSError, inflate.error, *ZIP_ERRORS)


@dataclass(frozen=True)
class RawFile:
    """One text file: its path within the source, its size in bytes, and its time or checksum."""

    name: str
    size: int
    stamp: str

    @classmethod
    def of(cls, path: Path, name: str) -> RawFile:
        """Return the record of a file on the disk."""
        stat = path.stat()
        return cls(name, stat.st_size, str(stat.st_mtime_ns))


@dataclass(frozen=True)
class RoomFiles:
    """One room: the files with its labelled points, of S3DIS its objects in natural order."""

    area: int
    name: str
    files: tuple[RawFile, ...]
    whole: RawFile | None = None  # the file of the whole room without labels
    skipped: tuple[str, ...] = ()  # copies of objects
    angle: float | None = None  # degrees about z that align a room of S3DIS with the axes

    def fingerprint(self) -> str:
        """Return a digest that changes when any of the room's files does."""
        files = [*self.files, *([self.whole] if self.whole else [])]
        text = "".join(f"{file.name}\t{file.size}\t{file.stamp}\n" for file in files)
        turn = "" if self.angle is None else self.angle
        return hashlib.sha256(f"{text}{turn}".encode(errors="backslashreplace")).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of text."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class RawDataset:
    """A data set's rooms and where they are."""

    source: Path  # a folder or a zip
    root: str  # the data set's folder within it, for messages
    rooms: tuple[RoomFiles, ...]  # by area and natural order of names
    rotated: bool  # rooms are rotated by their alignment angles while reading
    unturned: tuple[str, ...] = ()  # rooms without such an angle, where others have one
    classes: tuple[str, ...] = CLASSES
    class_colors: tuple[tuple[int, int, int], ...] = CLASS_COLORS
    published: int = sum(PUBLISHED_ROOMS.values())  # rooms of the whole of S3DIS
    test_area: int | None = None  # as of `CustomDataset`, like `digest`
    unknown: str = "clutter"  # what objects of unknown classes become: or "ignore", "error"
    frame: str = "published"  # the rule by which a room's floor and extent are found

    @property
    def digest(self) -> str:
        """What decides how a room is read, unless it is the default."""
        return "" if self.unknown == "clutter" else self.unknown


class NoRawData(DatasetError):
    """There is no raw S3DIS in a place."""


@contextmanager
def opened(source: Path) -> Iterator[Callable[[str], BinaryIO]]:
    """Yield a function that opens the files of a folder or zip; a zip is opened once for all."""
    if source.is_dir():
        yield lambda name: (source / name).open("rb")
        return
    with open_zip(source) as archive:
        yield lambda name: open_entry(archive, name)


def open_entry(archive: zipfile.ZipFile, name: str) -> BinaryIO:
    """Open a zip's entry, inflated by ISA-L; `zipfile` checks size and checksum as always."""
    stream = archive.open(name)
    if archive.getinfo(name).compress_type == zipfile.ZIP_DEFLATED:
        # Private, but harmless in a Python that calls it otherwise: zlib then inflates.
        stream._decompressor = inflate.decompressobj(-15)  # type: ignore[attr-defined]
    return cast("BinaryIO", stream)


def open_zip(path: Path) -> zipfile.ZipFile:
    """Open a zip whose entries share no bytes; DatasetError: it is damaged or of a later kind."""
    try:
        archive = zipfile.ZipFile(path)
        check_apart(archive)
        return archive
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        size = path.stat().st_size if path.exists() else 0
        raise DatasetError(
            f"{path}: found {size:,} bytes that are no complete zip ({error}).\n"
            "A download that was cut off looks like this: download the archive again."
        ) from error


def find_raw(raw: Path | None, *, ignore: Iterable[Path] = ()) -> RawDataset:
    """Find the data set in a folder or zip, or below the current folder if `raw` is None.

    A folder above the data set or inside it (an area, a room) leads to it too. `ignore` are folders
    below the current one that are not looked into.

    Raises:
        DatasetError: none or more than one was found.
    """
    if raw is not None:
        if not raw.exists():
            raise DatasetError(
                f"{raw}: found nothing there, expected raw S3DIS (a folder or a zip).\n"
                "Give its path: deepgcn prepare PATH"
            )
        found = _datasets(raw)
        if not found and raw.is_dir():
            around = [raw.resolve(), *raw.resolve().parents][:3]
            areas = [folder for folder in around if _AREA.fullmatch(folder.name)]
            found = _folder_datasets(areas[0].parent, depth=0) if areas else []
        return _only(found, raw)
    here, skipped = Path(), {path.resolve() for path in ignore}
    found, errors = _folder_datasets(here, depth=0), []
    for path in sorted(here.iterdir()):
        folder = path.is_dir() and not _AREA.fullmatch(path.name) and not _ignored(path.name)
        if folder and _readable(path) and path.resolve() not in skipped:
            found += _datasets(path)
        elif path.suffix.lower() == ".zip" and path.resolve() not in skipped:
            try:
                found += _datasets(path)
            except DatasetError as error:  # it may be about anything else
                errors.append(error)
    if errors and not found:
        raise NoRawData(str(errors[0])) from errors[0]
    return _only(found, here.resolve())


def _only(found: list[RawDataset], where: Path) -> RawDataset:
    if len(found) == 1:
        return found[0]
    if not found:
        raise NoRawData(
            f"{where}: found no raw S3DIS, expected Area_<1-6>/<room>/Annotations/<class>_<n>.txt\n"
            f"in a folder or a zip, {PREPARED}. Give its path: deepgcn prepare PATH\n"
            "Without the data, make a synthetic building: deepgcn synth raw"
        )
    names = ", ".join(str(dataset.source / dataset.root) for dataset in found[:4])
    how = command("prepare", found[0].source / found[0].root)
    raise DatasetError(
        f"{where}: found {len(found)} data sets ({names}), expected one.\n"
        f"Name the one you want: {how}"
    )


def _datasets(path: Path) -> list[RawDataset]:
    """Return the data sets in a zip, or in a folder or up to two levels below it."""
    if path.is_dir():
        return _folder_datasets(path, depth=2)
    if path.suffix.lower() != ".zip" and not is_zip(path):
        raise DatasetError(f"{path}: found a file that is no zip, expected a folder or a zip.")
    with open_zip(path) as archive:
        entries = archive.infolist()
    files: dict[str, RawFile] = {}
    for entry in entries:
        file = RawFile(entry.filename, entry.file_size, f"{entry.CRC:08x}")
        _check_entry(path, file, entry.compress_size)
        if files.setdefault(file.name, file) != file and file.name.endswith(".txt"):
            raise DatasetError(
                f"{path}: found the entry {file.name} twice with different content, expected each "
                "once: nothing says which of them is right.\nPack or download the archive again."
            )
    return _group(path, files.values())


def _check_entry(path: Path, file: RawFile, packed: int) -> None:
    """Refuse unsafe paths, and files of rooms that are larger than any of S3DIS."""
    first, *others = file.name.split("/")
    if ".." in (first, *others) or "." in others or file.name.startswith(("/", "\\")):
        raise DatasetError(
            f"{path}: found the unsafe path {file.name!r} in the archive, expected relative paths "
            "without '.' and '..'.\nPack or download the archive again."
        )
    if not _ROOM_FILE.fullmatch(file.name) and not _ANGLES.fullmatch(file.name):
        return  # it is not read
    if file.size > LARGEST_FILE:
        raise DatasetError(
            f"{path}: {file.name} declares {file.size:,} bytes, "
            f"expected at most {LARGEST_FILE:,} for one object."
        )
    if file.name.endswith(".txt"):
        check_ratio(path, file, packed)


def check_ratio(path: Path, file: RawFile, packed: int) -> None:
    """Refuse a file of points that is far larger than the bytes it is packed in."""
    if file.size > max(SMALL, LARGEST_RATIO * packed):
        raise DatasetError(
            f"{path}: {file.name} declares {file.size:,} bytes, packed in {packed:,}, expected at "
            f"most {LARGEST_RATIO} times as many: points do not pack so well.\n"
            "Pack or download the archive again."
        )


def _folder_datasets(root: Path, *, depth: int) -> list[RawDataset]:
    """Return the data sets whose areas lie in `root` or up to `depth` folders below."""
    children = [child for child in sorted(root.iterdir()) if child.is_dir()]
    areas = [child for child in children if _AREA.fullmatch(child.name)]
    if areas:
        files = (path for area in areas for path in _files_below(area))
        names = ((path, path.relative_to(root).as_posix()) for path in files)
        return _group(root, [RawFile.of(path, name) for path, name in names])
    if depth == 0:
        return []
    below = [child for child in children if not _ignored(child.name) and _readable(child)]
    return [found for child in below for found in _folder_datasets(child, depth=depth - 1)]


def _readable(folder: Path) -> bool:
    """Return whether one may look into a folder, unlike lost+found on a disk of data."""
    return os.access(folder, os.R_OK | os.X_OK)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, in order; links to folders are followed, not round."""

    def fail(error: OSError) -> None:
        raise error

    for where, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        above = {parent.resolve() for parent in (Path(where), *Path(where).parents)}
        folders[:] = sorted(
            name
            for name in folders
            if not (link := Path(where, name)).is_symlink() or link.resolve() not in above
        )
        yield from (path for name in sorted(names) if (path := Path(where, name)).is_file())


def _group(source: Path, files: Iterable[RawFile]) -> list[RawDataset]:
    """Sort files into data sets (by the folder above Area_k), areas and rooms."""
    roots: dict[str, dict[tuple[int, str], list[tuple[str, RawFile]]]] = {}
    angles: dict[str, dict[tuple[int, str], float]] = {}
    for file in files:
        if _ignored(file.name):
            continue
        if table := _ANGLES.fullmatch(file.name):
            found = _read_angles(source, file.name, int(table["area"]))
            angles.setdefault(table["root"], {}).update(found)
        elif match := _ROOM_FILE.fullmatch(file.name):
            _check_name(source, match["room"])
            rooms = roots.setdefault(match["root"], {})
            rooms.setdefault((int(match["area"]), match["room"]), []).append((match["rest"], file))
    datasets = []
    for root, rooms in sorted(roots.items()):
        # Resolved, because from within the folder its path is "." alone.
        name = f"{source.resolve().name}/{root}"
        rotated = root in angles and not _ALIGNED.search(name)
        turn = angles.get(root, {}) if rotated else {}
        listed = [_room(*key, entries, turn.get(key, 0.0)) for key, entries in rooms.items()]
        listed = [room for room in listed if room.files]
        if listed:
            listed.sort(key=lambda room: (room.area, natural(room.name)))
            lacking = (room for room in listed if rotated and (room.area, room.name) not in turn)
            unturned = tuple(f"Area_{room.area}/{room.name}" for room in lacking)
            datasets.append(RawDataset(source, root, tuple(listed), rotated, unturned))
    return datasets


def _check_name(source: Path, room: str) -> None:
    """Refuse a room whose folder's name is in bytes that are no UTF-8: HDF5 and JSON hold texts."""
    try:
        room.encode()
    except UnicodeEncodeError:
        raise DatasetError(
            f"{source}: found the room {room!r}, whose name is no UTF-8.\nRename its folder."
        ) from None


def _ignored(name: str) -> bool:
    return any(part.startswith(".") or part in _SKIPPED for part in PurePosixPath(name).parts)


def _room(area: int, name: str, entries: list[tuple[str, RawFile]], angle: float) -> RoomFiles:
    annotations, wholes, skipped = [], [], []
    names = {rest for rest, _ in entries}
    for rest, file in entries:
        folder = rest.rpartition("/")[0]
        if folder == "Annotations" and is_copy(rest, names):
            skipped.append(file.name)
        elif folder == "Annotations":
            annotations.append(file)
        elif not folder:
            wholes.append(file)
    annotations.sort(key=lambda file: natural(file.name))
    # The file is named like its room, except Area_6/copyRoom_1/copy_Room_1.txt.
    wholes.sort(key=lambda file: (PurePosixPath(file.name).stem != name, file.name))
    whole = wholes[0] if wholes else None
    return RoomFiles(area, name, tuple(annotations), whole, tuple(sorted(skipped)), angle)


def is_copy(name: str, names: Collection[str]) -> bool:
    """Return whether a file is the copy of one beside it, as `chair_1 (1).txt` of `chair_1.txt`."""
    copy = _COPY.fullmatch(name)
    return copy is not None and f"{copy[1]}.txt" in names


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts chair_2 before chair_10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read_angles(source: Path, name: str, area: int) -> dict[tuple[int, str], float]:
    """Read a table of `room angle` lines (degrees) after two header lines.

    Any other line is refused: its room would silently stay unrotated. Rooms without a line do, but
    are named (`RawDataset.unturned`).
    """
    try:
        with opened(source) as open_file, open_file(name) as stream:
            lines = stream.read(LARGEST_TABLE).decode("latin-1").splitlines()
    except READ_ERRORS as error:
        raise DatasetError(
            f"{source}: {name} cannot be read: {error}.\n"
            "Expected a readable text file; copy or download the raw data again."
        ) from error
    angles = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            room, angle = words[0], float(words[1])
        except (ValueError, IndexError):
            room, angle = "", math.nan
        if len(words) == 2 and math.isfinite(angle):
            angles[(area, room)] = angle
        elif number > HEADER_LINES:
            raise DatasetError(
                f"{source}: {name}:{number}: found {line[:60]!r}, expected a room and its angle in "
                "degrees.\nCorrect the line in a copy of the raw data."
            )
    return angles
