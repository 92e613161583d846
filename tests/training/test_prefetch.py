"""Results come in order, ahead of time, and failures in their turn."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.training.prefetch import AHEAD, prefetch


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 20])
def test_keeps_the_order_even_if_later_items_are_faster(count: int, threads: int) -> None:
    def slow_first(number: int) -> int:
        time.sleep(0.02 / (number + 1))
        return number * number

    found = list(prefetch(slow_first, range(count), threads=threads))
    assert found == [number * number for number in range(count)]


def test_works_while_the_caller_does() -> None:
    called = threading.Event()

    def note(number: int) -> int:
        if number == 1:
            called.set()
        return number

    results = prefetch(note, range(3))
    assert next(results) == 0
    assert called.wait(timeout=5)  # item 1 was made before it was asked for
    results.close()


def test_takes_only_a_few_items_ahead() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = prefetch(abs, endless(), threads=2)
    next(results)
    assert len(taken) == 2 + AHEAD
    results.close()


def test_a_failure_comes_in_its_items_turn() -> None:
    results = prefetch(lambda number: 1 // (2 - number), range(5))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_the_threads() -> None:
    before = threading.active_count()
    results = prefetch(abs, range(100), threads=4)
    next(results)
    results.close()
    assert threading.active_count() == before
