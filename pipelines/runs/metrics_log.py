"""metrics.jsonl: one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.files import atomic_write


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return a journal's records; none without a file, and without a last line cut short."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    # What follows the last newline was being written when the process was killed.
    return path.read_bytes().split(b"\n")[:-1]


class Journal:
    """A journal that is open for appending.

    Args:
        path: the file; made if it is not there.
        keep: how many of its first records stay; the rest is from steps that will be done again.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        kept = _whole_lines(path)[:keep]
        content = b"".join(line + b"\n" for line in kept)
        if path.is_file() and path.read_bytes() != content:
            with atomic_write(path) as temporary:
                temporary.write_bytes(content)
        self.records = len(kept)
        self._file = path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; a reader sees it at once."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self.records += 1

    def sync(self) -> None:
        """Have everything on the disk, so that a checkpoint may count on it."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
