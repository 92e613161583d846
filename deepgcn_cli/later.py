"""A listener for commands that are mostly done at once: drawing is imported when there is any."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.progress import Progress, Task


class Later(Progress):
    """Passes everything on to the listener that suits stderr, opened when it is first needed."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a task of the real listener."""
        with self._listener().task(name, total, unit) as task:
            yield task

    def say(self, message: str) -> None:
        """Pass on a fact."""
        self._listener().say(message)

    def warn(self, message: str) -> None:
        """Pass on a warning."""
        self._listener().warn(message)

    def _listener(self) -> Progress:
        from .progress import open_progress

        return open_progress(quiet=self.quiet)
