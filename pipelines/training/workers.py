"""Start the workers of one training on this machine, through PyTorch's elastic launcher.

The process that calls `launch` only waits: each worker runs the same function, as one of torchrun's
would, and rank 0's result is returned. A worker is a spawned process, so a script that trains with
several devices needs `if __name__ == "__main__":`.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from pipelines import kernels
from pipelines.errors import DeepGCNError, ProcessLostError
from pipelines.runtime.process import end_with_parent

HOST = "127.0.0.1"
SIGNALS = (signal.SIGINT, signal.SIGTERM)  # are passed on to the workers
STOPPED = 130  # exit code of a worker that was asked to stop
SAVING = 3600  # seconds that workers have to end their step and save, when asked to stop

Result = TypeVar("Result")


def launch(count: int, threads: int, work: Callable[[], Result]) -> Result:
    """Run `work` in `count` processes of `threads` CPU threads each; return rank 0's result.

    `work` has to be picklable, and finds its rank with `distributed.read_ranks`.

    Raises:
        DeepGCNError: what a worker raised.
        ProcessLostError: a worker ended in another way; says how.
        KeyboardInterrupt: a signal came to this process or to a worker, and all have stopped.
    """
    reports = multiprocessing.get_context("spawn").SimpleQueue()
    with _elastic_settings(threads):  # which LaunchConfig reads
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{HOST}:0",
            local_addr=HOST,
            max_restarts=0,
            monitor_interval=0.05,
            start_method="spawn",
            signals_to_handle=",".join(number.name for number in SIGNALS),
        )
        try:
            return elastic_launch(settings, _work)(work, kernels.forced(), reports)[0]
        except SignalException:
            raise KeyboardInterrupt from None
        except ChildFailedError as failed:
            raise _cause(failed, count, reports) from None


def _work(work: Callable[[], Result], kernel: str | None, reports: Any) -> Result:
    """Run one worker with the launching process's kernels; report how it failed, if it did."""
    if hasattr(os, "setsid"):
        os.setsid()  # Ctrl-C reaches the launching process alone, which passes it on
    # PyTorch asks for SIGINT if the launching process dies. Linux sends it again for each thread of
    # the dying process that inherits its children, and a second SIGINT would stop without saving.
    end_with_parent()
    error: DeepGCNError | None = None
    try:
        with kernels.use(kernel):
            return work()
    except KeyboardInterrupt:
        pass
    except DeepGCNError as found:
        error = found
    except Exception:
        traceback.print_exc()
        raise
    reports.put((int(os.environ["RANK"]), error))
    sys.exit(1 if error else STOPPED)


def _cause(failed: ChildFailedError, count: int, reports: Any) -> BaseException:
    """Return what ended the workers: the first error, or else a signal, or else a lost process."""
    found = {}
    while not reports.empty():
        rank, error = reports.get()
        found[rank] = error
    errors = [error for _, error in sorted(found.items()) if error is not None]
    if own := [error for error in errors if not isinstance(error, ProcessLostError)]:
        return own[0]
    if None in found.values():
        return KeyboardInterrupt()
    rank, failure = failed.get_first_failure()
    ending = f"ended with exit code {failure.exitcode}"
    if failure.exitcode < 0:
        ending = f"was killed ({signal.Signals(-failure.exitcode).name})"
    return ProcessLostError(f"process {rank} of {count} {ending}.")


@contextmanager
def _elastic_settings(threads: int) -> Iterator[None]:
    """Set what workers inherit, and undo what the launcher changes in this process."""
    variables = {
        "OMP_NUM_THREADS": str(threads),
        "PYTHONSAFEPATH": "1",  # no module of the current folder is imported
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SAVING),
    }
    before = {name: os.environ.get(name) for name in variables}
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    disabled = logging.root.manager.disable
    os.environ.update(variables)
    logging.disable(logging.CRITICAL)  # what happened is raised
    try:
        yield
    finally:
        logging.disable(disabled)
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
