"""Functions that the tests of both launchers run as jobs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipelines.launch import Job


def job(name: str, function: str, folder: Path, *arguments: object) -> Job:
    """A job that calls a function of this module with the folder and more."""
    where = f"tests.launch.jobs:{function}"
    log = folder / f"{name}.log"
    return Job(name, where, (str(folder), *arguments), log, ("deepgcn", name))


def log(one: Job) -> list[str]:
    """The lines of a job's log, without what submitit says."""
    lines = one.log.read_text(encoding="utf-8").splitlines() if one.log.is_file() else []
    return [line for line in lines if not line.startswith("submitit ")]


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def count(folder: str, seconds: float, code: int = 0) -> int:
    """Note beginning and end in a file that all jobs share."""
    with open(f"{folder}/events", "a") as events:
        say(f"{os.environ['OMP_NUM_THREADS']} threads")
        events.write("+\n")
        events.flush()
        time.sleep(seconds)
        events.write("-\n")
    return code


def most_at_once(folder: Path) -> int:
    """How many jobs that `count` ran at a time."""
    running, most = 0, 0
    for event in (folder / "events").read_text().split():
        running += 1 if event == "+" else -1
        most = max(most, running)
    return most


def save(folder: str, name: str) -> int:
    """Work until SIGTERM comes and save then; called again, go on and end."""
    saved = Path(folder) / f"{name}.saved"
    if saved.exists():
        say("goes on")
        return 0
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    say("begins")
    while not stopped:
        time.sleep(0.05)
    saved.write_text("saved")
    say("saved")
    return 130


def ignore(folder: str) -> int:
    """Ignore SIGTERM, and so does a child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (Path(folder) / "pids").write_text(f"{os.getpid()} {child.pid}")
    say("begins")
    time.sleep(60)
    return 0


def tell_worker(folder: str) -> int:  # noqa: ARG001
    """Say what part of the machine this job has, and its command."""
    names = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "DEEPGCN_SHARING")
    say(" ".join(os.environ.get(name, "none") for name in names))
    say(",".join(map(str, sorted(os.sched_getaffinity(0)))))
    say(" ".join(sys.argv))
    return 0


def die(folder: str) -> int:  # noqa: ARG001
    """Be killed, as by a system that is out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def wait_for(one: Job, line: str, seconds: float = 30) -> None:
    """Wait until a job's log has a line."""
    end = time.monotonic() + seconds
    while line not in log(one):
        assert time.monotonic() < end, f"{one.name} did not say {line!r} in time"
        time.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Whether no process has this number, or only a zombie that nobody has collected."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
