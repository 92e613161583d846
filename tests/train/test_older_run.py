"""A run that version 0.1 left, interrupted at step 13 of 24, under the version of today.

`older_run/` is its directory as it was; `older_run_expected.json` is what 0.1 itself came to when
it resumed and evaluated that run. Both were made on the tiny building of `tests.tiny_store`.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines import load_model
from pipelines.config import EvalConfig
from pipelines.evaluate import evaluate
from pipelines.runs.directory import Run, open_run
from tests.tiny_store import write_tiny_store
from tests.tiny_training import go_on

HERE = Path(__file__).parent
EXPECTED = json.loads((HERE / "older_run_expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)  # the run names its data and its folder relative to this one
    write_tiny_store(Path("data"))
    shutil.copytree(HERE / "older_run", "runs/old")
    return open_run(Path("runs/old"))


def test_a_run_of_version_0_1_resumes_to_the_same_end(older: Run) -> None:
    result = go_on(older)
    assert result.steps == EXPECTED["steps"]
    losses = [record["loss"] for record in older.metrics() if "loss" in record]
    # Other processors add up in another order; the same one gives the same bits.
    assert losses == pytest.approx(EXPECTED["losses"], rel=0.02)
    assert result.best_miou == pytest.approx(EXPECTED["best_miou"], abs=0.05)
    evaluate(EvalConfig(run_dirs=(older.path,), pictures=False, device="cpu"))
    scores = json.loads((older.path / "eval" / "room" / "scores.json").read_text(encoding="utf-8"))
    assert scores["oa"] == pytest.approx(EXPECTED["oa"], abs=0.02)
    assert scores["miou"] == pytest.approx(EXPECTED["miou"], abs=0.05)


def test_a_run_of_version_0_1_is_scored_as_it_is(older: Run) -> None:
    evaluate(EvalConfig(run_dirs=(older.path,), pictures=False, device="cpu"))
    assert (older.path / "eval" / "room" / "scores.json").is_file()


def test_a_run_of_version_0_1_has_blocks_of_1_m(older: Run) -> None:
    assert older.config.block_size == 1
    assert load_model(older.path).block_size == 1
    assert older.config.label == older.config.model.label
