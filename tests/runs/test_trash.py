"""Runs go to the trash and come back; only what is in the trash is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.runs.directory import Run, create_run, find_runs
from pipelines.runs.index import query
from pipelines.runs.lock import lock_run
from pipelines.runs.trash import discard, discarded, empty_trash, restore


def make(runs: Path, name: str, seed: int = 0) -> Run:
    return create_run(TrainConfig(runs=runs, name=name, seed=seed), environment={})


def names(runs: Path) -> list[str]:
    return [name for (name,) in query(runs, columns=["name"])]


def test_there_and_back(tmp_path: Path) -> None:
    runs = [make(tmp_path, name) for name in "abc"]
    before = (runs[1].path / "config.json").read_bytes()
    assert discard(runs[1:]) == [tmp_path / ".trash" / "b", tmp_path / ".trash" / "c"]
    assert names(tmp_path) == ["a"]
    assert [run.name for run in find_runs(tmp_path)] == ["a"]
    assert discarded(tmp_path) == ["b", "c"]
    assert restore(tmp_path, "b").path == tmp_path / "b"
    assert (tmp_path / "b" / "config.json").read_bytes() == before
    assert names(tmp_path) == ["a", "b"]


def test_names_do_not_clash(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        discard([make(tmp_path, "mine", seed)])
    assert discarded(tmp_path) == ["mine", "mine-2", "mine-3"]
    make(tmp_path, "mine", 4)
    with pytest.raises(RunError, match=r"mine: found a run of this name there already.*\nRename"):
        restore(tmp_path, "mine")
    assert restore(tmp_path, "mine-3").config.seed == 3


def test_a_run_in_training_stays(tmp_path: Path) -> None:
    runs = [make(tmp_path, name) for name in "ab"]
    with lock_run(runs[1].path), pytest.raises(RunError, match=r"b: a process is training"):
        discard(runs)
    assert names(tmp_path) == ["a", "b"], "nothing was moved"
    assert not (tmp_path / ".trash").exists()


def test_a_broken_run_can_be_discarded(tmp_path: Path) -> None:
    run = make(tmp_path, "bad")
    (run.path / "config.json").write_text("{")
    discard([run])
    assert names(tmp_path) == []


def test_empty(tmp_path: Path) -> None:
    assert empty_trash(tmp_path) == []
    outside = make(tmp_path / "elsewhere", "kept")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "link").symlink_to(outside.path, target_is_directory=True)
    discard([make(tmp_path / "runs", "mine"), Run(tmp_path / "runs" / "link")])
    make(tmp_path / "runs", "other")
    assert empty_trash(tmp_path / "runs") == ["link", "mine"]
    assert discarded(tmp_path / "runs") == []
    assert outside.config.name == "kept", "what a link leads to is not ours"
    assert names(tmp_path / "runs") == ["other"]


@pytest.mark.parametrize("name", ["mine", "../mine", "", ".", ".."])
def test_what_is_not_in_the_trash(tmp_path: Path, name: str) -> None:
    make(tmp_path, "mine")
    discard([make(tmp_path, "mind")])
    with pytest.raises(RunError, match=r"found no run '.*'\..*\nThere: mind\."):
        restore(tmp_path, name)


def test_no_run_is_called_like_the_trash(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name"):
        make(tmp_path, ".trash")
