"""The metrics log, metrics.jsonl: one JSON object a line, only ever appended to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from pipelines.files import atomic_write


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return a log's records: none if the file is missing, and no last line cut short."""
    content = path.read_bytes() if path.is_file() else b""
    # After the last newline is what a killed process was writing.
    return [json.loads(line) for line in content.split(b"\n")[:-1]]


class MetricsLog:
    """A metrics log that is open for appending; the file is created if missing.

    Its first `keep` records stay; the rest is from steps that will be repeated.
    """

    def __init__(self, path: Path, *, keep: int = 0) -> None:
        written = path.read_bytes() if path.is_file() else b""
        kept = [line + b"\n" for line in written.split(b"\n")[:-1][:keep]]
        if written != (content := b"".join(kept)):
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
