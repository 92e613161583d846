"""Let threads sleep while they wait for one another, where other processes need the cores.

PyTorch's OpenMP threads meet thousands of times in a training step, and spin while they wait, which
is fastest on idle cores. Beside a busy process, the one that spins may hold the core that the other
one waits for: a training on two cores was then 25 times slower. Asleep, they leave it to the other,
and only what the busy process takes is lost; but without one, that costs a tenth
(docs/benchmarks.md).

GNU's OpenMP library has both ways: threads spin for about 3 ms, but hardly at all if its teams have
more threads than the process has cores. So, as long as cores are short, there is one team more,
which does nothing. Results do not depend on any of this.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from pipelines.kernels.threads import gomp_parallel

from .process import available_cores

LOOK = 0.5  # seconds for which spinning threads are watched
# Cores that they lack. Where others need a fifth of a core, these threads lack 0.2 and are still
# faster if they spin; where others need a half, they lack 0.45 and are as fast or faster asleep.
SHORT = 0.35
SLEEP = 15.0  # seconds with sleeping threads, before they spin for another look
MOST = 64  # threads of the team that does nothing; without memory for one the process would end


@contextmanager
def sleep_if_crowded() -> Iterator[None]:
    """In a `with` block, let PyTorch's CPU threads sleep in waiting while they lack cores.

    This needs GNU's OpenMP library and Linux's times of waiting; without these, nothing changes.
    """
    threads = torch.get_num_threads()
    size = len(available_cores()) - threads + 2  # of a team that makes more threads than cores
    if threads == 1 or size > MOST or not gomp_parallel() or not seconds_without_core():
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(max(2, size), ended), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def seconds_without_core() -> dict[str, float]:
    """Return for how long each thread of this process was ready to run and had no core.

    {} where the system does not count that.
    """
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # as the thread has ended
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return found


def _watch(size: int, ended: threading.Event) -> None:
    while not ended.is_set():
        before, begun = seconds_without_core(), time.monotonic()
        ended.wait(LOOK)
        now = seconds_without_core()
        lacking = sum(now[thread] - before.get(thread, 0.0) for thread in now)
        if lacking > SHORT * (time.monotonic() - begun):
            # The team is that of a thread, and is gone when this has ended.
            holder = threading.Thread(target=_hold_team, args=(size, ended), daemon=True)
            holder.start()
            holder.join()


def _hold_team(size: int, ended: threading.Event) -> None:
    """Have a team of so many threads, which do nothing, for a while."""
    signature = ctypes.CFUNCTYPE(
        None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint
    )
    nothing = ctypes.cast(ctypes.CDLL(None).free, ctypes.c_void_p)  # of a null pointer
    signature(gomp_parallel())(nothing, None, size, 0)
    ended.wait(SLEEP)
