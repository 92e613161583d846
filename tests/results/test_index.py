"""The index holds what the directories hold, whatever happened to its file."""

from __future__ import annotations

import json
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.results.index import FILE, VERSION, sync
from pipelines.results.runs import Run, create_run


def make(runs: Path, name: str) -> Run:
    config = TrainConfig(model=ModelConfig(depth=7, k=8), runs=runs, name=name, test_area=5)
    return create_run(config, environment={})


def rows(runs: Path) -> list[tuple]:
    with closing(sqlite3.connect(runs / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
        return database.execute("SELECT name, state, depth, room_miou FROM runs").fetchall()


def test_frame_and_file_hold_the_runs(tmp_path: Path) -> None:
    make(tmp_path, "first").update_status(state="finished", best_miou=0.5, epoch=3)
    scored = make(tmp_path, "second")
    folder = scored.path / "eval" / "room"
    folder.mkdir(parents=True)
    (folder / "scores.json").write_text(json.dumps({"oa": 0.9, "macc": 0.8, "miou": 0.7}))
    frame = sync(tmp_path)
    assert frame["name"].tolist() == ["first", "second"]
    assert frame["val_miou"].tolist()[0] == 0.5
    assert frame["room_miou"].tolist()[1] == 0.7
    assert rows(tmp_path) == [("first", "finished", 7, None), ("second", "interrupted", 7, 0.7)]


def test_a_removed_run_leaves_the_index(tmp_path: Path) -> None:
    run = make(tmp_path, "gone")
    sync(tmp_path)
    (run.path / "config.json").unlink()
    assert sync(tmp_path).empty
    assert rows(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"not a database" * 100])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    make(tmp_path, "mine")
    (tmp_path / FILE).write_bytes(content)
    sync(tmp_path)
    assert [row[0] for row in rows(tmp_path)] == ["mine"]


def test_a_broken_run_has_a_line_with_the_reason(tmp_path: Path) -> None:
    run = make(tmp_path, "bad")
    (run.path / "config.json").write_text('{"depth": ')
    frame = sync(tmp_path)
    assert frame["state"].tolist() == ["broken"]
    assert "config.json" in frame["error"].tolist()[0]


def test_several_at_once(tmp_path: Path) -> None:
    for number in range(3):
        make(tmp_path, f"run{number}")
    with ThreadPoolExecutor(4) as pool:
        frames = list(pool.map(sync, [tmp_path] * 8))
    assert all(len(frame) == 3 for frame in frames)
    assert len(rows(tmp_path)) == 3


def test_no_folder_no_runs(tmp_path: Path) -> None:
    assert sync(tmp_path / "nothing").empty
    assert not (tmp_path / "nothing").exists()
