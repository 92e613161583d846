"""What a PLY holds besides single numbers of its vertices: lists, faces and other elements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData, PlyElement, PlyProperty

from pipelines.config import PredictConfig
from pipelines.errors import DatasetError
from pipelines.scans import open_scan, write_labelled
from tests.ears import Ears
from tests.scans.scan_labels import labels_for, placed

COUNT = 40
RNG = np.random.default_rng(0)
POS = (RNG.random((COUNT, 3)) * 8).round(3)
RGB = RNG.integers(1, 256, (COUNT, 3)).astype(np.uint8)
ENCODINGS: list[dict[str, Any]] = [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}]


def vertices(lists: str) -> PlyElement:
    """Vertices, with lists of 0 to 5 numbers as the first, the last or both of the properties."""
    numbers = [*((axis, "f8") for axis in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))]
    first = [("view_indices", "O")] if "first" in lists else []
    last = [("weights", "O")] if "last" in lists else []
    rows = np.empty(COUNT, [*first, *numbers, *last])
    for n, (name, _) in enumerate(numbers):
        rows[name] = np.hstack([POS, RGB])[:, n]
    for row in range(COUNT):
        if first:
            rows["view_indices"][row] = np.arange(row % 6, dtype=np.uint32)
        if last:
            rows["weights"][row] = np.arange(row % 4) / np.float32(4)
    kinds = {"view_indices": "u4", "weights": "f4"}
    return PlyElement.describe(rows, "vertex", val_types={n: kinds[n] for n, _ in first + last})


def mesh_elements() -> tuple[PlyElement, PlyElement]:
    """Faces of three and four corners with a number and texture coordinates; edges."""
    faces = np.empty(30, [("vertex_indices", "O"), ("texcoord", "O"), ("flags", "i2")])
    for row in range(30):
        corners = 3 + row % 2
        faces["vertex_indices"][row] = RNG.integers(0, COUNT, corners).astype(np.int32)
        faces["texcoord"][row] = RNG.random(2 * corners).astype(np.float32)
    faces["flags"] = np.arange(30) - 15
    edges = np.array([(1, 2, 0.5), (3, 4, -1e-3)], [("a", "i4"), ("b", "i4"), ("c", "f8")])
    return (
        PlyElement.describe(faces, "face", val_types={"vertex_indices": "i4", "texcoord": "f4"}),
        PlyElement.describe(edges, "edge"),
    )


def write(path: Path, *elements: PlyElement, **options: Any) -> None:
    """Write a PLY, with the comment that names a texture."""
    big = options.get("byte_order") == ">"
    found = [swapped(element) if big else element for element in elements]
    PlyData(found, comments=["TextureFile a.png", "by hand"], **options).write(str(path))


def swapped(element: PlyElement) -> PlyElement:
    """plyfile 1.1 writes the single values of an element with lists in the machine's byte order."""
    if all(prop.__class__ is PlyProperty for prop in element.properties):
        return element
    data = element.data.copy()
    for name in data.dtype.names:
        if data.dtype[name].kind != "O":
            data[name] = data[name].byteswap()
    new = PlyElement.describe(data, element.name)
    new.properties = element.properties
    return new


@pytest.mark.parametrize("lists", ["first", "last", "first last"])
@pytest.mark.parametrize("options", ENCODINGS)
def test_lists_among_the_vertices_are_left_out_and_said(
    tmp_path: Path, options: dict[str, Any], lists: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is as in a clean copy, which has no lists."""
    monkeypatch.setattr("pipelines.scans.table.CHUNK", 7)
    write(tmp_path / "scan.ply", vertices(lists), **options)
    write(tmp_path / "clean.ply", vertices(""), **options)
    scan, clean = open_scan(tmp_path / "scan.ply"), open_scan(tmp_path / "clean.ply")
    assert scan.rows.dtype == clean.rows.dtype
    np.testing.assert_array_equal(scan.rows, clean.rows)
    names = {"first": "view_indices", "last": "weights"}
    assert scan.dropped == {names[place]: COUNT for place in lists.split()}
    assert clean.dropped == {}
    for each in (scan, clean):
        write_labelled(each.path.with_suffix(".out.ply"), each, labels_for(COUNT))
    outs = [(tmp_path / f"{name}.out.ply").read_bytes() for name in ("scan", "clean")]
    assert outs[0] == outs[1]


@pytest.mark.parametrize("place", ["before", "behind"])
@pytest.mark.parametrize("lists", ["", "first last"])
@pytest.mark.parametrize("options", ENCODINGS)
def test_a_mesh_keeps_its_faces_and_other_elements(
    tmp_path: Path, options: dict[str, Any], lists: str, place: str
) -> None:
    faces, edges = mesh_elements()
    elements = [vertices(lists), faces, edges]
    if place == "before":
        elements = [faces, edges, vertices(lists)]
    write(tmp_path / "scan.ply", *elements, **options)
    labels, scan = labels_for(COUNT), open_scan(tmp_path / "scan.ply")
    np.testing.assert_allclose(placed(scan), POS, atol=1e-6)
    write_labelled(tmp_path / "out.ply", scan, labels)
    again = PlyData.read(str(tmp_path / "out.ply"))
    assert [element.name for element in again] == [element.name for element in elements]
    assert "TextureFile a.png" in again.comments
    for element in (faces, edges):
        for name in element.data.dtype.names:
            pairs = zip(element.data[name], again[element.name].data[name], strict=True)
            assert all(np.array_equal(mine, theirs) for mine, theirs in pairs)
    vertex = again["vertex"].data
    np.testing.assert_array_equal(np.stack([vertex[axis] for axis in "xyz"], axis=1), POS)
    np.testing.assert_array_equal(vertex["scan_green"], RGB[:, 1])
    np.testing.assert_array_equal(vertex["class"], labels.label)
    np.testing.assert_array_equal(vertex["confidence"], labels.confidence)


def test_predict_says_what_is_left_out(tmp_path: Path) -> None:
    from pipelines.scans.checks import checked_points

    write(tmp_path / "scan.ply", vertices("first"), text=True)
    ears = Ears()
    config = PredictConfig(weights=("indoor",), device="cpu")
    checked_points(open_scan(tmp_path / "scan.ply"), config, ears)
    assert any("left out of the result are the lists view_indices of 40" in t for t in ears.said)


HEAD = b"ply\nformat %s 1.0\nelement vertex 2\nproperty list %s int a\n"
HEAD += b"property float x\nproperty float y\nproperty float z\nend_header\n"
BAD = {
    "a length beyond the file": (
        HEAD % (b"binary_little_endian", b"uint") + b"\xff" * 40,
        "cut off",
    ),
    "a negative length": (HEAD % (b"binary_little_endian", b"char") + b"\xff" * 40, "cut off"),
    "a length that is no number": (
        HEAD % (b"ascii", b"uchar") + b"x 1 2 3\n0 4 5 6\n",
        ":9: found",
    ),
    "a line too short": (
        HEAD % (b"ascii", b"uchar") + b"9 1 2 3\n0 4 5 6\n",
        "columns, expected 3",
    ),
    "nothing but a list": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar int y\nend_header\n1 0\n",
        "found no property",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_damaged_lists_get_one_clear_error(tmp_path: Path, name: str) -> None:
    content, found = BAD[name]
    path = tmp_path / "scan.ply"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        open_scan(path)
    assert str(caught.value).startswith(f"{path}:")
    assert found in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_damaged_faces_of_a_text(tmp_path: Path) -> None:
    faces, _ = mesh_elements()
    write(tmp_path / "scan.ply", vertices(""), faces, text=True)
    content = (tmp_path / "scan.ply").read_text().splitlines()
    content[-1] = "4 1 2"
    (tmp_path / "scan.ply").write_text("\n".join(content))
    with pytest.raises(
        DatasetError, match="found '4 1 2' as a face, expected vertex_indices, texcoord, flags"
    ):
        write_labelled(tmp_path / "out.ply", open_scan(tmp_path / "scan.ply"), labels_for(COUNT))
    assert not (tmp_path / "out.ply").exists()
