"""The examples run as their first lines say, at a smaller size where one can be given."""

from __future__ import annotations

import argparse
import dataclasses
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from deepgcn_cli.commands import demo
from pipelines import synth, train
from pipelines.config import AblateConfig, SynthConfig, TrainConfig
from pipelines.progress import SILENT
from pipelines.runs.directory import open_run
from pipelines.scans.ply import write_points
from pipelines.synth import SynthResult
from pipelines.train import TrainResult
from pipelines.weights.provenance import provenance
from pipelines.weights.safetensors import read_metadata
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in `folder` and return what it prints."""
    done = run_of(name, folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_of(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example in `folder`, and return how it ended."""
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / name), *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_opens_with_its_command_and_duration(path: Path) -> None:
    opening = path.read_text(encoding="utf-8").split('"""')[1]
    assert f"python examples/{path.name}" in opening
    assert "Takes " in opening
    assert "2 CPU cores" in opening


def test_the_run_that_an_example_names_is_the_demo_s() -> None:
    opening = (ROOT / "examples" / "segment_arrays.py").read_text(encoding="utf-8")
    assert f"demo/{demo.RUN} demo/{demo.SCAN}" in opening


def test_segment_arrays(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "data")
    trained = train_tiny_run(store.path, tmp_path / "runs", max_steps=3)
    room = store.read(store.rooms(3)[0])
    write_points(tmp_path / "scan.ply", room.pos, room.color)
    shown = run("segment_arrays.py", tmp_path, str(trained.path), "scan.ply")
    counts = [int(line.split()[1].replace(",", "")) for line in shown.splitlines()]
    assert sum(counts) == len(room.pos)


@pytest.mark.slow
def test_fine_tuning(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "data")
    start = train_tiny_run(store.path, tmp_path / "runs", max_steps=3).weights()
    arguments = ("--area", "3", "--seeds", "1", "--steps", "2", "--weights", str(start))
    shown = run("fine_tuning.py", tmp_path, *arguments)
    lines = {line.split("|")[2].strip(): line for line in shown.splitlines() if "|" in line}
    assert str(start) in lines["from-weights"]
    assert "wise-ft" in lines["from-weights"]
    assert "from" not in lines["from-nothing"].replace("from-nothing", "")
    studied = yaml.safe_load((tmp_path / "fine-tuning-area3-10min.yaml").read_text())
    assert studied["base"]["max-steps"] == 2
    assert (studied["base"]["depth"], studied["base"]["k"]) == (3, 6)


def test_fine_tuning_that_cannot_be_timed_leaves_no_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call would take its steps for those of the time that was asked for."""
    store = write_tiny_store(tmp_path / "data", points=400)
    example = runpy.run_path(str(ROOT / "examples" / "fine_tuning.py"))
    written = []

    def stopped(config: AblateConfig, **_: object) -> None:
        written.extend(tmp_path.glob("*.yaml"))
        assert config.grid in written
        raise KeyboardInterrupt

    monkeypatch.setitem(example["write_study"].__globals__, "dry_run", stopped)
    asked = {"data": store.path, "runs": tmp_path / "runs", "area": 3, "weights": None}
    options = argparse.Namespace(**asked, steps=None, minutes=1.0)
    with pytest.raises(KeyboardInterrupt):
        example["write_study"](tmp_path / "study.yaml", options, SILENT)
    assert written
    assert not [*tmp_path.glob("*.yaml")]


@pytest.mark.slow
def test_own_dataset(tmp_path: Path) -> None:
    *scores, last = run("own_dataset.py", tmp_path).splitlines()
    for line in scores:
        assert float(line.split()[-2]) > 70, line
    assert (tmp_path / last.removeprefix("labels: ")).is_file()


@pytest.mark.slow
def test_own_layer(tmp_path: Path) -> None:
    lines = run("own_layer.py", tmp_path, "2").splitlines()
    assert [line.split(" mIoU")[0].strip() for line in lines] == [
        "as published",
        "MeanMaxConv",
        "GatedBlock",
    ]
    assert all(float(line.split()[-2]) > 0 for line in lines)


# The other runs in this process, where what it trains on can be made smaller.


def test_plain_against_residual(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole_synth, whole_train = synth.synth, train.train

    def small_synth(config: SynthConfig) -> SynthResult:
        return whole_synth(dataclasses.replace(config, rooms=1, density=100))

    def small_train(config: TrainConfig, *, resume: Path | None = None) -> TrainResult:
        return whole_train(dataclasses.replace(config, num_points=256), resume=resume)

    monkeypatch.setattr(synth, "synth", small_synth)
    monkeypatch.setattr(train, "train", small_train)
    monkeypatch.setattr(sys, "argv", ["plain_against_residual.py", "1"])
    monkeypatch.chdir(tmp_path)
    shown = []
    for _ in range(2):  # the second time it only scores
        runpy.run_path(str(ROOT / "examples" / "plain_against_residual.py"), run_name="__main__")
        shown.append(capsys.readouterr().out.splitlines())
    assert [line.split()[:2] for line in shown[0]] == [
        ["plaingcn", "7"],
        ["resgcn", "7"],
        ["plaingcn", "28"],
        ["resgcn", "28"],
    ]
    assert shown[1] == shown[0]


@pytest.mark.slow
def test_train_default_weights(tmp_path: Path) -> None:
    """Stopped on the way and called again, it ends with weights that say where they come from."""
    few = "--synth-rooms 1 --density 60 --scanner laser --val-blocks 1 --threads 1"
    settings = {"STEPS": "2", "FURNITURE": "", "OPTIONS": few, "RUNS": "runs", "OUT": "made"}
    settings |= {"DEEPGCN": str(Path(sys.executable).with_name("deepgcn")), "NAME": "mine"}
    script, environment = ROOT / "examples" / "train_default_weights.sh", {**os.environ, **settings}
    first = subprocess.Popen(script, cwd=tmp_path, env=environment, start_new_session=True)
    metrics = tmp_path / "runs" / "mine-first" / "metrics.jsonl"
    while first.poll() is None and not (metrics.is_file() and metrics.stat().st_size):
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGTERM)
    assert first.wait() != 0
    with suppress(ProcessLookupError):  # the training, which ends its step first, has ended too
        for _ in range(4800):  # four minutes, on a busy machine
            os.killpg(first.pid, 0)
            time.sleep(0.05)
    subprocess.run(script, cwd=tmp_path, env=environment, check=True)
    found = provenance(read_metadata(tmp_path / "made" / "mine.safetensors"))
    assert found["trained_on"].startswith("synthetic rooms 0 to 7 of seed 1, generator")
    assert found["started_from"]["trained_on"].startswith("synthetic rooms 0 to 7 of seed 0")
    assert all(open_run(tmp_path / "runs" / n).state == "finished" for n in ("mine-first", "mine"))
