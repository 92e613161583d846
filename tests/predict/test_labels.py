"""The predict stage: every input point in input order, of one scan or several."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepgcn_cli.progress import Meter
from pipelines import load_model, segment
from pipelines.config import FRAMES, ModelConfig, PredictConfig
from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.errors import ConfigError, DatasetError, WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.predict import predict
from pipelines.progress import Progress, Task
from pipelines.runs.directory import Run
from pipelines.scans import Labels, open_scan, write_labelled
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import save_weights
from tests.ears import Ears

from .labelling import label, labelled, with_stray_points, write_as


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
    assert any(reason in text for text in ears.heard)
    with pytest.raises(DatasetError, match=r"broken\.ply"):
        label(broken, trained)


def test_an_option_that_fits_some_scans_labels_those(
    trained: Run, scan: Path, tmp_path: Path
) -> None:
    rows = open_scan(scan).rows[:300]
    table = np.column_stack([rows[name] for name in ("x", "y", "z", "red", "green", "blue")])
    np.savetxt(tmp_path / "a.xyz", table)
    np.savetxt(tmp_path / "b.xyz", table[:, :5])
    np.savetxt(tmp_path / "c.xyz", table)
    scans = tuple(tmp_path / f"{name}.xyz" for name in "abc")
    config = PredictConfig(scans=scans, run=trained.path, device="cpu", columns="x,y,z,r,g,b")
    result = predict(config)
    assert [each.scan.name for each in result.scans] == ["a.xyz", "c.xyz"]
    ((failed, reason),) = result.failed
    assert (failed.name, "found 6 names" in reason) == ("b.xyz", True)


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


def test_weights_without_names_of_their_classes(scan: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    model = DeepGCN(ModelConfig(depth=2, width=4, k=2, num_classes=3))
    config = PredictConfig(scans=(scan,), weights=(str(weights),), num_points=64)
    save_weights(weights, model)
    (found,) = predict(config).scans
    assert list(found.counts) == ["class_0", "class_1", "class_2"]
    for wrong, message in (
        ({"classes": "floor wall"}, r"found 2 names \(2 different\) of classes, expected 3"),
        ({"classes": "floor wall wall"}, r"found 3 names \(2 different\) of classes, expected 3"),
        ({"class_colors": "1-2-3 4-5-6 red"}, r"found 0 colours of classes, expected 3"),
    ):
        save_weights(weights, model, metadata=wrong)
        with pytest.raises(WeightsError, match=message):
            predict(config)


@pytest.mark.parametrize("classes", [256, 300])
def test_more_classes_than_labels_can_have(classes: int, scan: Path, tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    save_weights(weights, DeepGCN(ModelConfig(depth=2, width=4, k=2, num_classes=classes)))
    with pytest.raises(WeightsError, match=f"{classes} classes, expected at most 255"):
        predict(PredictConfig(scans=(scan,), weights=(str(weights),), num_points=64))


def test_a_scan_that_does_not_fit_is_refused_before_the_work(
    scan: Path, trained: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.predict.available_memory", lambda _: 1000)
    with pytest.raises(
        DatasetError, match=r"points, which need 0\.\d\d GB of memory; 0\.00 GB are"
    ):
        label(scan, trained)
    assert not list(scan.parent.glob("*labelled*"))


def test_draws_hold_all_that_the_network_looks_at(trained: Run, scan: Path) -> None:
    widest = trained.config.model.widest
    config = PredictConfig(scans=(scan,), run=trained.path, num_points=widest - 1)
    with pytest.raises(ConfigError, match=f"--num-points: found {widest - 1}, expected at least"):
        predict(config)
    assert predict(dataclasses.replace(config, num_points=widest)).scans[0].points
