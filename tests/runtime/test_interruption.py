"""The first signal is a request, the second an end."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from pipelines.runtime.interruption import watch_for_interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_a_request(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    heard: list[str] = []

    def work() -> None:
        with watch_for_interruption() as asked:
            asked.notify = lambda: heard.append("notified")
            os.kill(os.getpid(), number)
            heard.append(str(asked.requested))
            raise KeyboardInterrupt("saved")

    with pytest.raises(KeyboardInterrupt, match="saved"):
        work()
    assert heard == ["notified", number.name]
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_at_once() -> None:
    steps = []

    def work() -> None:
        with watch_for_interruption():
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("goes on")
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("never")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["goes on"]


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_sigterm_again_is_the_same_request(first: signal.Signals) -> None:
    steps: list[str | None] = []

    def work() -> None:
        with watch_for_interruption() as asked:
            asked.notify = lambda: steps.append("notified")
            os.kill(os.getpid(), first)
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append(asked.requested)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert steps == ["notified", first.name]


def test_a_signal_that_nobody_heeded_is_passed_on() -> None:
    with pytest.raises(KeyboardInterrupt), watch_for_interruption():
        os.kill(os.getpid(), signal.SIGINT)


def test_other_threads_go_without() -> None:
    asked: list[str | None] = ["not run"]

    def work() -> None:
        with watch_for_interruption() as interruption:
            asked[0] = interruption.requested

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert asked == [None]
