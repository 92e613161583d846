"""Points that have no place, or one far from all others, and strange units."""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from pipelines import kernels, load_model, segment
from pipelines.config import FRAMES, PredictConfig
from pipelines.data.s3dis import CLASSES
from pipelines.errors import DatasetError
from pipelines.predict import _made_from, _open_networks, predict
from pipelines.progress import Progress, Task
from pipelines.runs.directory import Run
from pipelines.scans import open_scan
from pipelines.scans.checks import check_positions
from pipelines.scans.ply import write_points
from pipelines.weights.published import Hints, build_released
from pipelines.weights.pytorch import read_torch
from tests.ears import Ears

from .labelling import label, labelled, with_stray_points, write_as


def test_points_without_coordinates_need_a_flag(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    pos, color = points[0].copy(), points[1]
    pos[[5, 77], 1] = np.nan
    scan = tmp_path / "scan.ply"
    write_points(scan, pos, color)
    with pytest.raises(DatasetError, match=r"found 2 of .* the first at index 5\.\n.*--drop-nan"):
        label(scan, trained)
    assert list(tmp_path.iterdir()) == [scan]
    (found,) = label(scan, trained, drop_nan=True).scans
    vertex = labelled(found.out)
    assert found.unlabelled == 2
    assert np.flatnonzero(vertex["class"] == 255).tolist() == [5, 77]
    assert vertex["confidence"][[5, 77]].tolist() == [0, 0]


@pytest.mark.parametrize("word", ["NA", "N/A", "#N/A", "--", "-nan(ind)", "1.#QNAN", "null"])
def test_words_for_no_number_need_the_flag_for_nan(word: str, trained: Run, tmp_path: Path) -> None:
    """As a clean copy without that point."""
    clean = "".join(
        f"{x / 4} {y / 4} {(x + y) % 3} {x} {y} 9\n" for x in range(9) for y in range(9)
    )
    (tmp_path / "clean.txt").write_text(clean)
    scan = tmp_path / "na.txt"
    scan.write_text(clean[:60] + clean[60:].replace("\n", f"\n{word} {word} {word} 1 2 3\n", 1))
    with pytest.raises(DatasetError, match=r"found 1 of 82 points with NaN.*\n.*--drop-nan"):
        label(scan, trained)
    (found,) = label(scan, trained, drop_nan=True).scans
    (expected,) = label(tmp_path / "clean.txt", trained).scans
    assert found.unlabelled == 1
    assert found.counts == expected.counts


def test_no_point_at_all_can_be_placed(trained: Run, tmp_path: Path) -> None:
    scan = tmp_path / "scan.ply"
    write_points(scan, np.full((9, 3), np.nan), np.zeros((9, 3), np.uint8))
    with pytest.raises(DatasetError, match="no point with finite coordinates"):
        label(scan, trained, drop_nan=True)


@pytest.mark.parametrize(
    ("unit", "warned"), [(1.0, False), (0.01, True), (100.0, True), (39.37, True)]
)
def test_a_strange_size_is_reported(
    unit: float, warned: bool, trained: Run, tmp_path: Path
) -> None:
    """A room of 4 × 5 × 2.5 m as it is, a hundred times too small, in centimetres, in inches."""
    ears = Ears()
    pos = np.random.default_rng(0).random((20, 3)) * np.array([4, 5, 2.5])
    pos[:2] = [0, 0, 0], [4, 5, 2.5]
    write_points(tmp_path / "scan.ply", pos * unit, np.full((20, 3), 9, np.uint8))
    config = PredictConfig(scans=(tmp_path / "scan.ply",), run=trained.path, device="cpu")
    predict(config, progress=ears)
    assert any("a room or storey in metres" in said for said in ears.heard) == warned


SPREAD = np.random.default_rng(0).random((3000, 3))


ODD = {
    "a room": (SPREAD * (5, 4, 2.7), ""),
    "a room on its side": (SPREAD * (5, 2.7, 6), "label it with --up y"),
    "a corridor on its side": (SPREAD * (2.4, 30, 12), "label it with --up x"),
    "a corridor": (SPREAD * (2, 30, 3), ""),
    "degrees": (SPREAD * (1e-5, 1e-5, 2.7), "a room or storey in metres"),
    "float32 far from the origin": (
        (SPREAD * (5, 8, 2.7) + (5e5, 5.4e6, 0)).astype(np.float32),
        "coordinates y are in steps of 0.5 m",
    ),
    "a thinned scan": ((SPREAD * (5, 4, 2.7) / 0.02).round() * 0.02, ""),
}


@pytest.mark.parametrize("name", list(ODD))
def test_what_is_odd_about_coordinates_is_said(name: str, trained: Run, tmp_path: Path) -> None:
    pos, said = ODD[name]
    write_points(tmp_path / "scan.ply", pos, np.full((len(pos), 3), 9, np.uint8))
    config = PredictConfig(scans=(tmp_path / "scan.ply",), run=trained.path, device="cpu")
    scan = open_scan(tmp_path / "scan.ply")
    local, frame = scan.positions("robust")
    check_positions(scan, config, local, frame, ears := Ears())
    assert [said in text for text in ears.heard] == [True] * bool(said)


def test_a_scan_in_millimetres_is_refused(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    write_points(tmp_path / "scan.ply", points[0] * 1e4, points[1])
    with pytest.raises(DatasetError, match=r"expected metres, at most 4 km² of ground\.\n.*milli"):
        label(tmp_path / "scan.ply", trained)


@pytest.mark.parametrize("suffix", [".ply", ".csv", ".npz", ".pcd", ".las"])
def test_stray_points_change_no_other_label(
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    suffix: str,
) -> None:
    """A clean copy in the same format is labelled alike, and the result says what was left out."""
    write = write_points if suffix == ".ply" else write_as
    clean, other = (tmp_path / f"{name}{suffix}" for name in ("clean", "stray"))
    write(clean, np.rint(points[0] * 1000), points[1])
    pos, color = with_stray_points(points)
    write(other, np.rint(pos * 1000), color)
    (expected,) = label(clean, trained, scale=0.001).scans
    config = PredictConfig(scans=(other,), run=trained.path, scale=0.001, device="cpu", view=True)
    (found,) = predict(config, progress=(ears := Ears())).scans
    assert (expected.frame, expected.stray) == ("robust", 0)
    assert (found.frame, found.stray, found.points) == ("robust", 42, len(pos))
    assert found.extent == expected.extent
    classes, again = (classes_of(each.out) for each in (expected, found))
    np.testing.assert_array_equal(again[42:], classes)
    assert (again < len(CLASSES)).all(), "stray points get a label, too"
    (said,) = (text for text in ears.heard if "far from all others" in text)
    assert f"42 of {len(pos):,} points" in said
    if suffix == ".npz":
        assert str(np.load(found.out)["frame"]) == "robust, without 42 stray points"
    elif suffix != ".csv":  # text has no place for it
        assert b"frame robust, without 42 stray points" in found.out.read_bytes()
    assert found.page is not None
    assert found.page.is_file()


def classes_of(path: Path) -> np.ndarray:
    if path.suffix == ".npz":
        return np.load(path)["class"]
    if path.suffix == ".csv":
        names, *lines = (line.split(",") for line in path.read_text().splitlines())
        return np.array([int(words[names.index("class")]) for words in lines])
    rows = open_scan(path).rows
    return rows["class"]


def test_partial_labels_of_another_frame_are_begun_anew(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "scan.ply"
    write_points(path, *with_stray_points(points))
    networks = _open_networks(PredictConfig(weights=(str(trained.weights()),)), Progress())
    scan = open_scan(path)
    made = [_made_from(path, scan, networks, scan.positions(rule)[1]) for rule in FRAMES]
    assert made[0] != made[1]


def test_labels_of_another_rule_of_stray_points_are_begun_anew(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """A pile of points within the room is in both frames' box, and stray in one of them."""
    path, middle = tmp_path / "scan.ply", points[0].mean(axis=0)
    pos = np.concatenate([np.repeat(middle[None], 2000, axis=0), points[0]])
    color = np.concatenate([np.zeros((2000, 3), points[1].dtype), points[1]])
    write_points(path, pos, color)
    networks = _open_networks(PredictConfig(weights=(str(trained.weights()),)), Progress())
    scan = open_scan(path)
    frames = [scan.positions(rule)[1] for rule in FRAMES]
    assert frames[0].low.tolist() == frames[1].low.tolist()
    assert frames[0].high.tolist() == frames[1].high.tolist()
    stray = {
        int(frame.stray(scan.positions(rule)[0]).sum())
        for rule, frame in zip(FRAMES, frames, strict=True)
    }
    assert stray == {0, 2000}
    made = [_made_from(path, scan, networks, frame) for frame in frames]
    assert made[0] != made[1]


class StopsAtThird(Task):
    """Stops what it counts at the third block."""

    blocks = 0

    def advance(self, amount: float = 1, **fields: float | str) -> None:  # noqa: ARG002
        self.blocks += amount > 0
        if self.blocks == 3:
            raise KeyboardInterrupt


class Stops(Progress):
    """Stops the labelling."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        yield StopsAtThird() if name.startswith("Labelling") else Task()


def test_a_labelling_goes_on_in_its_own_frame_only(
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped in one frame and started in the other, it is as if it had not been stopped."""
    path, part = tmp_path / "scan.ply", tmp_path / ".scan.labelled.ply.part"
    write_points(path, *with_stray_points(points))
    fresh = {}
    for rule in FRAMES:
        (found,) = label(path, trained, frame=rule, out=tmp_path / f"{rule}.ply").scans
        fresh[rule] = labelled(found.out)
    assert (fresh["robust"]["class"] != fresh["published"]["class"]).any()
    monkeypatch.setattr("pipelines.inference.label_store.KEPT_FROM", 10)
    for stopped, rule in itertools.product(FRAMES, repeat=2):
        config = PredictConfig(scans=(path,), run=trained.path, device="cpu", frame=stopped)
        with pytest.raises(KeyboardInterrupt):
            predict(config, progress=Stops())
        assert part.is_dir()
        (found,) = label(path, trained, frame=rule).scans
        assert (found.earlier > 0) == (stopped == rule)
        again = labelled(found.out)
        np.testing.assert_array_equal(again["class"], fresh[rule]["class"])
        # Other blocks stand in one batch.
        np.testing.assert_allclose(again["confidence"], fresh[rule]["confidence"], atol=1e-6)
        assert not part.exists()


def test_a_labelling_goes_on_with_another_batch_size(
    scan: Path, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is advised if memory runs out; no label depends on it."""
    (fresh,) = label(scan, trained, out=scan.with_name("fresh.ply")).scans
    monkeypatch.setattr("pipelines.inference.label_store.KEPT_FROM", 10)
    stopped = PredictConfig(scans=(scan,), run=trained.path, device="cpu", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        predict(stopped, progress=Stops())
    (found,) = label(scan, trained, batch_size=1).scans
    assert found.earlier > 0
    np.testing.assert_array_equal(labelled(found.out)["class"], labelled(fresh.out)["class"])


def test_stray_points_of_a_real_room(real_dir: Path) -> None:
    """At least 99 % of a real room's labels stay, by weights trained on real rooms."""
    state, _ = read_torch(real_dir / "dgcnn_s3dis_area1.t7")
    model = build_released("dgcnn.pytorch", state, Hints())
    with zipfile.ZipFile(real_dir / "scans_s3dis_layout.zip") as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("Area_1/office_1/office_1.txt"))
        rows = np.array(archive.read(name).split(), np.float64).reshape(-1, 6)
    rows = np.random.default_rng(0).permutation(rows)[:2500]
    pos, color = rows[:, :3] - rows[:, :3].min(axis=0), rows[:, 3:].astype(np.uint8)
    below, beside, pile = pos.copy(), pos.copy(), pos + np.array([0, 0, 1.2])
    below[0], beside[0] = [2, 2, -3], [100, 2, 1]
    black = np.zeros((1250, 3))
    pile, dark = np.concatenate([pile, black]), np.concatenate([color, black.astype(np.uint8)])
    with kernels.use(None):
        expected, _ = segment(model, pos, color, num_points=128)
        for stray, colors in ((below, color), (beside, color), (pile, dark)):
            found, _ = segment(model, stray, colors, num_points=128)
            assert (found[1:2500] == expected[1:]).mean() >= 0.99
        published, _ = segment(model, below, color, num_points=128, frame="published")
        assert (published[1:] != expected[1:]).mean() > 0.2


def test_points_of_a_line_far_apart_are_refused(trained: Run, tmp_path: Path) -> None:
    pos = np.array([[0, 0, 0], [1e9, 0, 0]], np.float64)
    write_points(tmp_path / "line.ply", pos, np.full((2, 3), 9, np.uint8))
    config = PredictConfig(scans=(tmp_path / "line.ply",), run=trained.path)
    with pytest.raises(DatasetError, match="at most 4 km² of ground"):
        predict(config)
    with pytest.raises(DatasetError, match="segment: found an extent"):
        segment(load_model(trained.path), pos, np.full((2, 3), 9, np.uint8))
