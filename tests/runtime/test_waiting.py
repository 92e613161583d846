"""While threads lack cores there is a team more, by which OpenMP has waiting threads sleep."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pipelines.kernels.threads import gomp_parallel
from pipelines.runtime import waiting
from pipelines.runtime.device import cpu_threads
from pipelines.runtime.waiting import seconds_without_core, sleep_if_crowded

TASKS = Path("/proc/self/task")
WATCHED = bool(gomp_parallel() and seconds_without_core())
needs_counts = pytest.mark.skipif(not WATCHED, reason="no such library, or no times of waiting")


def new_threads(before: set[str], expected: int) -> int:
    """Return how many threads there are that were not before, as soon as they are as expected.

    Others, of earlier tests, may end meanwhile.
    """
    end = time.monotonic() + 5
    while (found := len({*os.listdir(TASKS)} - before)) != expected and time.monotonic() < end:
        time.sleep(0.005)
    return found


@needs_counts
@pytest.mark.parametrize(("lacking", "more"), [(0.8, 3), (0.2, 1)])
def test_one_team_more_while_cores_are_short(
    lacking: float, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watcher, and with short cores a thread with its team of two."""
    monkeypatch.setattr(waiting, "seconds_without_core", lambda: {"1": time.monotonic() * lacking})
    monkeypatch.setattr(waiting, "available_cores", lambda: [0, 1])
    monkeypatch.setattr(waiting, "LOOK", 0.01)
    with cpu_threads(2):
        before = {*os.listdir(TASKS)}
        with sleep_if_crowded():
            time.sleep(0.1)
            assert new_threads(before, more) == more
        assert new_threads(before, 0) == 0


def test_nothing_watches_one_thread() -> None:
    before = {*os.listdir(TASKS)} if WATCHED else set()
    with cpu_threads(1), sleep_if_crowded():
        assert not WATCHED or new_threads(before, 0) == 0
