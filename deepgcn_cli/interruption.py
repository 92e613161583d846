"""What to tell a person who pressed Ctrl-C, or a launcher that sent SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

LATER = 0.02  # seconds


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
def signals_interrupt() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt within a `with` block where it will be heard.

    Python raises it between any two instructions, some of which swallow it: while a module is
    imported (a callback of the import lock ignores it; NumPy takes it for a broken installation)
    and in destructors. The command would go on as if nobody had asked it to stop. So a signal that
    comes at such a moment comes again a little later.

    SIGTERM waits also while an error is on its way out: torchrun and SLURM send it to all processes
    of a job as soon as one of them fails. The others find the same failure out at that moment, and
    what they have to say of it would be lost.

    A signal that the process ignores, or has another handler for, stays so. Where there are no
    timers (Windows), and in other threads, signals do what they do anyway.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(
        signal, "setitimer"
    ):
        yield
        return
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: does for number, does in usual.items() if signal.getsignal(number) == does}
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    for number in before:
        signal.signal(number, _interrupt)
    sys.unraisablehook = partial(_swallowed, hook)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        signal.signal(signal.SIGALRM, alarm)
        for number, does in before.items():
            signal.signal(number, does)


def _interrupt(number: int, frame: FrameType | None) -> None:
    failing = number == signal.SIGTERM and sys.exc_info()[0] is not None
    if failing or _importing(frame):
        _again(number)
    else:
        raise KeyboardInterrupt(number)


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _swallowed(otherwise: Callable[[Any], Any], unraisable: Any) -> None:
    """Let a KeyboardInterrupt come again that could not be raised where it came."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        ours = getattr(unraisable.exc_value, "args", ()) == (signal.SIGTERM,)
        _again(signal.SIGTERM if ours else signal.SIGINT)
    else:
        otherwise(unraisable)


def _again(number: int) -> None:
    """Let a signal come again, to whatever handles it by then."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, LATER)
