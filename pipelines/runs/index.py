"""The index of runs, `runs/results.db`: an SQLite copy of what the run directories say.

The directories are the truth. Trainings and evaluations write their own directory and never the
index, so any number of them may run on a shared file system. A reader first brings the index up to
date (`_refresh`): one scan of the folder compares names and each directory's time of change with
the column `stamp`, and only runs that differ are read. Editing a file in place does not change that
time; `sync` reads everything again. `state` depends on whether a process holds the run's lock, so
it is checked at every reading.

`.results.lock` separates processes that use the file (shared) from one that replaces a damaged file
(exclusive): SQLite's file must not be exchanged while its write-ahead log is in use.
"""

from __future__ import annotations

import marshal
import math
import os
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pipelines.config import PROTOCOLS
from pipelines.errors import ConfigError, DeepGCNError, RunError
from pipelines.files import atomic_write
from pipelines.model.presets import published_as
from pipelines.progress import SILENT, Progress
from pipelines.runtime.lock import hold_lock
from pipelines.serialization import csv_cell

from .annotations import read_note, read_tags
from .directory import CHANGING, CONFIG, ENVIRONMENT, INDEX, STATUS_TYPES, TRASH, Run, is_folder
from .lock import is_locked, is_on_network
from .query import COLUMNS, parse_columns, parse_sort, parse_where

if TYPE_CHECKING:
    import pandas as pd

FILE, LOCK = INDEX, ".results.lock"
WAIT_SECONDS = 30.0  # the longest wait for other processes
CHUNK = 200  # runs read within one transaction
RECENT = 2 * 10**9  # ns; a later change may still get the same time stamp
# A batch norm's running statistics are saved with the weights but not learned.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
FRAME_TYPES = {"INTEGER": "Int64", "REAL": "float64"}  # Int64 can hold NA
T = TypeVar("T")

_preset = cache(published_as)
_FIELDS = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
_TABLE = f"CREATE TABLE runs ({_FIELDS}, crc INTEGER)"  # of the row, without what changes by itself
VERSION = zlib.crc32(_TABLE.encode()) >> 1  # of the schema; an index of another one is rebuilt
_INSERT = f"INSERT INTO runs VALUES ({', '.join(f':{name}' for name in COLUMNS)}, NULL)"
_CHECKED = ", ".join(name for name in COLUMNS if name not in ("state", "stamp"))


def query(
    runs_dir: Path,
    *,
    where: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> list[tuple[Any, ...]]:
    """Return the rows of the runs in a folder as they are now; ConfigError: a wrong argument."""
    condition, values = parse_where(where)
    names, order = ", ".join(parse_columns(columns)), parse_sort(sort)
    sql = f"SELECT {names} FROM runs WHERE {condition} ORDER BY {order} LIMIT ?"
    bounds = (*values, -1 if limit is None else limit)

    def select(database: sqlite3.Connection) -> list[tuple[Any, ...]]:
        _refresh(database, runs_dir, progress)
        return database.execute(sql, bounds).fetchall()

    return _with_index(runs_dir, select, progress) if is_folder(runs_dir) else []


def sync(runs_dir: Path, progress: Progress = SILENT) -> int:
    """Read all run directories again, whatever the index says, and return how many runs exist."""

    def work(database: sqlite3.Connection) -> int:
        (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        database.execute("UPDATE runs SET stamp = NULL")
        _refresh(database, runs_dir, progress)
        return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])

    try:
        return _on_disk(runs_dir, work) if is_folder(runs_dir) else 0
    except (OSError, sqlite3.OperationalError) as error:
        raise RunError(
            f"{runs_dir / FILE}: cannot be written ({error}).\nThe runs are as they were."
        ) from error


def runs_frame(
    runs_dir: str | Path = "runs",
    where: str | None = None,
    *,
    sort: str | None = None,
    progress: Progress = SILENT,
) -> pd.DataFrame:
    """Return the runs in a folder as a frame, one row a run, oldest first.

    Args:
        runs_dir: the folder; if missing, the frame is empty.
        where: a condition such as "arch=resgcn and miou>0.4"; None: all runs.
        sort: columns, comma-separated, `-` before a descending one.
        progress: is notified when many runs have to be read again.

    Returns:
        The columns that docs/runs.md lists. Scores are from 0 to 1, `created` and `updated` are
        times in UTC, integers are of type Int64 and texts objects; missing values are NA.
    """
    import pandas as pd

    rows = query(Path(runs_dir), where=where, sort=sort, progress=progress)
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    for name, kind in COLUMNS.items():
        if name in ("created", "updated"):
            frame[name] = pd.to_datetime(frame[name], utc=True, errors="coerce", format="ISO8601")
        elif kind in FRAME_TYPES:
            numbers = pd.to_numeric(frame[name], errors="coerce")
            if kind == "INTEGER":  # of a damaged or foreign file, perhaps no such number
                numbers = numbers.where((numbers % 1 == 0) & (numbers.abs() < 2**63))
            frame[name] = numbers.astype(FRAME_TYPES[kind])
    return frame


def export_runs(path: Path, runs_dir: Path, **options: Any) -> int:
    """Write `runs_frame(runs_dir, **options)` as .csv or .parquet and return its length."""
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise ConfigError(f"{path}: found {ending!r}, expected a file in .csv or .parquet.")
    frame = runs_frame(runs_dir, **options)
    if ending == ".csv":
        for name in frame.select_dtypes(object):
            frame[name] = frame[name].map(csv_cell)
    write = frame.to_csv if ending == ".csv" else partial(frame.to_parquet, engine="pyarrow")
    with atomic_write(path) as temporary:
        try:
            write(temporary, index=False)
        except ImportError:
            raise ConfigError(
                f"{path}: Parquet needs pyarrow. Install it: pip install 'deepgcn[parquet]'"
            ) from None
    return len(frame)


def _with_index(runs_dir: Path, work: Callable[[sqlite3.Connection], T], progress: Progress) -> T:
    """Return the result of `work` on the index, or on one in memory if it cannot be written."""
    try:
        return _on_disk(runs_dir, work)
    except (OSError, sqlite3.OperationalError) as error:
        progress.warn(f"{runs_dir / FILE} cannot be used ({error}); reading all directories.")
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
            database.execute(_TABLE)
            return work(database)


def _on_disk(runs_dir: Path, work: Callable[[sqlite3.Connection], T]) -> T:
    """Return the result of `work` on the index, on a new one if it is damaged."""
    path = runs_dir / FILE
    try:
        with _opened(path) as database:
            return work(database)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        # An OperationalError is a lock or the disk, not the file, but for text that is none: in a
        # cell, or (a UnicodeDecodeError) in SQLite's own message about a damaged schema.
        if isinstance(error, sqlite3.OperationalError) and "decode" not in str(error):
            raise
    with _opened(path, replace=True) as database:
        return work(database)


@contextmanager
def _opened(path: Path, *, replace: bool = False) -> Iterator[sqlite3.Connection]:
    """Open the index, with an empty table if it is new or of another version of the schema."""
    with hold_lock(path.with_name(LOCK), shared=not replace, seconds=WAIT_SECONDS) as held:
        if not held:
            raise sqlite3.OperationalError(f"it was in use for {WAIT_SECONDS:g} seconds")
        if replace:
            for suffix in ("", "-wal", "-shm", "-journal"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
        with closing(sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None)) as database:
            _prepare(database, "DELETE" if is_on_network(path.parent) else "WAL")
            yield database


def _prepare(database: sqlite3.Connection, mode: str) -> None:
    # Not synced at each commit: what a power cut takes is read again.
    database.execute("PRAGMA synchronous=NORMAL")
    with suppress(sqlite3.OperationalError):  # others use it: the mode stays as it is
        database.execute(f"PRAGMA journal_mode={mode}")
    version = "PRAGMA user_version"
    if database.execute(version).fetchone() != (VERSION,):
        with database:
            database.execute("BEGIN IMMEDIATE")
            if database.execute(version).fetchone() != (VERSION,):  # no other process was faster
                database.execute("DROP TABLE IF EXISTS runs")
                database.execute(_TABLE)
                database.execute(f"{version}={VERSION}")


def _refresh(database: sqlite3.Connection, runs_dir: Path, progress: Progress) -> None:
    """Bring the index up to date with the directories; only what changed is read.

    Each chunk is committed, so a process that is killed leaves less for the next one.
    """
    # Index before folder: a run that begins in between must not look deleted.
    known = _known(database)
    found = _stamps(runs_dir)
    changed = [
        name
        for name, stamp in found.items()
        if known.get(name) != stamp and (name in known or (runs_dir / name / CONFIG).is_file())
    ]
    changed += [name for name in known if name not in found]
    progress = progress if len(changed) > CHUNK else SILENT
    with progress.task("Reading runs", total=len(changed), unit="runs") as task:
        for start in range(0, len(changed), CHUNK):
            chunk = changed[start : start + CHUNK]
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany("DELETE FROM runs WHERE name = ?", ((name,) for name in chunk))
                database.executemany(_INSERT, _rows(runs_dir, chunk))
                _add_checksums(database)
            task.advance(len(chunk))
    _update_states(database, runs_dir)


def _known(database: sqlite3.Connection) -> dict[str, int | None]:
    """Return each run's stamp; DatabaseError: a row is not what was written."""
    known: dict[str, int | None] = {}
    for row in database.execute(f"SELECT crc, stamp, {_CHECKED} FROM runs"):
        crc, stamp, name = row[:3]
        if crc != _checksum(row[2:]) or name in known:
            raise sqlite3.DatabaseError(f"the row of {name} is damaged")
        known[name] = stamp
    return known


def _add_checksums(database: sqlite3.Connection) -> None:
    """Give each new row its checksum, which is that of the values as SQLite returns them."""
    new = database.execute(f"SELECT {_CHECKED} FROM runs WHERE crc IS NULL").fetchall()
    sums = ((_checksum(row), row[0]) for row in new)
    database.executemany("UPDATE runs SET crc = ? WHERE name = ?", sums)


def _checksum(row: tuple[Any, ...]) -> int:
    # Format 2 writes equal values as equal bytes, and five times as fast as repr does.
    return zlib.crc32(marshal.dumps(row, 2))


def _stamps(runs_dir: Path) -> dict[str, int]:
    """Return each directory's time of change, in ns."""
    found = {}
    with os.scandir(runs_dir) as entries:
        for entry in entries:
            try:
                if entry.is_dir() and entry.name != TRASH and entry.name.encode():
                    found[entry.name] = entry.stat().st_mtime_ns
            except (FileNotFoundError, UnicodeEncodeError):
                pass  # moved away meanwhile; or a name in bytes, which no run has
    return found


def _rows(runs_dir: Path, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    for name in names:
        with suppress(FileNotFoundError):  # removed while it was read
            if (runs_dir / name / CONFIG).is_file():
                yield describe(Run(runs_dir / name))


def _update_states(database: sqlite3.Connection, runs_dir: Path) -> None:
    """Set the states, which of runs that are "running" depend on whether a process has the lock."""
    wrong = "status = 'running' OR state IS NOT coalesce(status, 'broken')"
    rows = database.execute(f"SELECT name, status, state FROM runs WHERE {wrong}").fetchall()
    for name, status, state in rows:
        now = status or "broken"
        if status == "running":
            now = "running" if is_locked(runs_dir / name) else "interrupted"
        if now != state:
            database.execute(
                "UPDATE runs SET state = ? WHERE name = ? AND status IS ?", (now, name, status)
            )


def describe(run: Run) -> dict[str, Any]:
    """Return a run's row; one that cannot be read is "broken", with the reason in `error`."""
    row: dict[str, Any] = {**dict.fromkeys(COLUMNS), "name": run.name}
    changed = run.path.stat().st_mtime_ns  # before reading, so that a later change is noticed
    if time.time_ns() - changed > RECENT and not (run.path / CHANGING).exists():
        row["stamp"] = changed
    try:
        row["tags"] = " ".join(read_tags(run.path)) or None
        row["note"] = read_note(run.path) or None
        row |= _settings(run)
        row |= _progress(run)
        for protocol in PROTOCOLS:
            scores = run.scores(protocol) or {}
            for score in ("oa", "macc", "miou"):
                row[f"{protocol.replace('-', '_')}_{score}"] = scores.get(score)
    except (DeepGCNError, OSError) as error:
        row["state"], row["status"], row["error"] = "broken", None, str(error)
    return {name: _storable(value) for name, value in row.items()}


def _settings(run: Run) -> dict[str, Any]:
    config = run.config
    environment = run.environment if (run.path / ENVIRONMENT).is_file() else {}
    fields = vars(config) | vars(config.model)
    return {
        **{name: value for name, value in fields.items() if name in COLUMNS},
        "name": run.name,
        "lr": config.first_lr,
        "block_size": config.block_side,
        "voxel": config.voxel_side,
        "data": config.data_text,
        "dilation": int(config.model.dilation),
        "rgb": int(config.model.rgb),
        "parts": " ".join(config.parts),
        "preset": _preset(config.model),
        "device": environment.get("device") or config.device,
        "hardware": environment.get("gpu") or environment.get("cpu"),
    }


def _progress(run: Run) -> dict[str, Any]:
    status = run.status
    return {
        **{name: status.get(name) for name in STATUS_TYPES if name in COLUMNS},
        "val_miou": status.get("best_miou"),
        "status": str(status.get("state", "interrupted")),
        "state": run.state,
        "blocks_per_second": status.get("blocks_per_second") or None,  # 0: not measured
        "parameters": count_parameters(run.checkpoint_path("last")),
    }


def count_parameters(path: Path) -> int | None:
    """Return the number of trainable values in a safetensors file; None if it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            learned = [n for n in file.keys() if n.rpartition(".")[2] not in STATISTICS]  # noqa: SIM118
            return sum(math.prod(file.get_slice(n).get_shape()) for n in learned) or None
    except (OSError, SafetensorError):
        return None  # the reader of weights says what is wrong


def _storable(value: Any) -> Any:
    """Return what SQLite can hold of a value from a damaged or foreign file."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON can hold half a character
    return value if isinstance(value, (int, float, type(None))) else str(value)
