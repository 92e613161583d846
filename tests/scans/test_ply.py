"""PLY scans: what comes in goes out, and files that lie about themselves are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData, PlyElement

from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.errors import DatasetError
from pipelines.scans import Labels, open_scan, write_labelled
from pipelines.scans.ply import read_header, write_points

POS = np.array([[500_000.25, -3.5, 2.0], [500_001.125, -2.25, 1.5], [500_000.5, -3.0, 9.75]])


def write(path: Path, fields: dict[str, np.ndarray], **options: object) -> Path:
    """Write vertices with plyfile, an independent writer."""
    kinds = [(name, values.dtype.str) for name, values in fields.items()]
    table = np.empty(len(next(iter(fields.values()))), kinds)
    for name, values in fields.items():
        table[name] = values
    face = np.array([([0, 1, 2],)], dtype=[("vertex_indices", "i4", (3,))])
    elements = [PlyElement.describe(table, "vertex"), PlyElement.describe(face, "face")]
    PlyData(elements, **options).write(str(path))
    return path


def xyz(pos: np.ndarray = POS) -> dict[str, np.ndarray]:
    return dict(zip("xyz", pos.T, strict=True))


def bytes_of(values: list[list[int]]) -> dict[str, np.ndarray]:
    return dict(zip(("red", "green", "blue"), np.array(values, np.uint8).T, strict=True))


RGB = bytes_of([[1, 2, 3], [4, 5, 6], [255, 0, 128]])


@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}])
def test_every_encoding_keeps_precision_far_from_the_origin(
    tmp_path: Path, options: dict[str, object]
) -> None:
    scan = open_scan(write(tmp_path / "scan.ply", {**xyz(), **RGB}, **options))
    local, frame = scan.positions()
    np.testing.assert_array_equal(local + frame.origin, POS)
    assert local.dtype == np.float32
    assert scan.colors().tolist() == [[1, 2, 3], [4, 5, 6], [255, 0, 128]]
    assert scan.dropped == {}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0.0, 0.5, 1.0], np.float32), [0, 128, 255]),
        (np.array([0.0, 100.0, 255.0]), [0, 100, 255]),
        (np.array([0, 257, 65535], np.uint16), [0, 1, 255]),
        (np.array([0, 1, 7], np.uint8), [0, 1, 7]),
        (np.array([np.nan, 0.25, 1.0]), [0, 64, 255]),
    ],
)
def test_color_ranges(tmp_path: Path, values: np.ndarray, expected: list[int]) -> None:
    fields = dict.fromkeys(("diffuse_red", "diffuse_green", "diffuse_blue"), values)
    scan = open_scan(write(tmp_path / "scan.ply", {**xyz(), **fields}))
    assert scan.colors()[:, 1].tolist() == expected


def test_points_without_coordinates_are_nan(tmp_path: Path) -> None:
    pos = POS.copy()
    pos[0, 1], pos[2, 2] = np.nan, np.inf
    local, frame = open_scan(write(tmp_path / "scan.ply", {**xyz(pos), **RGB})).positions()
    assert np.isnan(local).all(axis=1).tolist() == [True, False, True]
    np.testing.assert_array_equal(local[1] + frame.origin, POS[1])


def test_a_scan_without_color(tmp_path: Path) -> None:
    scan = open_scan(write(tmp_path / "scan.ply", xyz()))
    assert scan.color is None
    assert scan.colors() is None


def test_labels_come_after_what_the_scan_had(tmp_path: Path) -> None:
    extra = {"Intensity": np.array([0.5, 1.5, 2.5], np.float32), "class": np.arange(3, dtype="i2")}
    scan = open_scan(write(tmp_path / "scan.ply", {**xyz(), **RGB, **extra}, byte_order=">"))
    out = tmp_path / "out.ply"
    confidence = np.array([0.5, 1.0, 0.0], np.float32)
    label = np.array([0, 12, 255], np.uint8)
    write_labelled(out, scan, Labels(label, confidence, CLASSES, CLASS_COLORS))
    vertex = PlyData.read(str(out))["vertex"].data
    for name, values in {**xyz(), "Intensity": extra["Intensity"]}.items():
        np.testing.assert_array_equal(vertex[name], values)
    assert vertex["scan_red"].tolist() == [1, 4, 255]
    assert vertex["scan_class"].tolist() == [0, 1, 2]
    assert vertex["class"].tolist() == [0, 12, 255]
    assert vertex["confidence"].tolist() == [0.5, 1.0, 0.0]
    assert [vertex[c][1] for c in ("red", "green", "blue")] == list(CLASS_COLORS[12])
    assert f"class 12 {CLASSES[12]}" in out.read_bytes().decode("latin-1")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["out.ply", "scan.ply"]


def test_labelling_a_labelled_scan_loses_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.ply", {**xyz(), **RGB})
    for name in ("once.ply", "twice.ply"):
        scan = open_scan(path)
        path = tmp_path / name
        label = np.zeros(3, np.uint8)
        labels = Labels(label, np.ones(3, np.float32), CLASSES, CLASS_COLORS)
        write_labelled(path, scan, labels)
    scan = open_scan(path)
    assert scan.rows["scan_red"].tolist() == [1, 4, 255]
    assert scan.rows["scan_scan_red"].tolist() == [0, 0, 0], "the first labels' colour"
    assert scan.colors()[:, 0].tolist() == [1, 4, 255], "the scanner's colours, not the classes'"


@given(count=st.integers(1, 50), seed=st.integers(0, 99))
def test_points_round_trip(tmp_path_factory: pytest.TempPathFactory, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    pos = rng.random((count, 3)).astype(np.float32)
    color = rng.integers(0, 256, (count, 3)).astype(np.uint8)
    path = tmp_path_factory.mktemp("points") / "scan.ply"
    write_points(path, pos, color)
    scan = open_scan(path)
    local, frame = scan.positions()
    np.testing.assert_allclose(local + frame.origin, pos, atol=1e-7)
    np.testing.assert_array_equal(scan.colors(), color)


BAD = {
    "nothing": (b"", "no PLY header"),
    "an image": (b"\x89PNG" + bytes(100), "no PLY header"),
    "no end": (b"ply\nformat ascii 1.0\nelement vertex 1\n", "no PLY header"),
    "no points": (
        b"ply\nformat ascii 1.0\nelement vertex 0\nproperty float x\nend_header\n",
        "found 0 points",
    ),
    "no vertices": (
        b"ply\nformat ascii 1.0\nelement face 1\nproperty int a\nend_header\n1\n",
        "found the elements face",
    ),
    "a huge count": (
        b"ply\nformat binary_little_endian 1.0\nelement vertex 4000000000000\n"
        b"property float x\nproperty float y\nproperty float z\nend_header\n" + bytes(48),
        "expected at least 48,000,000,000,000",
    ),
    "a negative count": (
        b"ply\nformat ascii 1.0\nelement vertex -1\nproperty float x\nend_header\n",
        "has the count -1",
    ),
    "a count that is no number": (
        b"ply\nformat ascii 1.0\nelement vertex many\nproperty float x\nend_header\n",
        "damaged PLY header",
    ),
    "an unknown type": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty quaternion x\nend_header\n1\n",
        "unknown type 'quaternion'",
    ),
    "a property of nothing": (b"ply\nproperty float x\nend_header\n", "damaged PLY header"),
    "no coordinates": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float u\nproperty float v\n"
        b"end_header\n1 2\n",
        "expected coordinates x, y, z",
    ),
    "words for numbers": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\none two three\n",
        ":8: found 'one' in column 1, expected a number",
    ),
    "too few lines": (
        b"ply\nformat ascii 1.0\nelement vertex 2\nproperty float x\nproperty float y\n"
        b"property float z\nend_header\n1.125 2.125 3.125\n",
        "found 1 line of data, expected 2",
    ),
    "too large a value": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float y\n"
        b"property float z\nproperty uchar red\nend_header\n1 2 3 300\n",
        "found a value of red that is too large for its type, uint8",
    ),
    "no format": (
        b"ply\nelement vertex 1\nproperty float x\nend_header\n1\n",
        "damaged PLY header: no format",
    ),
    "one name twice": (
        b"ply\nformat ascii 1.0\nelement vertex 1\nproperty float x\nproperty float x\n"
        b"end_header\n1 2\n",
        "two properties of one name",
    ),
    "lists before the vertices that end behind the file": (
        b"ply\nformat binary_little_endian 1.0\nelement face 1\nproperty list uint int i\n"
        b"element vertex 1\nproperty float x\nproperty float y\nproperty float z\nend_header\n"
        + b"\xff"
        * 30,
        "The file was cut off",
    ),
}


@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": "<"}, {"byte_order": ">"}])
def test_vertices_after_other_elements(tmp_path: Path, options: dict[str, object]) -> None:
    table = np.empty(3, [(name, "f8") for name in "xyz"])
    for name, values in xyz().items():
        table[name] = values
    strip = np.array([([1, 2, 3], 5), ([4], 6)], [("items", "O"), ("n", "u1")])
    strips = PlyElement.describe(strip, "strip", val_types={"items": "i2"})
    camera = PlyElement.describe(np.ones(2, [("f", "f4")]), "camera")
    vertex = PlyElement.describe(table, "vertex")
    PlyData([camera, strips, vertex], **options).write(str(tmp_path / "scan.ply"))
    local, frame = open_scan(tmp_path / "scan.ply").positions()
    np.testing.assert_array_equal(local + frame.origin, POS)


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_get_one_clear_error(tmp_path: Path, name: str) -> None:
    content, found = BAD[name]
    path = tmp_path / "scan.ply"
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        open_scan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert found in message
    assert len(message.splitlines()) <= 3


def test_a_file_cut_short_is_refused_before_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "scan.ply", {**xyz(), **RGB})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) - 40])
    with pytest.raises(DatasetError, match="The file was cut off"):
        read_header(path)


@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("options", [{"text": True}, {"byte_order": "<"}])
def test_comments_and_names_are_free_text(
    tmp_path: Path, options: dict[str, object], newline: str, encoding: str
) -> None:
    path = write(tmp_path / "scan.ply", {**xyz(), **RGB, "depth": POS[:, 0]}, **options)
    head, _, data = path.read_bytes().partition(b"end_header\n")
    said = [
        "comment Gebäude Büro\x85\x1c",
        "obj_info after end_header",
        "comment",
        "comment end_header ä",
    ]
    lines = head.decode().replace("double depth", "double Größe").splitlines()
    lines = [*lines[:2], *said, *lines[2:], *said, "end_header", ""]
    path.write_bytes(newline.join(lines).encode(encoding) + data)
    scan = open_scan(path)
    assert scan.fields == ("x", "y", "z", "red", "green", "blue", "Größe")
    np.testing.assert_array_equal(scan.rows["Größe"], POS[:, 0])
    local, frame = scan.positions()
    np.testing.assert_array_equal(local + frame.origin, POS)
    assert scan.colors().tolist() == [[1, 2, 3], [4, 5, 6], [255, 0, 128]]
    assert scan.dropped == {}


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found no file there"):
        open_scan(tmp_path / "nothing.ply")
