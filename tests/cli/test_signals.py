"""Signals that come where Python would swallow a KeyboardInterrupt."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deepgcn_cli.errors import signals_interrupt
from pipelines.weights.catalogue import EMBEDDED
from pipelines.weights.safetensors import read_safetensors

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    """Heed SIGINT although the tests may run in the background, where shells let it be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted(run: Callable[[], Any], seconds: float = 5.0) -> bool:
    """Tell whether a KeyboardInterrupt ends `run` or the time that follows it."""
    end = time.monotonic() + seconds
    try:
        with signals_interrupt():
            run()
            while time.monotonic() < end:
                time.sleep(0.001)
    except KeyboardInterrupt:
        return True
    return False


@pytest.mark.parametrize("number", SIGNALS)
def test_a_module_that_is_being_imported_is_finished_first(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"slow_to_import_{number.name}"
    lines = (f"import signal; signal.raise_signal({int(number)})", "import time; time.sleep(0.1)")
    (tmp_path / f"{name}.py").write_text("\n".join((*lines, "whole = True")))
    monkeypatch.syspath_prepend(tmp_path)
    assert interrupted(lambda: importlib.import_module(name))
    assert sys.modules.pop(name).whole


@pytest.mark.parametrize("number", SIGNALS)
def test_a_destructor_swallows_no_signal(number: signal.Signals) -> None:
    if number == signal.SIGTERM:  # it must not come back as the other one
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    class Closing:
        def __del__(self) -> None:
            signal.raise_signal(number)

    assert interrupted(Closing)


def test_weights_that_are_being_read_are_read_whole() -> None:
    """PyTorch takes a signal for a tensor without a shape, at some moments of reading one."""
    rng, file = random.Random(0), EMBEDDED / "indoor.safetensors"

    def read(signalled_after: float) -> None:
        stop = threading.Timer(signalled_after, os.kill, (os.getpid(), signal.SIGINT))
        stop.start()
        try:
            read_safetensors(file)
        finally:
            stop.join()

    read_safetensors(file)
    began = time.monotonic()
    read_safetensors(file)
    taken = time.monotonic() - began
    for _ in range(80):
        assert interrupted(partial(read, rng.uniform(0, taken)))


def test_sigterm_waits_until_an_error_is_reported() -> None:
    reported = []

    def fail() -> None:
        try:
            raise ValueError
        except ValueError:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.1)
            reported.append("the error")

    assert interrupted(fail)
    assert reported


def test_other_exceptions_that_cannot_be_raised_are_shown_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with signals_interrupt():
        sys.unraisablehook(SimpleNamespace(exc_type=ValueError))  # type: ignore[arg-type]
    assert len(seen) == 1


def test_everything_is_left_as_it_was() -> None:
    numbers = (*SIGNALS, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    hook = sys.unraisablehook

    @signals_interrupt()
    def fail() -> None:
        try:
            raise ValueError("reported")
        finally:
            signal.raise_signal(signal.SIGTERM)  # waits, and is forgotten at the end

    with pytest.raises(ValueError, match="reported"):
        fail()
    assert [signal.getsignal(number) for number in numbers] == before
    assert sys.unraisablehook is hook
    time.sleep(0.1)


def test_a_signal_that_is_ignored_stays_so() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_interrupt():
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.1)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_that_is_being_started_gets_its_task(number: signal.Signals) -> None:
    """Without it the process would say `EOFError: Ran out of input`."""
    script = f"""if True:
        import os, signal
        from multiprocessing import util
        from deepgcn_cli.errors import exit_code
        from pipelines.runtime.process import worker_pool

        start = util.spawnv_passfds

        def start_and_be_interrupted(*arguments):
            pid = start(*arguments)
            signal.raise_signal({int(number)})
            return pid

        def run():
            with worker_pool(1) as pool:
                util.spawnv_passfds = start_and_be_interrupted
                pool.submit(os.getpid).result()
            return 0

        raise SystemExit(exit_code(run))
    """
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ran.returncode, ran.stderr) == (130, "interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", SIGNALS)
def test_at_any_moment_of_starting(number: signal.Signals, tmp_path: Path) -> None:
    """From the first line of the program on: while it imports PyTorch, while it reads its files."""
    arguments = ["synth", str(tmp_path), "--rooms", "272", "--density", "20000"]
    script = (
        "import sys, deepgcn_cli.__main__ as main; inner = main.exit_code\n"
        "main.exit_code = lambda run: inner(lambda: (print(flush=True), run())[1])\n"
        f"sys.exit(main.run({arguments!r}))"
    )
    for moment in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.2 * moment)
            process.send_signal(number)
            _, said = process.communicate(timeout=60)
        # CPython ends by the signal itself if it came while a string was evaluated.
        assert process.returncode in (130, -signal.SIGINT), said
        assert "interrupted" in said.splitlines()[-1]
        assert "Traceback" not in said
