"""The best of a few: which candidates are trained, kept, left out and gone on with."""

from __future__ import annotations

import dataclasses
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import kernels
from pipelines.config import PlanConfig, TrainConfig
from pipelines.errors import ConfigError, DiskFullError, RunError
from pipelines.plan import plan
from pipelines.planning.candidates import _folder_of
from pipelines.planning.file import read_plan, write_plan
from pipelines.progress import SILENT
from pipelines.runs.directory import Run
from pipelines.runs.lock import lock_run
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store
from tests.tiny_training import AtStep, send


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("tiny") / "data"
    write_tiny_store(data)
    return data


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[TrainConfig]:
    """What is trained, or rather would be: each candidate scores 50 %."""
    found: list[TrainConfig] = []

    def note(config: TrainConfig, **_: Any) -> SimpleNamespace:
        found.append(config)
        return SimpleNamespace(best_miou=0.5)

    monkeypatch.setattr("pipelines.planning.candidates.train", note)
    return found


def test_candidates_from_weights_are_dilated_as_planned(
    tiny: Path, tmp_path: Path, tried: list[TrainConfig]
) -> None:
    base = {"weights": "indoor", "device": "cpu", "threads": 1, "num_points": 128}
    with kernels.use("reference"):
        plan(PlanConfig("20s", tiny, tmp_path, candidates=2, base=base))
    assert [config.model.dilation for config in tried] == [True, True]


def test_a_candidate_that_fails_is_left_out(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But not if the disk is full: that is no fault of its."""
    failing, warned = {"modern": RunError("The loss is nan on batch 2")}, list[str]()
    monkeypatch.setattr(SILENT, "warn", warned.append)

    def train(config: TrainConfig, **_: Any) -> SimpleNamespace:
        if config.recipe in failing:
            raise failing[config.recipe]
        return SimpleNamespace(best_miou=0.5)

    monkeypatch.setattr("pipelines.planning.candidates.train", train)
    small = {"depth": 3, "width": 8, "k": 4, "fusion_channels": 16, "num_points": 64}
    base: dict[str, Any] = {**small, "device": "cpu", "threads": 1}
    config = PlanConfig("20s", tiny, tmp_path, candidates=2, base=base)
    with kernels.use("reference"):
        made = plan(config)
        assert made.settings["recipe"] == "scans"
        assert made.notes[-1].endswith("mIoU recipe scans 50.0 %, as planned failed.")
        assert warned == [
            "Candidate 'as planned' failed and is left out. The loss is nan on batch 2"
        ]
        failing["scans"] = RunError("another")
        with pytest.raises(RunError, match="nan on batch 2"):
            plan(config)
        del failing["modern"]
        failing["scans"] = DiskFullError("no space\nResume that one")
        with pytest.raises(DiskFullError, match=r"^no space\nFree .* then type the same command"):
            plan(config)
    without = PlanConfig(
        "20s", tiny, tmp_path, candidates=3, base={**base, "without": ("balance",)}
    )
    with kernels.use("reference"):
        assert plan(without).settings["recipe"] == "modern"
    assert "recipe scans does not have" in warned[-1]


def test_candidates_are_tried_and_the_best_on_validation_is_kept(
    tiny: Path, tmp_path: Path
) -> None:
    listener = AtStep()
    small = {"depth": 3, "width": 8, "k": 4, "fusion_channels": 16, "num_points": 64}
    given = {**small, "device": "cpu", "threads": 1, "runs": tmp_path}
    config = PlanConfig("20s", tiny, candidates=2, base=given)
    with kernels.use("reference"):
        made = plan(config, progress=listener)
    (folder,) = (tmp_path / "candidates").iterdir()
    runs = [Run(path) for path in sorted(folder.iterdir()) if path.is_dir()]
    assert sorted(path.name for path in folder.glob("*.json")) == [
        "as-planned.json",
        "recipe-scans.json",
    ]
    scores = [run.status["best_miou"] for run in runs]
    assert [run.config.recipe for run in runs] == ["modern", "scans"]
    best = runs[scores.index(max(scores))].config.recipe
    assert made.settings["recipe"] == best
    assert made.notes[-1].endswith(
        f"mIoU as planned {100 * scores[0]:.1f} %, recipe scans {100 * scores[1]:.1f} %."
    )
    assert made.estimate.steps > max(run.status["step"] for run in runs)
    with pytest.raises(ConfigError, match="--candidates: found it with --dry-run"):
        plan(config, measure=False)


def test_candidates_go_on_where_they_were_interrupted(tiny: Path, tmp_path: Path) -> None:
    """Those that were trained are left as they are, and the rest of the time is as long."""
    small = {"depth": 3, "width": 8, "k": 4, "fusion_channels": 16, "num_points": 64}
    given = {**small, "device": "cpu", "threads": 1, "runs": tmp_path, "max_steps": 6}
    config = PlanConfig("20s", tiny, candidates=2, base=given)
    listener = AtStep(8, send(signal.SIGINT))
    with kernels.use("reference"), pytest.raises(KeyboardInterrupt):
        plan(config, began=time.monotonic(), progress=listener)
    (folder,) = (tmp_path / "candidates").iterdir()
    first, second = Run(folder / "as-planned"), Run(folder / "recipe-scans")
    assert (first.state, second.state) == ("finished", "interrupted")
    before = first.status
    listener = AtStep()
    with kernels.use("reference"):
        made = plan(config, began=time.monotonic() - 20, progress=listener)
    assert (first.status, second.state, second.status["step"]) == (before, "finished", 6)
    assert listener.said[0].startswith(f"{folder}: goes on there; to train all candidates anew")
    scores = [f"{100 * run.status['best_miou']:.1f} %" for run in (first, second)]
    assert made.notes[-1].endswith(f"mIoU as planned {scores[0]}, recipe scans {scores[1]}.")
    assert made.budget == 16
    with lock_run(folder), pytest.raises(RunError, match="another process is at it"):
        plan(config)


def test_what_was_tried_is_what_is_planned(
    tiny: Path, tmp_path: Path, tried: list[TrainConfig]
) -> None:
    """However fast the machine is when the same command comes again."""
    base = {"device": "cpu", "threads": 1, "weights": "none", "num_points": 64}
    config = PlanConfig("20s", tiny, tmp_path, candidates=2, base=base)
    with kernels.use("reference"):
        plan(config)
        (file,) = tmp_path.glob("candidates/*/as-planned.json")
        before = read_plan(file)
        choices = [
            dataclasses.replace(choice, value=3, reason="on another day")
            if choice.option == "depth"
            else choice
            for choice in before.choices
        ]
        write_plan(file, dataclasses.replace(before, choices=tuple(choices)))
        made = plan(config)
    assert [config.model.depth for config in tried[2:]] == [3, tried[1].model.depth]
    assert (made.settings["depth"], before.settings["depth"] > 3) == (3, True)
    (depth,) = (choice for choice in made.choices if choice.option == "depth")
    assert depth.reason == "on another day"
    file.write_text("{}")
    with pytest.raises(RunError, match=rf"Remove {file.parent}, and the same command trains"):
        plan(config)


def test_candidates_start_from_a_run_that_is_named(tiny: Path, tmp_path: Path) -> None:
    with kernels.use("reference"):
        start = train_tiny_run(tiny, tmp_path, "mine", max_steps=2)
        base: dict[str, Any] = {"weights": "mine", "device": "cpu", "threads": 1, "max_steps": 2}
        config = PlanConfig("20s", tiny, tmp_path, candidates=2, base=base)
        made = plan(config)
    (folder,) = (tmp_path / "candidates").iterdir()
    assert made.settings["weights"] == "mine"
    assert Run(folder / "recipe-scans").config.weights == str(start.path)
    named = dataclasses.replace(config, base={**base, "name": "a"}, out=tmp_path / "b")
    assert _folder_of(named, SILENT) == folder
    with kernels.use("reference"):
        train_tiny_run(tiny, tmp_path, "other", max_steps=3)
    start.weights().write_bytes(Run(tmp_path / "other").weights().read_bytes())
    assert _folder_of(config, SILENT) != folder, "the weights are others under the same name"
