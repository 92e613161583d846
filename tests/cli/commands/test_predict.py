"""`deepgcn predict` as a person types it, of scans as people have them.

What is right comes from a clean copy of the same scan.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepgcn_cli.__main__ import run
from pipelines import kernels
from pipelines.data.s3dis import CLASSES
from pipelines.runs.directory import Run
from pipelines.scans.ply import write_points
from tests.tiny_run import train_tiny_run
from tests.tiny_store import COLORS, tiny_room, write_tiny_store

Predict = Callable[..., tuple[str, np.ndarray]]
FOREIGN = Path(__file__).parents[2] / "scans" / "foreign"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    store = write_tiny_store(folder / "data")
    return train_tiny_run(store.path, folder / "runs").path


@pytest.fixture
def predict(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Predict:
    """Label arrays; return what was said, and the classes."""
    monkeypatch.chdir(tmp_path)

    def label(name: str, pos: np.ndarray, color: np.ndarray) -> tuple[str, np.ndarray]:
        np.savez(f"{name}.npz", pos=pos, color=color)
        with kernels.use("reference"):
            code = run(["predict", f"{name}.npz", "--run", str(trained), "--device", "cpu"])
        said = capsys.readouterr().err
        assert code == 0, said
        return said, np.load(f"{name}.labelled.npz")["class"]

    return label


@pytest.fixture(scope="module")
def room() -> tuple[np.ndarray, np.ndarray]:
    """Places of a room with three surfaces, and the colour of each surface."""
    found = tiny_room(3, 1, 800)
    surface = np.select([found.label == CLASSES.index(name) for name in COLORS], [0, 1, 2])
    return found.pos.astype(np.float64), np.array(list(COLORS.values()), np.uint8)[surface]


@pytest.mark.parametrize(
    "stray",
    [[[1, 1, -3]], [[100, 1, 1]], np.zeros((1200, 3)) - (0, 0, 1.2)],
    ids=["below", "beside", "pile"],
)
def test_stray_points_change_no_other_label(
    predict: Predict, room: tuple[np.ndarray, np.ndarray], stray: np.ndarray
) -> None:
    pos, color = room
    clean, expected = predict("clean", pos, color)
    black = np.zeros((len(stray), 3), np.uint8)
    said, found = predict("stray", np.concatenate([pos, stray]), np.concatenate([color, black]))
    assert (found[: len(pos)] == expected).mean() >= 0.99
    assert f"{len(stray):,} of {len(pos) + len(stray):,} points left out of the frame" in said
    assert "left out" not in clean


@pytest.mark.parametrize("region", [False, True], ids=["scattered", "region"])
def test_points_without_colour_get_that_of_the_nearest(
    predict: Predict, room: tuple[np.ndarray, np.ndarray], region: bool
) -> None:
    pos, color = room
    clean, expected = predict("clean", pos, color)
    missing = pos[:, 0] < 0.5 if region else np.random.default_rng(0).random(len(pos)) < 0.25
    said, found = predict("gaps", pos, np.where(missing[:, None], np.nan, color.astype(np.float32)))
    assert (found == expected).mean() >= (0.95 if region else 0.99), "but for the surfaces' edges"
    assert f"{missing.sum():,} of {len(pos):,} points without colour" in said
    assert "without colour" not in clean


def test_words_for_no_number(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    points = ["0 0 0 1 2 3", "NA NA NA 1 2 3", "#N/A #N/A #N/A 1 2 3", "1 1 1 1 2 3"]
    Path("na.txt").write_text("\n".join(points))
    assert run(["predict", "na.txt", "--drop-nan", "--run", str(trained), "--device", "cpu"]) == 0
    words = [line.split() for line in Path("na.labelled.txt").read_text().splitlines()]
    assert [line[-2] == "255" for line in words[-4:]] == [False, True, True, False]


def test_a_copc_is_labelled_to_the_end(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    path = Path(shutil.copy(FOREIGN / "copclib.copc.laz", tmp_path))
    assert run(["predict", str(path), "--run", str(trained), "--device", "cpu"]) == 0
    assert "COPC" in capsys.readouterr().err
    assert len(laspy.read(tmp_path / "copclib.labelled.laz")["class"]) == 6


def test_what_shows_a_result_is_named(
    trained: Path,
    room: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_points(Path("a.ply"), *room)
    shown = ["--view", "--picture", "--run", str(trained), "--device", "cpu"]
    with kernels.use("reference"):
        assert run(["predict", "a.ply", *shown]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line for line in lines if line.startswith("a.labelled.html: ")]
        assert [line for line in lines if line.startswith("a.labelled.png: ")]
        assert run(["predict", "a.ply", *shown[1:], "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["scans"]
    assert (found["page"], found["picture"]) == (None, "a.labelled.png")


def test_which_networks_labelled_together_is_said(
    trained: Path,
    room: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_points(Path("a.ply"), *room)
    other = shutil.copy(Run(trained).weights(), "other.safetensors")
    both = ["--weights", str(trained), "--weights", str(other), "--votes", "2", "--device", "cpu"]
    with kernels.use("reference"):
        assert run(["predict", "a.ply", *both]) == 0
        assert f"labelled by {trained.name} + other, 2 votes\n" in capsys.readouterr().out
        assert run(["predict", "a.ply", *both, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["names"], found["votes"]) == ([trained.name, "other"], 2)


def test_a_scan_that_is_missing_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing is said of weights before."""
    monkeypatch.chdir(tmp_path)
    assert run(["predict", "none.ply"]) == 1
    assert capsys.readouterr().err.startswith("Error: none.ply: found no file there")
