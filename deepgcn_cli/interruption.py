"""What to tell a person who pressed Ctrl-C, or a launcher that sent SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does within a `with` block, unless an error is on its way out.

    torchrun and SLURM send SIGTERM to all processes of a job as soon as one of them fails. The
    others find the same failure out at that moment, and what they have to say of it would be lost.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if sys.exc_info()[0] is None:
        raise KeyboardInterrupt
