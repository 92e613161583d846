"""The index of runs, `runs/results.db`: filled from the run directories and from nothing else.

The directories are the truth. What changes a run calls `record`, which reads the run's files and
writes its line within one transaction, so of several processes the last one to write has also read
the newest state. That is best effort: a training must not be hurt by an index that is locked,
damaged or on a full disk, and on a network folder, where SQLite is fragile, nothing is recorded.

So whoever reads the index looks first whether it is still true (`refresh`): one scan of the folder
compares the names and each directory's time of change with the column `stamp`, and only runs that
differ are read again. A file that is replaced in the run directory changes that time, and so does
`record`; scores, which are a level below, are written within `changing`. What was edited in place,
by hand, is not noticed: `sync` reads everything again. The
scan is not left out for finished runs, because it is cheap (docs/runs.md has the figures) and what
was evaluated or tagged on another machine is then seen too.

A run says itself that it is running (`status`); whether a process still holds its lock is looked up
at every reading, so one that was killed is listed as interrupted (`state`).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pipelines.config import PROTOCOLS, ModelConfig
from pipelines.errors import DeepGCNError, RunError
from pipelines.progress import SILENT, Progress

from .annotations import read_note, read_tags
from .directory import CONFIG, ENVIRONMENT, TRASH, Run, is_folder
from .lock import is_locked
from .network_mounts import is_on_network
from .query import parse_columns, parse_sort, parse_where
from .schema import COLUMNS, FILE, memory_index, with_index
from .weights_header import count_parameters

SCORES = ("oa", "macc", "miou")
RECORD_SECONDS = 5.0  # how long a training waits for other processes at most
READ_SECONDS = 30.0  # how long a person does
CHUNK = 200  # runs read within one transaction
MARK = ".changing"  # in a run directory: its time does not tell whether it changed
T = TypeVar("T")

_OF_MODEL = ("arch", "depth", "conv", "width", "k", "layout", "knn", "epsilon", "dropout")
_OF_CONFIG = ("recipe", "test_area", "num_points", "batch_size", "seed", "epochs")
_OF_STATUS = ("created", "updated", "epoch", "step", "seconds", "best_epoch", "peak_memory")
_UPSERT = (
    f"INSERT OR REPLACE INTO runs ({', '.join(COLUMNS)}) "
    f"VALUES ({', '.join(f':{name}' for name in COLUMNS)})"
)


def record(run: Run, *, create: bool = False) -> bool:
    """Write a run's line into the index beside it, as its directory is now.

    Never fails for the index's sake; False says that nothing was written. Then the next reader
    does it, since the directory's time of change is renewed in any case.

    Args:
        run: a directory without config.json is no run yet and is left out.
        create: whether to make the index if there is none.
    """
    folder = run.path.parent
    with suppress(OSError):  # somebody else's directory
        os.utime(run.path)
    if is_on_network(folder) or not (create or (folder / FILE).is_file()):
        return False
    try:
        with_index(folder, lambda db: _update(db, folder, [run.name]), seconds=RECORD_SECONDS)
    except (OSError, sqlite3.Error, RunError, UnicodeEncodeError):  # the docstring says why
        return False
    return True


@contextmanager
def changing(run: Run) -> Iterator[None]:
    """Record a run at the end of a `with` block that changes files below its directory.

    Such a change does not change the directory's own time. If the process is killed within the
    block, the mark that it set stays, and the run is read at every look until the next block ends.
    """
    mark = run.path / MARK
    with suppress(OSError):  # somebody else's directory
        mark.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            mark.unlink()
        record(run)


def query(
    runs_dir: Path,
    *,
    where: str | None = None,
    sort: str | None = None,
    limit: int | None = None,
    columns: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> list[tuple[Any, ...]]:
    """Return the lines of the runs in a folder, as they are now, each with the columns asked for.

    Args:
        runs_dir: the folder; none: no runs.
        where: a condition (see `runs.query`), None: all runs.
        sort: columns, comma-separated, `-` before a falling one; None: oldest first.
        limit: how many lines at most.
        columns: their names; None: all, in the order of COLUMNS.
        progress: who listens when many runs have to be read again.

    Raises:
        ConfigError: `where`, `sort` or `columns` cannot be understood; the index is not touched.
        RunError: the index is of a newer version.
    """
    condition, values = parse_where(where)
    names, order = ", ".join(parse_columns(columns)), parse_sort(sort)
    sql = f"SELECT {names} FROM runs WHERE {condition} ORDER BY {order} LIMIT ?"
    bounds = (*values, -1 if limit is None else limit)

    def select(database: sqlite3.Connection) -> list[tuple[Any, ...]]:
        refresh(database, runs_dir, progress)
        return database.execute(sql, bounds).fetchall()

    return _reading(runs_dir, select, progress) if is_folder(runs_dir) else []


def sync(runs_dir: Path, progress: Progress = SILENT) -> int:
    """Read all run directories again, whatever the index says, and return how many runs there are.

    Raises:
        RunError: the index is of a newer version.
    """

    def work(database: sqlite3.Connection) -> int:
        (state,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)  # damaged: made anew
        database.execute("UPDATE runs SET stamp = NULL")
        refresh(database, runs_dir, progress)
        return int(database.execute("SELECT count(*) FROM runs").fetchone()[0])

    return _reading(runs_dir, work, progress) if is_folder(runs_dir) else 0


def refresh(database: sqlite3.Connection, runs_dir: Path, progress: Progress = SILENT) -> None:
    """Bring the index up to date with the directories; only what changed is read.

    A killed process leaves what it had read until then, so the next one goes on from there.
    """
    # First the index, then the folder: a run that begins between the two is not taken for gone.
    known = dict(database.execute("SELECT name, stamp FROM runs"))
    found = _stamps(runs_dir)
    changed = [
        name
        for name, stamp in found.items()
        if known.get(name) != stamp and (name in known or (runs_dir / name / CONFIG).is_file())
    ]
    changed += [name for name in known if name not in found]
    if len(changed) > CHUNK:
        with progress.task("Reading runs", total=len(changed), unit="runs") as task:
            for start in range(0, len(changed), CHUNK):
                chunk = changed[start : start + CHUNK]
                _update(database, runs_dir, chunk)
                task.advance(len(chunk))
    elif changed:
        _update(database, runs_dir, changed)
    _look_for_processes(database, runs_dir)


def describe(run: Run) -> dict[str, Any]:
    """Return a run's line, as its files are now; what they do not say is None.

    A run that cannot be read has a line too, with state "broken" and the reason in `error`.
    """
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    line["name"] = run.name
    line["stamp"] = run.path.stat().st_mtime_ns  # before reading: a later change is noticed
    if (run.path / MARK).exists():
        line["stamp"] = None
    try:
        line["tags"] = " ".join(read_tags(run.path)) or None
        line["note"] = read_note(run.path) or None
        _add_settings(line, run)
        _add_course(line, run)
        for protocol in PROTOCOLS:
            scores = run.scores(protocol) or {}
            for score in SCORES:
                line[f"{protocol.replace('-', '_')}_{score}"] = scores.get(score)
    except (DeepGCNError, OSError) as error:
        line["state"], line["status"], line["error"] = "broken", None, str(error)
    return {name: _storable(value) for name, value in line.items()}


def _add_settings(line: dict[str, Any], run: Run) -> None:
    config = run.config
    environment = run.environment if (run.path / ENVIRONMENT).is_file() else {}
    line.update({name: getattr(config.model, name) for name in _OF_MODEL})
    line.update({name: getattr(config, name) for name in _OF_CONFIG})
    line["lr"], line["max_steps"] = config.first_lr, config.max_steps
    line["data"] = str(config.data)
    line["dilation"] = int(config.model.dilation)
    line["parts"] = " ".join(config.parts)
    line["preset"] = _preset(config.model)
    line["device"] = environment.get("device") or config.device
    line["hardware"] = environment.get("gpu") or environment.get("cpu")


def _add_course(line: dict[str, Any], run: Run) -> None:
    status = run.status
    line.update({name: status.get(name) for name in _OF_STATUS})
    line["val_miou"], line["error"] = status.get("best_miou"), status.get("error")
    line["status"], line["state"] = str(status.get("state", "interrupted")), run.state
    line["blocks_per_second"] = status.get("blocks_per_second") or None  # 0: not measured
    line["parameters"] = count_parameters(run.checkpoint_path("last"))


@cache
def _preset(model: ModelConfig) -> str | None:
    from pipelines.model.presets import published_as

    return published_as(model)


def _storable(value: Any) -> Any:
    """Return what SQLite can hold of a value that a damaged or foreign file gave."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return float(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # JSON can hold half a character
    return value if isinstance(value, (int, float, type(None))) else str(value)


def _update(database: sqlite3.Connection, runs_dir: Path, names: Iterable[str]) -> None:
    """Read runs and write their lines, or drop those of runs that are gone, in one transaction."""
    database.execute("BEGIN IMMEDIATE")
    try:
        for name in names:
            try:
                found = (runs_dir / name / CONFIG).is_file()
                line = describe(Run(runs_dir / name)) if found else None
            except FileNotFoundError:  # removed while it was read
                line = None
            if line is None:
                database.execute("DELETE FROM runs WHERE name = ?", (name,))
            else:
                database.execute(_UPSERT, line)
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise


def _stamps(runs_dir: Path) -> dict[str, int]:
    """Return when each directory in the folder last changed, in ns."""
    found = {}
    with os.scandir(runs_dir) as entries:
        for entry in entries:
            name = entry.name
            try:
                if entry.is_dir() and name != TRASH and (name.isascii() or name.encode()):
                    found[name] = entry.stat().st_mtime_ns
            except (FileNotFoundError, UnicodeEncodeError):
                continue  # moved away meanwhile; or a name in bytes, which no run has
    return found


def _look_for_processes(database: sqlite3.Connection, runs_dir: Path) -> None:
    """Set the state of the runs that say they are running."""
    rows = database.execute("SELECT name, state FROM runs WHERE status = 'running'").fetchall()
    for name, state in rows:
        now = "running" if is_locked(runs_dir / name) else "interrupted"
        if now != state:
            database.execute(
                "UPDATE runs SET state = ? WHERE name = ? AND status = 'running'", (now, name)
            )


def _reading(runs_dir: Path, work: Callable[[sqlite3.Connection], T], progress: Progress) -> T:
    """Return what `work` makes of the index; where it cannot be written, of one in memory."""
    try:
        return with_index(runs_dir, work, seconds=READ_SECONDS)
    except (OSError, sqlite3.OperationalError) as error:
        progress.warn(f"{runs_dir / FILE} cannot be used ({error}); reading all directories.")
        with closing(memory_index()) as database:
            return work(database)
