"""The metrics log, metrics.jsonl: one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.files import atomic_write


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return a log's records: none if the file is missing, and no last line cut short."""
    return [json.loads(line) for line in _whole_lines(path)]


def _whole_lines(path: Path) -> list[bytes]:
    if not path.is_file():
        return []
    # After the last newline is what a killed process was writing.
    return path.read_bytes().split(b"\n")[:-1]


class MetricsLog:
    """A metrics log that is open for appending.

    Args:
        path: the file; created if missing.
        keep: how many of its first records stay; the rest is from steps that will be repeated.
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
        """Write one record; readers see it at once."""
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()
        self.records += 1

    def sync(self) -> None:
        """Force all records to the disk, as a checkpoint relies on them."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()
