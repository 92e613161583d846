"""Preparing the next batches while the model works on this one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # results that wait beyond one for each thread


def prefetch(
    function: Callable[[Item], Result], items: Iterable[Item], *, threads: int = 1
) -> Generator[Result, None, None]:
    """Yield `function(item)` for every item, in their order, computed ahead by other threads.

    NumPy and HDF5 release the interpreter lock for most of the work, so threads are enough. What
    `function` raises is raised here, in its item's turn. Close the generator (or use it up) to end
    the threads.

    Args:
        function: must depend on its item alone, so that the order of computing does not matter.
        items: taken lazily, a few ahead of what was yielded.
        threads: how many items to work on at once.
    """
    remaining = iter(items)
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="deepgcn-data")
    try:
        for item in remaining:
            waiting.append(pool.submit(function, item))
            if len(waiting) < threads + AHEAD:
                continue
            yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
