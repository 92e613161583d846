"""The prepared data: one HDF5 file per area and a manifest, read and written only here.

    data/manifest.json   classes, test area, rooms with their counts and checksums, repairs
    data/area_<k>.h5     /rooms/<room>/{pos float32 (N, 3), color uint8 (N, 3), label uint8 (N,),
                         offsets int64 (nx·ny + 1,)}, attributes origin float64 (3,), nx, ny

`pos` is relative to `origin`, the low corner of the room's frame, so float32 keeps a micrometre.
Points are sorted by 0.5 m cells (`blocks.Grid`); the order within a cell is that of the raw files.
Stray points, which lie outside of the frame (`scans.frame`), come last, in no cell.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

import h5py
import numpy as np

from pipelines.config import AREAS
from pipelines.errors import DatasetError, command
from pipelines.files import atomic_json
from pipelines.scans.frame import check_ground, locate
from pipelines.serialization import fits

from .blocks import Grid, grid_sort
from .hdf5 import atomic_hdf5, open_hdf5, own_number, own_values

SCHEMA = "deepgcn-store"
SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
IGNORED = 255  # label of a point without class: part of the input, but not of loss and scores
UNREADABLE = (OSError, KeyError, ValueError, RuntimeError)  # what h5py raises for a damaged file


@dataclass(frozen=True)
class RoomInfo:
    """The manifest's record of a room."""

    area: int  # 1 to 6
    name: str  # within the area, such as office_1
    points: int
    extent: tuple[float, float, float]  # along x, y, z, m
    checksum: str  # sha256 over its arrays
    counts: tuple[int, ...]  # points per class, in the store's order

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> RoomInfo:
        """Read the record of a room from JSON, ignoring all other keys; TypeError: a wrong type."""
        values = {name: entry[name] for name in _ROOM_TYPES}
        for name, kind in _ROOM_TYPES.items():
            if not fits(kind, values[name]):
                raise TypeError(f"found {name} {values[name]!r:.60} of a room")
        return cls(**{**values, "extent": tuple(entry["extent"]), "counts": tuple(entry["counts"])})


_ROOM_TYPES = get_type_hints(RoomInfo)


@dataclass(frozen=True)
class Room:
    """The points of a room, sorted by cell, and behind them its stray points."""

    area: int
    name: str
    origin: np.ndarray  # (3,) float64, the frame's low corner in raw coordinates, m
    pos: np.ndarray  # (N, 3) float32, m from `origin`
    color: np.ndarray  # (N, 3) uint8
    label: np.ndarray  # (N,) uint8, indices into the store's classes, or IGNORED
    grid: Grid

    @property
    def inside(self) -> int:
        """The number of points in the frame; those behind are stray."""
        return int(self.grid.offsets[-1])

    @property
    def stray(self) -> np.ndarray:
        """Which points lie outside of the frame, (N,) bool."""
        return np.arange(len(self.pos)) >= self.inside

    @cached_property
    def extent(self) -> np.ndarray:
        """The maximum of `pos` in the frame, (3,) float32, m."""
        pos = self.pos[: self.inside]  # which NumPy reduces much faster column by column
        return np.array([axis.max() if len(axis) else 0 for axis in pos.T], pos.dtype)

    def checksum(self) -> str:
        """Return the sha256 over origin, points and cells."""
        digest = hashlib.sha256()
        for values in (self.origin, self.pos, self.color, self.label, self.grid.offsets):
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()

    def info(self, num_classes: int) -> RoomInfo:
        counts = np.bincount(self.label, minlength=IGNORED + 1)[:num_classes]
        x, y, z = (round(float(value), 6) for value in self.extent)
        checksum, sizes = self.checksum(), tuple(int(count) for count in counts)
        return RoomInfo(self.area, self.name, len(self.pos), (x, y, z), checksum, sizes)


def make_room(
    area: int,
    name: str,
    pos: np.ndarray,
    color: np.ndarray,
    label: np.ndarray,
    frame: str = "published",
    *,
    origin: np.ndarray | None = None,
) -> Room:
    """Sort raw points into a room, in its frame of a rule; refuse those that lie too far apart.

    `pos` (N, 3) is float64, metres, in the raw frame, `color` (N, 3) and `label` (N,) uint8; N ≥ 1.
    `origin` (3,) is the room's minimum corner, if it is known better than by its points.
    """
    order, low, local, grid = sort_points(f"Area_{area}/{name}", pos, frame, origin=origin)
    return Room(area, name, low, local, color[order], label[order], grid)


def sort_points(
    where: str, pos: np.ndarray, frame: str, *, origin: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Grid]:
    """Return a room's order of points, its origin, its points in that order and its cells.

    `where` names the room in messages; all else is as for `make_room`.
    """
    local, found = locate(len(pos), pos.__getitem__, frame)
    if origin is not None:
        found = replace(found, low=origin)
        local = found.local(pos)
    advice = "Correct its unit, or remove points that lie far away."
    check_ground(where, len(pos), pos.__getitem__, found, advice)
    # Rounding may place a known origin above a point by a little, which does not make it stray.
    stray = found.stray(local) & (origin is None)
    inside, behind = np.flatnonzero(~stray), np.flatnonzero(stray)
    order, grid = grid_sort(local[inside])
    order = np.concatenate([inside[order], behind])
    return order, found.low, local[order], grid


def write_rooms(path: Path, rooms: Iterable[Room]) -> None:
    """Write rooms to an HDF5 file, whole or not at all; one room at a time is in memory."""
    with atomic_hdf5(path, "latest") as file:
        file.attrs["schema"], file.attrs["version"] = SCHEMA, SCHEMA_VERSION
        for room in rooms:
            group = file.create_group(f"rooms/{room.name}")
            group.attrs["area"], group.attrs["origin"] = room.area, room.origin
            group.attrs["nx"], group.attrs["ny"] = room.grid.nx, room.grid.ny
            for name in ("pos", "color", "label"):
                group.create_dataset(name, data=getattr(room, name))
            group.create_dataset("offsets", data=room.grid.offsets)


def read_rooms(path: Path, names: Iterable[str] | None = None) -> Iterable[Room]:
    """Yield the rooms of an HDF5 file, one at a time; all of them if `names` is None.

    Raises:
        DatasetError: the file is missing, truncated or of another schema version.
    """
    try:
        with open_hdf5(path) as file:
            _check_file(path, file)
            for name in list(file["rooms"]) if names is None else names:
                group = file["rooms"][name]
                if group.file != file:
                    raise ValueError(f"{name} lies in another file")
                about = (own_number(group, key) for key in ("area", "origin", "nx", "ny"))
                area, origin, nx, ny = about
                pos, color, label = (own_values(group, key) for key in ("pos", "color", "label"))
                grid = Grid(int(nx), int(ny), own_values(group, "offsets"))
                yield Room(int(area), name, origin, pos, color, label, grid)
    except UNREADABLE as error:
        raise _damaged(path, str(error).splitlines()[0]) from error


def _damaged(path: Path, reason: str) -> DatasetError:
    return DatasetError(
        f"{path}: found a damaged or truncated file ({reason}).\n"
        f"Delete it and prepare again: {command('prepare', '--data', path.parent)}"
    )


def _check_schema(path: Path, header: Any) -> None:
    schema, version = header.get("schema"), header.get("version")
    if schema != SCHEMA or version != SCHEMA_VERSION:
        raise DatasetError(
            f"{path}: found schema {schema!r} version {version!r}, "
            f"expected {SCHEMA!r} version {SCHEMA_VERSION}.\n"
            f"Prepare the data again with this version: {command('prepare', '--data', path.parent)}"
        )


def _check_file(path: Path, file: h5py.File) -> None:
    """Check the version of an area's file. The name of its schema is a text: see `own_number`."""
    version = own_number(file, "version") if "schema" in file.attrs else None
    _check_schema(path, {"schema": SCHEMA, "version": version})


def readable_entries(data: Path) -> list[dict[str, Any]]:
    """Return the manifest's records of the rooms that can still be read.

    An empty list if the store is missing, damaged or of another version: all of it is then
    prepared again.

    Raises:
        DatasetError: the folder belongs to other software.
    """
    path = data / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        schema, version = manifest.get("schema"), manifest.get("version")
        entries = {RoomInfo.from_entry(entry): entry for entry in manifest["rooms"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return []
    if schema != SCHEMA:
        raise DatasetError(
            f"{path}: found the manifest of other software, expected {SCHEMA!r}; nothing was "
            "changed.\nGive another folder with --data."
        )
    if version != SCHEMA_VERSION:
        return []
    found: set[tuple[int, str]] = set()
    for area in {info.area for info in entries}:
        with suppress(*UNREADABLE, DatasetError), open_hdf5(area_file(data, area)) as file:
            _check_file(path, file)
            found |= {(area, name) for name in file["rooms"]}
    return [entry for info, entry in entries.items() if (info.area, info.name) in found]


def stored_source(data: Path) -> Path | None:
    """Return what the store in a folder was made from, whatever its version; None: no store."""
    try:
        manifest = json.loads((data / MANIFEST).read_text(encoding="utf-8"))
        source = manifest.get("source", "an unknown source")  # made from Python
        return Path(source) if manifest["schema"] == SCHEMA else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def stored_test_area(data: Path) -> int | None:
    """Return the test area of the store in a folder; None: no store, or none was chosen.

    The 0 of a single area is not chosen: there is no other one to train on.
    """
    try:
        manifest = json.loads((data / MANIFEST).read_text(encoding="utf-8"))
        areas = {int(entry["area"]) for entry in manifest["rooms"]}
        test_area = int(manifest["test_area"])
        return test_area if test_area or len(areas) > 1 else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def remove_areas(data: Path, *, keep: Collection[int] = ()) -> None:
    """Remove a store's files of areas, all but those to keep."""
    for area in set(AREAS).difference(keep):
        with suppress(*UNREADABLE):  # it is none of ours
            with open_hdf5(path := area_file(data, area)) as file:
                ours = file.attrs["schema"] == SCHEMA
            if ours:
                path.unlink()


def area_file(data: Path, area: int) -> Path:
    """Return the HDF5 file of an area."""
    return data / f"area_{area}.h5"


def write_manifest(
    data: Path,
    rooms: Iterable[dict[str, Any]],
    *,
    classes: tuple[str, ...],
    class_colors: tuple[tuple[int, int, int], ...],
    test_area: int,
    **more: Any,
) -> None:
    """Write the manifest, which completes the store; `more` is stored in it as well.

    A record in `rooms` has the fields of RoomInfo, and may have others to store.
    """
    entries = sorted(rooms, key=lambda room: (room["area"], room["name"]))
    lines = sorted(f"{room['area']} {room['name']} {room['checksum']}\n" for room in entries)
    atomic_json(
        data / MANIFEST,
        {
            "schema": SCHEMA,
            "version": SCHEMA_VERSION,
            "classes": classes,
            "class_colors": class_colors,
            "test_area": test_area,
            "fingerprint": hashlib.sha256("".join(lines).encode()).hexdigest(),
            **more,
            "rooms": entries,
        },
    )


class Store:
    """A prepared data set, opened for reading."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest  # all that `prepare` recorded
        self.classes: tuple[str, ...] = tuple(manifest["classes"])  # in the order of the labels
        self.class_colors = tuple(tuple(color) for color in manifest["class_colors"])  # RGB
        self.test_area = int(manifest["test_area"])  # that `train` leaves out and `eval` scores
        # Whether rooms hold only the points that published blocks have drawn.
        self.drawn = bool(manifest.get("drawn", False))
        # Of the whole published data set; 0 for your own data.
        self.published_rooms = int(manifest.get("published_rooms", 0))
        self.fingerprint = str(manifest["fingerprint"])  # sha256 over all rooms' checksums
        self._rooms = [RoomInfo.from_entry(entry) for entry in manifest["rooms"]]
        named = fits(tuple[str, ...], manifest["classes"])
        colored = all(fits(tuple[int, ...], [*color]) for color in self.class_colors)
        if not (named and colored and len(self.classes) == len(self.class_colors)):
            raise TypeError("found classes that are not names with a colour each")
        if wrong := [r.name for r in self._rooms if len(r.counts) != len(self.classes)]:
            raise TypeError(f"found counts of other classes in the room {wrong[0]}")
        self.areas = tuple(sorted({room.area for room in self._rooms}))
        self._checked: set[RoomInfo] = set()

    @classmethod
    def open(cls, data: Path) -> Store:
        """Open the store in folder `data`.

        Raises:
            DatasetError: it is missing, unfinished, damaged or of another version.
        """
        path, how = data / MANIFEST, command("prepare", "--data", data)
        if not path.is_file():
            named = sorted(each.parent for each in data.parent.glob(f"{data.name}-*/{MANIFEST}"))
            but = f" There is some in {named[0]}: --data {named[0]}" if named else ""
            raise DatasetError(
                f"{data}: found no prepared data (no {MANIFEST}).{but}\nPrepare it first: {how}"
            )
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            _check_schema(path, manifest)
            store = cls(data, manifest)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DatasetError(
                f"{path}: found a damaged manifest ({error}).\nPrepare again: {how}"
            ) from error
        for area in store.areas:
            if not area_file(data, area).is_file():
                raise DatasetError(
                    f"{area_file(data, area)}: found no file, but {MANIFEST} lists its rooms.\n"
                    f"Prepare again: {how}"
                )
        return store

    def rooms(self, area: int | None = None) -> list[RoomInfo]:
        """Return the rooms of one area, or all of them, by area and name."""
        return [room for room in self._rooms if area is None or room.area == area]

    def read(self, info: RoomInfo) -> Room:
        """Read the points of one room; the first read compares them with their checksum.

        Raises:
            DatasetError: the area's file is missing, truncated, changed or of another version.
        """
        path = area_file(self.path, info.area)
        room = next(iter(read_rooms(path, [info.name])))
        if info not in self._checked and room.checksum() != info.checksum:
            raise _damaged(path, f"{info.name} has changed since it was prepared")
        self._checked.add(info)
        return room
