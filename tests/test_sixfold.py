"""Six folds: pooled and mean figures by hand, resuming, and runs that do not belong together."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines import kernels
from pipelines.config import EvalConfig
from pipelines.data.store import Store
from pipelines.errors import ConfigError, NothingScoredError, RunError
from pipelines.files import sha256_of
from pipelines.metrics import scores
from pipelines.runs.directory import Run, find_runs
from pipelines.studies.sixfold import six_fold
from pipelines.train import train
from tests.ears import Ears
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return write_tiny_store(tmp_path / "data", points=400)


@pytest.fixture
def base(store: Store, tmp_path: Path) -> Run:
    """A run on area 3 of three, trained for two steps."""
    return train_tiny_run(store.path, tmp_path / "runs", name="base", max_steps=2)


def folds(base: Run, **options: object) -> EvalConfig:
    return EvalConfig(runs=base.path.parent, pictures=False, device="cpu", **options)


def test_missing_areas_are_named_with_the_command(base: Run) -> None:
    with pytest.raises(RunError, match=r"for area 1, 2\.\n.*deepgcn eval --six-fold --train-miss"):
        six_fold(folds(base))
    assert len(find_runs(base.path.parent)) == 1


def test_it_trains_what_is_missing_and_pools(base: Run) -> None:
    (found,) = six_fold(folds(base), train_missing=True)
    runs = find_runs(base.path.parent)
    assert {run.name: run.config.test_area for run in runs} == {
        "base": 3,
        "base-fold1": 1,
        "base-fold2": 2,
    }
    saved = [run.scores("room") for run in runs]
    matrices = [np.array(values["confusion"]) for values in saved if values]
    classes = tuple(saved[0]["classes"]) if saved[0] else ()
    each = [scores(matrix, classes) for matrix in matrices]
    assert found.pooled == scores(sum(matrices), classes)
    assert found.mean.miou == pytest.approx(np.mean([s.miou for s in each]))
    assert found.mean.oa == pytest.approx(np.mean([s.oa for s in each]))
    floor = [s.iou[1] for s in each if s.iou[1] is not None]
    assert found.mean.iou is not None
    assert found.mean.iou[1] == pytest.approx(np.mean(floor))
    names = [row.name for row in found.report.rows]
    assert names[:5] == ["pooled", "mean of areas", "area 1", "area 2", "area 3"]
    assert "ResGCN-28, published †" in names
    assert any("Not six folds: the data has areas 1, 2, 3 only" in n for n in found.report.notes)
    assert any("not the whole of S3DIS: 7 rooms of 272" in note for note in found.report.notes)
    written = json.loads(next(p for p in found.files if p.name == "scores.json").read_text())
    assert written["pooled"]["miou"] == found.pooled.miou
    assert written["runs"] == {"1": "base-fold1", "2": "base-fold2", "3": "base"}
    for run in runs:
        (weights,) = written["weights"][str(run.config.test_area)]
        assert weights["sha256"] == sha256_of(run.weights())


def test_the_report_says_what_its_scores_are(base: Run, store: Store) -> None:
    config = folds(base, seed=3, votes=2, checkpoint="last", absent="zero")
    (found,) = six_fold(config, train_missing=True)
    facts, (absent,) = found.report.summary, [n for n in found.report.notes if "bsent" in n]
    assert "count as zero in the means" in absent
    assert facts["protocol"].startswith("room, 2 votes, seed 3, ")
    assert facts["runs"].endswith("checkpoint last")
    assert store.fingerprint[:12] in facts["data"]
    assert "thread" in facts["hardware"]
    assert "commit" in facts["software"]
    written = json.loads(found.files[0].read_text())
    assert (written["seed"], written["votes"], written["checkpoint"]) == (3, 2, "last")
    assert written["store"]["fingerprint"] == store.fingerprint
    assert written["environments"].keys() == {"1", "2", "3"}


def test_the_checkpoint_of_runs_without_validation_is_the_last_one(
    store: Store, tmp_path: Path
) -> None:
    base = train_tiny_run(store.path, tmp_path / "runs", name="base", max_steps=1, val_fraction=0)
    (found,) = six_fold(folds(base), train_missing=True)
    assert found.report.summary["runs"].endswith("checkpoint last")


def test_layers_that_were_recomputed_change_no_fold(base: Run) -> None:
    short = dataclasses.replace(base.config, checkpoint_layers=1)
    for area in (1, 2):
        train(dataclasses.replace(short, name=f"short{area}", test_area=area))
    (found,) = six_fold(folds(base))
    assert sorted(found.report.values["runs"].values()) == ["base", "short1", "short2"]


def test_runs_of_other_data_are_no_folds(base: Run, tmp_path: Path) -> None:
    other = write_tiny_store(tmp_path / "other", points=500)
    config = dataclasses.replace(base.config, data=other.path)
    for area in (1, 2):
        named = train(dataclasses.replace(config, name=f"other{area}", test_area=area)).run
    with pytest.raises(ConfigError, match=r"other2: found data fingerprint \w+, expected \w+ as"):
        six_fold(folds(base, run_dirs=(base.path, named)))
    with pytest.raises(RunError, match="found no finished run with base's settings for area 1, 2"):
        six_fold(folds(base, run_dirs=(base.path,)))


def test_again_nothing_is_trained_or_scored_twice(base: Run) -> None:
    (first,) = six_fold(folds(base), train_missing=True)
    ears, marker = Ears(), base.path / ".changing"
    marker.touch()  # as a process leaves it that is killed after its last file
    (second,) = six_fold(folds(base), progress=ears)
    assert not marker.exists()
    assert second.pooled == first.pooled
    assert sum("scored before" in said for said in ears.said) == 3
    ears = Ears()
    six_fold(folds(base, seed=1), progress=ears)
    assert not any("scored before" in said for said in ears.said), "another seed is another score"


def test_scores_on_other_data_are_not_taken_for_these(base: Run, tmp_path: Path) -> None:
    (first,) = six_fold(folds(base), train_missing=True)
    other = write_tiny_store(tmp_path / "other", points=500)
    ears = Ears()
    (second,) = six_fold(folds(base, data=other.path), progress=ears)
    assert not any("scored before" in said for said in ears.said)
    assert (first.pooled.points, second.pooled.points) == (7 * 1200, 7 * 1500)


def test_scores_of_other_weights_are_not_taken_for_these(base: Run) -> None:
    """Also if these are older than the scores, as when the clock was set back."""
    six_fold(folds(base), train_missing=True)
    best, hour = base.weights(), base.weights().stat().st_mtime - 3600
    shutil.copy(base.path.parent / f"{base.name}-fold1" / best.relative_to(base.path), best)
    os.utime(best, (hour, hour))
    ears = Ears()
    six_fold(folds(base), progress=ears)
    assert sum("scored before" in said for said in ears.said) == 2


def test_an_area_without_labels_is_left_out_and_not_a_score_of_zero(
    base: Run, tmp_path: Path
) -> None:
    six_fold(folds(base), train_missing=True)
    bare = write_tiny_store(tmp_path / "bare", points=400, bare=[1]).path
    ears = Ears()
    (found,) = six_fold(folds(base, data=bare), progress=ears)
    assert any("no labelled point in area 1" in said for said in ears.warned)
    assert list(found.areas) == [2, 3]
    assert found.mean.miou == pytest.approx((found.areas[2].miou + found.areas[3].miou) / 2)
    assert any("as nothing in it can be scored: area 1." in note for note in found.report.notes)
    nothing = write_tiny_store(tmp_path / "nothing", points=400, bare=[1, 2, 3]).path
    with pytest.raises(NothingScoredError, match="no labelled point in area 3"):
        six_fold(folds(base, data=nothing))


def test_a_fold_that_was_stopped_is_finished(base: Run) -> None:
    config = dataclasses.replace(base.config, test_area=1, name="stopped")
    begun = Run(train(config).run)
    begun.update_status(state="interrupted")
    (found,) = six_fold(folds(base), train_missing=True)
    assert json.loads(found.files[0].read_text())["runs"]["1"] == "stopped"
    assert begun.state == "finished"


def test_runs_of_other_settings_are_refused(base: Run, store: Store) -> None:
    other = train(dataclasses.replace(base.config, name="other", test_area=1, seed=7)).run
    config = folds(base, run_dirs=(base.path, other))
    with pytest.raises(ConfigError, match=r"other: found seed 7, expected 0 as in .*base"):
        six_fold(config)
    same = train(dataclasses.replace(base.config, name="same")).run
    with pytest.raises(ConfigError, match="found test area 3 twice"):
        six_fold(folds(base, run_dirs=(base.path, same)))
    assert store.areas == (1, 2, 3)
