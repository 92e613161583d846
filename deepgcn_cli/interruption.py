"""What to tell a person who pressed Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Interrupted(Exception):
    """The person stopped a command; the text says how to go on."""


@contextmanager
def interruptible(how: str | Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C within a `with` block into `Interrupted`.

    Raises:
        Interrupted: with the text `how`, or what `how` returns at that moment.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(how() if callable(how) else how) from None
