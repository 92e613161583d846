"""The prepare stage: raw S3DIS rooms → the HDF5 store.

Each room is read by a worker process and written as a file of its own under `data/.parts`; when all
rooms are there, the parts of an area are joined and the manifest makes the store complete. So a
prepare that was stopped goes on where it was, one that has nothing to do ends at once, and the
memory in use is that of the rooms being read.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pipelines.data.custom import CustomDataset, CustomRoom, read_custom_room, read_description
from pipelines.data.s3dis.pointnet_h5 import export_pointnet_h5
from pipelines.data.s3dis.raw import RawDataset, RawRoom, find_raw
from pipelines.data.s3dis.rooms import RoomNotes, read_raw_room
from pipelines.data.store import (
    Room,
    RoomInfo,
    Store,
    area_file,
    read_rooms,
    readable_entries,
    write_manifest,
    write_rooms,
)

from .config import PrepareConfig
from .errors import DatasetError
from .files import DISK_FULL, atomic_json, remove_unfinished
from .progress import SILENT, Progress

Dataset = RawDataset | CustomDataset
RoomFiles = RawRoom | CustomRoom
PARTS = ".parts"
WORKER_BYTES = 100_000_000  # of text, below which another process costs more than it saves
TEST_AREA = 5  # of S3DIS, unless told; of other data without it, the last
READER = 2  # raised whenever the same raw room gives other points


@dataclass(frozen=True)
class PrepareResult:
    """What the store holds now.

    Attributes:
        data: the store's folder.
        source: the raw data.
        rooms: rooms in the store.
        points: labelled points in the store.
        areas: rooms per area.
        test_area: the recorded fold.
        reused: rooms that were already prepared.
        repairs: mended lines, each as "file:line found → repaired".
        unknown: object files of unknown classes, counted as clutter, by class.
        failed: rooms that could not be read, with the reason.
        exported: the folder of the published HDF5 form, or None.
        seconds: wall time.
    """

    data: Path
    source: Path
    rooms: int
    points: int
    areas: dict[int, int]
    test_area: int
    reused: int
    repairs: tuple[str, ...]
    unknown: dict[str, int]
    failed: dict[str, str]
    exported: Path | None
    seconds: float


def prepare(config: PrepareConfig, *, progress: Progress = SILENT) -> PrepareResult:
    """Read every room of the raw data into the store in `config.data`.

    Raises:
        DatasetError: there is no raw data, a room cannot be read (after all others were; not with
            `allow_incomplete`), or the disk is full.
    """
    start = time.monotonic()
    dataset = open_dataset(config)
    try:
        entries, reused = _prepare_rooms(config, dataset, progress)
        failed = {key: entry["failed"] for key, entry in entries.items() if "failed" in entry}
        _refuse_failures(config, failed)
        store = _complete(config, dataset, entries, progress)
        exported = _export(config, store, progress) if config.export else None
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DatasetError(
            # HDF5's own words are lines of pointers and offsets.
            f"{config.data}: the disk is full ({os.strerror(error.errno)}).\n"
            "Rooms that were finished are kept: make room and run the same command again."
        ) from error
    rooms = store.rooms()
    return PrepareResult(
        data=config.data,
        source=dataset.source / dataset.root,
        rooms=len(rooms),
        points=sum(room.points for room in rooms),
        areas={area: len(store.rooms(area)) for area in store.areas},
        test_area=store.test_area,
        reused=reused,
        repairs=tuple(
            f"{repair['file']}:{repair['line']} {repair['found']!r} → {repair['repaired']!r}"
            for repair in store.manifest["repairs"]
        ),
        unknown=store.manifest["unknown_classes"],
        failed=failed,
        exported=exported,
        seconds=time.monotonic() - start,
    )


def open_dataset(config: PrepareConfig) -> Dataset:
    """Return the described data set, or S3DIS as it is found.

    Raises:
        ConfigError: the description does not fit.
        DatasetError: there is no raw data.
    """
    if config.dataset is not None:
        return read_description(config.dataset)
    return find_raw(config.raw, ignore=[config.data])


def _refuse_failures(config: PrepareConfig, failed: dict[str, str]) -> None:
    if not failed or config.allow_incomplete:
        return
    first = next(iter(failed.values()))
    others = f"\n{len(failed) - 1} more rooms failed: {', '.join(list(failed)[1:4])} …"
    raise DatasetError(
        first
        + (others if len(failed) > 1 else "")
        + "\nThe other rooms are kept. Mend the data and run the same command again, or leave the "
        "room out: deepgcn prepare --allow-incomplete"
    )


# --- rooms → parts -----------------------------------------------------------------------------


def _prepare_rooms(
    config: PrepareConfig, dataset: Dataset, progress: Progress
) -> tuple[dict[str, dict[str, Any]], int]:
    """Make sure that every room has a part or stands in the store; return their entries.

    An entry is the manifest's record of a room, or {"failed": reason}.
    """
    kept = readable_entries(config.data)
    earlier = {f"Area_{room['area']}/{room['name']}": room for room in kept}
    entries: dict[str, dict[str, Any]] = {}
    todo: list[RoomFiles] = []
    for raw in dataset.rooms:
        entry = _finished_part(config.data, raw) or earlier.get(_key(raw))
        if entry is not None and entry["source"] == _stamp(dataset, raw):
            entries[_key(raw)] = entry
        else:
            todo.append(raw)
    _say_rooms(dataset, len(todo), progress)
    total = sum(raw.size for raw in todo) / 1e6
    with progress.task("Reading rooms", total=total, unit="MB") as task:
        for raw, entry in _read_all(config, dataset, todo):
            entries[_key(raw)] = entry
            if "failed" in entry:
                progress.warn(f"{_key(raw)} is left out: {entry['failed']}")
            for repair in entry.get("repairs", ()):
                progress.say(f"repaired {repair['file']}:{repair['line']}: {repair['found']!r}")
            task.advance(raw.size / 1e6)
    return {_key(raw): entries[_key(raw)] for raw in dataset.rooms}, len(entries) - len(todo)


def _say_rooms(dataset: Dataset, todo: int, progress: Progress) -> None:
    found = len(dataset.rooms)
    published = dataset.published
    progress.say(
        f"{dataset.source / dataset.root}: {found} rooms"
        + (f" of the published {published}" if found < published else "")
        + (", turned by their alignment angles" if dataset.rotated else "")
        + (f", {found - todo} already prepared" if todo < found else "")
    )


def _key(raw: RoomFiles) -> str:
    return f"Area_{raw.area}/{raw.name}"


def _stamp(dataset: Dataset, raw: RoomFiles) -> str:
    """Return what changes whenever reading the room again would give other points."""
    described = f":{dataset.digest}" if isinstance(dataset, CustomDataset) else ""
    return f"{READER}:{raw.fingerprint()}{described}"


def _part(data: Path, raw: RoomFiles) -> Path:
    return data / PARTS / f"Area_{raw.area}" / f"{raw.name}.h5"


def _finished_part(data: Path, raw: RoomFiles) -> dict[str, Any] | None:
    """Return the entry of a room that was finished before a stop; its points are checked."""
    path = _part(data, raw)
    try:
        entry: dict[str, Any] = json.loads(path.with_suffix(".json").read_text("utf-8"))
        (room,) = read_rooms(path)
        return entry if room.checksum() == entry["checksum"] else None
    except (OSError, ValueError, KeyError, DatasetError):
        return None  # unfinished: it is read again


def _read_all(
    config: PrepareConfig, dataset: Dataset, todo: list[RoomFiles]
) -> Iterator[tuple[RoomFiles, dict[str, Any]]]:
    """Read rooms in worker processes, the largest first; yield each as it is finished."""
    worth = -(-sum(raw.size for raw in todo) // WORKER_BYTES)
    workers = min(config.workers or os.cpu_count() or 1, len(todo), worth)
    ordered = sorted(todo, key=lambda raw: -raw.size)
    if workers <= 1:
        for raw in ordered:
            yield raw, _read_one(dataset, raw, _part(config.data, raw))
        return
    # Fresh interpreters rather than forks: a fork of a process with threads may hang.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_signals)
    try:
        waiting: dict[Future[dict[str, Any]], RoomFiles] = {
            pool.submit(_read_one, dataset, raw, _part(config.data, raw)): raw for raw in ordered
        }
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _leave_signals() -> None:
    """Let the main process alone answer Ctrl-C; a worker finishes its room."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _read_room(dataset: Dataset, raw: RoomFiles) -> tuple[Room, RoomNotes]:
    if isinstance(dataset, CustomDataset):
        assert isinstance(raw, CustomRoom)
        return read_custom_room(dataset, raw)
    assert isinstance(raw, RawRoom)
    return read_raw_room(dataset, raw)


def _read_one(dataset: Dataset, raw: RoomFiles, path: Path) -> dict[str, Any]:
    """Read a room, write its part, and return its entry."""
    try:
        room, notes = _read_room(dataset, raw)
    except DatasetError as error:
        return {"failed": str(error)}
    try:
        write_rooms(path, [room])
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return {
            "failed": f"{dataset.source}: {_key(raw)}: found a room name of {len(raw.name)} "
            "letters, expected one that is short enough for a file's.\n"
            "Rename the room in a copy of the raw data."
        }
    facts = {
        **asdict(room.info(len(dataset.classes))),
        "source": _stamp(dataset, raw),
        **asdict(notes),
    }
    entry: dict[str, Any] = json.loads(json.dumps(facts))
    atomic_json(path.with_suffix(".json"), entry)
    return entry


# --- parts → store -----------------------------------------------------------------------------


def _complete(
    config: PrepareConfig,
    dataset: Dataset,
    entries: dict[str, dict[str, Any]],
    progress: Progress,
) -> Store:
    """Join the parts, write the manifest and open the store."""
    good = [entry for entry in entries.values() if "failed" not in entry]
    if not good:
        raise DatasetError(f"{dataset.source}: found no room that can be read, expected one.")
    infos = [_info(entry) for entry in good]
    kept = [_info(entry) for entry in readable_entries(config.data)]
    with progress.task("Writing areas", total=len(infos), unit="rooms") as task:
        for area in sorted({info.area for info in infos}):
            members = [info for info in infos if info.area == area]
            remove_unfinished(config.data, area_file(config.data, area).name)
            if not _area_is_current(config.data, area, members, kept):
                rooms = (_room_of(config.data, info) for info in members)
                write_rooms(area_file(config.data, area), rooms)
            task.advance(len(members))
    counted: dict[str, int] = {}
    for entry in good:
        for name, files in entry["unknown"].items():
            counted[name] = counted.get(name, 0) + files
    _write_all(config, dataset, entries, good, counted)
    shutil.rmtree(config.data / PARTS, ignore_errors=True)
    return Store.open(config.data)


def _write_all(
    config: PrepareConfig,
    dataset: Dataset,
    entries: dict[str, dict[str, Any]],
    good: list[dict[str, Any]],
    unknown: dict[str, int],
) -> None:
    write_manifest(
        config.data,
        good,
        classes=dataset.classes,
        class_colors=dataset.class_colors,
        test_area=_test_area(config, dataset),
        source=str(dataset.source / dataset.root),
        rotated=dataset.rotated,
        published_rooms=dataset.published,
        repairs=[repair for entry in good for repair in entry["repairs"]],
        skipped_files=[name for entry in good for name in entry["skipped"]],
        renamed_files=[entry["renamed"] for entry in good if entry["renamed"]],
        unknown_classes=unknown,
        unlabelled_points=sum(entry["unlabelled"] for entry in good),
        failed={key: entry["failed"] for key, entry in entries.items() if "failed" in entry},
    )


def _test_area(config: PrepareConfig, dataset: Dataset) -> int:
    if config.test_area is not None:
        return config.test_area
    described = dataset.test_area if isinstance(dataset, CustomDataset) else None
    areas = sorted({room.area for room in dataset.rooms})
    return described or (TEST_AREA if TEST_AREA in areas else areas[-1])


def _info(entry: dict[str, Any]) -> RoomInfo:
    return RoomInfo(
        entry["area"],
        entry["name"],
        entry["points"],
        tuple(entry["extent"]),
        entry["checksum"],
        tuple(entry["counts"]),
    )


def _area_is_current(data: Path, area: int, members: list[RoomInfo], kept: list[RoomInfo]) -> bool:
    """Whether the area's file already holds just these rooms: no part is newer than it."""
    if any((data / PARTS / f"Area_{area}" / f"{info.name}.json").is_file() for info in members):
        return False
    there = [info for info in kept if info.area == area]
    return there == sorted(members, key=lambda info: info.name)


def _room_of(data: Path, info: RoomInfo) -> Room:
    """Read a room's points from its part, or from the store that is being renewed."""
    part = data / PARTS / f"Area_{info.area}" / f"{info.name}.h5"
    source = part if part.is_file() else area_file(data, info.area)
    return next(iter(read_rooms(source, [info.name])))


def _export(config: PrepareConfig, store: Store, progress: Progress) -> Path:
    with progress.task("Exporting blocks", total=len(store.rooms()), unit="rooms") as task:
        out = config.data / "pointnet_h5"
        return export_pointnet_h5(store, out, seed=config.seed, done=lambda _room: task.advance())
