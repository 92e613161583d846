"""Handle signals that ask this process to stop, and start processes of ours."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]  # of a checkout: it holds `benchmarks` as well
SHARING = "DEEPGCN_SHARING"  # in a job's environment: how many jobs share its device's memory
# Not `-m`, which looks into the current folder first: a `json.py` of the user's own would be run.
# (`-P`, which forbids that, needs Python 3.11.)
_START = (
    f"import sys; sys.path[:] = sys.argv.pop(1).split({os.pathsep!r}); "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_path() -> str:
    """Return where this process finds its modules, in the form of PYTHONPATH."""
    return os.pathsep.join([*sys.path, str(ROOT)])


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs `module`, found where this process finds its own modules."""
    return (sys.executable, "-c", _START, module_path(), module, *arguments)


def trainings_at_once() -> int:
    """Return how many trainings, with this one, share its device (`ablate --workers`)."""
    value = os.environ.get(SHARING, "")
    return max(1, int(value)) if value.isdecimal() else 1


class Interruption:
    """Whether a signal has asked this process to stop; a loop checks it between two steps."""

    def __init__(self) -> None:
        self.requested: str | None = None  # the name of the signal that came
        # Called when the first signal comes. It runs between two bytecodes of the main thread, so
        # set it only while that thread does nothing that it would disturb.
        self.notify: Callable[[], None] | None = None

    def handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Note the first signal; raise KeyboardInterrupt at once on a Ctrl-C that follows.

        A SIGTERM that follows is the same request: SLURM sends it to every process of a job, so
        does a launcher that receives it, and a parent's death can send several. SIGKILL ends.
        """
        name = signal.Signals(number).name
        if self.requested is None:
            self.requested = name
            if self.notify is not None:
                self.notify()
        elif name == "SIGINT":
            raise KeyboardInterrupt


@contextmanager
def watch_for_interruption() -> Iterator[Interruption]:
    """Turn SIGINT and SIGTERM into an `Interruption` in a `with` block.

    Only the main thread may set handlers; in other threads the block keeps those in place.

    Raises:
        KeyboardInterrupt: a signal came, and the block then ended normally.
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
