"""The synth stage: a synthetic building as files in the raw S3DIS layout.

Writes `OUT/Area_k/<room>/<room>.txt`, `OUT/Area_k/<room>/Annotations/<class>_<n>.txt` and
`OUT/synthetic.json`, which marks the folder as made by this stage, so that it may be replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.synthetic import GENERATOR, RoomPlan, format_points, plan_room, scan_room
from pipelines.data.synthetic.meshes import Library, load_library
from pipelines.runtime.lock import hold_alone
from pipelines.runtime.process import available_cores, worker_pool

from .config import SynthConfig
from .errors import ConfigError, command
from .files import atomic_json, check_place, naming, remove_of_ended
from .progress import SILENT, Progress, counted

MARKER = "synthetic.json"
LOCK = ".lock"
UNFINISHED = ".unfinished"  # rooms that are being written
WORKER_DENSITY = 30_000.0  # of a worker's rooms together; fewer are made sooner without its start


@dataclass(frozen=True)
class SynthResult:
    """What was written: where, how many rooms and points, and the points of each class."""

    out: Path
    rooms: int
    points: int
    points_per_class: dict[str, int]


def demo_building(out: Path, seed: int = 0) -> SynthConfig:
    """Return the building of the demo: four areas of four rooms, thinly scanned.

    >>> demo_building(Path("raw")).areas
    4
    """
    return SynthConfig(out=out, areas=4, rooms=4, seed=seed, density=1000.0)


def demo_scan(area: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return pos (N, 3) m and color (N, 3) uint8 of the first room of an area of the demo.

    >>> pos, color = demo_scan(area=4)
    >>> pos.shape == color.shape
    True
    """
    density = demo_building(Path()).density
    things = list(scan_room(plan_room(seed, area, 0), density))
    pos = np.concatenate([thing.pos for thing in things])
    return pos, np.concatenate([thing.color for thing in things])


def synth(config: SynthConfig, *, progress: Progress = SILENT) -> SynthResult:
    """Write a synthetic building; another one that is already there is replaced.

    A room appears whole or not at all. The same configuration gives the same bytes, whatever the
    number of workers; rooms of it that are already there are kept.

    >>> synth(SynthConfig(Path("raw"), areas=1, rooms=1, density=50.0)).rooms
    1

    Raises:
        ConfigError: `config.out` holds something other than a synthetic building, or there is no
            usable library in `config.furniture`.
        DatasetError: another process is writing a building into `config.out`.
    """
    check_place(config.out, "OUT", folder=True)
    settings: dict[str, Any] = {"generator": GENERATOR, "seed": config.seed}
    settings |= {"density": config.density, "scanner": config.scanner}
    if config.furniture:
        library = load_library(config.furniture, progress)
        credits = sorted({model.credit for model in library.models})
        settings |= {"furniture": library.digest, "credits": credits}
    total = config.areas * config.rooms
    shown = progress if total > 10_000 else SILENT  # fewer take less than two seconds
    with shown.task("Planning rooms", total=total, unit="rooms") as task:
        rooms = []
        for plan in _plans(config):
            rooms.append(_place(plan))
            task.advance()
    counts: Counter[str] = Counter()
    with hold_alone(config.out / LOCK, config.out, ", or give another OUT.", progress):
        _clear(config.out, rooms, settings)
        shutil.rmtree(config.out / UNFINISHED, ignore_errors=True)  # of a process that was killed
        atomic_json(config.out / MARKER, {**settings, "rooms": rooms})
        try:
            with progress.task("Building rooms", total=total, unit="rooms") as task:
                for found in _make_all(config):
                    counts += found
                    task.advance()
        finally:
            shutil.rmtree(config.out / UNFINISHED, ignore_errors=True)
    return SynthResult(config.out, total, counts.total(), dict(counts))


def _plans(config: SynthConfig) -> Iterator[RoomPlan]:
    for area in range(1, config.areas + 1):
        for index in range(config.rooms):
            yield plan_room(config.seed, area, index)


def _place(plan: RoomPlan) -> str:
    return f"Area_{plan.area}/{plan.name}"


def _make_all(config: SynthConfig) -> Iterator[Counter[str]]:
    """Make the rooms, in worker processes if it pays; yield the points of each class of each."""
    plans, total = _plans(config), config.areas * config.rooms
    workers = min(config.workers or len(available_cores()), total)
    workers = min(workers, int(total * config.density / WORKER_DENSITY))
    if workers <= 1:
        for plan in plans:
            yield _make(config, plan)
        return
    with worker_pool(workers) as pool:
        waiting: set[Future[Counter[str]]] = set()
        while True:  # a few rooms ahead, however many there are
            ahead = islice(plans, 2 * workers - len(waiting))
            waiting |= {pool.submit(_make, config, plan) for plan in ahead}
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def _make(config: SynthConfig, plan: RoomPlan) -> Counter[str]:
    """Write a room unless it is there; return the points of each class."""
    annotations = config.out / _place(plan) / "Annotations"
    counts: Counter[str] = Counter()
    if annotations.is_dir():
        for path in annotations.iterdir():
            counts[path.name.rpartition("_")[0]] += path.read_bytes().count(b"\n")
        return counts
    part = config.out / UNFINISHED / f"{plan.area}-{plan.name}-{os.getpid()}"
    (part / "Annotations").mkdir(parents=True)
    library = _library(config.furniture) if config.furniture else None
    with naming(config.out), (part / f"{plan.name}.txt").open("wb") as whole:
        for item in scan_room(plan, config.density, config.scanner, library):
            text = format_points(item.pos, item.color)
            (part / "Annotations" / f"{item.name}.txt").write_bytes(text)
            whole.write(text)
            counts[item.name.rpartition("_")[0]] += len(item.pos)
        whole.flush()
        os.fsync(whole.fileno())
    annotations.parent.parent.mkdir(exist_ok=True)
    os.replace(part, annotations.parent)
    return counts


@lru_cache(maxsize=1)
def _library(folder: Path) -> Library:
    """Read the furniture once a process; the main process has put it into the cache."""
    return load_library(folder)


def _clear(out: Path, wanted: list[str], settings: dict[str, Any]) -> None:
    """Remove the rooms of another synthetic building, and of this one those that are not whole."""
    remove_of_ended(out, MARKER)
    there = [path for path in out.iterdir() if path.name != LOCK]
    if not there:
        return
    try:
        marker = json.loads((out / MARKER).read_text(encoding="utf-8"))
        rooms = [Path(str(room)) for room in marker.pop("rooms")]
    except FileNotFoundError:
        files = counted(len(there), "file")
        raise _not_ours(out, f"{files}, without {MARKER}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _not_ours(out, f"a {MARKER} that cannot be read") from None
    keep = {room for room in wanted if marker == settings and _is_whole(out / room)}
    for room in rooms:
        # Area_k/name alone, so that nothing outside OUT is ever removed; an interrupted synth has
        # not written all of them.
        ours = len(room.parts) == 2 and room.parts[0].startswith("Area_") and ".." not in room.parts
        ours = ours and not (out / room.parts[0]).is_symlink()
        if ours and room.as_posix() not in keep and (out / room).is_dir():
            shutil.rmtree(out / room)
    for area in sorted(out.glob("Area_*")):
        if area.is_dir() and not any(area.iterdir()):
            area.rmdir()
    named = {room.as_posix() for room in rooms}
    for place in wanted:
        if (out / place).exists() and not (place in keep and place in named):
            raise _not_ours(out, f"{place}, not made by synth")


def _is_whole(room: Path) -> bool:
    """Return whether all files of a room are there: together its objects are as large as it."""
    try:
        parts = sum(path.stat().st_size for path in (room / "Annotations").iterdir())
        return parts == (room / f"{room.name}.txt").stat().st_size
    except OSError:
        return False


def _not_ours(out: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{out}: found {found}; expected an empty folder or an earlier synthetic building.\n"
        f"Nothing was overwritten. Give another folder: {command('synth', f'{out}-synthetic')}"
    )
