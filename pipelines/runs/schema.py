"""The schema of the index `runs/results.db`, and the file itself: made, opened, migrated.

The version is in `PRAGMA user_version`; MIGRATIONS[v] leads from version v to v + 1, so a new file
and an old one take the same way to the newest. docs/runs.md says what each column means. The file
is an index that can be made anew from the run directories, so a damaged one is replaced; one of a
newer version belongs to a newer program and is left as it is.

`.results.lock` keeps apart those who use the file (shared) and those who replace it (exclusive):
an open SQLite file must not be exchanged together with its write-ahead log.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from pipelines.errors import RunError

from .lock import hold_lock
from .network_mounts import is_on_network

FILE = "results.db"
LOCK = ".results.lock"
SUFFIXES = ("-wal", "-shm", "-journal")  # what SQLite keeps beside its file
T = TypeVar("T")

_VERSION_1 = {
    **dict.fromkeys(("name",), "TEXT PRIMARY KEY"),
    **dict.fromkeys(("state", "created", "arch"), "TEXT"),
    "depth": "INTEGER",
    "conv": "TEXT",
    **dict.fromkeys(("width", "k"), "INTEGER"),
    **dict.fromkeys(("layout", "recipe"), "TEXT"),
    **dict.fromkeys(("test_area", "num_points", "batch_size", "seed"), "INTEGER"),
    **dict.fromkeys(("epoch", "step"), "INTEGER"),
    **dict.fromkeys(("seconds", "val_miou"), "REAL"),
    **dict.fromkeys(("room_oa", "room_macc", "room_miou"), "REAL"),
    **dict.fromkeys(("block_s1_oa", "block_s1_macc", "block_s1_miou"), "REAL"),
    **dict.fromkeys(("block_s05_oa", "block_s05_macc", "block_s05_miou"), "REAL"),
    "error": "TEXT",
}
_VERSION_2 = {
    **dict.fromkeys(("status", "updated", "preset", "knn", "parts"), "TEXT"),
    "dilation": "INTEGER",
    **dict.fromkeys(("epsilon", "dropout", "lr"), "REAL"),
    **dict.fromkeys(("epochs", "max_steps", "best_epoch", "parameters"), "INTEGER"),
    "blocks_per_second": "REAL",
    "peak_memory": "INTEGER",
    **dict.fromkeys(("device", "hardware", "data", "tags", "note"), "TEXT"),
    "stamp": "INTEGER",
}
COLUMNS = {**_VERSION_1, **_VERSION_2}
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (f"CREATE TABLE runs ({', '.join(f'{name} {kind}' for name, kind in _VERSION_1.items())})",),
    tuple(f"ALTER TABLE runs ADD COLUMN {name} {kind}" for name, kind in _VERSION_2.items()),
    ("UPDATE runs SET tags = NULL WHERE tags = ''",),  # as it is for a run without a note
)
VERSION = len(MIGRATIONS)


class DamagedIndex(Exception):
    """The file is no database, or not one with our table."""


def with_index(runs_dir: Path, work: Callable[[sqlite3.Connection], T], *, seconds: float) -> T:
    """Return what `work` makes of the index; a missing or damaged file is made first, empty.

    Args:
        runs_dir: the folder of the runs.
        work: does its own BEGIN and COMMIT; repeated if the file turns out to be damaged.
        seconds: how long to wait for other processes.

    Raises:
        RunError: the file is of a newer version.
        OSError, sqlite3.Error: the file cannot be written, or others kept it for too long.
    """
    path = runs_dir / FILE
    for _ in range(3):
        with _locked(path, seconds, shared=True):
            damaged = _identity(path)
            try:
                with closing(_open(path, seconds)) as database:
                    return work(database)
            except (DamagedIndex, sqlite3.DatabaseError) as error:
                if not _is_damage(error):
                    raise
        _replace(path, damaged, seconds)
    raise sqlite3.OperationalError(f"{path} is damaged again and again")


def memory_index() -> sqlite3.Connection:
    """Return an empty index without a file."""
    database = sqlite3.connect(":memory:", isolation_level=None)
    migrate(database, Path(":memory:"))
    return database


def migrate(database: sqlite3.Connection, path: Path) -> None:
    """Bring the tables of an index to the newest version, in one transaction.

    Raises:
        RunError: they are of a version that this program does not know.
    """
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version == VERSION:
        return
    if version > VERSION:
        raise RunError(
            f"{path}: found version {version} of the index, this deepgcn knows up to {VERSION}; "
            "nothing was changed.\nUse the newer deepgcn, or move the file away; it is made anew "
            f"from the run directories: mv {path} {path}.{version}"
        )
    database.execute("BEGIN IMMEDIATE")
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()  # others may be faster
        for number in range(version, VERSION):
            for statement in MIGRATIONS[number]:
                database.execute(statement)
        database.execute(f"PRAGMA user_version={VERSION}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _open(path: Path, seconds: float) -> sqlite3.Connection:
    """Open the file and bring it up to date.

    Raises:
        DamagedIndex: it is missing, empty or another database.
    """
    if not path.is_file() or not path.stat().st_size:
        raise DamagedIndex
    database = sqlite3.connect(path, timeout=seconds, isolation_level=None)
    try:
        # A log that is synced at checkpoints only: what a power cut takes is read again.
        database.execute("PRAGMA synchronous=NORMAL")
        if is_on_network(path.parent):
            database.execute("PRAGMA journal_mode=DELETE")
        migrate(database, path)
        if not COLUMNS.keys() <= {row[1] for row in database.execute("PRAGMA table_info(runs)")}:
            raise DamagedIndex
    except BaseException:
        database.close()
        raise
    return database


def _is_damage(error: Exception) -> bool:
    """Whether the file is at fault, rather than the disk, a lock or the statement.

    An index whose migration meets tables that are not there is not ours either.
    """
    if isinstance(error, sqlite3.OperationalError):
        signs = ("no such table", "already exists", "duplicate column")
        return any(sign in str(error) for sign in signs)
    return type(error) in (DamagedIndex, sqlite3.DatabaseError)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells one file of this name from the next one; None: there is none."""
    if not path.is_file():
        return None
    found = path.stat()
    return (found.st_dev, found.st_ino)


def _replace(path: Path, damaged: tuple[int, int] | None, seconds: float) -> None:
    """Put an empty index in the place of the missing or damaged one, unless others just did."""
    with _locked(path, seconds, shared=False):
        if _identity(path) != damaged:
            return
        fresh = path.with_name(f".{path.name}.part")
        for suffix in ("", *SUFFIXES):
            fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
        with closing(sqlite3.connect(fresh, isolation_level=None)) as database:
            if not is_on_network(path.parent):
                database.execute("PRAGMA journal_mode=WAL")
            migrate(database, fresh)
        for suffix in SUFFIXES:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        os.replace(fresh, path)


@contextmanager
def _locked(path: Path, seconds: float, *, shared: bool) -> Iterator[None]:
    with hold_lock(path.with_name(LOCK), shared=shared, seconds=seconds) as held:
        if not held:
            raise sqlite3.OperationalError(f"{path} was in use for {seconds:g} seconds")
        yield
