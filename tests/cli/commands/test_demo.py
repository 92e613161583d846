"""The demo: it makes only its own folder, continues where it stopped, and ends with a result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from plyfile import PlyData

from deepgcn_cli.__main__ import run
from deepgcn_cli.commands.demo import MADE, SETTINGS, Settings, claim
from pipelines.config import PrepareConfig
from pipelines.errors import ConfigError
from pipelines.runs.directory import Run
from pipelines.runs.weights import packaged_weights


def test_a_new_folder_is_claimed(tmp_path: Path) -> None:
    settings = claim(tmp_path / "demo", {"seed": 3}, fresh=False)
    assert settings == Settings(seed=3)
    assert json.loads((tmp_path / "demo" / SETTINGS).read_text()) == {"seed": 3, "steps": None}
    assert claim(tmp_path / "demo", {}, fresh=False) == settings, "found again"


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="found files that no demo has made"):
        claim(tmp_path, {}, fresh=False)
    with pytest.raises(ConfigError, match="nothing was changed"):
        claim(tmp_path, {}, fresh=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("content", ['{"title": "my demo"}', "{}", "[1]", "half", "[" * 100_000])
@pytest.mark.parametrize("fresh", [True, False])
def test_somebody_elses_demo_json_marks_nothing(
    tmp_path: Path, content: str, *, fresh: bool
) -> None:
    (tmp_path / SETTINGS).write_text(content)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").touch()
    with pytest.raises(ConfigError, match=r"demo\.json: found a file that no demo has made"):
        claim(tmp_path, {}, fresh=fresh)
    assert (tmp_path / "data" / "mine").exists()
    assert (tmp_path / SETTINGS).read_text() == content


def test_other_settings_need_a_fresh_start_which_removes_only_ours(tmp_path: Path) -> None:
    claim(tmp_path, {"steps": 5}, fresh=False)
    for name in MADE:
        if not (tmp_path / name).exists():
            (tmp_path / name).mkdir(parents=True)
    (tmp_path / "runs" / "other").mkdir()
    with pytest.raises(ConfigError, match=r"found a demo with --steps 5, asked for 6\.\n.*--fresh"):
        claim(tmp_path, {"steps": 6}, fresh=False)
    assert claim(tmp_path, {"steps": 6}, fresh=True) == Settings(steps=6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [SETTINGS, "runs"]
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["other"]


@pytest.mark.slow
def test_the_whole_demo(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["demo", "--steps", "2"]) == 0
    first = capsys.readouterr()
    assert first.err.index("1/6 predict") < first.err.index("first.html") < first.err.index("2/6")
    name = packaged_weights().name
    heading = first.out.splitlines()[0]
    assert heading.split("  ")[-3:] == [name, "fine-tuned", "height alone"]
    made = PrepareConfig(dataset=Path("rooms.yaml")).data
    assert f"deepgcn train --auto --data {made} " in first.out, "where prepare puts them"
    picture = Path(first.out.partition("A room of the test area: ")[2].splitlines()[0])
    for path in (picture, Path("demo/first.png"), Path("demo/tuned.png")):
        assert path.read_bytes().startswith(b"\x89PNG")
    tuned = Run(Path("demo/runs/tuned"))
    assert tuned.environment["started_from"]["name"] == name
    labels = {file: PlyData.read(f"demo/{file}.ply")["vertex"] for file in ("first", "tuned")}
    (untuned,) = Path("demo/runs/weights").glob("*/*/room/scores.json")
    assert f"{100 * json.loads(untuned.read_text())['oa']:.2f}" in first.out
    assert len(labels["first"].data) == len(labels["tuned"].data)
    assert run(["demo", "--steps", "2"]) == 0
    second = capsys.readouterr()
    assert second.err.count("already done") == 5, "all but prepare, which looks for itself"
    assert second.out == first.out
