"""Scans without colours, or with colours of some points."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import PredictConfig
from pipelines.data.store import Store
from pipelines.errors import DatasetError
from pipelines.predict import predict
from pipelines.runs.directory import Run
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import load_weights
from tests.ears import Ears
from tests.tiny_run import MODEL, train_tiny_run

from .labelling import label, labelled


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
    (said,) = (text for text in ears.heard if "without colour" in text)
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
    assert any("10 % of the points are exactly black" in text for text in ears.heard) == said


def test_colours_that_are_nearly_black_are_said(trained: Run, tmp_path: Path) -> None:
    """As those of a plain file with three columns of classes behind the coordinates."""
    rows = np.random.default_rng(0).random((20, 6)) * (4, 5, 2.5, 13, 13, 13)
    np.savetxt(tmp_path / "scan.txt", rows, "%.3f %.3f %.3f %d %d %d")
    config = PredictConfig(scans=(tmp_path / "scan.txt",), run=trained.path, device="cpu")
    predict(config, progress=(ears := Ears()))
    assert any("12 of 255 as its brightest colour" in said for said in ears.heard)
