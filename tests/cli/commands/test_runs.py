"""`deepgcn runs` and `deepgcn eval --six-fold` on small trained runs."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from deepgcn_cli.__main__ import run
from pipelines import kernels, load_model
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and two scored runs, `first` and `second`, of other lengths."""
    folder = tmp_path_factory.mktemp("work")
    store = write_tiny_store(folder / "data", points=400)
    train_tiny_run(store.path, folder / "runs", "first", max_steps=2)
    train_tiny_run(store.path, folder / "runs", "second", max_steps=40)
    return folder


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(folder)
    with kernels.use("reference"):
        yield


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what stdout says."""
    code = run(list(arguments))
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def test_compare_needs_scores_and_says_how_to_get_them(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert run(["runs", "compare", "first", "second", "--protocol", "block-s05"]) == 1
    error = capsys.readouterr().err
    assert "runs/first: found no scores under protocol block-s05" in error
    assert "deepgcn eval runs/first --protocol block-s05" in error
    assert run(["runs", "compare", "first"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepgcn runs compare: found one run, expected two or more")
    assert (folder / "runs" / "first").is_dir()


def test_compare(capsys: pytest.CaptureFixture[str]) -> None:
    scored = succeed(capsys, "eval", "first", "second", "--no-pictures", "--device", "cpu")
    assert "\nfirst   room  " in scored, "runs side by side"
    shown = succeed(capsys, "runs", "compare", "first", "second")
    assert "max_steps" in shown
    assert "− first: second" in shown
    assert "over the 2 rooms within" in shown
    assert "Caution: 2 test rooms" in shown
    answer = json.loads(succeed(capsys, "runs", "compare", "first", "second", "--json"))
    assert answer["settings"] == {"max_steps": [2, 40]}
    (difference,) = answer["differences"]
    scores = answer["scores"]
    assert difference["miou"] == pytest.approx(scores["second"]["miou"] - scores["first"]["miou"])
    assert difference["low"] <= difference["miou"] <= difference["high"]


def test_what_differs_in_how_scores_were_made_is_shown(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    copy = folder / "elsewhere" / "second"
    shutil.copytree(folder / "runs" / "second", copy)
    score = ("eval", "--no-pictures", "--device", "cpu")
    succeed(capsys, *score, "second")
    succeed(capsys, *score, str(copy), "--votes", "2")
    answer = json.loads(succeed(capsys, "runs", "compare", "second", str(copy), "--json"))
    assert answer["settings"]["votes of the scores"] == [1, 2]
    assert [*answer["scores"]] == ["runs/second", str(copy)], "two runs of one name"
    train = ("train", "--resume", str(copy), "--max-steps", "45", "--quiet")
    succeed(capsys, *train)
    shutil.copy(
        copy / "checkpoints" / "last.safetensors", copy / "checkpoints" / "best.safetensors"
    )
    for command in (("show", str(copy)), ("compare", "second", str(copy))):
        shown = succeed(capsys, "runs", *command)
        assert f"{copy}: these scores are of earlier weights. Again: deepgcn eval" in shown
        assert f"deepgcn eval {copy} --protocol room --votes 2" in shown
        assert shown.count("earlier weights") == 1


def test_the_index_tells_of_training_and_evaluation(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    succeed(capsys, "eval", "second", "--no-pictures", "--device", "cpu", "--protocol", "block-s1")
    scores = json.loads((folder / "runs/second/eval/block-s1/scores.json").read_text())
    model = load_model("runs/second")
    learned = sum(parameter.numel() for parameter in model.parameters())
    succeed(capsys, "runs", "sync")
    with closing(sqlite3.connect(folder / "runs" / "results.db")) as database:
        columns = "state, step, parameters, block_s1_miou, blocks_per_second > 0"
        query = f"SELECT {columns} FROM runs WHERE name = 'second'"
        assert database.execute(query).fetchone() == ("finished", 40, learned, scores["miou"], 1)


def test_sync_makes_the_index_anew(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    index = folder / "runs" / "results.db"
    index.write_bytes(b"damaged")
    assert succeed(capsys, "runs", "sync") == "runs/results.db: 2 runs\n"
    assert index.read_bytes().startswith(b"SQLite format 3")


def test_six_fold_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "second", "--six-fold", "--no-pictures"]) == 1
    error = capsys.readouterr().err
    assert "for area 1, 2" in error
    assert "deepgcn eval second --six-fold --train-missing" in error
    assert run(["eval", "--train-missing"]) == 2
    assert "without --six-fold" in capsys.readouterr().err
