"""Labelled PLY, the result that any scan can have: read again with plyfile."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData

from pipelines.scans import open_scan
from pipelines.scans.ply import rounded_columns, write_ply
from pipelines.scans.table import Labels, Scan
from tests.scans.scan_labels import RGB, XYZ, labels_for

KINDS = ["<f2", "<f4", ">f8", "i1", "<i2", ">i4", "<i8", "u1", ">u2", "<u4", "<u8", "?", "S3"]


@st.composite
def scans(draw: st.DrawFn) -> Scan:
    names = draw(st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=5))
    names += draw(st.lists(st.sampled_from(["class", "red", "scan_red"]), unique=True))
    fields = [(name, "<f8") for name in "xyz"]
    fields += [(n, draw(st.sampled_from(KINDS)), draw(st.sampled_from(((), (2,)))))
               for n in dict.fromkeys(names) if n not in {*"xyz"}]  # fmt: skip
    kind = np.dtype(fields)
    count = draw(st.integers(1, 5))
    rows = np.frombuffer(np.random.default_rng(count).bytes(kind.itemsize * count), kind).copy()
    for name in "xyz":
        rows[name] = np.arange(count)
    return Scan(Path("scan"), rows, tuple("xyz"), None, kind.names)


@given(scan=scans())
def test_columns_of_any_name_and_type(tmp_path_factory: pytest.TempPathFactory, scan: Scan) -> None:
    path = tmp_path_factory.getbasetemp() / "any.ply"
    labels = labels_for(len(scan))
    with np.errstate(invalid="ignore"):
        write_ply(path, scan, labels)
    vertex = PlyData.read(str(path))["vertex"].data
    assert vertex["class"].tolist() == labels.label.tolist()
    np.testing.assert_array_equal(vertex["confidence"], labels.confidence)
    position = 3
    for name in scan.fields[3:]:
        kind = scan.rows.dtype[name]
        if kind.base.kind == "S":
            continue
        wanted = scan.rows[name].reshape(len(scan), -1)
        for column in wanted.T:
            found = vertex[vertex.dtype.names[position]]
            np.testing.assert_array_equal(found, column.astype(found.dtype))
            position += 1
    assert vertex.dtype.names[position:] == ("red", "green", "blue", "class", "confidence")


def test_the_class_colors_are_not_taken_for_the_scans(tmp_path: Path) -> None:
    rows = np.zeros(3, [(name, "f8") for name in "xyz"])
    scan = Scan(tmp_path / "scan", rows, tuple("xyz"), None, tuple("xyz"))
    write_ply(tmp_path / "out.ply", scan, labels_for(3))
    assert open_scan(tmp_path / "out.ply").colors() is None


def test_each_class_has_its_color(tmp_path: Path) -> None:
    rows = np.zeros(3, [(name, "f8") for name in ("x", "y", "z", "red", "green", "blue")])
    rows["x"], rows["y"], rows["z"] = XYZ.T
    rows["red"], rows["green"], rows["blue"] = RGB.T
    names = rows.dtype.names
    scan = Scan(tmp_path / "scan", rows, names[:3], names[3:], names)
    label = np.array([1, 0, 255], np.uint8)
    labels = Labels(label, np.ones(3, np.float32), ("a", "b"), [(1, 2, 3), (4, 5, 6)])
    write_ply(tmp_path / "out.ply", scan, labels)
    vertex = PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
    found = [vertex[name].tolist() for name in ("red", "green", "blue")]
    assert found == [[4, 1, 128], [5, 2, 128], [6, 3, 128]]
    assert vertex["scan_red"].tolist() == RGB[:, 0].tolist()
    assert PlyData.read(str(tmp_path / "out.ply")).comments[1:] == ["class 0 a", "class 1 b"]


def test_whole_numbers_that_a_ply_file_rounds_are_named() -> None:
    kind = [*((axis, "<f4") for axis in "xyz"), ("stamp", "<u8"), ("number", "<i8")]
    rows = np.zeros(3, kind)
    rows["number"] = [-(2**53), 0, 2**53]
    rows["stamp"] = 1720000000123456789
    scan = Scan(Path("a.pcd"), rows, ("x", "y", "z"), None, tuple(rows.dtype.names or ()))
    assert rounded_columns(scan) == ["stamp"]
