"""Scans that other programs wrote, and labelled scans that they read.

The files in `foreign/` need none of these programs; `foreign/write.py` made them. Where Open3D or
LASzip is installed, they also write and read here.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.scans import labelled_name, open_scan, write_labelled
from tests.scans.foreign.write import FAR, RGB, XYZ
from tests.scans.scan_labels import labels_for, placed

FOREIGN = Path(__file__).parent / "foreign"
FILES = sorted(path for path in FOREIGN.iterdir() if path.is_file() and path.suffix != ".py")
NEEDS = {".laz": ("laspy", "lazrs"), ".e57": ("pye57",)}
WITHOUT_COLOR = {"open3d.xyz", "meshlab.xyz"}


def imported(name: str, why: str) -> Any:
    """Import a package that is not among those of the tests, or skip."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(name, reason=f"{name} is not installed: {why}")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_of_other_programs(tmp_path: Path, path: Path) -> None:
    for package in NEEDS.get(path.suffix, ()):
        pytest.importorskip(package)
    expected = XYZ + FAR if path.suffix == ".laz" else XYZ
    out = tmp_path / labelled_name(path)
    write_labelled(out, open_scan(path), labels_for(len(XYZ)))
    for scan in (open_scan(path), open_scan(out)):
        np.testing.assert_allclose(placed(scan), expected, atol=1e-9)
        if path.name in WITHOUT_COLOR:
            assert scan.colors() is None
        else:
            np.testing.assert_array_equal(scan.colors(), RGB)


def test_every_kind_of_file_is_there() -> None:
    kinds = {".ply", ".pcd", ".laz", ".e57", ".pts", ".xyz", ".xyzrgb", ".npz"}
    assert {path.suffix for path in FILES} == kinds


@pytest.mark.parametrize("suffix", [".ply", ".pcd"])
@pytest.mark.parametrize("options", [{}, {"write_ascii": True}, {"compressed": True}])
def test_open3d_writes_and_reads(tmp_path: Path, suffix: str, options: dict[str, bool]) -> None:
    """A labelled scan is for Open3D the same points in the colours of the classes."""
    open3d = imported("open3d", "files that it once wrote are read all the same")
    rng = np.random.default_rng(0)
    pos = rng.integers(-799, 799, (5000, 3)) / 8  # its text has six digits
    color = rng.integers(0, 256, (5000, 3)).astype(np.uint8)
    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(pos))
    cloud.colors = open3d.utility.Vector3dVector(color / 255)
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    assert open3d.io.write_point_cloud(str(path), cloud, **options)
    scan = open_scan(path)
    np.testing.assert_array_equal(placed(scan), pos)
    np.testing.assert_array_equal(scan.colors(), color)
    labels = labels_for(len(pos))
    write_labelled(out, scan, labels)
    again = open3d.io.read_point_cloud(str(out))
    np.testing.assert_array_equal(np.asarray(again.points), pos)
    shown = np.rint(np.asarray(again.colors) * 255).astype(np.uint8)
    np.testing.assert_array_equal(shown, labels.colors(slice(None)))


@pytest.mark.parametrize(("version", "point_format"), [("1.2", 3), ("1.4", 7)])
def test_laszip_writes_and_reads(tmp_path: Path, version: str, point_format: int) -> None:
    """LASzip itself compresses what is read here, and decompresses what is written."""
    imported("laszip", "files that it once wrote are read all the same")
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = [0.001] * 3, FAR
    data = laspy.LasData(header)
    rng = np.random.default_rng(0)
    data.X, data.Y, data.Z = rng.integers(0, 9999, (3, 120_000))  # more than a chunk
    data.red, data.green, data.blue = rng.integers(0, 65536, (3, 120_000))
    data.write(str(tmp_path / "in.laz"), laz_backend=laspy.LazBackend.Laszip)
    labels = labels_for(len(data))
    scan = open_scan(tmp_path / "in.laz")
    np.testing.assert_allclose(placed(scan), data.xyz, atol=1e-6)
    write_labelled(tmp_path / "out.laz", scan, labels)
    again = laspy.read(tmp_path / "out.laz", laz_backend=laspy.LazBackend.Laszip)
    np.testing.assert_array_equal(again["class"], labels.label)
    for name in ("X", "Y", "Z", "red", "green", "blue"):
        np.testing.assert_array_equal(again[name], data[name])
