"""A whole study given to a real SLURM, one of its jobs queued again on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.launch.slurm import SlurmLauncher
from tests.tiny_store import write_tiny_store

pytestmark = pytest.mark.slurm

GRID = """
base: {depth: 3, width: 8, k: 4, fusion-channels: 32, layout: torch, batch-size: 4,
       num-points: 64, device: cpu, threads: 1, max-steps: 400}
rows: {reference: {}, plain: {arch: plaingcn}, wild: {lr: 1.0e+30}}
reference: reference
"""


def test_a_study_on_a_cluster(tmp_path: Path, launcher: SlurmLauncher) -> None:
    store = write_tiny_store(tmp_path / "data", points=300)
    (tmp_path / "grid.yaml").write_text(GRID, encoding="utf-8")
    command = [
        *(sys.executable, "-m", "deepgcn_cli", "ablate", "--grid", "grid.yaml", "--json"),
        *("--data", str(store.path), "--no-pictures", "--workers", "2"),
        *("--launcher", "slurm", "--slurm", "cpus=1"),
        *("--slurm", f"minutes={launcher.options.minutes}"),
    ]
    first = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    journal = tmp_path / "runs" / "grid-reference-s0" / "metrics.jsonl"
    end = time.monotonic() + 180
    while not (journal.is_file() and journal.stat().st_size > 2000):
        assert time.monotonic() < end, "no job has begun"
        time.sleep(0.2)
    asked = ["squeue", "--me", "--noheader", "--array", "--states=R", "--format=%i"]
    running = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split()
    (reference,) = [job for job in running if job.endswith("_0")]
    subprocess.run(["scontrol", "requeue", reference], check=True)
    first.kill()  # the jobs stay in the queue; the same command comes back to them
    first.wait()
    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert again.returncode == 1, "one row fails"
    found = json.loads(again.stdout)
    assert (found["runs"], found["finished"], found["failed"]) == (3, 2, 1)
    (table,) = found["tables"]
    assert [len(row["samples"]) for row in table["rows"]] == [1, 1, 0]
    assert "the loss is nan" in table["rows"][2]["remark"]
    log = tmp_path / "runs" / "studies" / "grid" / "logs" / "reference-s0.log"
    assert "resuming it" in log.read_text(encoding="utf-8")
