"""Signals: the first is a request. Our modules in another process: never the current folder's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pipelines.bench
from pipelines.errors import ConfigError, ProcessLostError
from pipelines.runtime.process import (
    python_command,
    trainings_at_once,
    watch_for_interruption,
    worker_pool,
)

TAKEN = ("pipelines/__init__.py", "json.py", "runpy.py", "statistics.py")


def test_files_of_the_users_own_are_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in TAKEN:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("raise SystemExit('this is not a module of deepgcn')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    command = python_command("pipelines.bench", '{"work": "nothing"}')
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "this is not a module of deepgcn" not in done.stderr
    assert str(Path(pipelines.bench.__file__)) in done.stderr  # our own one refuses the case


def test_a_module_has_its_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "tells.py").write_text("import sys; print(__name__, sys.argv[1:])")
    monkeypatch.syspath_prepend(str(tmp_path / "a"))
    command = python_command("tells", "x y", "-c")
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == "__main__ ['x y', '-c']\n"


@pytest.mark.parametrize(("value", "shared"), [("", 1), ("3", 3)])
def test_jobs_that_share_a_device(monkeypatch: pytest.MonkeyPatch, value: str, shared: int) -> None:
    monkeypatch.setenv("DEEPGCN_SHARING", value)
    assert trainings_at_once() == shared


@pytest.mark.parametrize("value", ["0", "many", "-1", "9" * 5000, "٣"])
def test_a_number_of_jobs_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DEEPGCN_SHARING", value)
    with pytest.raises(ConfigError, match=r"DEEPGCN_SHARING: found .*, expected a number of"):
        trainings_at_once()


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


SLEEPING = """
import time
from pipelines.runtime.process import worker_pool

with worker_pool(2) as pool:
    waiting = [pool.submit(time.sleep, 600) for _ in range(2)]
    while not all(future.running() for future in waiting):
        time.sleep(0.01)
    print(*pool._processes, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux, which tells of a parent's death")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_workers_end_with_a_parent_that_is_killed(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPING], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        workers = [int(word) for word in process.stdout.readline().split()]
        assert len(workers) == 2
        process.send_signal(number)
    end = time.monotonic() + 10
    while alive := [pid for pid in workers if os.path.exists(f"/proc/{pid}")]:
        assert time.monotonic() < end, alive
        time.sleep(0.05)


def test_a_worker_that_is_killed_is_an_error() -> None:
    with (
        pytest.raises(ProcessLostError, match="run the same command again"),
        worker_pool(1) as pool,
    ):
        pool.submit(os._exit, 1).result()
