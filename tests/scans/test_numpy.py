"""NPY and NPZ scans: arrays of any kind and name, and no object is ever loaded."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError, DatasetError
from pipelines.scans import open_scan, write_labelled
from pipelines.scans.table import ScanOptions
from tests.scans.scan_labels import RGB, XYZ, labels_for, placed


def test_structured_arrays(tmp_path: Path) -> None:
    kind = [("Z", ">f8"), ("r", "f4"), ("name", "U4"), ("g", "f4"), ("b", "f4"), ("n", "i2", 3),
            ("y", "f4"), ("x", "f8")]  # fmt: skip
    rows = np.zeros(3, kind)
    rows["x"], rows["y"], rows["Z"] = XYZ.T
    rows["r"], rows["g"], rows["b"] = RGB.T / 255
    rows["name"] = "ä"
    np.save(tmp_path / "scan.npy", rows)
    scan = open_scan(tmp_path / "scan.npy")
    np.testing.assert_array_equal(placed(scan), XYZ)
    np.testing.assert_array_equal(scan.colors(), RGB)
    labels = labels_for(3, probabilities=True)
    write_labelled(tmp_path / "out.npz", scan, labels)
    with np.load(tmp_path / "out.npz") as arrays:
        np.testing.assert_array_equal(arrays["points"], rows)
        np.testing.assert_array_equal(arrays["class"], labels.label)
        np.testing.assert_array_equal(arrays["confidence"], labels.confidence)
        np.testing.assert_array_equal(arrays["probabilities"], labels.probabilities)
        assert arrays["classes"].tolist() == list(labels.classes)
    write_labelled(tmp_path / "out.ply", scan, labels)
    vertex = open_scan(tmp_path / "out.ply").rows
    assert vertex["n_2"].tolist() == [0, 0, 0]
    assert "name" not in vertex.dtype.names, "a PLY holds numbers only"


@given(
    kind=st.sampled_from(["f8", ">f8", "f4", "f2", "i4", "u2", "i8", "u1"]),
    order=st.sampled_from("CF"),
    count=st.integers(1, 9),
    columns=st.integers(3, 9),
)
def test_plain_arrays_of_any_type(
    tmp_path_factory: pytest.TempPathFactory, kind: str, order: str, count: int, columns: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "plain.npy"
    rng = np.random.default_rng(columns)
    array = np.asarray(rng.integers(0, 200, (count, columns)), kind, order=order)
    np.save(path, array)
    scan = open_scan(path)
    np.testing.assert_array_equal(placed(scan), array[:, :3].astype(float))
    if columns >= 6:
        expected = array[:, 3:6].astype(float)
        scale = 255 if array.dtype.kind == "f" and expected.max() <= 1 else 1
        np.testing.assert_array_equal(scan.colors(), expected * scale)
    out = path.with_name("plain.out.npz")
    write_labelled(out, scan, labels_for(count))
    np.testing.assert_array_equal(np.load(out)["points"], array)
    np.testing.assert_array_equal(placed(open_scan(out)), placed(scan))


@pytest.mark.parametrize(
    ("position", "color"), [("pos", "color"), ("xyz", "rgb"), ("points", "colors"), ("coord", "")]
)
def test_names_in_an_archive(tmp_path: Path, position: str, color: str) -> None:
    other = np.arange(12).reshape(2, 2, 3)
    arrays = {"class": other, position: XYZ, **({color: RGB / 255} if color else {})}
    np.savez_compressed(tmp_path / "scan.npz", **arrays)
    scan = open_scan(tmp_path / "scan.npz")
    np.testing.assert_array_equal(placed(scan), XYZ)
    assert (scan.colors() is None) == (not color)
    write_labelled(tmp_path / "out.npz", scan, labels_for(3))
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["scan_class"], other)
        np.testing.assert_array_equal(found[position], XYZ)
        assert found["class"].shape == (3,)


def test_an_array_of_colours_is_them_whatever_else_looks_like_some(tmp_path: Path) -> None:
    other = np.random.default_rng(0).random((3, 3))
    np.savez(tmp_path / "scan.npz", points=np.hstack([XYZ, other]), colors=RGB)
    np.testing.assert_array_equal(open_scan(tmp_path / "scan.npz").colors(), RGB)


def test_a_label_of_two_columns_is_refused(tmp_path: Path) -> None:
    """Such as class and object, of which the first was taken without a word."""
    np.savez(tmp_path / "scan.npz", pos=XYZ, label=np.zeros((3, 2), np.int64))
    with pytest.raises(DatasetError, match="found the array label of 3 rows of 2 numbers"):
        open_scan(tmp_path / "scan.npz", ScanOptions(label="label"))


def test_given_columns(tmp_path: Path) -> None:
    np.save(tmp_path / "scan.npy", np.hstack([RGB, XYZ]))
    scan = open_scan(tmp_path / "scan.npy", ScanOptions(columns="r,g,b,x,y,z"))
    np.testing.assert_array_equal(placed(scan), XYZ)
    np.testing.assert_array_equal(scan.colors(), RGB)
    assert scan.notes == ("columns r,g,b,x,y,z (as given)",)
    np.save(tmp_path / "named.npy", np.zeros(3, [(name, "f4") for name in "xyz"]))
    with pytest.raises(ConfigError, match="whose fields have names"):
        open_scan(tmp_path / "named.npy", ScanOptions(columns="x,y,z"))


class Trap:
    """Running this would be noticed."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_pickles_are_not_run(tmp_path: Path) -> None:
    objects = np.array([Trap(), Trap()], dtype=object)
    np.save(tmp_path / "scan.npy", objects, allow_pickle=True)
    with pytest.raises(DatasetError, match="objects are never"):
        open_scan(tmp_path / "scan.npy")
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DatasetError, match="found no NPY array"):
        open_scan(tmp_path / "bare.npy")
    np.savez(tmp_path / "scan.npz", pos=XYZ, trap=objects, allow_pickle=True)
    scan = open_scan(tmp_path / "scan.npz")
    write_labelled(tmp_path / "out.npz", scan, labels_for(3))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["pos"], XYZ)


def npy(header: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + body


BAD = {
    "a huge shape": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12, 3)}".replace("10**12",
            "1000000000000"), bytes(24)),
        "expected 24,000,000,000,000",
    ),
    "a formula": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12, 3)}"), "no NPY array"),
    "a negative shape": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -3)}", bytes(24)), "never"),
    "code": (npy("__import__('os').system('true')"), "no NPY array"),
    "nesting": (npy("(" * 9000), "no NPY array"),
    "two columns": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1, 2)}", bytes(16)), "3 or more"),
    "words": (npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1, 3)}", bytes(48)), "numb"),
    "no points": (npy("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 3)}"), "found 0 poi"),
    "cut off": (
        npy("{'descr': '<f8', 'fortran_order': False, 'shape': (9, 3)}", bytes(24)), "24 bytes"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_get_one_clear_error(tmp_path: Path, name: str, suffix: str) -> None:
    content, found = BAD[name]
    path = tmp_path / f"scan{suffix}"
    if suffix == ".npz":
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("pos.npy", content)
        content = stream.getvalue()
    path.write_bytes(content)
    with pytest.raises(DatasetError) as caught:
        open_scan(path)
    assert str(caught.value).startswith(str(path))
    assert found in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_archives_of_something_else(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", depth=XYZ)
    with pytest.raises(DatasetError, match="found the arrays depth; expected coordinates under"):
        open_scan(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", pos=XYZ, color=RGB[:2])
    with pytest.raises(DatasetError, match="found the array color of 2 rows of 3 numbers"):
        open_scan(tmp_path / "b.npz")


def test_a_damaged_array_that_is_only_kept(tmp_path: Path) -> None:
    path = tmp_path / "scan.npz"
    np.savez(path, pos=np.ones((3, 3)), color=np.ones((3, 3), np.uint8), notes=np.arange(99))
    content = bytearray(path.read_bytes())
    content[content.index(b"notes.npy") + 200] ^= 1
    path.write_bytes(content)
    scan = open_scan(path)
    with pytest.raises(DatasetError, match=r"damaged NPZ \(Bad CRC-32 for file 'notes\.npy'"):
        write_labelled(tmp_path / "out.npz", scan, labels_for(3))
