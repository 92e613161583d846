"""Scans whose headers lie, and pickles where numbers are expected."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import tracemalloc
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
import torch

from pipelines.errors import DatasetError, DeepGCNError
from pipelines.scans import open_scan
from pipelines.weights.sources import inspect_weights
from tests.scans import test_scans
from tests.scans.test_scans import write_e57, write_las

PLY = "ply\nformat {}\nelement vertex {}\n{}end_header\n"
XYZ = "".join(f"property float {axis}\n" for axis in "xyz")


def refused(path: Path, content: str | bytes) -> str:
    """Return the message about a scan, which takes no more memory than its file deserves."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    tracemalloc.start()
    try:
        with pytest.raises(DatasetError) as caught:
            open_scan(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20 + 20 * path.stat().st_size
    return str(caught.value)


@pytest.mark.parametrize("form", ["garbage 1.0", "ascii 2.0", "binary_little_endian 1", "ascii"])
def test_ply_of_an_unknown_format(form: str, tmp_path: Path) -> None:
    assert f"'format {form}'" in refused(tmp_path / "a.ply", PLY.format(form, 1, XYZ) + "1 2 3\n")


def test_ply_of_two_formats(tmp_path: Path) -> None:
    text = PLY.format("ascii 1.0\nformat binary_little_endian 1.0", 1, XYZ) + "1 2 3\n"
    assert "'format binary_little_endian 1.0'" in refused(tmp_path / "a.ply", text)


def test_ply_of_a_million_properties(tmp_path: Path) -> None:
    names = "".join(f"property uchar p{n}\n" for n in range(10**6))
    found = refused(tmp_path / "a.ply", PLY.format("ascii 1.0", 1, XYZ + names) + "1 2 3\n")
    assert "expected 'ply' … 'end_header' within 65536 bytes" in found


@pytest.mark.parametrize("encoding", ["ascii", "binary", "binary_compressed"])
def test_pcd_whose_counts_lie(encoding: str, tmp_path: Path) -> None:
    head = test_scans.PCD.format(encoding)
    many = head.replace("WIDTH 3", "WIDTH 3000000000").replace("POINTS 3", "POINTS 3000000000")
    assert "3,000,000,000 points" in refused(tmp_path / "a.pcd", many + "\0" * 64)


def test_a_word_that_is_a_space_to_unicode(tmp_path: Path) -> None:
    text = test_scans.PCD.format("ascii") + "1 2 3 4 1 2 3 4 \x1f\n" * 3
    assert "in column 9, expected a whole number" in refused(tmp_path / "a.pcd", text)


def test_ptx_whose_pose_is_no_number(tmp_path: Path) -> None:
    test_scans.write_ptx(tmp_path / "a.ptx")
    text = (tmp_path / "a.ptx").read_text().replace("0 0 1 0\n", "- 0 1 0\n")
    assert "found a damaged header" in refused(tmp_path / "a.ptx", text)


@pytest.mark.parametrize("suffix", [".las", ".laz"])
def test_las_whose_counts_lie(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{suffix}"
    write_las(path)
    content = bytearray(path.read_bytes())
    content[247:255] = struct.pack("<Q", 3_000_000_000)
    assert "3,000,000,000 points" in refused(path, bytes(content))


def test_e57_of_billions_of_points(tmp_path: Path) -> None:
    path = tmp_path / "a.e57"
    write_e57(path)
    content = path.read_bytes()
    plain = b"".join(content[at : at + 1020] for at in range(0, len(content), 1024))
    billions = plain.replace(b'recordCount="3"', b'recordCount="9999999999"')
    billions = billions.replace(b"\n         ", b"\n", 1)  # as long as before
    assert len(billions) == len(plain)
    pages = (billions[at : at + 1020] for at in range(0, len(plain), 1020))
    crc = google_crc32c.value
    summed = b"".join(page + crc(page).to_bytes(4, "big") for page in pages)
    assert "9,999,999,999 points in" in refused(path, summed)


class Code:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("hacked",)


def weights(metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    return save({"a": torch.zeros(2)}, metadata=metadata)


def objects() -> bytes:
    content = io.BytesIO()
    np.save(content, np.array([Code()], object), allow_pickle=True)
    return content.getvalue()


def arrays() -> bytes:
    content = io.BytesIO()
    np.savez(content, xyz=np.array([[Code()] * 3], object), allow_pickle=True)
    return content.getvalue()


def checkpoint() -> bytes:
    content = io.BytesIO()
    torch.save({"state_dict": Code()}, content)
    return content.getvalue()


PICKLE = pickle.dumps(Code(), protocol=2)
TRAPS = {
    "a.npy": (objects, open_scan),
    "b.npy": (lambda: PICKLE, open_scan),
    "a.npz": (arrays, open_scan),
    "a.pth": (checkpoint, inspect_weights),
    "b.pth": (lambda: PICKLE, inspect_weights),
    "a.t7": (lambda: PICKLE, inspect_weights),
    "b.t7": (lambda: struct.pack("<3i", 4, 1, 3) + b"V 1" + PICKLE, inspect_weights),
    "a.safetensors": (lambda: PICKLE, inspect_weights),
}


@pytest.mark.parametrize("name", TRAPS)
def test_pickles_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made, read = TRAPS[name]
    Path(name).write_bytes(made())
    with pytest.raises(DeepGCNError):
        read(Path(name))
    assert os.listdir() == [name]


@pytest.mark.parametrize("key", ["config", "deepgcn_config", "classes", "data_summary", "a"])
def test_a_pickle_in_metadata_is_text(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = PICKLE.decode("latin-1")
    for own in ({}, {"format": "deepgcn-weights", "version": "1", "config": "{}"}):
        for value in (text, json.dumps({"depth": text, "conv": "os:mkdir"})):
            Path("a.safetensors").write_bytes(weights({**own, key: value}))
            found = inspect_weights(Path("a.safetensors"))
            assert found.network is None
            assert found.facts[key] == value
    assert os.listdir() == ["a.safetensors"]


def test_ptx_whose_intensity_is_too_large_for_its_type(tmp_path: Path) -> None:
    test_scans.write_ptx(tmp_path / "a.ptx")
    text = (tmp_path / "a.ptx").read_text().replace(" 0.5 ", " 1e39 ")
    (tmp_path / "a.ptx").write_text(text)
    assert len(open_scan(tmp_path / "a.ptx")) == 3  # without a warning of NumPy


def test_a_carriage_return_beside_a_quote(tmp_path: Path) -> None:
    content = b'//X2\r3;" RbG B\n3\x06\xf13 2 3 43 4 56\n'
    assert "expected x, y, z" in refused(tmp_path / "a.xyz", content)


def test_a_quote_that_does_not_end_among_tabs(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "a.xyz", '1\t2\t3\t"\t1\t2\t3\n')
