"""Turn Ctrl-C and SIGTERM into a question that a loop can ask between two steps."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether somebody has asked this process to stop."""

    def __init__(self) -> None:
        self.requested: str | None = None  # the name of the signal that came
        # Called when the first signal comes. It runs between two bytecodes of the main thread, so
        # set it only while that thread does nothing that it would disturb.
        self.notify: Callable[[], None] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note the first signal; end at once on a Ctrl-C that follows.

        A SIGTERM that follows is the same request: SLURM sends it to every process of a job, so
        does a launcher that receives it, and a parent's death can send several. SIGKILL ends.

        Raises:
            KeyboardInterrupt: a SIGINT, and not the first signal.
        """
        name = signal.Signals(number).name
        if self.requested is not None:
            if name == "SIGINT":
                raise KeyboardInterrupt
            return
        self.requested = name
        if self.notify is not None:
            self.notify()


@contextmanager
def watch_for_interruption() -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into an `Interruption` in a `with` block.

    Only the main thread may set handlers; in other threads the block keeps those in place.

    Raises:
        KeyboardInterrupt: a signal came and the block ended normally all the same.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interruption.handle) for number in numbers}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if interruption.requested is not None:
        raise KeyboardInterrupt
