"""`deepgcn ablate` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from deepgcn_cli.__main__ import run
from deepgcn_cli.commands.ablate import slurm_options
from pipelines.bench import Case, Figures
from tests.tiny_store import write_tiny_store


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with prepared data, in which the test is."""
    write_tiny_store(tmp_path / "data", points=300)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--preset and --grid: found neither, expected one of them."),
        (["--preset", "smoke", "--grid", "g.yaml"], "found both"),
        (["--preset", "smok"], "unknown study 'smok'. Did you mean 'smoke'"),
        (["--preset", "smoke", "--rows", "dens"], "unknown row 'dens'. Did you mean 'dense'"),
        (["--preset", "smoke", "--deepest"], "found it without --preset depth"),
        (["--preset", "smoke", "--seeds", "0"], "--seeds: found 0, expected at least 1"),
        (["--preset", "smoke", "--arch", "dgcnn"], "--arch: found dgcnn, but the rows of smoke"),
        (
            ["--preset", "smoke", "--slurm", "gpus=1"],
            "--slurm: found gpus without --launcher slurm",
        ),
        (["--preset", "smoke", "--name", "a/b"], "expected a name without slashes"),
        (["--preset", "smoke", "-k", "200"], "k·d: layer 3 takes neighbours from the 600 nearest"),
        (["--status"], "runs: found no study."),
        (["--status", "--report", "foo"], "--report: found the unknown report 'foo'"),
        (["--status", "--page-columns", "7"], "--page-columns: found 7"),
        (["--status", "--preset", "depth"], "depth: found no such study in runs"),
    ],
)
def test_what_cannot_be_is_reported_in_a_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run(["ablate", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) <= 3
    assert not (folder / "runs").exists()


def test_the_status_of_a_grid_is_that_of_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "file.yaml").write_text("{name: mine, rows: {a: {k: 4}, b: {k: 8}}}")
    (folder / "other.yaml").write_text("{name: a/b, rows: {a: {k: 4}}}")
    assert run(["ablate", "--grid", "file.yaml", "--status"]) == 1
    assert "mine: found no such study in runs" in capsys.readouterr().err
    assert run(["ablate", "--grid", "other.yaml"]) == 1
    assert "other.yaml: name: found 'a/b'" in capsys.readouterr().err


@pytest.mark.alone
def test_a_dry_run_lists_every_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--preset", "smoke", "--dry-run", "--seeds", "3", "--rows", "dense", "--quiet"]
    assert run(["ablate", *arguments, "--device", "cpu", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[1]: line for line in shown.splitlines() if "densegcn" in line}
    assert "densegcn-4 (edge, C 8, k 3)" in lines["dense"]
    assert "6 runs to train, estimate " in shown
    assert "starting (some 10 s a run), validation and scoring are not counted." in shown
    assert "All times are estimates, from timed steps of the first row." in shown
    assert not (folder / "runs").exists()


@pytest.mark.usefixtures("folder")
def test_how_a_step_is_computed_is_the_same_in_every_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    timed: list[str] = []

    def measure(_: str, case: Case, _seconds: float) -> Figures:
        timed.append(case.precision)
        return Figures((1.0,), 1)

    monkeypatch.setattr("pipelines.studies.state.measure_case", measure)
    arguments = ["--preset", "smoke", "--rows", "plain", "--dry-run", "--json", "--quiet"]
    how = ["--precision", "bf16", "--micro-batch", "2", "--checkpoint-layers", "3"]
    assert run(["ablate", *arguments, *how, "--device", "cpu", "--threads", "1"]) == 0
    rows = [row["row"]["config"] for row in json.loads(capsys.readouterr().out)["rows"]]
    found = [(row["precision"], row["micro_batch"], row["checkpoint_layers"]) for row in rows]
    assert found == [("bf16", 2, 3)] * 2
    assert timed == ["bf16"]


def test_slurm_options() -> None:
    texts = ["partition=gpu", "memory-gb=32", "setup=module load cuda", "setup=date", "account=a=b"]
    assert slurm_options([*texts, "exclusive"]) == {
        "partition": "gpu",
        "memory_gb": 32,
        "setup": ("module load cuda", "date"),
        "extra": {"account": "a=b", "exclusive": ""},
    }
    for wrong in ("gpus=two", "gpus", "=1"):
        with pytest.raises(typer.BadParameter):
            slurm_options([wrong])


def deepgcn(*arguments: str) -> str:
    command = [sys.executable, "-m", "deepgcn_cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_smoke_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["ablate", "--preset", "smoke", "--workers", "2", "--device", "cpu"]
    more = ["--max-steps", "2", "--json", "--report", "html", "--report", "md"]
    found: dict[str, Any] = json.loads(deepgcn(*arguments, *more))
    assert (found["runs"], found["finished"], found["failed"]) == (7, 7, 0)
    files = [Path(file).name for file in found["files"]]
    assert files == ["table.html", "table.md", "plot.png"]
    rows = found["tables"][0]["rows"]
    names = ["reference", "no-dilation", "plain", "dense", "k-half", "depth-half", "width-half"]
    assert [row["row"] for row in rows] == names
    assert len(list((folder / "runs").glob("*/eval/room/scores.json"))) == len(names)
    reference, *others = rows
    assert reference["delta_miou"] is None
    for row in others:
        assert row["delta_low"] <= row["delta_miou"] <= row["delta_high"]
        gain = row["samples"][0]["miou"] - reference["samples"][0]["miou"]
        assert row["delta_miou"] == pytest.approx(gain)
    assert run(["ablate", "--status"]) == 0
    shown = capsys.readouterr().out
    assert "7 of 7 runs scored, 0 failed" in shown
    assert shown.split("\n\n7 of 7")[0].rstrip() == Path(found["files"][1]).read_text().rstrip()
