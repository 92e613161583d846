"""Scans of every format: options, names of results, and files that lie about themselves."""

from __future__ import annotations

import dataclasses
import gc
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData

from pipelines.data.s3dis import CLASSES
from pipelines.errors import ConfigError, DatasetError
from pipelines.scans import FORMATS, check_format, labelled_name, open_scan, write_labelled
from pipelines.scans.ply import read_ply, write_points
from pipelines.scans.table import ScanOptions
from tests.scans.scan_labels import RGB, XYZ, labels_for, placed

PCD = """# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z rgb _ n
SIZE 8 8 8 4 1 2
TYPE F F F U U I
COUNT 1 1 1 1 3 2
WIDTH 3
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 3
DATA {}
"""


def write_ply(path: Path) -> None:
    write_points(path, XYZ, RGB)


def write_pcd(path: Path) -> None:
    kind = [(c, "<f8") for c in "xyz"] + [("rgb", "<u4"), ("_", "u1", 3), ("n", "<i2", 2)]
    rows = np.zeros(3, kind)
    rows["x"], rows["y"], rows["z"] = XYZ.T
    rows["rgb"] = [0x010203, 0x040506, 0xFF0080]
    path.write_bytes(PCD.format("binary").encode() + rows.tobytes())


def write_compressed_pcd(path: Path) -> None:
    columns = [XYZ.T.tobytes(), np.array([0x010203, 0x040506, 0xFF0080], "<u4").tobytes()]
    plain = b"".join([*columns, bytes(9), bytes(12)])
    # Runs of literals are valid LZF: a byte (length - 1), then at most 32 bytes.
    runs = [plain[start : start + 32] for start in range(0, len(plain), 32)]
    packed = b"".join(bytes([len(run) - 1]) + run for run in runs)
    sizes = np.array([len(packed), len(plain)], "<u4").tobytes()
    path.write_bytes(PCD.format("binary_compressed").encode() + sizes + packed)


def write_csv(path: Path) -> None:
    lines = [",".join(map(str, [*p, *c])) for p, c in zip(XYZ, RGB, strict=True)]
    path.write_text("\n".join(["x,y,z,red,green,blue", *lines]))


def write_las(path: Path) -> None:
    laspy = pytest.importorskip("laspy")
    header = laspy.LasHeader(version="1.4", point_format=7)
    header.scales, header.offsets = [0.125] * 3, [500_000, 0, 0]
    data = laspy.LasData(header)
    data.x, data.y, data.z = XYZ.T
    for name, values in zip(("red", "green", "blue"), RGB.T, strict=True):
        data[name] = values.astype(np.uint16) * 257
    data.write(str(path))


def write_e57(path: Path) -> None:
    pye57 = pytest.importorskip("pye57")
    names = ("cartesianX", "cartesianY", "cartesianZ")
    colors = ("colorRed", "colorGreen", "colorBlue")
    file = pye57.E57(str(path), mode="w")
    columns = dict(zip(names, (XYZ - [500_000, 0, 0]).T.copy(), strict=True))
    columns |= dict(zip(colors, RGB.T.copy(), strict=True))
    file.write_scan_raw(columns, translation=np.array([500_000.0, 0, 0]))
    file.close()


def write_ptx(path: Path) -> None:
    """One scan of one column, turned by 90° about z and moved."""
    pose = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n0 1 0 0\n-1 0 0 0\n0 0 1 0\n500000 0 0 1\n"
    local = np.c_[XYZ[:, 1], 500_000 - XYZ[:, 0], XYZ[:, 2]]  # its x and y become y and -x
    lines = [" ".join(map(str, [*p, 0.5, *c])) for p, c in zip(local, RGB, strict=True)]
    path.write_text(f"1\n3\n{pose}" + "\n".join(lines) + "\n")


def write_npy(path: Path) -> None:
    np.save(path, np.hstack([XYZ, RGB]))


def write_npz(path: Path) -> None:
    np.savez_compressed(path, xyz=XYZ, rgb=RGB, names=np.array(["a", "b"]))


def write_plain_npy(path: Path) -> None:
    np.save(path, XYZ)


WRITERS: dict[str, Callable[[Path], None]] = {
    "a.ply": write_ply,
    "b.pcd": write_pcd,
    "c.pcd": write_compressed_pcd,
    "d.csv": write_csv,
    "e.las": write_las,
    "f.laz": write_las,
    "g.e57": write_e57,
    "h.npy": write_npy,
    "k.ptx": write_ptx,
    "i.npz": write_npz,
    "j.npy": write_plain_npy,
}
COLORLESS = {"j.npy"}  # of WRITERS


def written(folder: Path, name: str) -> Path:
    path = folder / name
    WRITERS[name](path)
    return path


def test_every_format_is_tried_here() -> None:
    text = {".xyz", ".xyzrgb", ".txt", ".pts", ".asc"}  # as .csv; see test_scan_text
    assert {Path(name).suffix for name in WRITERS} | text == set(FORMATS)


@pytest.mark.parametrize("name", list(WRITERS))
def test_every_format_keeps_place_and_color(tmp_path: Path, name: str) -> None:
    scan = open_scan(written(tmp_path, name))
    np.testing.assert_array_equal(placed(scan), XYZ)
    if name in COLORLESS:
        assert scan.colors() is None
    else:
        np.testing.assert_array_equal(scan.colors(), RGB)
    assert len(scan) == 3


@pytest.mark.parametrize("name", list(WRITERS))
def test_the_result_is_a_scan_with_the_same_points(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    out = path.with_name(labelled_name(path))
    for source, suffix in ((path, out.suffix), (path, ".ply"), (out, out.suffix)):
        target = tmp_path / f"{source.stem}.again{suffix}"
        write_labelled(target, open_scan(source), labels_for(3, probabilities=True))
        again = open_scan(target)
        np.testing.assert_array_equal(placed(again), XYZ)
        if name not in COLORLESS:
            np.testing.assert_array_equal(again.colors(), RGB)
        if suffix == out.suffix:
            target.rename(out)


@pytest.mark.parametrize("name", list(WRITERS))
def test_class_names_are_in_the_result(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name)
    out = tmp_path / labelled_name(path)
    write_labelled(out, open_scan(path), labels_for(3))
    content = out.read_bytes().replace(b"\0", b"")
    if out.suffix == ".csv":  # a name in each line
        assert b"," + CLASSES[labels_for(3).label[0]].encode() + b"," in content
        return
    at = [content.index(word) for word in (b"ceiling", b"floor", b"bookcase", b"clutter")]
    assert at == sorted(at)


@pytest.mark.parametrize("name", list(WRITERS))
def test_class_names_in_any_letters_are_in_the_result(tmp_path: Path, name: str) -> None:
    names = ("Tür", "Größe", "墙")
    made = labels_for(3)
    labels = dataclasses.replace(
        made,
        label=np.array([0, 1, 2], np.uint8),
        classes=names,
        class_colors=made.class_colors[:3],
        probabilities=np.full((3, 3), 1 / 3, np.float32),
    )
    path = written(tmp_path, name)
    out = tmp_path / labelled_name(path)
    write_labelled(out, open_scan(path), labels)
    again = open_scan(out)
    np.testing.assert_array_equal(placed(again), XYZ)
    if out.suffix == ".ply":  # which is ASCII: PlyData would refuse other letters
        comments = PlyData.read(str(out)).comments
        assert comments[1:4] == ["class 0 Tur", "class 1 Grosse", r"class 2 \u5899"]
    elif out.suffix == ".npz":
        with np.load(out) as arrays:
            assert arrays["classes"].tolist() == list(names)
    else:
        content = out.read_bytes().replace(b"\0", b"")
        assert all(name.encode() in content for name in names)


@pytest.mark.parametrize("name", ["a.ply", "b.pcd", "d.csv", "e.las", "h.npy"])
def test_small_chunks_change_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, name)
    results = []
    for size in (1 << 20, 2):
        for module in ("table", "las", "e57"):
            monkeypatch.setattr(f"pipelines.scans.{module}.CHUNK", size)
        out = tmp_path / f"{size}.labelled{Path(labelled_name(path)).suffix}"
        scan = open_scan(path)
        write_labelled(out, scan, labels_for(3))
        results.append((placed(scan).tolist(), scan.colors().tolist(), out.read_bytes()))
    assert results[0][:2] == results[1][:2]
    if name != "e.las":  # a LAS header holds the day it was written
        assert results[0][2] == results[1][2]


@pytest.mark.parametrize(("up", "expected"), [("z", (0, 1, 2)), ("y", (2, 0, 1)), ("x", (1, 2, 0))])
def test_up_axis_and_scale(tmp_path: Path, up: str, expected: tuple[int, ...]) -> None:
    path = written(tmp_path, "a.ply")
    scan = open_scan(path, ScanOptions(up=up, scale=0.001))
    local, frame = scan.positions()
    np.testing.assert_allclose(local + frame.origin, XYZ[:, expected] * 0.001, atol=1e-9)
    assert expected[2] == "xyz".index(up), "the vertical axis becomes z"
    turned = np.linalg.det(np.eye(3)[list(expected)])
    assert turned == pytest.approx(1), "turned, not mirrored"
    write_labelled(tmp_path / "out.ply", scan, labels_for(3))
    np.testing.assert_array_equal(placed(open_scan(tmp_path / "out.ply")), XYZ)


def test_columns_are_for_plain_columns_only(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="whose columns have names"):
        open_scan(written(tmp_path, "a.ply"), ScanOptions(columns="x,y,z"))


def test_names_of_results(tmp_path: Path) -> None:
    expected = {
        "a.b.LAZ": "a.b.labelled.laz",
        "scan.csv": "scan.labelled.csv",
        "scan.npy": "scan.labelled.npz",
        "scan.e57": "scan.labelled.ply",
    }
    assert {name: labelled_name(Path(name)) for name in expected} == expected
    (tmp_path / "office_1").mkdir()
    assert labelled_name(tmp_path / "office_1") == "office_1.labelled.ply"


def test_unknown_formats_and_results() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean '\.las'\?"):
        check_format(Path("scan.lass"))
    with pytest.raises(ConfigError, match=r"out\.las: .* expected one of: \.pcd, \.ply"):
        check_format(Path("scan.pcd"), Path("out.las"))
    check_format(Path("scan.las"), Path("out.laz"))


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("a.xyz.gz", "Unpack it first."),
        ("a.pth", "save its arrays as NPZ"),
        ("a.rcp", "Export it as E57"),
        ("a.xlsx", "Save it as CSV"),
        ("a.spz", "export its points as PLY"),
        *((f"a.{other}", "found the format") for other in ("tif", "dxf", "vtk", "part")),
    ],
)
def test_other_formats_get_advice_instead_of_a_name_like_theirs(name: str, advice: str) -> None:
    with pytest.raises(ConfigError, match=advice) as caught:
        check_format(Path(name))
    assert "Did you mean" not in str(caught.value)


def test_columns_are_numbered_alike_in_text_and_arrays(tmp_path: Path) -> None:
    table = np.hstack([XYZ, RGB, [[7], [8], [9]]])
    np.save(tmp_path / "a.npy", table)
    np.savetxt(tmp_path / "b.txt", table)
    assert open_scan(tmp_path / "a.npy").rows["column_7"].tolist() == [7, 8, 9]
    rows = open_scan(tmp_path / "b.txt", ScanOptions(label="column_7")).rows
    assert rows["column_7"].tolist() == [7, 8, 9]


def test_a_missing_file() -> None:
    with pytest.raises(DatasetError, match="found no file there"):
        open_scan(Path("nowhere/scan.las"))


@pytest.mark.parametrize("name", list(WRITERS))
def test_nothing_but_a_suffix(tmp_path: Path, name: str) -> None:
    for content in (b"", b"\0" * 1000, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"x y z\n"):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(DatasetError) as caught:
            open_scan(path)
        assert str(caught.value).startswith(str(path))
        assert len(str(caught.value).splitlines()) <= 3


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The content of a whole file of each format; each has been read, so its reader is imported."""
    folder = tmp_path_factory.mktemp("samples")
    paths = {name: written(folder, name) for name in WRITERS}
    for path in paths.values():
        open_scan(path).positions()
    return {name: path.read_bytes() for name, path in paths.items()}


@pytest.mark.parametrize("name", list(WRITERS))
@given(data=st.data())
def test_damaged_files_end_in_a_clear_error(
    samples: dict[str, bytes], tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    """Some bytes changed, or the end cut off: read all the same or refused, and nothing else."""
    content = bytearray(samples[name])
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    for _ in range(data.draw(st.integers(0, 4))):
        if content:
            at = data.draw(st.integers(0, min(len(content), 500) - 1))
            length = data.draw(st.sampled_from((1, 4, 8)))
            content[at : at + length] = data.draw(st.binary(min_size=length, max_size=length))
    path = tmp_path_factory.getbasetemp() / f"damaged.{name}"
    path.write_bytes(content)
    refused = str(path)
    gc.disable()  # what the tests before have left is not this reader's to collect
    tracemalloc.start()
    start = time.process_time()
    try:
        scan = open_scan(path)
        scan.positions(), scan.colors()
    except DatasetError as error:
        refused = str(error)
    finally:
        seconds = time.process_time() - start
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        gc.enable()
    assert str(path) in refused
    assert seconds < 1
    assert peak < 250e6


@pytest.mark.parametrize("kind", [("<f4", (3,)), "S3"])
def test_a_field_of_several_numbers_or_of_letters_is_no_coordinate(
    tmp_path: Path, kind: Any
) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.zeros(4, [("x", kind), ("y", "<f4"), ("z", "<f4")]))
    with pytest.raises(DatasetError, match="found the properties y, z; expected coordinates x, y"):
        open_scan(path)
    path = tmp_path / "a.pcd"
    header = PCD.format("binary").replace("COUNT 1 1 1 1 3 2", "COUNT 2 1 1 1 3 2")
    path.write_bytes(header.encode() + bytes(400))
    with pytest.raises(DatasetError, match="found the properties y, z"):
        open_scan(path)


def test_a_folder_needs_a_reader(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found a folder, expected the file of a scan"):
        open_scan(tmp_path)
    with pytest.raises(ConfigError, match="whose columns have names"):
        open_scan(tmp_path, ScanOptions(columns="x,y,z"), folder=read_ply)


@pytest.mark.parametrize(("name", "count"), [("pcd", 113_662), ("ply", 123_403)])
def test_real_scans(real_dir: Path, tmp_path: Path, name: str, count: int) -> None:
    path = real_dir / f"scan_unlabelled.{name}"
    scan = open_scan(path)
    local, _ = scan.positions()
    assert len(scan) == count
    assert 0.5 < local.max() < 20, "a room, in metres"
    assert scan.colors().std() > 20, "colourful"
    write_labelled(tmp_path / f"out.{name}", scan, labels_for(count))
    again = open_scan(tmp_path / f"out.{name}")
    np.testing.assert_array_equal(again.positions()[0], local)
    np.testing.assert_array_equal(again.colors(), scan.colors())
