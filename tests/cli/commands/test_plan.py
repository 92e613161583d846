"""`deepgcn plan`, and `train` by a plan, as a person types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deepgcn_cli.__main__ import run
from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.train import TrainResult, train
from tests.tiny_store import write_tiny_store

SMALL = ("--device", "cpu", "--threads", "1", "--depth", "3", "--width", "8", "-k", "4")
SMALL = (*SMALL, "--num-points", "128", "--fusion-channels", "32")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prepared data, in which the test is."""
    write_tiny_store(tmp_path / "data", points=300)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def in_shown(line: str, text: str) -> bool:
    """Whether a line is there, however its columns are spaced."""
    return line in [" ".join(each.split()) for each in text.splitlines()]


def test_a_plan_is_shown_written_and_trained(capsys: pytest.CaptureFixture[str]) -> None:
    with kernels.use("reference"):
        assert run(["plan", "--time", "10s", *SMALL]) == 0
    shown = capsys.readouterr()
    assert in_shown("width 8 given", shown.out)
    assert "plan.json: the plan\n" in shown.out
    assert shown.err.endswith("Next: deepgcn train --plan plan.json\n")
    with kernels.use("reference"):
        assert run(["train", "--plan", "plan.json", "--max-steps", "3", "--name", "mine"]) == 0
    shown = capsys.readouterr()
    assert in_shown("max-steps 3 given", shown.err)
    assert shown.out.startswith("runs/mine: 3 steps")
    label = "Label a scan: deepgcn predict SCAN.ply --run runs/mine\n"
    assert shown.err.endswith(f"Score it: deepgcn eval runs/mine\n{label}")
    config = json.loads(Path("runs/mine/config.json").read_text())
    assert (config["model"]["width"], config["max_steps"]) == (8, 3)
    kept = json.loads(Path("runs/mine/plan.json").read_text())
    assert {"option": "max-steps", "value": 3, "reason": "given"} in kept["choices"]
    values = json.loads(Path("plan.json").read_text())
    values["choices"].append({"option": "conv", "value": "own:Conv", "reason": "theirs"})
    Path("plan.json").write_text(json.dumps(values))
    assert run(["train", "--plan", "plan.json"]) == 1, "no file has code imported"
    assert "plan.json: found the class own:Conv; importing it" in capsys.readouterr().err
    Path("plan.json").unlink()
    Path("runs/mine/plan.json").unlink()
    assert run(["train", "--resume", "mine"]) == 0, "a run does not need its plan"


def test_folds_label_together(capsys: pytest.CaptureFixture[str]) -> None:
    with kernels.use("reference"):
        train = ["train", "--auto", "--folds", "2", "--time", "12s", "--name", "a", *SMALL]
        assert run([*train, "--max-steps", "2"]) == 0
    score, label = capsys.readouterr().err.splitlines()[-2:]
    weights = "--weights runs/a-fold1 --weights runs/a-fold2"
    assert score == f"Score it: deepgcn eval {weights} --average --data data --area 3"
    assert label == f"Label a scan: deepgcn predict SCAN.ply {weights}"
    folds = [json.loads(Path(f"runs/a-fold{n}/config.json").read_text()) for n in (1, 2)]
    assert [config["val_fold"] for config in folds] == ["1/2", "2/2"]
    kept = json.loads(Path("runs/a-fold2/plan.json").read_text())
    assert kept["predict"] == label.removeprefix("Label a scan: ")
    assert run(["train", "--plan", "runs/a-fold2/plan.json", "--dry-run"]) == 0


def test_folds_go_on_after_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str | None] = []

    def stop(config: TrainConfig, **options: Any) -> TrainResult:
        begun.append(config.name)
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train(config, **options)

    monkeypatch.setattr("pipelines.train.train", stop)
    command = ["train", "--auto", "--folds", "3", "--time", "18s", *SMALL, "--max-steps", "2"]
    with kernels.use("reference"):
        assert run(command) == 130
    (first,) = Path("runs").iterdir()
    resume = f"resume with: deepgcn train --resume {first} --folds 3"
    assert resume in capsys.readouterr().err
    with kernels.use("reference"):
        assert run(["train", "--resume", str(first), "--folds", "3", "--threads", "2"]) == 0
    error = capsys.readouterr().err
    name = first.name.removesuffix("-fold1")
    assert begun[2:] == [f"{name}-fold{n}" for n in (1, 2, 3)]
    weights = " ".join(f"--weights runs/{name}-fold{n}" for n in (1, 2, 3))
    assert error.endswith(f"Label a scan: deepgcn predict SCAN.ply {weights}\n")
    configs = [json.loads((Path("runs") / f"{each}/config.json").read_text()) for each in begun[2:]]
    assert [config.pop("val_fold") for config in configs] == ["1/3", "2/3", "3/3"]
    assert [config.pop("name") for config in configs] == begun[2:]
    assert [config.pop("threads") for config in configs] == [1, 2, 2]
    assert configs[0] == configs[1] == configs[2]
    assert run(["train", "--resume", str(first), "--folds", "2"]) == 1
    assert "expected one of the 2 runs of train --folds 2" in capsys.readouterr().err

    one, _, three = (Path("runs") / f"{name}-fold{n}" for n in (1, 2, 3))
    for each in (one, three):
        (each / "plan.json").unlink()
    assert run(["train", "--resume", str(one), "--folds", "3"]) == 0, "the second has the plan"
    shutil.copy(one / "config.json", three)
    assert run(["train", "--resume", str(one), "--folds", "3"]) == 1
    assert f"--folds: found {three}, expected one of the 3" in capsys.readouterr().err
    config = configs[2] | {"val_fold": "3/3", "model": configs[2]["model"] | {"conv": "evil:Conv"}}
    (three / "config.json").write_text(json.dumps(config))
    assert run(["train", "--resume", str(one), "--folds", "3"]) == 1
    assert f"{three}: found the class evil:Conv; importing it runs" in capsys.readouterr().err


def test_a_name_that_is_taken_is_reported_before_planning(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "runs" / "a-fold2" / "checkpoints").mkdir(parents=True)
    train = ["train", "--auto", "--time", "12s", *SMALL, "--max-steps", "2", "--folds", "2"]
    with kernels.use("reference"):
        assert run([*train, "--name", "a"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Error: runs/a-fold2: exists already; nothing was changed.\n")
    assert [path.name for path in (folder / "runs").iterdir()] == ["a-fold2"]


def test_a_dry_run_writes_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", "--dry-run", "--time", "1d", "--gpu-memory", "80"]) == 0
    assert run(["train", "--auto", "--dry-run", "--time", "1h", "--preset", "resgcn-7"]) == 0
    shown = capsys.readouterr()
    assert "a GPU of 80 GB; 1d\n" in shown.out
    assert "estimated from its arithmetic, not measured" in shown.out
    assert in_shown("depth 7 given", shown.out)
    assert shown.err.endswith("Next: the same command without --dry-run\n")
    assert {path.name for path in folder.iterdir()} == {"data"}


def test_a_dry_run_has_the_errors_of_the_training(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", "--weights", "indoor", "--time", "1h", "--cores", "2"]) == 0
    assert run(["train", "--plan", "plan.json", "--dry-run"]) == 0
    assert run(["train", "--plan", "plan.json", "--dry-run", "--depth", "7"]) == 1
    assert "depth 7 instead of 14" in capsys.readouterr().err
    assert {path.name for path in folder.iterdir()} == {"data", "plan.json"}


@pytest.mark.parametrize("rank", [0, 1])
def test_candidates_are_for_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rank: int
) -> None:
    for name, value in {"WORLD_SIZE": 2, "RANK": rank, "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    assert run(["train", "--auto", "--candidates", "2", *SMALL]) == 1
    assert "--candidates: found 2 processes of torchrun or srun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--plan", "plan.json"], "--plan: found no file plan.json, expected a plan."),
        (["train", "--plan", "p.json", "--auto"], "found --plan and --auto, expected one"),
        (["train", "--auto", "--resume"], "found --auto with --resume"),
        (["train", "--auto", "--synth"], "found --auto with --synth"),
        (["train", "--time", "2h"], "found --time without --auto"),
        (["train", "--dry-run"], "found --dry-run without --plan or --auto"),
        (["train", "--folds", "2"], "found --folds without --plan, --auto or --resume"),
        (["train", "--auto", "--folds", "0"], "--folds: found 0, expected"),
        (["train", "--auto", "--folds", "9"], "--val-fold: found 5 training rooms"),
        (["train", "--val-fold", "3/2"], "--val-fold: found '3/2', expected a part of two"),
        (["train", "--auto", "--time", "soon"], "--time: found 'soon', expected a time such as"),
        (["plan", "--gpu-memory", "0"], "--gpu-memory: found 0"),
        (["plan", "--gpu-memory", "inf"], "--gpu-memory: found inf, expected GB above 0"),
        (["plan", "--memory", "1e300"], "--memory: found 1e+300, expected GB above 0"),
        (["plan", "--cores", "9" * 400], "--cores: found 9,999"),
        (["plan", "--batch-size", "9" * 9], "--batch-size: found 999,999,999, expected a number"),
        (["train", "--candidates", "-5"], "--candidates: found -5, expected a number from 1 to 4"),
        (["train", "--auto", "--folds", "3", "--time", "1s"], "--folds: found 3 in 1s, expected"),
        (["train", "--auto", "--folds", "3", "--val-fold", "1/3"], "--folds and --val-fold"),
        (["plan", "--gpu-memory", "80", "--device", "cpu"], "found it with --device cpu"),
        (["plan", "--cores", "4", "--device", "cuda"], "--cores: found it with --device cuda"),
        (["plan", "--memory", "4", "--device", "cuda"], "--memory: found it with --device cuda"),
        (["plan", "--depth", "1000000000", "--weights", "none"], "--depth: found 1,000,000,000"),
        (["plan", "--dry-run", "--candidates", "2"], "--candidates: found it with --dry-run or"),
        (["plan", "--gpu-memory", "80", "--cores", "4"], "found both, expected one of them"),
        (["plan", "--out", "data/manifest.json"], "found a file that is no plan"),
        (["plan", "--out", "data"], "--out data: found a folder, expected a file."),
        (["plan", "--data", "dta"], "dta: found no prepared data"),
    ],
)
def test_what_cannot_be_is_reported_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(arguments) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3
    assert not (folder / "runs").exists()
