"""The clock is set back an hour: durations, the index, locks and loggers still work."""

from __future__ import annotations

import ast
import os
import time
from pathlib import Path

import pytest

from deepgcn_cli.__main__ import run as deepgcn
from pipelines.config import ModelConfig, TrainConfig
from pipelines.runs.annotations import add_tag
from pipelines.runs.directory import Run, create_run
from pipelines.runs.index import query
from pipelines.training.loggers import EVENTS, TensorBoard

ROOT = Path(__file__).resolve().parents[2]
HOUR = 3600
# Where the time of day is asked for: what is shown or recorded of it, and never a duration.
ASKED = {
    "pipelines/training/loggers.py": {"time.time", "time.time_ns"},
    "pipelines/runs/index.py": {"time.time_ns"},
    "pipelines/runs/directory.py": {"datetime.now"},
    "pipelines/runtime/lock.py": {"datetime.now"},
}


def test_no_duration_is_by_the_time_of_day() -> None:
    names = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow"}
    for path in [*ROOT.glob("pipelines/**/*.py"), *ROOT.glob("deepgcn_cli/**/*.py")]:
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        asked = names & {ast.unparse(call.func) for call in calls}
        assert asked == ASKED.get(path.relative_to(ROOT).as_posix(), set()), path


def make_run(runs: Path, name: str) -> Run:
    return create_run(TrainConfig(model=ModelConfig(depth=2), runs=runs, name=name), environment={})


def test_changes_are_noticed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A run that is an hour ahead, then one that changes an hour before its last change."""
    ahead = make_run(tmp_path, "ahead")
    now = time.time()
    os.utime(ahead.path, (now + HOUR, now + HOUR))
    make_run(tmp_path, "now").update_status(state="finished")
    assert query(tmp_path, columns=["name"]) == [("ahead",), ("now",)]
    add_tag(ahead.path, "later")
    os.utime(ahead.path, (now - HOUR, now - HOUR))
    assert query(tmp_path, where="tag=later", columns=["name"]) == [("ahead",)]
    add_tag(ahead.path, "last")
    os.utime(ahead.path, (now - 2 * HOUR, now - 2 * HOUR))
    assert query(tmp_path, where="tag=last", columns=["name"]) == [("ahead",)]
    assert deepgcn(["runs", "sync", "--runs", str(tmp_path)]) == 0
    assert "2 runs" in capsys.readouterr().out


def test_events_stay_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard reads the files of a run and its continuations by their names."""
    began = time.time()
    for back in range(3):
        monkeypatch.setattr(time, "time", lambda back=back: began - back * HOUR)
        TensorBoard(tmp_path, 1).close(None)
        found = sorted(tmp_path.glob(f"{EVENTS}.*"))
        assert len(found) == back + 1
        assert max(found, key=lambda path: path.stat().st_mtime_ns) == found[-1]
