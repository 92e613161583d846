"""Tags and notes live in the run directory; runs go to the trash and come back."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError

import pytest

from pipelines.config import TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.runs.annotations import (
    add_tag,
    discard,
    discarded,
    empty_trash,
    read_note,
    read_tags,
    remove_tag,
    restore,
    write_note,
)
from pipelines.runs.directory import Run, create_run, find_runs
from pipelines.runs.index import query
from pipelines.runs.lock import lock_run


def test_tags(tmp_path: Path) -> None:
    assert read_tags(tmp_path) == ()
    for tag in ("paper", "a-1", "paper", "größe.v2"):
        add_tag(tmp_path, tag)
    assert read_tags(tmp_path) == ("a-1", "größe.v2", "paper")
    remove_tag(tmp_path, "a-1")
    assert read_tags(tmp_path) == ("größe.v2", "paper")
    with pytest.raises(RunError, match=r"no tag 'papre'\. Did you mean 'paper'\?\nIts tags: grö"):
        remove_tag(tmp_path, "papre")


@pytest.mark.parametrize(
    "tag", ["", " ", "two words", "a/b", "..", ".hidden", "-x", "a" * 65, "a\n", "a\x00", "\udcff"]
)
def test_a_tag_is_one_word(tmp_path: Path, tag: str) -> None:
    for change in (add_tag, remove_tag):
        with pytest.raises(ConfigError, match=r"TAG: found .* expected one word"):
            change(tmp_path, tag)
    assert list(tmp_path.iterdir()) == []


def test_notes(tmp_path: Path) -> None:
    assert read_note(tmp_path) == ""
    write_note(tmp_path, "")
    write_note(tmp_path, "  two\nlines – ü ")
    assert read_note(tmp_path) == "two\nlines – ü"
    with pytest.raises(ConfigError, match="expected Unicode"):
        write_note(tmp_path, "\udcff")
    assert read_note(tmp_path) == "two\nlines – ü"
    write_note(tmp_path, " ")
    assert read_note(tmp_path) == ""


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


def test_two_runs_that_reach_one_free_name_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x would become x-2, as x is taken; so would x-2. Both find it free, and one moves first."""
    for name in (".trash/x", "x", "x-2"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").touch()
    together, is_there = Barrier(2, timeout=0.5), os.path.lexists

    def both_look(path: Path) -> bool:
        found = is_there(path)
        with suppress(BrokenBarrierError):
            if path.name == "x-2":
                together.wait()
        return found

    monkeypatch.setattr(os.path, "lexists", both_look)
    with ThreadPoolExecutor(2) as pool:
        moved = pool.map(discard, [[Run(tmp_path / name)] for name in ("x", "x-2")])
    found = [path.name for paths in moved for path in paths]
    assert len({*found}) == 2
    assert discarded(tmp_path) == sorted(["x", *found])
    assert "x-2" in found


def test_a_run_that_is_gone_already(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    run = Run(tmp_path / "x")
    discard([run])
    with pytest.raises(RunError, match="x: found no run there any more; another process has"):
        discard([run])
