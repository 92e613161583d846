"""The runs as a pandas frame, and as a file for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import ConfigError
from pipelines.files import atomic_write
from pipelines.progress import SILENT, Progress

from .index import query
from .query import COLUMNS

if TYPE_CHECKING:
    import pandas as pd

FORMATS = (".csv", ".parquet")
_TYPES = {"INTEGER": "Int64", "REAL": "float64"}  # Int64 can hold NA
_TIMES = ("created", "updated")


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

    Raises:
        ConfigError: `where` or `sort` cannot be understood.
    """
    import pandas as pd

    rows = query(Path(runs_dir), where=where, sort=sort, progress=progress)
    frame = pd.DataFrame(rows, columns=list(COLUMNS), dtype=object)
    for name, kind in COLUMNS.items():
        if name in _TIMES:
            frame[name] = pd.to_datetime(frame[name], utc=True, errors="coerce", format="ISO8601")
        elif kind in _TYPES:
            frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(_TYPES[kind])
    return frame


def export_runs(
    path: Path,
    runs_dir: Path,
    *,
    where: str | None = None,
    sort: str | None = None,
    progress: Progress = SILENT,
) -> int:
    """Write the runs in a folder to a .csv or .parquet file and return how many they are.

    Raises:
        ConfigError: the file's ending is another one, Parquet is not installed, or `where` or
            `sort` cannot be understood.
    """
    ending = path.suffix.lower()
    if ending not in FORMATS:
        raise ConfigError(f"{path}: found {ending!r}, expected a file in {' or '.join(FORMATS)}.")
    frame = runs_frame(runs_dir, where, sort=sort, progress=progress)
    with atomic_write(path) as temporary:
        if ending == ".csv":
            frame.to_csv(temporary, index=False)
            return len(frame)
        try:
            frame.to_parquet(temporary, index=False, engine="pyarrow")
        except ImportError:
            raise ConfigError(
                f"{path}: Parquet needs pyarrow. Install it: pip install 'deepgcn[parquet]'"
            ) from None
    return len(frame)
