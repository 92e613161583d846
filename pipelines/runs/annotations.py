"""What people write on a run: tags and a note, in files of the run directory.

    runs/<name>/
        <tag>.tag    an empty file a tag
        note.txt     free text

A tag is a file of its own, so that any number of processes may add and remove tags at once without
a lock: making a file loses nothing that others do. The files are in the run directory itself, so
that each change changes the directory's time, by which the index notices it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from pipelines.errors import ConfigError, RunError, did_you_mean
from pipelines.files import atomic_text

TAG, NOTE = ".tag", "note.txt"
_TAG = re.compile(r"\w[\w.-]{0,63}")


def read_tags(run: Path) -> tuple[str, ...]:
    """Return the tags of the run directory `run`, sorted."""
    names = (name.removesuffix(TAG) for name in os.listdir(run) if name.endswith(TAG))
    return tuple(sorted(name for name in names if _TAG.fullmatch(name)))


def add_tag(run: Path, tag: str) -> None:
    """Give the run directory `run` a tag; nothing happens if it has it.

    Raises:
        ConfigError: the tag is not one word.
    """
    check_tag(tag)
    (run / f"{tag}{TAG}").touch()


def remove_tag(run: Path, tag: str) -> None:
    """Take a tag from the run directory `run`.

    Raises:
        ConfigError: the tag is not one word.
        RunError: the run does not have it.
    """
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
    if not _TAG.fullmatch(tag) or not _is_text(tag):
        raise ConfigError(
            f"TAG: found {tag!r}, expected one word of at most 64 letters, digits, _, - and ., "
            "beginning with a letter, a digit or _."
        )


def read_note(run: Path) -> str:
    """Return the note on the run directory `run`; empty if there is none."""
    path = run / NOTE
    return path.read_text(encoding="utf-8", errors="replace").rstrip("\n") if path.is_file() else ""


def write_note(run: Path, text: str) -> None:
    """Put a note on the run directory `run`; an empty text removes it.

    Raises:
        ConfigError: the text is not Unicode.
    """
    path = run / NOTE
    if not _is_text(text):
        raise ConfigError(f"TEXT: found {text!r}, expected Unicode text.")
    if text.strip():
        atomic_text(path, text.strip() + "\n")
    else:
        path.unlink(missing_ok=True)


def _is_text(text: str) -> bool:
    """Whether a text from the command line can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
