"""The predict stage: every input point in input order, and what is said about bad scans."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.image import imread
from plyfile import PlyData

from deepgcn_cli.progress import Meter
from pipelines import kernels, load_model, segment
from pipelines.config import FRAMES, ModelConfig, PredictConfig
from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.data.s3dis.rooms import open_room
from pipelines.data.store import Store
from pipelines.errors import ConfigError, DatasetError, WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.predict import (
    PredictResult,
    _find_scans,
    _made_from,
    _open_networks,
    _output_paths,
    predict,
)
from pipelines.progress import Progress, Task
from pipelines.runs.directory import Run
from pipelines.runtime.lock import hold_alone
from pipelines.scans import Labels, open_scan, write_labelled
from pipelines.scans.checks import check_positions
from pipelines.scans.ply import write_points
from pipelines.weights.published import Hints, build_released
from pipelines.weights.pytorch import read_torch
from pipelines.weights.safetensors import load_weights, save_weights
from tests.small_disk import largest_file
from tests.tiny_run import MODEL, train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny_run(store.path, tmp_path_factory.mktemp("trained"))


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture(scope="module")
def points(store: Store) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first test room's points in an order of their own: pos, color, label."""
    room = store.read(store.rooms(3)[0])
    order = np.random.default_rng(0).permutation(len(room.pos))
    pos = room.pos[order].astype(np.float64) + np.array([4000.0, 300.0, 20.0])
    return pos, room.color[order], room.label[order]


@pytest.fixture
def scan(points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path) -> Path:
    path = tmp_path / "scan.ply"
    write_points(path, points[0], points[1])
    return path


def label(scan: Path, run: Run, **options: Any) -> PredictResult:
    return predict(PredictConfig(scans=(scan,), run=run.path, device="cpu", **options))


def labelled(path: Path) -> Any:
    return PlyData.read(str(path))["vertex"].data


def test_every_point_in_input_order(
    scan: Path, trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    pos, color, truth = points
    (found,) = label(scan, trained).scans
    assert found.out == scan.with_name("scan.labelled.ply")
    vertex = labelled(found.out)
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(vertex[name], pos[:, axis])
    for channel, name in enumerate(("red", "green", "blue")):
        np.testing.assert_array_equal(vertex[f"scan_{name}"], color[:, channel])
        np.testing.assert_array_equal(
            vertex[name], np.array(CLASS_COLORS)[vertex["class"], channel]
        )
    expected, probabilities = segment(load_model(trained.path), pos, color, num_points=128)
    agree = vertex["class"] == expected
    assert agree.mean() > 0.999, "only float32 near-ties may differ"
    np.testing.assert_allclose(
        vertex["confidence"][agree], probabilities.max(axis=1)[agree], atol=1e-3
    )
    assert (vertex["class"] == truth).mean() > 0.8, "the tiny network knows the tiny building"
    assert found.counts == {
        name: int((vertex["class"] == n).sum()) for n, name in enumerate(CLASSES)
    }
    assert (found.points, found.unlabelled) == (len(pos), 0)


def test_labels_already_there_change_nothing(scan: Path, trained: Run, tmp_path: Path) -> None:
    (first,) = label(scan, trained).scans
    (second,) = label(first.out, trained, out=tmp_path / "again.ply").scans
    np.testing.assert_array_equal(labelled(second.out)["class"], labelled(first.out)["class"])


def test_weights_alone_and_the_latest_run(scan: Path, trained: Run, tmp_path: Path) -> None:
    weights = Path(shutil.copy(trained.weights(), tmp_path / "w.safetensors"))
    byweights = predict(
        PredictConfig(scans=(scan,), weights=(str(weights),), out=tmp_path / "a.ply")
    )
    byrun = predict(PredictConfig(scans=(scan,), runs=trained.path.parent, out=tmp_path / "b.ply"))
    assert byweights.weights == (weights,)
    assert byrun.weights == (trained.weights(),)
    assert (tmp_path / "a.ply").read_bytes() == (tmp_path / "b.ply").read_bytes()


def test_short_precision_is_that_of_autocast(
    scan: Path, trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    (found,) = label(scan, trained, precision="bf16").scans
    assert found.precision == "bf16"
    assert b"; precision bf16;" in found.out.read_bytes()[:2000]
    confidence = labelled(found.out)["confidence"]
    model = load_model(trained.path)
    _, full = segment(model, *points[:2], num_points=128)
    with torch.autocast("cpu", torch.bfloat16):
        _, short = segment(model, *points[:2], num_points=128)
    assert np.abs(full - short).max() > 1e-4
    agree = np.isclose(confidence, short.max(axis=1), rtol=0, atol=1e-3)
    assert agree.mean() > 0.99, "only near-ties of distances may differ"
    with pytest.raises(ConfigError, match="--precision tf32: found the device cpu"):
        label(scan, trained, out=tmp_path / "x.ply", precision="tf32")


def test_several_scans_go_to_a_folder(scan: Path, trained: Run, tmp_path: Path) -> None:
    other = Path(shutil.copy(scan, tmp_path / "other.ply"))
    out = tmp_path / "new" / "folder"
    config = PredictConfig(scans=(scan, other), run=trained.path, out=out, device="cpu")
    assert [found.out.name for found in predict(config).scans] == [
        "scan.labelled.ply",
        "other.labelled.ply",
    ]
    assert (out / "scan.labelled.ply").read_bytes() == (out / "other.labelled.ply").read_bytes()


def test_a_broken_scan_does_not_stop_the_others(scan: Path, trained: Run, tmp_path: Path) -> None:
    broken = tmp_path / "broken.ply"
    broken.write_bytes(scan.read_bytes()[:1000])
    out = tmp_path / "labelled"
    config = PredictConfig(scans=(broken, scan), run=trained.path, out=out, device="cpu")
    ears = Ears()
    result = predict(config, progress=ears)
    assert [each.scan for each in result.scans] == [scan]
    assert [path.name for path in out.iterdir()] == ["scan.labelled.ply"]
    ((failed, reason),) = result.failed
    assert failed == broken
    assert str(broken) in reason
    assert any(reason in text for text in ears.said)
    with pytest.raises(DatasetError, match=r"broken\.ply"):
        label(broken, trained)


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


def rename_colors(scan: Path) -> None:
    header, _, body = scan.read_bytes().partition(b"end_header\n")
    for name in (b"red", b"green", b"blue"):
        header = header.replace(b" " + name, b" u" + name)
    scan.write_bytes(header + b"end_header\n" + body)


def test_a_scan_without_color_needs_a_flag(scan: Path, trained: Run) -> None:
    rename_colors(scan)
    with pytest.raises(DatasetError, match=r"found no colour among .*\n.*--no-color-ok"):
        label(scan, trained)
    (found,) = label(scan, trained, no_color_ok=True).scans
    assert found.unlabelled == 0


def test_a_network_that_sees_no_colors_needs_none(scan: Path, store: Store, tmp_path: Path) -> None:
    """Weights carry it; and colours change no label."""
    blind = train_tiny_run(store.path, tmp_path, model=dataclasses.replace(MODEL, rgb=False))
    weights = tmp_path / "blind.safetensors"
    shutil.copy(blind.weights("last"), weights)
    assert load_weights(weights).config.rgb is False
    without = Path(shutil.copy(scan, tmp_path / "without.ply"))
    rename_colors(without)
    results = [
        predict(PredictConfig((each,), weights=(weights,), device="cpu")).scans[0]
        for each in (scan, without)
    ]
    found, expected = (labelled(result.out)["class"] for result in results)
    assert len(np.unique(found)) > 1
    assert np.array_equal(found, expected)


def test_colors_that_are_all_0_are_none(trained: Run, tmp_path: Path) -> None:
    """What programs write that have no colour: the third is what MeshLab's XYZ looks like."""
    pos = np.random.default_rng(0).random((50, 3))
    write_points(tmp_path / "a.ply", pos, np.zeros((50, 3), np.uint8))
    np.savez(tmp_path / "b.npz", pos=pos, color=np.zeros((50, 3)))
    np.savetxt(tmp_path / "c.xyz", np.c_[pos, np.zeros((50, 3))], "%.6f")
    for name in ("a.ply", "b.npz", "c.xyz"):
        with pytest.raises(DatasetError, match=r"found only 0 in the colours.*\n.*--no-color-ok"):
            label(tmp_path / name, trained)
        (found,) = label(tmp_path / name, trained, no_color_ok=True).scans
        assert found.unlabelled == 0


def test_points_without_color_get_the_nearest_one(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """Labelled as the same scan whose colours were filled in by hand, and written as it came."""
    pos, color = points[0], points[1]
    missing = np.random.default_rng(1).random(len(pos)) < 0.25
    nearest = np.array([np.linalg.norm(pos[~missing] - p, axis=1).argmin() for p in pos[missing]])
    by_hand = color.copy()
    by_hand[missing] = color[~missing][nearest]
    write_points(tmp_path / "hand.ply", pos, by_hand)
    np.savez(tmp_path / "some.npz", pos=pos, color=np.where(missing[:, None], np.nan, color))
    ears = Ears()
    scans = (tmp_path / "some.npz", tmp_path / "hand.ply")
    config = PredictConfig(scans=scans, run=trained.path, device="cpu", format="ply")
    some, hand = (labelled(scan.out) for scan in predict(config, progress=ears).scans)
    np.testing.assert_array_equal(some["class"], hand["class"])
    np.testing.assert_array_equal(np.isnan(some["scan_red"]), missing)
    np.testing.assert_array_equal(some["scan_red"][~missing], color[~missing, 0])
    (said,) = (text for text in ears.said if "without colour" in text)
    assert f"{missing.sum():,} of {len(pos):,} points without colour" in said


@pytest.mark.parametrize(("black", "said"), [(0, False), (5, True)])
def test_exactly_black_points_are_said(
    black: int, said: bool, trained: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    color = rng.integers(1, 256, (50, 3)).astype(np.uint8)
    color[:black] = 0
    write_points(tmp_path / "scan.ply", rng.random((50, 3)), color)
    ears = Ears()
    config = PredictConfig(scans=(tmp_path / "scan.ply",), run=trained.path, device="cpu")
    predict(config, progress=ears)
    assert any("10 % of the points are exactly black" in text for text in ears.said) == said


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


class Ears(Progress):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def warn(self, message: str) -> None:
        self.said.append(message)

    say = warn


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
    assert any("a room or storey in metres" in said for said in ears.said) == warned


def test_colours_that_are_nearly_black_are_said(trained: Run, tmp_path: Path) -> None:
    """As those of a plain file with three columns of classes behind the coordinates."""
    rows = np.random.default_rng(0).random((20, 6)) * (4, 5, 2.5, 13, 13, 13)
    np.savetxt(tmp_path / "scan.txt", rows, "%.3f %.3f %.3f %d %d %d")
    config = PredictConfig(scans=(tmp_path / "scan.txt",), run=trained.path, device="cpu")
    predict(config, progress=(ears := Ears()))
    assert any("12 of 255 as its brightest colour" in said for said in ears.said)


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
    assert [said in text for text in ears.said] == [True] * bool(said)


def test_a_scan_in_millimetres_is_refused(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    write_points(tmp_path / "scan.ply", points[0] * 1e4, points[1])
    with pytest.raises(DatasetError, match=r"expected metres, at most 4 km² of ground\.\n.*milli"):
        label(tmp_path / "scan.ply", trained)


def test_outputs_never_overwrite(scan: Path, trained: Run, tmp_path: Path) -> None:
    before = scan.read_bytes()
    with pytest.raises(ConfigError, match=r"would overwrite the scan .*scan\.ply"):
        label(scan, trained, out=scan)
    (tmp_path / "deep").mkdir()
    twin = Path(shutil.copy(scan, tmp_path / "deep" / "scan.ply"))
    with pytest.raises(ConfigError, match=f"result of {twin} would overwrite the result of {scan}"):
        predict(PredictConfig(scans=(scan, twin), run=trained.path, out=tmp_path / "out"))
    assert scan.read_bytes() == before


def test_a_file_is_no_folder_for_results(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "labelled").write_text("somebody's")
    with pytest.raises(ConfigError, match="labelled: found a file, expected a folder, or a file"):
        _output_paths(PredictConfig(out=tmp_path / "labelled"), [scan])
    assert (tmp_path / "labelled").read_text() == "somebody's"


def test_patterns_give_each_scan_once_and_no_results(tmp_path: Path) -> None:
    for name in ("b.ply", "a.ply", "a.labelled.ply", "c.csv", "c.labelled.csv"):
        (tmp_path / name).touch()

    def names(*patterns: str) -> list[str]:
        return [path.name for path in _find_scans(tuple(tmp_path / text for text in patterns))]

    assert names("*.ply", "c.csv") == ["a.ply", "b.ply", "c.csv"]
    assert names("b.ply", "*.*", "a.ply") == ["b.ply", "a.ply", "c.csv"]
    assert names("*.labelled.*") == ["a.labelled.ply", "c.labelled.csv"]
    assert names("a.labelled.ply") == ["a.labelled.ply"]
    with pytest.raises(ConfigError, match="found no file like this"):
        names("*.pcd")


def test_one_scan_into_a_folder(scan: Path, trained: Run, tmp_path: Path) -> None:
    """A pattern that fits one file means the same folder as one that fits several."""
    (found,) = label(scan, trained, out=tmp_path / "new").scans
    assert found.out == tmp_path / "new" / "scan.labelled.ply"
    assert len(labelled(found.out)) == found.points


def test_two_formats_at_once(scan: Path, trained: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format ply: found it with --out .*a\.las"):
        label(scan, trained, out=tmp_path / "a.las", format="ply")
    (found,) = label(scan, trained, out=tmp_path / "a.PLY", format="ply").scans
    assert found.out == tmp_path / "a.PLY"


@pytest.mark.parametrize(
    ("options", "error", "found"),
    [
        ({"scans": ()}, ConfigError, "found no scan"),
        ({"scans": (Path("a.plyy"),)}, ConfigError, r"\.plyy'\. Did you mean '\.ply'\?"),
        ({"weights": ("none.safetensors",)}, WeightsError, "none.safetensors"),
    ],
)
def test_what_is_missing_is_named(
    options: dict[str, Any], error: type[Exception], found: str, scan: Path
) -> None:
    with pytest.raises(error, match=found):
        predict(PredictConfig(**{"scans": (scan,), **options}))


def test_a_scan_that_does_not_fit_in_a_chunk(
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Writing in chunks of any size gives the same file."""
    write_points(tmp_path / "scan.ply", points[0], points[1])
    scan = open_scan(tmp_path / "scan.ply")
    label_, confidence = points[2], np.linspace(0, 1, len(scan)).astype(np.float32)
    files = []
    for size in (1 << 20, 100):
        monkeypatch.setattr("pipelines.scans.table.CHUNK", size)
        out = tmp_path / f"{size}.ply"
        write_labelled(out, scan, Labels(label_, confidence, CLASSES, CLASS_COLORS))
        files.append(out.read_bytes())
    assert all(a == b for a, b in itertools.pairwise(files))


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".pcd", ".las"])
def test_every_format_gets_the_same_labels(
    scan: Path,
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    suffix: str,
) -> None:
    """The scan in millimetres with y up, in another format, is labelled as the PLY in metres."""
    (expected,) = label(scan, trained).scans
    pos = np.rint(points[0][:, [1, 2, 0]] * 1000)  # z up to y up: (x, y, z) becomes (y, z, x)
    other = write_as(tmp_path / f"other{suffix}", pos, points[1])
    options = {"up": "y", "scale": 0.001, "probabilities": True}
    (found,) = label(other, trained, **options).scans
    assert found.out == tmp_path / f"other.labelled{suffix}"
    again = open_scan(found.out)
    local, frame = again.positions()
    np.testing.assert_allclose(local + frame.origin, pos, atol=1e-2)
    agree = sum(min(found.counts[name], expected.counts[name]) for name in CLASSES)
    assert agree > 0.98 * len(pos), "rounding to millimetres moves few labels"


def write_as(path: Path, pos: np.ndarray, color: np.ndarray) -> Path:
    if path.suffix == ".csv":
        np.savetxt(path, np.hstack([pos, color]), fmt="%d", delimiter=",")
    elif path.suffix == ".npz":
        np.savez(path, pos=pos, color=color / 255)
    elif path.suffix == ".las":
        laspy = pytest.importorskip("laspy")
        data = laspy.LasData(laspy.LasHeader(version="1.4", point_format=7))
        data.x, data.y, data.z = pos.T
        data.red, data.green, data.blue = color.T.astype(np.uint16) * 257
        data.write(str(path))
    else:
        head = "FIELDS x y z r g b\nSIZE 4 4 4 1 1 1\nTYPE F F F U U U\n"
        head += f"WIDTH {len(pos)}\nHEIGHT 1\nPOINTS {len(pos)}\nDATA ascii\n"
        lines = (" ".join(map(str, row)) for row in np.hstack([pos, color]).astype(int).tolist())
        path.write_text(head + "\n".join(lines))
    return path


def test_a_page_to_look_at_the_result(scan: Path, trained: Run, tmp_path: Path) -> None:
    (found,) = label(scan, trained, out=tmp_path / "out.ply", view=True).scans
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "scan.ply" in page
    assert found.out == tmp_path / "out.ply"
    assert "http://" not in page.replace("http://www.w3.org", ""), "nothing is fetched"


def test_a_picture_of_the_result(trained: Run, tmp_path: Path) -> None:
    """It has the colours of the scan on the left and those of its classes on the right."""
    pos = np.random.default_rng(0).random((400, 3)) * [3, 3, 0.01]
    pos[0] = [0, 0, 2000]  # far off; shown, it would make the rest a dot
    scan = tmp_path / "scan.ply"
    write_points(scan, pos, np.full((400, 3), (1, 2, 3), np.uint8))
    (found,) = label(scan, trained, picture=True).scans
    left, right = np.array_split(imread(found.out.with_suffix(".png"))[..., :3] * 255, 2, axis=1)
    most = CLASSES.index(max(found.counts, key=lambda name: found.counts[name]))

    def share(half: np.ndarray, color: tuple[int, ...]) -> float:
        return float(np.mean(np.abs(half - color).max(axis=-1) < 2))

    assert share(left, (1, 2, 3)) > 0.05 > share(right, (1, 2, 3))
    assert share(right, CLASS_COLORS[most]) > 0.05 > share(left, CLASS_COLORS[most])


def test_the_summary_follows_from_the_labelled_scan(
    scan: Path, trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    (found,) = label(scan, trained).scans
    pos, of = points[0], labelled(found.out)["class"]
    np.testing.assert_allclose(found.extent, np.ptp(pos, axis=0), rtol=1e-5)
    assert found.counts == {name: int((of == c).sum()) for c, name in enumerate(CLASSES)}
    for number, name in enumerate(CLASSES):
        cells = np.unique(np.floor((pos[of == number] - pos.min(axis=0)) / 0.05), axis=0)
        # A cell of 5 cm shows at most √3 times one of its faces.
        assert found.areas[name] <= len(cells) * 0.05**2 * 3**0.5 + 1e-9
        assert (found.areas[name] > 0) == (len(cells) > 0)
    assert 0 < found.label_seconds < found.seconds


def test_another_format_for_many_scans(trained: Run, scan: Path, tmp_path: Path) -> None:
    vertex = labelled(label(scan, trained).scans[0].out)
    text = tmp_path / "hall.xyz"
    rows = np.c_[vertex["x"], vertex["y"], vertex["z"], np.full((len(vertex), 3), 9)]
    np.savetxt(text, rows, "%g")
    config = PredictConfig(scans=(text, scan), run=trained.path, format="ply", device="cpu")
    found = predict(config).scans
    assert [one.out.name for one in found] == ["hall.labelled.ply", "scan.labelled.ply"]
    assert len(labelled(found[0].out)) == len(vertex)
    with pytest.raises(ConfigError, match=r"scan\.labelled\.las: found the format '\.las'"):
        predict(PredictConfig(scans=(scan,), run=trained.path, format="las"))


def with_stray_points(
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scan behind a point below it, one beside it and 40 at the origin."""
    stray = np.concatenate([points[0][:2] + np.array([[0, 0, -3], [100, 0, 0]]), np.zeros((40, 3))])
    return np.concatenate([stray, points[0]]), np.concatenate([points[1][:42], points[1]])


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
    (said,) = (text for text in ears.said if "far from all others" in text)
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


class Meters(Progress):
    """Remembers how far each task came, of how much."""

    def __init__(self) -> None:
        self.found: dict[str, Meter] = {}

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        self.found[name] = Meter(total, unit)
        yield self.found[name]


@pytest.mark.parametrize("suffix", [".ply", ".csv", ".pcd", ".las"])
@pytest.mark.parametrize("rule", FRAMES)
def test_all_that_takes_long_shows_how_far_it_is(
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    rule: str,
) -> None:
    for name in ("predict.LARGE", "scans.checks.LARGE", "predict.LARGE_FILE", "scans.text.BLOCK"):
        monkeypatch.setattr(f"pipelines.{name}", 1000)
    for name in ("table", "frame", "las"):
        monkeypatch.setattr(f"pipelines.scans.{name}.CHUNK", 300)
    path = tmp_path / f"scan{suffix}"
    (write_points if suffix == ".ply" else write_as)(path, *with_stray_points(points))
    config = PredictConfig(scans=(path,), run=trained.path, device="cpu", frame=rule)
    predict(config, progress=(meters := Meters()))
    named = {"Reading": path.name, "Finding": "the frame", "Labelling": path.name}
    named["Writing"] = f"scan.labelled{suffix}"
    names = [" ".join(each) for each in named.items()]
    assert list(meters.found) == names
    for name in names[1:] if suffix == ".ply" else names:  # which is not parsed
        meter = meters.found[name]
        assert meter.done == pytest.approx(meter.total, rel=0.01), "but for the header"
        assert len(meter.samples) > 1
    shown = meters.found["Finding the frame"].describe()
    assert shown.startswith(f"{len(points[0]) + 42:,}/{len(points[0]) + 42:,} points")


def test_a_page_that_cannot_be_written_is_found_before_labelling(
    scan: Path, trained: Run, tmp_path: Path
) -> None:
    (tmp_path / "scan.labelled.html").mkdir()
    config = PredictConfig(scans=(scan,), run=trained.path, device="cpu", view=True)
    with pytest.raises(ConfigError, match=r"^--view .*scan\.labelled\.html: found a folder"):
        predict(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.labelled.html", "scan.ply"]


def test_a_page_that_is_not_written_keeps_the_labels(
    scan: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.predict.write_viewer", fail)
        with pytest.raises(
            DatasetError, match=r"scan\.labelled\.html: cannot be written \(No space"
        ):
            label(scan, trained, view=True)
    (again,) = label(scan, trained, view=True).scans
    assert again.earlier == again.points
    assert (tmp_path / "scan.labelled.html").is_file()


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


def test_weights_without_names_of_their_classes(scan: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    model = DeepGCN(ModelConfig(depth=2, width=4, k=2, num_classes=3))
    config = PredictConfig(scans=(scan,), weights=(str(weights),), num_points=64)
    save_weights(weights, model)
    (found,) = predict(config).scans
    assert list(found.counts) == ["class_0", "class_1", "class_2"]
    for wrong in (
        {"classes": "floor wall"},
        {"classes": "floor wall wall"},
        {"class_colors": "1-2-3 4-5-6 red"},
    ):
        save_weights(weights, model, metadata=wrong)
        with pytest.raises(WeightsError, match="expected 3 of each"):
            predict(config)


@pytest.mark.parametrize("classes", [256, 300])
def test_more_classes_than_labels_can_have(classes: int, scan: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, DeepGCN(ModelConfig(depth=2, width=4, k=2, num_classes=classes)))
    with pytest.raises(WeightsError, match=f"{classes} classes, expected at most 255"):
        predict(PredictConfig(scans=(scan,), weights=(str(weights),), num_points=64))


def test_two_results_never_share_a_page(scan: Path, trained: Run, tmp_path: Path) -> None:
    """Whether one call writes them or two, and the result says what was written."""
    text = tmp_path / "scan.xyz"
    np.savetxt(text, np.hstack([np.random.default_rng(0).random((200, 3)), np.full((200, 3), 9)]))
    (one,) = label(scan, trained, view=True, picture=True).scans
    before = (tmp_path / "scan.labelled.html").read_bytes()
    (other,) = label(text, trained, view=True, picture=True).scans
    (plain,) = label(text, trained).scans
    assert (tmp_path / "scan.labelled.html").read_bytes() == before
    assert one.page == tmp_path / "scan.labelled.html"
    assert other.picture == tmp_path / "scan.labelled.xyz.png"
    assert None not in (one.picture, other.page)
    assert len({one.page, one.picture, other.page, other.picture}) == 4
    assert all(path.is_file() for path in (one.page, one.picture, other.page, other.picture))
    assert plain.page is plain.picture is None


def test_labels_of_a_room_folder_are_of_its_files(trained: Run, tmp_path: Path) -> None:
    file = tmp_path / "hall_1" / "hall_1.txt"
    file.parent.mkdir()
    network = _open_networks(PredictConfig(weights=(str(trained.weights()),)), Progress())
    made = []
    for text in ("1 2 3 4 5 6\n", "1 2 3 4 5 66\n"):
        file.write_text(text)
        opened = open_scan(file.parent, folder=open_room)
        made.append(_made_from(file.parent, opened, network, opened.positions()[1]))
    assert made[0] != made[1]


def test_what_a_killed_start_was_writing_is_removed(scan: Path, trained: Run) -> None:
    others = {".other.ply.7.part", f".{scan.stem}.labelled.ply2.7.part"}
    for name in {*others, f".{scan.stem}.labelled.ply.123.part"}:
        scan.with_name(name).write_bytes(b"half")
    label(scan, trained)
    assert {path.name for path in scan.parent.glob(".*")} == others


class Tasks(Progress):
    """Remembers what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def task(self, name: str, *args: Any, **options: Any) -> Any:
        self.begun.append(name)
        return super().task(name, *args, **options)


def test_what_cannot_be_written_is_found_before_labelling(
    scan: Path, trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """A name too long for the folder, and damage in an array that labelling does not need."""
    np.savez(tmp_path / "a.npz", pos=points[0], color=points[1], other=np.arange(999.0))
    content = (tmp_path / "a.npz").read_bytes()
    at = content.index(np.arange(500, 510.0).tobytes())
    (tmp_path / "a.npz").write_bytes(content[:at] + b"!" + content[at + 1 :])
    cases = ((scan, tmp_path / f"{'x' * 249}.ply"), (tmp_path / "a.npz", tmp_path / "b.npz"))
    for path, out in cases:
        tasks = Tasks()
        config = PredictConfig(scans=(path,), run=trained.path, device="cpu", out=out)
        with pytest.raises(DatasetError, match=r"cannot be written|Nothing was labelled"):
            predict(config, progress=tasks)
        assert tasks.begun == []
    (found,) = label(tmp_path / "a.npz", trained, out=tmp_path / "b.ply").scans
    assert len(labelled(found.out)) == len(points[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.ply", "scan.ply"]


def test_labels_that_could_not_be_written_serve_another_format(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "scan.xyz"
    np.savetxt(path, np.hstack(points[:2]), fmt="%40.6f")  # long lines, so that these do not fit
    size = len(points[0]) * 200
    assert len(points[0]) > 1500, "more than the trial writes"
    with largest_file(size), pytest.raises(DatasetError) as caught:
        label(path, trained)
    cannot, kept = str(caught.value).splitlines()
    assert "scan.labelled.xyz: cannot be written (File too large)" in cannot
    assert "go" in kept
    assert f"--out {tmp_path / 'scan.labelled.ply'}" in kept
    assert not (tmp_path / "scan.labelled.xyz").exists()
    (again,) = label(path, trained, out=tmp_path / "scan.labelled.ply").scans
    assert again.earlier == again.points == len(points[0]), "nothing is labelled twice"
    (fresh,) = label(path, trained, out=tmp_path / "fresh.ply").scans
    assert fresh.earlier == 0
    assert again.out.read_bytes() == fresh.out.read_bytes()
    assert again.areas == fresh.areas
    assert not list(tmp_path.glob(".*")), "what was kept is gone"


def test_labels_that_have_no_place_beside_the_result_are_kept_elsewhere(
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a disk that is too full for them, too."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path, in_the_way = tmp_path / "scan.xyz", tmp_path / ".scan.labelled.xyz.part"
    np.savetxt(path, np.hstack(points[:2]), fmt="%40.6f")
    in_the_way.touch()
    size = len(points[0]) * 200
    with (
        largest_file(size),
        pytest.raises(DatasetError, match=r"temporary/\.scan.*or in any folder"),
    ):
        label(path, trained)
    (tmp_path / "other").mkdir()
    (again,) = label(path, trained, out=tmp_path / "other" / "scan.ply").scans
    assert again.earlier == len(points[0])
    assert not list((tmp_path / "temporary").iterdir()), "what was kept is gone"


def test_a_file_s_name_is_no_folder_for_two_scans(scan: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(scan, tmp_path / "other.ply"))
    with pytest.raises(ConfigError, match=r"both\.ply: found the name of a file for several"):
        predict(PredictConfig(scans=(scan, other), out=tmp_path / "both.ply"))
    assert not (tmp_path / "both.ply").exists()


def test_two_at_once_for_one_result(scan: Path, trained: Run) -> None:
    out = scan.with_name("result.ply")
    with (
        hold_alone(out.with_name(".result.ply.lock"), out, "."),
        pytest.raises(DatasetError, match=r"result\.ply: another process is writing it \(process "),
    ):
        label(scan, trained, out=out)
    label(scan, trained, out=out)
    assert sorted(path.name for path in scan.parent.iterdir()) == ["result.ply", "scan.ply"]


def test_what_a_killed_call_was_writing_is_removed(scan: Path, trained: Run) -> None:
    for name in ("scan.labelled.ply", "scan.labelled.html"):
        scan.with_name(f".{name}.7.part").write_text("half")
    trial = scan.with_name(".scan.labelled.ply-trial")
    trial.mkdir()
    (trial / "scan.labelled.ply").write_text("half")
    label(scan, trained, view=True)
    assert not list(scan.parent.glob(".*"))


def test_a_scan_that_does_not_fit_is_refused_before_the_work(
    scan: Path, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.predict.available_memory", lambda _: 1000)
    with pytest.raises(
        DatasetError, match=r"points, which need 0\.\d\d GB of memory; 0\.00 GB are"
    ):
        label(scan, trained)
    assert not list(scan.parent.glob("*labelled*"))
