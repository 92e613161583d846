"""The run directory: round trips, order, and what is said about broken ones."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.runs.annotations import discard
from pipelines.runs.directory import (
    FOLDERS,
    STUDIES,
    Run,
    create_run,
    find_runs,
    latest_finished,
    named_run,
    open_run,
)
from pipelines.runs.index import FILE, LOCK
from pipelines.runs.lock import lock_run
from tests.small_disk import largest_file


def make(runs: Path, name: str | None = "first", **changes: object) -> Run:
    config = TrainConfig(model=ModelConfig(depth=7, k=9), runs=runs, test_area=5, name=name)
    config = dataclasses.replace(config, **changes)
    return create_run(config, environment={"python": "3"})


def test_a_run_gives_back_what_it_was_made_with(tmp_path: Path) -> None:
    config = TrainConfig(
        model=ModelConfig(arch="densegcn", depth=14, k=3, epsilon=0.25),
        data=tmp_path / "data",
        runs=tmp_path,
        name="mine",
        test_area=2,
        max_steps=7,
    )
    create_run(config, environment={"python": "3.12"})
    run = open_run(tmp_path / "mine")
    assert run.config == config
    assert run.environment == {"python": "3.12"}
    assert run.status["step"] == 0
    assert run.metrics() == []
    assert run.scores("room") is None


def test_names_are_made_from_network_and_area_and_never_clash(tmp_path: Path) -> None:
    runs = [make(tmp_path, name=None) for _ in range(3)]
    assert len({run.name for run in runs}) == 3
    for run in runs:
        assert run.name.startswith("resgcn-7-area5-20")
        assert run.config.name == run.name


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/tmp/x", "../x"])
def test_a_name_is_one_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"--name: found .* expected a name without slashes"):
        make(tmp_path / "runs", name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name",
    [
        *(".hidden", LOCK, STUDIES, *FOLDERS, FILE, f"{FILE}-wal"),
        *("two\nlines", "\x1b[31mred", "a\x7f"),
    ],
)
def test_a_name_is_not_that_of_a_file_of_ours(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"^--name: found "):
        make(tmp_path / "runs", name=name)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_name_changes_nothing(tmp_path: Path) -> None:
    run = make(tmp_path)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(RunError, match=r"first: exists already.*\n.*--resume"):
        make(tmp_path, seed=1)
    assert {path: path.read_bytes() for path in run.path.iterdir()} == before


@pytest.mark.parametrize("size", [0, 20, 130, 400])
@pytest.mark.parametrize("name", ["first", None])
def test_a_run_that_a_full_disk_prevents_leaves_nothing(
    tmp_path: Path, size: int, name: str | None
) -> None:
    with largest_file(size), pytest.raises(OSError, match="File too large") as caught:
        make(tmp_path / "runs", name)
    assert str(tmp_path / "runs") in caught.value.filename
    assert list((tmp_path / "runs").iterdir()) == []
    assert make(tmp_path / "runs", name).status["step"] == 0


def test_a_run_that_was_killed_before_it_began_is_begun_again(tmp_path: Path) -> None:
    whole = make(tmp_path, "whole")
    files = ("status.json", "environment.json", "config.json")
    for count, name in enumerate(files):
        begun = tmp_path / f"killed-{count}"
        begun.mkdir()
        for done in files[:count]:
            (begun / done).write_bytes((whole.path / done).read_bytes())
        (begun / f".{name}.77.part").write_text("{")
        assert make(tmp_path, begun.name).config.seed == 0
        assert sorted(path.name for path in begun.iterdir()) == sorted((".lock", *files))
    with pytest.raises(RunError, match="exists already"):
        make(tmp_path, "killed-2")


def test_a_folder_that_another_process_begins_is_left_to_it(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    with (
        lock_run(tmp_path / "first"),
        pytest.raises(RunError, match="another process is training this run"),
    ):
        make(tmp_path)


def test_runs_come_in_the_order_of_their_creation(tmp_path: Path) -> None:
    names = ["zebra", "ape", "mouse"]
    for name in names:
        make(tmp_path, name=name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "runs.db").write_text("an index")
    assert [run.name for run in find_runs(tmp_path)] == names
    (tmp_path / "ape" / "status.json").unlink()
    assert {run.name for run in find_runs(tmp_path)} == set(names)
    assert find_runs(tmp_path / "nothing") == []


def test_the_latest_finished_run_is_the_one_finished_last(tmp_path: Path) -> None:
    first, second, third = (make(tmp_path, name=name) for name in ("a", "b", "c"))
    second.update_status(state="finished")
    first.update_status(state="finished")
    third.update_status(state="failed")
    assert latest_finished(tmp_path) == first


def test_no_finished_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"found no runs there\.\nTrain one first: deepgcn train"):
        latest_finished(tmp_path / "runs")
    run = make(tmp_path)
    with pytest.raises(RunError) as error:
        latest_finished(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: found 1 run, none finished; the last, first, is interrupted.\n"
        f"Resume it: deepgcn train --resume {run.path}"
    )


def test_a_running_run_without_a_process_was_interrupted(tmp_path: Path) -> None:
    run = make(tmp_path)
    assert run.status["state"] == "running"
    with lock_run(run.path):
        assert run.state == "running"
    assert run.state == "interrupted"


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    make(tmp_path, name="resgcn")
    with pytest.raises(RunError, match=r"resgnc: found no run there\. Did you mean 'resgcn'\?"):
        open_run(tmp_path / "resgnc")
    with pytest.raises(RunError, match=r"found no config\.json.*\nDid you mean .*/resgcn\?"):
        open_run(tmp_path)
    (tmp_path / "resgcn" / "config.json").unlink()
    with pytest.raises(RunError, match=r"found no config\.json.*\nStart one: deepgcn train"):
        open_run(tmp_path / "resgcn")


@pytest.mark.parametrize(
    "text",
    [
        "",
        '{"model": {"depth": 28',
        "[1, 2]",
        '{"modell": {}}',
        '{"model": {"depth": -3}}',
        '{"model": "x"}',
        '{"epochs": "many"}',
    ],
)
def test_a_damaged_configuration_is_reported(tmp_path: Path, text: str) -> None:
    run = make(tmp_path)
    (run.path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json: found"):
        _ = open_run(run.path).config


def test_weights_that_are_not_there_yet(tmp_path: Path) -> None:
    run = make(tmp_path)
    with pytest.raises(RunError, match=r"found no best weights.*the run is interrupted\.\nResume"):
        run.weights()
    path = run.path / "checkpoints" / "last.safetensors"
    path.parent.mkdir()
    path.touch()
    assert run.weights("last") == path


@pytest.mark.parametrize(
    ("changes", "best"),
    [
        ({"val_fraction": 0.0}, "last"),
        ({"val_fraction": 0.0, "val_fold": "1/2"}, "best"),  # which validates
        ({}, "best"),
    ],
)
def test_the_last_weights_are_the_best_where_nothing_validates(
    tmp_path: Path, changes: dict[str, object], best: str
) -> None:
    assert make(tmp_path, **changes).chosen("best") == best


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"resumed": 5}, "resumed 5, expected a list of JSON objects"),
        ({"resumed": [1]}, r"resumed \[1\], expected a list of JSON objects"),
        ({"store": [1]}, r"store \[1\], expected a JSON object"),
        ({"rooms": [1]}, r"rooms \[1\], expected a JSON object"),
        ({"packages": [1]}, r"packages \[1\], expected a JSON object"),
    ],
)
def test_an_environment_of_other_types_is_reported(
    tmp_path: Path, change: dict[str, object], found: str
) -> None:
    run = make(tmp_path)
    (run.path / "environment.json").write_text(json.dumps(change))
    with pytest.raises(RunError, match=rf"environment\.json: found {found}\."):
        _ = run.environment


@pytest.mark.parametrize("text", ['{"a', "[]", '{"step": "three"}'])
def test_a_damaged_status_can_be_deleted(tmp_path: Path, text: str) -> None:
    run = make(tmp_path)
    (run.path / "status.json").write_text(text)
    with pytest.raises(RunError, match=r"status\.json: found .*\nDelete it: "):
        run.update_status(state="running")
    (run.path / "status.json").unlink()
    run.update_status(state="running")
    assert run.state == "interrupted", "no process holds it"


def test_a_run_has_a_name_wherever_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "runs", "mine")
    (run.path / "eval").mkdir()
    for folder, named in ((".", "."), (".", ""), ("eval", "..")):
        monkeypatch.chdir(run.path / folder)
        for found in (open_run(Path(named)), named_run(Path(named), Path("runs"))):
            assert (found.name, found.path) == ("mine", run.path.resolve())
    monkeypatch.chdir(run.path)
    (moved,) = discard([named_run(Path("."), Path("runs"))])
    assert moved == tmp_path.resolve() / "runs" / ".trash" / "mine"


def test_status_keeps_what_is_not_named(tmp_path: Path) -> None:
    run = make(tmp_path)
    run.update_status(step=3, best_miou=0.5)
    run.update_status(step=4)
    assert run.status["step"] == 4
    assert run.status["best_miou"] == 0.5
    assert json.loads((run.path / "status.json").read_text()) == run.status


def test_a_run_is_meant_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make(tmp_path / "runs", "mine")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()  # another folder of this name, which is no run
    for named in (Path("mine"), Path("runs/mine"), run.path):
        assert named_run(named, Path("runs")).path.resolve() == run.path.resolve()
    with pytest.raises(RunError, match=r"^runs/mini: found no run there\. Did you mean 'mine'\?"):
        named_run(Path("mini"), Path("runs"))
    with pytest.raises(RunError, match=r"^runs/mini: found no run there"):
        named_run(Path("runs/mini"), Path("runs"))
