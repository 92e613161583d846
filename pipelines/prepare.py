"""The prepare stage: raw rooms, of S3DIS or your own, become the HDF5 store.

Each room is read by a worker process and written to a file of its own under `data/.parts`. When all
rooms are read, the parts of an area are joined, and the manifest makes the store complete. So a
prepare that was stopped continues where it was, one that has nothing to do ends at once, and only
the rooms being read are in memory.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.data import statistics
from pipelines.data.custom import CustomDataset, read_custom_room, read_description
from pipelines.data.s3dis.arrays import find_arrays
from pipelines.data.s3dis.classes import check_classes
from pipelines.data.s3dis.published import (
    PublishedDataset,
    export_pointnet_h5,
    find_published,
    read_published_room,
)
from pipelines.data.s3dis.raw import NoRawData, RawDataset, RoomFiles, find_raw
from pipelines.data.s3dis.rooms import read_raw_room
from pipelines.data.statistics import Statistics
from pipelines.data.store import (
    MANIFEST,
    Room,
    RoomInfo,
    Store,
    area_file,
    read_rooms,
    readable_entries,
    remove_areas,
    stored_source,
    stored_test_area,
    write_manifest,
    write_rooms,
)
from pipelines.runtime.lock import hold_alone
from pipelines.runtime.process import available_cores, worker_pool
from pipelines.scans.colors import BLACK
from pipelines.scans.frame import left_out

from .config import PrepareConfig
from .errors import ConfigError, DatasetError, command
from .files import DISK_FULL, atomic_json, check_place, remove_unfinished
from .progress import SILENT, Progress, counted
from .serialization import to_plain

Dataset = RawDataset | CustomDataset | PublishedDataset
READERS: dict[type, Any] = {
    RawDataset: read_raw_room,
    CustomDataset: read_custom_room,
    PublishedDataset: read_published_room,
}
Entry = dict[str, Any]  # the manifest's record of a room, or {"failed": reason}
PARTS = ".parts"
LOCK = ".lock"
EXPORTED = "pointnet_h5"  # the folder of the published form
WORKER_BYTES = 100_000_000  # of text; with less, another process costs more than it saves
TEST_AREA = 5  # the default; the last area of data without it
LACKING = {  # what points may lack, by its name in a room's entry
    "unplaced": "without coordinates (NaN or infinite); left out.",
    "uncolored": "without colour, given that of the nearest coloured point.",
    "black": "exactly black, as programs write for points without colour; taken as black. If "
    "they have none, say so with NaN.",
}
READER = 3  # raised whenever the same raw room gives other points or notes


@dataclass(frozen=True)
class PrepareResult:
    """What the store holds now."""

    data: Path  # the store's folder
    source: Path  # the raw data
    rooms: int
    points: int
    areas: dict[int, int]  # rooms per area
    test_area: int  # 0: none
    reused: int  # rooms that were already prepared
    repairs: tuple[str, ...]  # lines, each as "file:line found → repaired"
    unknown: dict[str, dict[str, int]]  # objects and points of unknown classes, by the class
    failed: dict[str, str]  # rooms that could not be read, with the reason
    exported: Path | None  # the folder of the published HDF5 form
    statistics: Statistics  # of all rooms
    seconds: float  # wall time


def prepare(config: PrepareConfig, *, progress: Progress = SILENT) -> PrepareResult:
    """Read every room of the raw data into the store in `config.data`.

    Raises:
        ConfigError: `config.data` cannot be a folder, or the data lacks `config.test_area`.
        DatasetError: there is no raw data, a room cannot be read (after all others were; not with
            `allow_incomplete`), the disk is full, or another process prepares the same folder.

    >>> from pipelines.synth import SynthConfig, synth
    >>> building = synth(SynthConfig(Path("raw"), areas=2, rooms=1, density=50.0))
    >>> prepare(PrepareConfig(building.out, data=Path("prepared"))).areas
    {1: 1, 2: 1}
    """
    start = time.monotonic()
    check_place(config.data, "--data", folder=True)
    dataset = _find_dataset(config, progress)
    _check_test_area(config, dataset)
    other = f", or give another folder: {command('prepare', '--data', 'DIR')}"
    with _full_disk_explained(config), hold_alone(config.data / LOCK, config.data, other, progress):
        return _prepare(config, dataset, start, progress)


@contextmanager
def _full_disk_explained(config: PrepareConfig) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise DatasetError(  # HDF5's own message is lines of pointers and offsets
            f"{config.data}: the disk is full ({os.strerror(error.errno)}).\n"
            "Finished rooms are kept: free some space and run the same command again."
        ) from error


def _prepare(
    config: PrepareConfig, dataset: Dataset, start: float, progress: Progress
) -> PrepareResult:
    replaced = _check_store(config, dataset)
    stored = [] if replaced else readable_entries(config.data)
    entries, reused = _prepare_rooms(config, dataset, stored, progress)
    failed = {key: entry["failed"] for key, entry in entries.items() if "failed" in entry}
    if failed and not config.allow_incomplete:
        _refuse(failed, len(entries) - len(failed), progress)
    good = [entry for entry in entries.values() if "failed" not in entry]
    if replaced and good:  # all rooms have parts: a stop from here on loses nothing
        (config.data / MANIFEST).unlink()
        remove_areas(config.data)
        shutil.rmtree(config.data / EXPORTED, ignore_errors=True)
    store = _complete(config, dataset, good, failed, progress)
    found = statistics.of_store(store, progress)
    exported = None
    if config.export:
        with progress.task("Exporting blocks", len(store.rooms()), unit="rooms") as task:
            out = config.data / EXPORTED
            exported = export_pointnet_h5(store, out, seed=config.seed, done=task.advance)
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
        statistics=found,
        seconds=time.monotonic() - start,
    )


def _find_dataset(config: PrepareConfig, progress: Progress) -> Dataset:
    if config.dataset is not None:
        return read_description(config.dataset, config.frame or "robust")
    given = config.raw
    if given is not None and given.suffix.lower() in (".yaml", ".yml"):
        raise ConfigError(
            f"{given}: found a description, expected raw S3DIS (a folder or a zip).\n"
            f"Give it with --dataset: {command('prepare', '--dataset', given)}"
        )
    # A folder of both is raw data, from within it as well as by its name.
    arrays = _find_arrays(given) if given and not given.is_dir() else None
    if arrays is None:
        try:
            raw = replace(find_raw(given, ignore=[config.data]), unknown=config.unknown)
        except NoRawData:
            arrays = _find_arrays(given or Path())
            if arrays is None:
                raise
        else:
            check_classes(raw, progress)
            if raw.unturned:
                progress.warn(
                    f"{raw.source / raw.root}: found no alignment angle of "
                    f"{counted(len(raw.unturned), 'room')}, left as they are: "
                    f"{_first([*raw.unturned])}."
                )
            return raw
    if config.unknown != PrepareConfig.unknown:
        raise ConfigError(
            f"--unknown: found it with {arrays.source}, whose labels are numbers; expected "
            "it with raw S3DIS, where objects have names.\nLeave it out."
        )
    progress.say(f"{arrays.source}: {arrays.note}.")
    return arrays


def _find_arrays(path: Path) -> PublishedDataset | CustomDataset | None:
    return find_published(path) or find_arrays(path)


def _check_store(config: PrepareConfig, dataset: Dataset) -> bool:
    """Return whether the folder holds a store of other data, which is to be replaced.

    Other data comes from another place, and lacks the files of one of the stored rooms: if it has
    all of them, it was moved. DatasetError: the store is not to be replaced.
    """
    before, now = stored_source(config.data), dataset.source / dataset.root
    if before is None or before.resolve() == now.resolve():
        return False
    stored = readable_entries(config.data)
    known = {room.fingerprint() for room in dataset.rooms}
    if stored and all(known & {*str(entry.get("source")).split(":")} for entry in stored):
        return False
    if not config.replace:
        raise DatasetError(
            f"{config.data}: found the prepared data of {before} ({counted(len(stored), 'room')}), "
            f"asked for {now}; nothing was changed.\n"
            "Give this one a folder of its own with --data, or replace all of the other: --replace"
        )
    return True


def _prepare_rooms(
    config: PrepareConfig, dataset: Dataset, entries_before: list[Entry], progress: Progress
) -> tuple[dict[str, Entry], int]:
    """Read the rooms that are new or changed; return all entries, and how many were not read.

    Afterwards every room that did not fail has a part or is in the store.
    """
    stored = {f"Area_{room['area']}/{room['name']}": room for room in entries_before}
    entries: dict[str, Entry] = {}
    todo: list[RoomFiles] = []
    for raw in dataset.rooms:
        entry = _finished_part(config.data, raw) or stored.get(_key(raw))
        if entry is not None and entry["source"] == _stamp(dataset, raw):
            entries[_key(raw)] = entry
        else:
            todo.append(raw)
    reused, found = len(entries), len(dataset.rooms)
    progress.say(
        f"{dataset.source / dataset.root}: {counted(found, 'room')}"
        + (f" of the published {dataset.published}" if found < dataset.published else "")
        + (", turned by their alignment angles" if dataset.rotated else "")
        + (f", {reused} already prepared" if reused else "")
    )
    if todo and isinstance(dataset, PublishedDataset):
        dataset = dataset.unpacked(config.data / PARTS, progress)
    first_with: dict[str, str] = {}  # the first room with each mistake
    with progress.task("Reading rooms", total=sum(r.size for r in todo) / 1e6, unit="MB") as task:
        for raw, entry in _read_all(config, dataset, todo):
            entries[_key(raw)] = entry
            if "failed" in entry and config.allow_incomplete:
                like = first_with.setdefault(_mistake(entry["failed"]), _key(raw))
                why = f": {entry['failed']}" if like == _key(raw) else f", as {like} is"
                progress.warn(f"{_key(raw)} is left out{why}")
            for repair in entry.get("repairs", ()):
                progress.say(f"repaired {repair['file']}:{repair['line']}: {repair['found']!r}")
            if stray := entry.get("stray", 0):
                which = left_out(stray, entry["points"])
                progress.say(f"{_key(raw)}: {which} and of training; they are scored all the same")
            task.advance(raw.size / 1e6)
    return {_key(raw): entries[_key(raw)] for raw in dataset.rooms}, reused


def _key(raw: RoomFiles) -> str:
    return f"Area_{raw.area}/{raw.name}"


def _stamp(dataset: Dataset, raw: RoomFiles) -> str:
    """Return a text that changes whenever reading the room again would give other points."""
    described = f":{dataset.digest}" if dataset.digest else ""
    return f"{READER}:{raw.fingerprint()}{described}"


def _part(data: Path, room: RoomFiles | RoomInfo) -> Path:
    return data / PARTS / f"Area_{room.area}" / f"{room.name}.h5"


def _finished_part(data: Path, raw: RoomFiles) -> Entry | None:
    """Return the entry of a room that was finished before a stop; its points are checked."""
    path = _part(data, raw)
    try:
        entry: Entry = json.loads(path.with_suffix(".json").read_text("utf-8"))
        (room,) = read_rooms(path)
        return entry if room.checksum() == entry["checksum"] else None
    except (OSError, ValueError, KeyError, DatasetError):
        return None  # unfinished: it is read again


def _read_all(
    config: PrepareConfig, dataset: Dataset, todo: list[RoomFiles]
) -> Iterator[tuple[RoomFiles, Entry]]:
    """Read rooms in worker processes, the largest first; yield each as it is finished."""
    useful = -(-sum(raw.size for raw in todo) // WORKER_BYTES)
    workers = min(config.workers or len(available_cores()), len(todo), useful)
    ordered = sorted(todo, key=lambda raw: -raw.size)
    if workers <= 1:
        for raw in ordered:
            yield raw, _read_one(dataset, raw, _part(config.data, raw))
        return
    with worker_pool(workers) as pool:
        waiting: dict[Future[Entry], RoomFiles] = {
            pool.submit(_read_one, dataset, raw, _part(config.data, raw)): raw for raw in ordered
        }
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()


def _read_one(dataset: Dataset, raw: RoomFiles, path: Path) -> Entry:
    """Read a room, write its part, and return its entry."""
    read = READERS[type(dataset)]
    try:
        room, notes = read(dataset, raw)
        write_rooms(path, [room])
    except DatasetError as error:
        return {"failed": str(error)}
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return {
            "failed": f"{dataset.source}: {_key(raw)}: found a room name of {len(raw.name)} "
            "characters, expected one that is short enough for a file.\n"
            "Rename the room in a copy of the raw data."
        }
    classes = dataset.classes
    info = asdict(room.info(len(classes)))
    noticed = asdict(notes)
    uncolored, objects = statistics.uncolored_inside(noticed), noticed.pop("objects")
    about = {"uncolored": uncolored, "objects": objects}
    measured = {statistics.KEY: to_plain(statistics.measure_room(room, len(classes), **about))}
    stamp = {"source": _stamp(dataset, raw)}
    entry: Entry = json.loads(json.dumps({**info, **stamp, **noticed, **measured}))
    atomic_json(path.with_suffix(".json"), entry)
    return entry


def _refuse(failed: dict[str, str], kept: int, progress: Progress) -> None:
    """Raise DatasetError for the first mistake, after a warning for each of the others."""
    rooms: dict[str, list[str]] = {}
    for key, error in failed.items():
        rooms.setdefault(_mistake(error), []).append(key)
    first, *others = rooms.values()
    for keys in others:
        progress.warn(f"{keys[0]} cannot be read: {failed[keys[0]]}")
        _name_others(keys, progress)
    _name_others(first, progress)
    others_failed = len(failed) - 1
    also = f"{others_failed} more failed, see above. " if others_failed else ""
    rest = "The other rooms are kept. " if kept else ""
    leave = f", or leave {'them' if also else 'it'} out: deepgcn prepare --allow-incomplete"
    raise DatasetError(
        f"{failed[first[0]]}\n"
        f"{also}{rest}Fix the data and run the same command again{leave if kept else '.'}"
    )


def _mistake(error: str) -> str:
    """Return what rooms with the same mistake share: not the file, nor how many points have it."""
    return re.sub(r" \([\d,]+ points\)", "", error.partition(": ")[2])


def _name_others(keys: list[str], progress: Progress) -> None:
    """Name all but the first of the rooms with a mistake."""
    if others := keys[1:]:
        progress.warn(
            f"The same as in {keys[0]} in {counted(len(others), 'other room')}: {_first(others)}"
        )


def _first(names: list[str]) -> str:
    """Return the first few of many names."""
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return f"{', '.join(names[:5])}{more}"


def _complete(
    config: PrepareConfig,
    dataset: Dataset,
    entries: list[Entry],
    failed: dict[str, str],
    progress: Progress,
) -> Store:
    """Join the parts of each area, write the manifest and open the store."""
    if not entries:
        raise DatasetError(f"{dataset.source}: found no room that can be read, expected one.")
    infos = [RoomInfo.from_entry(entry) for entry in entries]
    stored = {RoomInfo.from_entry(entry) for entry in readable_entries(config.data)}
    remove_unfinished(config.data)
    with progress.task("Writing areas", total=len(infos), unit="rooms") as task:
        for area in sorted({info.area for info in infos}):
            members = [info for info in infos if info.area == area]
            changed = {info for info in stored if info.area == area} != {*members}
            if changed or any(_part(config.data, info).is_file() for info in members):
                rooms = (_read_stored(config.data, info) for info in members)
                write_rooms(area_file(config.data, area), rooms)
            task.advance(len(members))
    _warn(dataset, entries, progress)
    _warn_of_gone(config.data, dataset, stored, progress)
    unknown: dict[str, Counter[str]] = {}
    for entry in entries:
        for name, counts in entry["unknown"].items():
            unknown.setdefault(name, Counter()).update(counts)
    write_manifest(
        config.data,
        entries,
        classes=dataset.classes,
        class_colors=dataset.class_colors,
        test_area=_test_area(config, dataset, progress),
        source=str((dataset.source / dataset.root).absolute()),  # so it is the same from anywhere
        rotated=dataset.rotated,
        frame=dataset.frame,
        published_rooms=dataset.published,
        drawn=isinstance(dataset, PublishedDataset),
        repairs=[repair for entry in entries for repair in entry["repairs"]],
        skipped_files=[name for entry in entries for name in entry["skipped"]],
        renamed_files=[entry["renamed"] for entry in entries if entry["renamed"]],
        unknown_classes=unknown,
        unlabelled_points=sum(entry["unlabelled"] for entry in entries),
        stray_points=sum(entry.get("stray", 0) for entry in entries),
        failed=failed,
    )
    remove_areas(config.data, keep={info.area for info in infos})
    shutil.rmtree(config.data / PARTS, ignore_errors=True)
    return Store.open(config.data)


def _warn(dataset: Dataset, entries: list[Entry], progress: Progress) -> None:
    """Warn of points that lack something, and say which points and files were left out."""
    if skipped := [name for entry in entries for name in entry["skipped"]]:
        progress.say(f"{dataset.source}: left out as copies, by their names: {_first(skipped)}")
    if isinstance(dataset, RawDataset) and (lacking := sum(e["unlabelled"] for e in entries)):
        progress.say(
            f"{dataset.source}: left out {counted(lacking, 'point')} of whole rooms that no object "
            "has"
        )
    counts = Counter[str]()
    for entry in entries:
        counts += {name: entry.get(name, 0) for name in ("points", *LACKING)}
    total = counts["points"] + counts["unplaced"]
    for name, text in LACKING.items():
        if counts[name] > (BLACK * total if name == "black" else 0):
            progress.warn(f"{dataset.source}: {counts[name]:,} of {counted(total, 'point')} {text}")


def _warn_of_gone(data: Path, dataset: Dataset, stored: set[RoomInfo], progress: Progress) -> None:
    """Warn of rooms in the store that the data no longer has."""
    left = {(raw.area, raw.name) for raw in dataset.rooms}
    before = sorted((info.area, info.name) for info in stored)
    gone = [f"Area_{area}/{name}" for area, name in before if (area, name) not in left]
    if gone:
        progress.warn(
            f"{data}: {counted(len(gone), 'room')} removed, which {dataset.source / dataset.root} "
            f"no longer has: {_first(gone)}."
        )


def _check_test_area(config: PrepareConfig, dataset: Dataset) -> None:
    areas = sorted({room.area for room in dataset.rooms})
    if config.test_area and config.test_area not in areas:
        raise ConfigError(
            f"--area: found {config.test_area}, expected an area of "
            f"{dataset.source / dataset.root}: {', '.join(map(str, areas))}, or 0 for none."
        )


def _test_area(config: PrepareConfig, dataset: Dataset, progress: Progress) -> int:
    """Return the area that is asked for or described, that of the store before, or the usual one.

    Another one than before that was not asked for is said.
    """
    areas = {room.area for room in dataset.rooms}
    usual = TEST_AREA if TEST_AREA in areas else max(areas)
    if len(areas) == 1:
        usual = 0  # the only area is there to be trained on
    before = stored_test_area(config.data)
    kept = before if before in {0, *areas} else None
    asked = (config.test_area, dataset.test_area, kept, usual)
    chosen = next(area for area in asked if area is not None)
    if config.test_area is None and before not in (None, chosen):
        progress.warn(
            f"{config.data}: the test area is {chosen or 'none'}, it was {before or 'none'}."
        )
    return chosen


def _read_stored(data: Path, info: RoomInfo) -> Room:
    """Read a room's points from its part, or from the store that is being renewed.

    A part with another checksum was left by a stop before its entry was written, perhaps under
    other options.
    """
    part = _part(data, info)
    if part.is_file():
        with suppress(DatasetError):
            (room,) = read_rooms(part)
            if room.checksum() == info.checksum:
                return room
    return next(iter(read_rooms(area_file(data, info.area), [info.name])))
