"""The index of runs: `runs/results.db`, made from the run directories and from nothing else.

Schema (version in `PRAGMA user_version`): one table `runs`, one line a run directory, with the
columns of COLUMNS; figures per protocol are `<protocol>_{oa,macc,miou}`. The directories are the
truth: `sync` makes the table anew from them, in one transaction, so several processes may do it at
once and a lost or damaged file costs nothing.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import PROTOCOLS
from ..errors import DeepGCNError
from .runs import Run, find_runs

if TYPE_CHECKING:
    import pandas as pd

FILE = "results.db"
VERSION = 1
_SCORES = tuple(
    f"{protocol.replace('-', '_')}_{score}"
    for protocol in PROTOCOLS
    for score in ("oa", "macc", "miou")
)
COLUMNS = {
    "name": "TEXT PRIMARY KEY",
    "state": "TEXT",
    "created": "TEXT",
    "arch": "TEXT",
    "depth": "INTEGER",
    "conv": "TEXT",
    "width": "INTEGER",
    "k": "INTEGER",
    "layout": "TEXT",
    "recipe": "TEXT",
    "test_area": "INTEGER",
    "num_points": "INTEGER",
    "batch_size": "INTEGER",
    "seed": "INTEGER",
    "epoch": "INTEGER",
    "step": "INTEGER",
    "seconds": "REAL",
    "val_miou": "REAL",
    **dict.fromkeys(_SCORES, "REAL"),
    "error": "TEXT",
}


def sync(runs_dir: Path) -> pd.DataFrame:
    """Make the index anew from the run directories and return it, oldest run first.

    A run that cannot be read has a line too, with the reason in `error`. Where the folder cannot
    be written to, only the frame is made.
    """
    import pandas as pd

    records = [describe(run) for run in find_runs(runs_dir)]
    if runs_dir.is_dir():
        _store(runs_dir / FILE, records)
    return pd.DataFrame(records, columns=list(COLUMNS))


def describe(run: Run) -> dict[str, Any]:
    """Return a run's line."""
    line: dict[str, Any] = dict.fromkeys(COLUMNS)
    line["name"] = run.name
    try:
        config, status = run.config, run.status
        line["state"] = run.state
        for name in ("arch", "depth", "conv", "width", "k", "layout"):
            line[name] = getattr(config.model, name)
        for name in ("recipe", "test_area", "num_points", "batch_size", "seed"):
            line[name] = getattr(config, name)
        for name in ("created", "epoch", "step", "seconds"):
            line[name] = status.get(name)
        line["val_miou"] = status.get("best_miou")
        for protocol in PROTOCOLS:
            found = run.scores(protocol) or {}
            for score in ("oa", "macc", "miou"):
                line[f"{protocol.replace('-', '_')}_{score}"] = found.get(score)
    except DeepGCNError as error:
        line["state"], line["error"] = "broken", str(error)
    return line


def _store(path: Path, records: list[dict[str, Any]]) -> None:
    """Write the table; a damaged file is replaced, a folder without write permission left alone."""
    try:
        _write(path, records)
    except sqlite3.OperationalError as error:
        if "readonly" not in str(error) and "unable to open" not in str(error):
            raise
    except sqlite3.DatabaseError:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        _write(path, records)


def _write(path: Path, records: list[dict[str, Any]]) -> None:
    with closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("BEGIN IMMEDIATE")
        database.execute("DROP TABLE IF EXISTS runs")
        columns = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
        database.execute(f"CREATE TABLE runs ({columns})")
        places = ", ".join(f":{name}" for name in COLUMNS)
        database.executemany(f"INSERT INTO runs VALUES ({places})", records)
        database.execute(f"PRAGMA user_version={VERSION}")
        database.execute("COMMIT")
