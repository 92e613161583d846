"""Many processes at one index: nothing is lost, and a killed one leaves it readable."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.runs.annotations import add_tag
from pipelines.runs.directory import Run, create_run, find_runs
from pipelines.runs.index import FILE, query, sync

PROCESSES, RUNS, STEPS = 16, 2, 2

# Runs begin, go on, are tagged, listed and read anew until somebody kills the process.
RESTLESS = """
import sys
from pathlib import Path
from pipelines.config import TrainConfig
from pipelines.runs.annotations import add_tag
from pipelines.runs.index import query, sync
from pipelines.runs.directory import create_run
runs = Path(sys.argv[1])
print("ready", flush=True)
number = 0
while True:
    number += 1
    run = create_run(TrainConfig(runs=runs, name=f"{sys.argv[2]}-{number}"), environment={})
    for step in range(3):
        run.update_status(step=step)
    add_tag(run.path, "tagged")
    query(runs, where="tag=tagged")
    if number % 5 == 0:
        sync(runs)
"""


def work(runs: Path, number: int, start: Barrier) -> None:
    """Make runs, update, list and sync them and tag a run that all share, without pauses."""
    shared = Run(runs / "shared")
    start.wait()
    for each in range(RUNS):
        config = TrainConfig(model=ModelConfig(depth=7), runs=runs, name=f"run-{number}-{each}")
        run = create_run(config, environment={})
        for step in range(1, STEPS + 1):
            run.update_status(step=step)
        run.update_status(state="finished")
        add_tag(shared.path, f"tag-{number}-{each}")
        query(runs)
        assert sync(runs) > each


def test_sixteen_processes_at_once_lose_nothing(tmp_path: Path) -> None:
    create_run(TrainConfig(runs=tmp_path, name="shared"), environment={})
    # Processes of one that has imported what they need, and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start = context.Barrier(PROCESSES)
    workers = [context.Process(target=work, args=(tmp_path, n, start)) for n in range(PROCESSES)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * PROCESSES
    found = dict(query(tmp_path, where="state=finished", columns=["name", "step"]))
    ((tags,),) = query(tmp_path, where="name=shared", columns=["tags"])
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    each = [f"{number}-{one}" for number in range(PROCESSES) for one in range(RUNS)]
    assert found == {f"run-{name}": STEPS for name in each}
    assert set(tags.split()) == {f"tag-{name}" for name in each}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
def test_kill_9_at_any_time_leaves_a_readable_index(tmp_path: Path) -> None:
    times = random.Random(0)
    for attempt in range(8):
        # Two at a time, so that some are killed while they hold a lock that the other waits for.
        pair = [restless(tmp_path, f"{attempt}-{which}") for which in "ab"]
        for process in pair:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
        for process in pair:
            time.sleep(times.uniform(0.01, 0.3))
            os.kill(process.pid, signal.SIGKILL)
        for process in pair:
            process.communicate()
        with closing(sqlite3.connect(tmp_path / FILE)) as database:
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        there = {run.name: len(run.status) and run.status["step"] for run in find_runs(tmp_path)}
        assert dict(query(tmp_path, columns=["name", "step"])) == there
        assert query(tmp_path, where="state=running") == []
    assert len(there) > 8


def restless(runs: Path, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", RESTLESS, str(runs), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
