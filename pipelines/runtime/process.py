"""Handle signals that ask this process to stop; start processes of ours, which end with it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from pipelines.errors import ConfigError, ProcessLostError

ROOT = Path(__file__).resolve().parents[2]  # of a checkout: it holds `benchmarks` as well
SHARING = "DEEPGCN_SHARING"  # in a job's environment: how many jobs share its device's memory
PR_SET_PDEATHSIG = 1  # of prctl
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
    value = os.environ.get(SHARING) or "1"
    if not re.fullmatch("[1-9][0-9]{0,3}", value):
        raise ConfigError(f"{SHARING}: found {value!r:.40}, expected a number of trainings.")
    return int(value)


def end_with_parent() -> None:
    """Let this process get SIGTERM when the one that started it ends, in whatever way (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid != os.getppid():  # it has ended before that
        signal.raise_signal(signal.SIGTERM)


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of processes that end with this one; leaving waits for the calls in work.

    ProcessLostError: one was killed.
    """
    # Fresh interpreters rather than forks: a fork of a process with threads may hang.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _begin_worker)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise ProcessLostError(
            "A worker process was killed, perhaps because memory ran out (see --workers).\n"
            "What is finished is kept: run the same command again."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for it answers Ctrl-C
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    """End this process after its parent.

    Not by `end_with_parent`: the system's signal also comes when the thread ends that started this
    process, and in a training that is a thread which prepares batches.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is spawned"
    parent.join()
    os._exit(1)


def available_cores() -> list[int]:
    """Return the numbers of the CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


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
