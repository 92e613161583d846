"""How a stage reports what it does, wherever the reports go.

A stage takes `progress: Progress = SILENT`, opens a task around each piece of work that can last
more than two seconds, and says what the user should know. The command line passes a subclass
that draws bars on stderr; tests and library users pass nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Task:
    """One piece of work with a known or unknown length."""

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` more units as done; `fields` are figures to show beside the bar.

        A negative amount takes back what has to be done again.
        """


class Progress:
    """Reports that are not shown; the command line has subclasses that show them.

    >>> with SILENT.task("Reading rooms", total=2, unit="rooms") as task:
    ...     task.advance()
    """

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a task of `total` units (None: unknown) for the length of a `with` block."""
        yield Task()

    def say(self, message: str) -> None:
        """Report a fact that is worth a line."""

    def warn(self, message: str) -> None:
        """Report something that may be wrong but does not stop the work."""


SILENT = Progress()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 room", "2,400 rooms"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
