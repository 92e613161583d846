"""What users do with runs: tag them, write a note on them, move them to the trash and back.

    runs/<name>/<tag>.tag    an empty file a tag
    runs/<name>/note.txt     free text
    runs/.trash/<name>       a run that `deepgcn runs rm` removed

A tag is a file of its own, so that processes add and remove tags without a lock. Tags and notes lie
in the run directory itself: each change changes the directory's time, by which the index notices.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import ConfigError, RunError, did_you_mean
from pipelines.files import atomic_text
from pipelines.progress import SILENT, Progress

from .directory import TRASH, Run, numbered
from .lock import is_locked, lock_run

TAG, NOTE = ".tag", "note.txt"
_TAG = re.compile(r"\w[\w.-]{0,63}")


def read_tags(run: Path) -> tuple[str, ...]:
    """Return the tags of the run directory `run`, sorted."""
    names = (name.removesuffix(TAG) for name in os.listdir(run) if name.endswith(TAG))
    return tuple(sorted(name for name in names if _TAG.fullmatch(name)))


def add_tag(run: Path, tag: str) -> None:
    """Add a tag, a word that `check_tag` takes, to the run directory `run`, unless it has it."""
    check_tag(tag)
    (run / f"{tag}{TAG}").touch()


def remove_tag(run: Path, tag: str) -> None:
    """Remove a tag from the run directory `run`; RunError: the run does not have it."""
    check_tag(tag)
    try:
        (run / f"{tag}{TAG}").unlink()
    except FileNotFoundError:
        known = read_tags(run)
        raise RunError(
            f"{run}: found no tag {tag!r}.{did_you_mean(tag, known)}\n"
            f"Its tags: {', '.join(known) or 'none'}."
        ) from None


def check_tag(tag: str) -> None:
    """Raise ConfigError unless `tag` is one word of letters, digits, `_`, `-` and `.`."""
    if not _TAG.fullmatch(tag):
        raise ConfigError(
            f"TAG: found {tag!r}, expected one word of at most 64 letters, digits, _, - and ., "
            "beginning with a letter, a digit or _."
        )


def read_note(run: Path) -> str:
    """Return the note of the run directory `run`; empty if it has none."""
    path = run / NOTE
    return path.read_text(encoding="utf-8", errors="replace").rstrip("\n") if path.is_file() else ""


def write_note(run: Path, text: str) -> None:
    """Write the note of the run directory `run`; an empty text removes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"TEXT: found {text!r}, expected Unicode text.") from None
    if text.strip():
        atomic_text(run / NOTE, text.strip() + "\n")
    else:
        (run / NOTE).unlink(missing_ok=True)


def discard(runs: Sequence[Run]) -> list[Path]:
    """Move runs to the trash beside them and return their new paths.

    A second run of a name becomes `<name>-2` there. RunError: one is in training; none is moved.
    """
    for run in runs:
        if is_locked(run.path):
            raise RunError(
                f"{run.path}: a process is training this run; it was not moved.\n"
                "Stop that process first (Ctrl-C where it runs), then try again."
            )
    moved = []
    for run in runs:
        trash = run.path.parent / TRASH
        trash.mkdir(exist_ok=True)
        with _still_there(run), lock_run(run.path):  # so that no process resumes it from now on
            moved.append(_move(run.path, trash))
    return moved


@contextmanager
def _still_there(run: Run) -> Iterator[None]:
    """Raise RunError if another process has moved the run meanwhile."""
    try:
        yield
    except FileNotFoundError:
        if run.path.exists():
            raise
        raise RunError(
            f"{run.path}: found no run there any more; another process has moved it.\n"
            "See what there is: deepgcn runs list"
        ) from None


def _move(path: Path, trash: Path) -> Path:
    """Move a run to the first free name in the trash, though others may take it meanwhile."""
    for free in numbered(trash / path.name):
        if os.path.lexists(free):
            continue
        try:
            return path.rename(free)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
    raise AssertionError("there is always a next number")


def discarded(runs_dir: Path) -> list[str]:
    """Return the names of the runs in the trash, sorted."""
    folder = runs_dir / TRASH
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def restore(runs_dir: Path, name: str) -> Run:
    """Move a run back from the trash; RunError: it is not there, or another has its name now."""
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
    return Run(target)


def empty_trash(runs_dir: Path, progress: Progress = SILENT) -> list[str]:
    """Delete the runs in the trash permanently and return their names."""
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
