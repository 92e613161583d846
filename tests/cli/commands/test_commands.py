"""The commands one after the other, as typed in a folder that holds only a zip."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from deepgcn_cli.__main__ import run
from pipelines.config import SynthConfig
from pipelines.synth import synth

# What makes these trainings small enough for a test; everything else is as typed.
SMALL = ("--max-steps", "1", "--batch-size", "1", "--num-points", "256", "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but a zip of two rooms in each of the areas 1 and 5."""
    raw = tmp_path_factory.mktemp("raw")
    synth(SynthConfig(out=raw, areas=2, rooms=2, density=100))
    (raw / "Area_2").rename(raw / "Area_5")
    folder = tmp_path_factory.mktemp("work")
    with zipfile.ZipFile(folder / "rooms.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(raw.rglob("*.txt")):
            archive.write(path, Path("Stanford3dDataset_v1.2") / path.relative_to(raw))
    return folder


@pytest.fixture(autouse=True)
def _inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what stdout says."""
    code = run(list(arguments))
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def test_prepare_reports_unknown_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room = tmp_path / "Area_1/hall_1/Annotations"
    room.mkdir(parents=True)
    for name, points in (("wall_1", 3), ("wall_2", 2), ("chiar_1", 4)):
        (room / f"{name}.txt").write_text("1 2 3 4 5 6\n" * points)
    monkeypatch.chdir(tmp_path)
    assert run(["prepare"]) == 0
    shown = capsys.readouterr()
    line = "unknown class, taken as clutter: chiar (1 object, 4 points. Did you mean 'chair'?)"
    assert line in shown.out.splitlines()
    assert "--dataset" not in shown.err, "most objects are of S3DIS's classes"
    assert run(["prepare", "--unknown", "error"]) == 1
    assert "chiar (1 object. Did you mean 'chair'?)" in capsys.readouterr().err


@pytest.mark.slow
def test_the_three_commands_as_typed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = succeed(capsys, "prepare", "--area", "5")
    assert "data: 4 rooms (area 1: 2, area 5: 2)" in prepared
    trained = succeed(capsys, "train", "--arch", "densegcn", "--depth", "28", *SMALL)
    assert trained.startswith("runs/densegcn-28-area5-")
    scored = succeed(capsys, "eval", "--report", "md")
    (name,) = (path.name for path in (folder / "runs").iterdir() if path.is_dir())
    assert f"runs/{name}/eval/room/report.md" in scored
    assert scored.startswith(f"{name} on Area 5, protocol room\n")
    report = (folder / "runs" / name / "eval" / "room" / "report.md").read_text()
    assert "densegcn-28 (edge, C 32, k 8)" in report
    assert "published, S3DIS Area 5 †" in report
    listed = succeed(capsys, "runs", "list")
    assert f"{name}  finished  densegcn-28 edge C32 k8" in listed
    (record,) = json.loads(succeed(capsys, "runs", "list", "--json"))
    assert record["room_miou"] == pytest.approx(_miou(folder / "runs" / name))
    shown = succeed(capsys, "runs", "show", name)
    assert "IoU ceiling" in shown
    answer = json.loads(succeed(capsys, "runs", "show", name, "--json"))
    assert answer["config"]["model"]["arch"] == "densegcn"
    (again,) = json.loads(succeed(capsys, "eval", name, "--no-pictures", "--json", "--quiet"))
    assert again["scores"]["miou"] == record["room_miou"]


def _miou(run_dir: Path) -> float:
    return json.loads((run_dir / "eval" / "room" / "scores.json").read_text())["miou"]
