"""PCD scans: other programs' files, odd fields, and LZF against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import DatasetError
from pipelines.scans import open_scan, write_labelled
from pipelines.scans.pcd import lzf_decompress
from pipelines.scans.table import ScanOptions
from tests.scans.scan_labels import RGB, XYZ, labels_for, placed
from tests.small_disk import on_a_small_disk

# What Open3D 0.20 wrote of six points, each coordinate a multiple of 0.1.
OPEN3D_XYZ = np.array(
    [
        [-0.3, 13.5, 1.5],
        [-1.3, 13.4, 1.2],
        [-1.7, 11.3, 2.3],
        [2.8, 11.3, 1.5],
        [1.6, 12.8, 1.4],
        [1.3, 12.7, 1.1],
    ]
)
OPEN3D_RGB = [
    [85, 15, 248],
    [177, 10, 28],
    [133, 108, 120],
    [3, 76, 236],
    [148, 13, 213],
    [196, 79, 51],
]
OPEN3D_HEAD = b"""# .PCD v0.7 - Point Cloud Data file format
VERSION 0.7
FIELDS x y z rgb
SIZE 4 4 4 4
TYPE F F F U
COUNT 1 1 1 1
WIDTH 6
HEIGHT 1
VIEWPOINT 0 0 0 1 0 0 0
POINTS 6
DATA """
OPEN3D_ASCII = b"""ascii
-0.3 13.5 1.5 5574648
-1.3 13.4 1.2 11602460
-1.7 11.3 2.3 8744056
2.8 11.3 1.5 216300
1.6 12.8 1.4 9702869
1.3 12.7 1.1 12865331
"""
OPEN3D_COMPRESSED = b"binary_compressed\n" + bytes.fromhex(
    "5c00000060000000139a9999be6666a6bf9a99d9bf33333340cdcccc3f200f0b3f0000584166665641cdcc34a003"
    "114c4133334b410000c03f9a99993f33331340400b1f3333b33fcdcc8c3ff80f55001c0ab100786c8500ec4c0300"
    "d50d940033 4fc400".replace(" ", "")
)


@pytest.mark.parametrize("data", [OPEN3D_ASCII, OPEN3D_COMPRESSED], ids=["ascii", "compressed"])
def test_files_that_open3d_wrote(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "scan.pcd"
    path.write_bytes(OPEN3D_HEAD + data)
    scan = open_scan(path)
    np.testing.assert_allclose(placed(scan), OPEN3D_XYZ, atol=1e-6)
    assert scan.colors().tolist() == OPEN3D_RGB


def ascii_pcd(path: Path, fields: str, types: str, sizes: str, lines: list[str]) -> Path:
    path.write_text(
        f"VERSION .7\nFIELDS {fields}\nSIZE {sizes}\nTYPE {types}\nWIDTH {len(lines)}\nHEIGHT 1\n"
        f"POINTS {len(lines)}\nDATA ascii\n" + "\n".join(lines)
    )
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("U", ["66051", "4294902015"]),  # 0x010203, and 0xFFFF00FF: with an alpha
        ("I", ["66051", "-65281"]),
        ("F", ["66051", "16711935"]),  # an integer under the type F
        (
            "F",
            ["9.2557e-41", f"{np.uint32(0xFF00FF).view(np.float32):.9g}"],
        ),  # the float with the same bytes
    ],
)
def test_packed_colors_in_text(tmp_path: Path, kind: str, words: list[str]) -> None:
    path = tmp_path / "scan.pcd"
    lines = [f"{word} 1 2 {z}" for z, word in enumerate(words)]
    scan = open_scan(ascii_pcd(path, "rgb z x y", f"{kind} F F F", "4 4 4 4", lines))
    assert scan.colors().tolist() == [[1, 2, 3], [255, 0, 255]]
    assert placed(scan).tolist() == [[2, 0, 1], [2, 1, 1]]


def test_colors_of_their_own_fields(tmp_path: Path) -> None:
    lines = ["1 2 nan 0.5 0 1", "1 2 3 1 0.25 0"]
    path = ascii_pcd(tmp_path / "scan.pcd", "x y z r g b", "F F F F F F", "4 4 4 4 4 4", lines)
    scan = open_scan(path)
    assert scan.colors().tolist() == [[128, 0, 255], [255, 64, 0]]
    assert np.isnan(scan.positions()[0]).all(axis=1).tolist() == [True, False]


KINDS = ["<f4", "<f8", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8"]


@st.composite
def tables(draw: st.DrawFn) -> np.ndarray:
    """Rows with x, y, z in any place among fields of any name, type and length."""
    names = draw(
        st.lists(
            st.text(st.characters(min_codepoint=33, max_codepoint=255), min_size=1, max_size=9),
            unique_by=str.lower,
            max_size=4,
        )
    )
    taken = {"x", "y", "z", "_", "rgb", "rgba"}
    names = [n for n in names if n.isprintable() and n.isascii() and n.lower() not in taken]
    order = draw(st.permutations(["x", "y", "z", *names]))
    fields = [(n, draw(st.sampled_from(KINDS)), draw(st.sampled_from((1, 1, 3)))) for n in order]
    kind = [(n, "<f8") if n in ("x", "y", "z") else (n, k, c) if c > 1 else (n, k)
            for n, k, c in fields]  # fmt: skip
    count = draw(st.integers(1, 9))
    size = np.dtype(kind).itemsize * count
    content = np.random.default_rng(draw(st.integers(0, 99))).bytes(size)
    rows = np.frombuffer(content, kind).copy()
    for name in "xyz":
        rows[name] = np.arange(count) + draw(st.sampled_from((0.125, 5e6, -4e9)))
    return rows


def write_binary(path: Path, rows: np.ndarray) -> None:
    names = rows.dtype.names
    bases = [rows.dtype[name].base for name in names]
    counts = [int(np.prod(rows.dtype[name].shape)) for name in names]
    head = [
        "FIELDS " + " ".join(names),
        "SIZE " + " ".join(str(base.itemsize) for base in bases),
        "TYPE " + " ".join(base.kind.upper() for base in bases),
        "COUNT " + " ".join(map(str, counts)),
        f"WIDTH 1\nHEIGHT {len(rows)}\nVIEWPOINT 1 2 3 1 0 0 0\nPOINTS {len(rows)}\nDATA binary\n",
    ]
    path.write_bytes("\n".join(head).encode() + rows.tobytes())


@given(rows=tables())
def test_every_field_comes_back(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray) -> None:
    folder = tmp_path_factory.getbasetemp()
    write_binary(folder / "in.pcd", rows)
    scan = open_scan(folder / "in.pcd")
    labels = labels_for(len(rows), probabilities=True)
    write_labelled(folder / "out.pcd", scan, labels)
    again = open_scan(folder / "out.pcd")
    added = ("rgb", *labels.columns())
    for name in rows.dtype.names:
        new = f"scan_{name}" if name in added else name
        assert again.rows[new].tobytes() == rows[name].tobytes()
    assert again.rows["class"].tolist() == labels.label.tolist()
    np.testing.assert_array_equal(again.rows["p_wall"], labels.probabilities[:, 2])
    assert again.colors() is None or scan.colors() is not None, "class colours are no scan's"
    head = (folder / "out.pcd").read_bytes()
    assert f"WIDTH 1\nHEIGHT {len(rows)}\nVIEWPOINT 1 2 3 1 0 0 0\n".encode() in head
    write_labelled(folder / "out.ply", scan, labels)
    np.testing.assert_array_equal(placed(open_scan(folder / "out.ply")), placed(scan))


def test_class_colors_are_packed_as_the_format_wants(tmp_path: Path) -> None:
    lines = [" ".join(map(str, pos)) for pos in XYZ.tolist()]
    scan = open_scan(ascii_pcd(tmp_path / "a.pcd", "x y z", "F F F", "8 8 8", lines))
    labels = labels_for(3)
    write_labelled(tmp_path / "b.pcd", scan, labels)
    rgb = open_scan(tmp_path / "b.pcd").rows["rgb"].view("<u4")
    colors = [[bits >> 16, bits >> 8 & 255, bits & 255] for bits in rgb.tolist()]
    expected = [list(labels.class_colors[n]) for n in labels.label[:2]]
    assert colors == [*expected, [128, 128, 128]]


def by_definition(packed: bytes) -> bytes:
    """LZF in the plainest Python."""
    out = bytearray()
    read = iter(packed)
    for control in read:
        if control < 32:
            out += bytes(next(read) for _ in range(control + 1))
        else:
            length = control >> 5
            length += next(read) if length == 7 else 0
            back = (control & 31) * 256 + next(read) + 1
            for _ in range(length + 2):
                out.append(out[-back])
    return bytes(out)


@given(
    parts=st.lists(
        st.one_of(
            st.binary(min_size=1, max_size=32),
            st.tuples(st.integers(3, 264), st.floats(0, 1, exclude_max=True)),
        ),
        max_size=20,
    )
)
def test_lzf_by_definition(parts: list[bytes | tuple[int, float]]) -> None:
    packed, size = bytearray(), 0
    for part in parts:
        if isinstance(part, bytes):
            packed += bytes([len(part) - 1]) + part
            size += len(part)
        elif size:
            length, where = part
            back = int(where * min(size, 8192))
            short = min(length - 2, 7)
            packed.append(short << 5 | back >> 8)
            packed += bytes([length - 9]) if short == 7 else b""
            packed.append(back & 255)
            size += length
    expected = by_definition(packed)
    assert len(expected) == size
    out = np.zeros(size, np.uint8)
    source = np.frombuffer(bytes(packed), np.uint8)
    assert lzf_decompress(source, out) == size
    assert out.tobytes() == expected
    assert lzf_decompress(source, np.zeros(size + 1, np.uint8)) == size
    assert not size or lzf_decompress(source, np.zeros(size - 1, np.uint8)) == -1


@given(packed=st.binary(max_size=60), size=st.integers(0, 300))
def test_lzf_of_anything_ends(packed: bytes, size: int) -> None:
    assert -1 <= lzf_decompress(np.frombuffer(packed, np.uint8), np.zeros(size, np.uint8)) <= size


HEAD = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F F\nCOUNT 1 1 1\nWIDTH 1\nHEIGHT 1\nPOINTS 1\n"
BAD = {
    "no header": ("x y z\n1 2 3\n", "found no PCD header"),
    "too long a header": ("#" * 100_000, "found no PCD header"),
    "an unknown type": (HEAD.replace("TYPE F", "TYPE Q") + "DATA ascii\n1 2 3", "type Q of size 4"),
    "an odd size": (HEAD.replace("SIZE 4", "SIZE 3") + "DATA ascii\n1 2 3", "type F of size 3"),
    "fewer types": (HEAD.replace("TYPE F F", "TYPE F") + "DATA ascii\n1 2 3", "differ in length"),
    "a negative count": (HEAD.replace("COUNT 1", "COUNT -1") + "DATA binary\n", "COUNT -1"),
    "a huge count": (HEAD.replace("COUNT 1", "COUNT 99999999") + "DATA binary\n", "COUNT 99999999"),
    "a word for a number": (HEAD.replace("WIDTH 1", "WIDTH one") + "DATA ascii\n", "one"),
    "another number of points": (HEAD.replace("POINTS 1", "POINTS 2") + "DATA ascii\n1 2 3", "but"),
    "no points": (
        HEAD.replace(" 1\n", " 0\n").replace("1 1 0", "1 1 1") + "DATA ascii\n",
        "0 poin",
    ),
    "a huge number of points": (
        HEAD.replace("WIDTH 1", "WIDTH 9999999999999").replace("POINTS 1", "POINTS 9999999999999")
        + "DATA binary\n",
        "expected at least 119,999,999,999,988 for 9,999,999,999,999 points",
    ),
    "an unknown encoding": (HEAD + "DATA zipped\n", "DATA 'zipped'"),
    "no coordinates": (
        HEAD.replace("x y z", "u v w") + "DATA ascii\n1 2 3\n",
        "expected coordinat",
    ),
    "a word": (HEAD + "DATA ascii\n1 2 three\n", "scan.pcd:9: found 'three' in column 3"),
    "too few words": (HEAD + "DATA ascii\n1 2.125\n", "scan.pcd:9: found 2 columns, expected 3"),
    "too many lines": (HEAD + "DATA ascii\n1 2 3\n4 5 6\n", "more than 1 line of data"),
    "half a whole number": (
        HEAD.replace("TYPE F", "TYPE I") + "DATA ascii\n1.5 2 3\n",
        "found '1.5' in column 1, expected a whole number",
    ),
    "lies about compression": (
        HEAD + "DATA binary_compressed\n" + "\x04\0\0\0\x0c\0\0\0" + "\x7f\x7f\x7f\x7f",
        "found damaged compressed data",
    ),
    "a compression bomb": (
        HEAD.replace(" 1\nPOINTS 1", " 100\nPOINTS 100")
        + "DATA binary_compressed\n\x04\0\0\0\xb0\x04\0\0abcd",
        "that declare 4 compressed and 1,200 plain bytes",
    ),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_get_one_clear_error(tmp_path: Path, name: str) -> None:
    content, found = BAD[name]
    path = tmp_path / "scan.pcd"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError) as caught:
        open_scan(path, ScanOptions())
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert found in message
    assert len(message.splitlines()) <= 3


def test_rgb_of_another_kind_is_no_color(tmp_path: Path) -> None:
    kind = [(c, "<f4") for c in "xyz"] + [("rgb", "u1", 3)]
    rows = np.zeros(3, kind)
    rows["rgb"] = RGB
    write_binary(tmp_path / "scan.pcd", rows)
    assert open_scan(tmp_path / "scan.pcd").colors() is None


# Three floats a point, all 0, in copies of 264 bytes: small on the disk, large once unpacked.
LARGE_ONCE_UNPACKED = """
from pathlib import Path
from pipelines.scans.table import ScanOptions
from pipelines.scans import open_scan
from pipelines.errors import DatasetError
points = 264_000
packed = bytes([7, *8 * [0]]) + 11_999 * bytes([0xE0, 255, 0]) + bytes([0xE0, 247, 0])
lines = ["VERSION .7", "FIELDS x y z", "SIZE 4 4 4", "TYPE F F F", "COUNT 1 1 1"]
lines += [f"WIDTH {points}", "HEIGHT 1", f"POINTS {points}", "DATA binary_compressed", ""]
sizes = len(packed).to_bytes(4, "little") + (12 * points).to_bytes(4, "little")
Path("scan.pcd").write_bytes(chr(10).join(lines).encode() + sizes + packed)
try:
    open_scan(Path("scan.pcd"), ScanOptions())
except DatasetError as error:
    print(error)
"""


def test_a_disk_too_small_to_unpack_on_is_an_error(tmp_path: Path) -> None:
    said = on_a_small_disk(tmp_path, LARGE_ONCE_UNPACKED)
    assert said.startswith(f"scan.pcd: cannot be unpacked in {tmp_path} (No space left on device)")
