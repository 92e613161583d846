"""The trash: `runs rm` moves a run to `runs/.trash/<name>`, from where it can come back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipelines.errors import RunError, did_you_mean
from pipelines.progress import SILENT, Progress

from .directory import TRASH, Run
from .index import record
from .lock import is_locked, lock_run


def discard(runs: Sequence[Run]) -> list[Path]:
    """Move runs to the trash beside them and return where each of them is now.

    Of two runs of one name the second is called `<name>-2` there.

    Raises:
        RunError: a process is training one of the runs; nothing was moved.
    """
    for run in runs:
        if is_locked(run.path):
            raise _in_use(run)
    return [_discard(run) for run in runs]


def discarded(runs_dir: Path) -> list[str]:
    """Return the names of the runs in the trash, sorted."""
    folder = runs_dir / TRASH
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def restore(runs_dir: Path, name: str) -> Run:
    """Move a run back from the trash and return it.

    Raises:
        RunError: it is not in the trash, or another run has its name now.
    """
    source, target = runs_dir / TRASH / name, runs_dir / name
    known = discarded(runs_dir)
    if name not in known:
        raise RunError(
            f"{runs_dir / TRASH}: found no run {name!r}.{did_you_mean(name, known)}\n"
            f"There: {', '.join(known) or 'nothing'}."
        )
    if target.exists():
        raise RunError(
            f"{target}: found a run of this name there already, nothing was changed.\n"
            f"Rename that one first: mv {target} {target}-other"
        )
    os.rename(source, target)
    run = Run(target)
    record(run)
    return run


def empty_trash(runs_dir: Path, progress: Progress = SILENT) -> list[str]:
    """Delete what is in the trash, for good, and return the names."""
    names = discarded(runs_dir)
    with progress.task("Deleting", total=len(names), unit="runs") as task:
        for name in names:
            path = runs_dir / TRASH / name
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
            task.advance()
    return names


def _discard(run: Run) -> Path:
    folder = run.path.parent / TRASH
    folder.mkdir(exist_ok=True)
    try:
        with lock_run(run.path):  # so that no process goes on with it from now on
            path = _move(run.path, folder)
    except RunError:
        raise _in_use(run) from None
    record(run)
    return path


def _move(source: Path, folder: Path) -> Path:
    number = 1
    while True:
        path = folder / (source.name if number == 1 else f"{source.name}-{number}")
        if path.exists():
            number += 1
            continue
        try:
            os.rename(source, path)
        except OSError:
            if path.exists():
                continue  # another process was faster with this name
            raise
        return path


def _in_use(run: Run) -> RunError:
    return RunError(
        f"{run.path}: a process is training this run; it was not moved.\n"
        "Stop that process first (Ctrl-C where it runs), then try again."
    )
