"""Jobs run a few at a time, and nothing of them outlives the process that started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from pipelines.errors import ConfigError
from pipelines.launch.local import (
    Ended,
    Job,
    LocalLauncher,
    available_cores,
    local_launcher,
    trainings_at_once,
)

# Notes SIGTERM in the file `heard` and ends; its child notes it in the file `child`.
FAMILY = """
import os, signal, subprocess, sys, time
from pathlib import Path
def note(*_):
    Path(sys.argv[1]).write_text("SIGTERM")
    sys.exit(3)
signal.signal(signal.SIGTERM, note)
if len(sys.argv) > 2:
    child = subprocess.Popen([sys.executable, "-c", os.environ["CODE"], sys.argv[2]])
    Path(sys.argv[1]).with_name("pids").write_text(f"{os.getpid()} {child.pid}")
else:
    Path(sys.argv[1]).with_name("ready").touch()
time.sleep(60)
"""
PARENT = """
import os, signal, sys
from pathlib import Path
from pipelines.launch.local import Job, LocalLauncher, Share
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
folder = Path(sys.argv[1])
command = (sys.executable, "-c", os.environ["CODE"], str(folder / "heard"), str(folder / "child"))
list(LocalLauncher([Share((), 1)], grace=5).run([Job("job", command, folder / "log")]))
"""


def shell(name: str, script: str, folder: Path, **more: str) -> Job:
    return Job(name, ("sh", "-c", script), folder / f"{name}.log", environment=more)


def wait_for(condition: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no process has this number, or only a zombie that nobody has collected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_jobs_are_told_in_the_order_of_their_ends(tmp_path: Path) -> None:
    jobs = [
        shell("slow", "sleep 0.6; echo slow", tmp_path),
        shell("quick", "echo quick >&2; exit 7", tmp_path),
        shell("killed", "sleep 0.3; kill -KILL $$", tmp_path),
    ]
    (tmp_path / "quick.log").write_text("before\n")
    started: list[str] = []
    ends = list(local_launcher(3).run(jobs, on_start=lambda job: started.append(job.name)))
    assert started == ["slow", "quick", "killed"]
    assert [(end.job.name, end.returncode) for end in ends] == [
        ("quick", 7),
        ("killed", -signal.SIGKILL),
        ("slow", 0),
    ]
    assert ends[2].seconds >= 0.6
    assert (tmp_path / "quick.log").read_text() == "before\nquick\n"
    assert (tmp_path / "slow.log").read_text() == "slow\n"


def test_no_more_jobs_run_at_once_than_workers(tmp_path: Path) -> None:
    script = f"echo + >> {tmp_path}/events; sleep 0.15; echo - >> {tmp_path}/events"
    jobs = [shell(f"job{number}", script, tmp_path) for number in range(6)]
    assert len(list(local_launcher(2).run(jobs))) == 6
    running, most = 0, 0
    for event in (tmp_path / "events").read_text().split():
        running += 1 if event == "+" else -1
        most = max(most, running)
    assert most == 2


def test_jobs_know_how_many_share_their_memory(tmp_path: Path) -> None:
    """So that trainings side by side do not each plan with all that is free."""
    script = "echo $DEEPGCN_SHARING"
    for name, workers, devices in (("cpu", 3, ()), ("gpus", 2, ("0", "1")), ("gpu", 2, ("0",))):
        job = shell(name, script, tmp_path)
        assert len(list(local_launcher(workers, devices).run([job]))) == 1
    found = {name: (tmp_path / f"{name}.log").read_text() for name in ("cpu", "gpus", "gpu")}
    assert found == {"cpu": "3\n", "gpus": "1\n", "gpu": "2\n"}


@pytest.mark.parametrize(("value", "shared"), [("", 1), ("3", 3), ("0", 1), ("x", 1)])
def test_what_is_no_number_shares_nothing(
    value: str, shared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEEPGCN_SHARING", value)
    assert trainings_at_once() == shared


def test_a_hundred_quick_jobs(tmp_path: Path) -> None:
    jobs = [shell(f"job{number}", f"echo {number}", tmp_path) for number in range(100)]
    ends = list(local_launcher(2).run(jobs))
    assert {end.job.name for end in ends} == {job.name for job in jobs}
    assert all((tmp_path / f"job{n}.log").read_text() == f"{n}\n" for n in range(100))


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="a system without affinity")
def test_workers_share_the_cores(tmp_path: Path) -> None:
    cores = available_cores()
    ask = "import os; print(sorted(os.sched_getaffinity(0)), os.environ['OMP_NUM_THREADS'])"
    workers = len(cores)
    job = [
        Job(
            f"job{n}",
            (sys.executable, "-c", f"import time; time.sleep(0.5); {ask}"),
            tmp_path / f"{n}",
        )
        for n in range(workers)
    ]
    list(local_launcher(workers).run(job))
    told = sorted((tmp_path / str(n)).read_text().strip() for n in range(workers))
    assert told == sorted(f"[{core}] 1" for core in cores)


def test_workers_with_more_threads_than_cores_are_not_bound(tmp_path: Path) -> None:
    threads = len(available_cores()) + 1
    launcher = local_launcher(1, threads=threads)
    list(launcher.run([shell("job", "echo $OMP_NUM_THREADS", tmp_path)]))
    assert (tmp_path / "job.log").read_text() == f"{threads}\n"
    assert launcher.shares[0].cores == ()


def test_devices_are_given_in_turn_and_a_job_has_the_last_word(tmp_path: Path) -> None:
    script = "sleep 0.3; echo $CUDA_VISIBLE_DEVICES $OMP_NUM_THREADS"
    jobs = [
        shell("a", script, tmp_path),
        shell("b", script, tmp_path, OMP_NUM_THREADS="9"),
    ]
    list(local_launcher(2, devices=("4", "GPU-5"), threads=1).run(jobs))
    assert (tmp_path / "a.log").read_text() == "4 1\n"
    assert (tmp_path / "b.log").read_text() == "GPU-5 9\n"


def test_a_command_that_is_not_there(tmp_path: Path) -> None:
    (end,) = local_launcher(1).run([Job("job", ("no-such-program",), tmp_path / "log")])
    assert end.returncode == 127
    assert end.reason == "no-such-program cannot be started: No such file or directory"


@pytest.mark.parametrize(
    ("names", "found"), [(("a", "a"), "found two"), (("a/b",), "without slashes")]
)
def test_names_are_different_file_names(tmp_path: Path, names: tuple[str], found: str) -> None:
    with pytest.raises(ConfigError, match=found):
        local_launcher(1).run([Job(name, ("true",), tmp_path / "log") for name in names])


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found no folder"):
        local_launcher(1).run([Job("job", ("true",), tmp_path / "log", cwd=tmp_path / "no")])


@pytest.mark.alone
def test_a_tick_a_second(tmp_path: Path) -> None:
    ticks: list[float] = []
    list(
        local_launcher(1).run(
            [shell("job", "sleep 2.5", tmp_path)], tick=lambda: ticks.append(time.monotonic())
        )
    )
    assert len(ticks) == 2
    assert 0.9 < ticks[1] - ticks[0] < 1.5


def begin_family(folder: Path, launcher: LocalLauncher) -> tuple[Iterator[Ended], list[int]]:
    """Start FAMILY and a job that ends at once; return when both of the family are ready."""
    command = (sys.executable, "-c", FAMILY, str(folder / "heard"), str(folder / "child"))
    jobs = [
        Job("family", command, folder / "log", environment={"CODE": FAMILY}),
        shell("first", f"until [ -e {folder}/ready ]; do sleep 0.02; done", folder),
    ]
    ends = launcher.run(jobs)
    assert next(ends).job.name == "first"
    return ends, [int(pid) for pid in (folder / "pids").read_text().split()]


def test_closing_stops_jobs_and_their_children(tmp_path: Path) -> None:
    ends, pids = begin_family(tmp_path, local_launcher(2))
    ends.close()  # type: ignore[attr-defined]
    assert all(is_gone(pid) for pid in pids)
    assert (tmp_path / "heard").read_text() == "SIGTERM"
    assert (tmp_path / "child").read_text() == "SIGTERM"


def test_what_ignores_the_request_is_killed(tmp_path: Path) -> None:
    script = f"trap '' TERM; echo $$ > {tmp_path}/pid; while true; do sleep 0.1; done"
    launcher = LocalLauncher(local_launcher(2).shares, grace=0.5)
    wait = f"until [ -s {tmp_path}/pid ]; do sleep 0.02; done"
    ends = launcher.run([shell("deaf", script, tmp_path), shell("first", wait, tmp_path)])
    next(ends)
    began = time.monotonic()
    ends.close()  # type: ignore[attr-defined]
    assert 0.5 <= time.monotonic() - began < 5
    assert is_gone(int((tmp_path / "pid").read_text()))


def test_what_a_job_leaves_running_ends_with_it(tmp_path: Path) -> None:
    job = shell("job", f"sleep 60 & echo $! > {tmp_path}/pid", tmp_path)
    (end,) = local_launcher(1).run([job])
    assert end.returncode == 0
    assert is_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        env={**os.environ, "CODE": FAMILY},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for((tmp_path / "ready").exists)
        parent.send_signal(number)
        parent.wait(20)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        wait_for(lambda: all(is_gone(pid) for pid in pids))
    finally:
        parent.kill()
        parent.wait()
    assert (tmp_path / "heard").read_text() == "SIGTERM"
    assert (tmp_path / "child").read_text() == "SIGTERM"


@pytest.mark.skipif(sys.platform != "linux", reason="needs the parent's death signal")
def test_a_job_ends_with_its_guard(tmp_path: Path) -> None:
    job = shell("job", f"echo $PPID $$ > {tmp_path}/pids; exec sleep 60", tmp_path)
    first = shell("first", f"until [ -s {tmp_path}/pids ]; do sleep 0.02; done", tmp_path)
    with closing(local_launcher(2).run([job, first])) as ends:
        next(ends)
        guard, command = (int(pid) for pid in (tmp_path / "pids").read_text().split())
        os.kill(guard, signal.SIGKILL)
        end = next(ends)
    assert (end.returncode, end.reason) == (-9, "the process that watched it was killed")
    with suppress(ProcessLookupError):
        wait_for(lambda: is_gone(command))
