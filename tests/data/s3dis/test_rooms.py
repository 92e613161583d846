"""The text parser against NumPy's, every kind of damage of the release, and rooms as scans."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.s3dis import rooms
from pipelines.data.s3dis.rooms import Repair, check_lines, open_room, parse_points
from pipelines.errors import DatasetError
from pipelines.scans.table import ScanOptions
from tests.scans.scan_labels import RGB, XYZ, placed


def parse(text: bytes) -> tuple[np.ndarray, np.ndarray, list[Repair]]:
    repairs: list[Repair] = []
    pos, color = parse_points(io.BytesIO(text), "f.txt", repairs)
    return pos, color, repairs


numbers = st.one_of(
    st.floats(-1e4, 1e4).map(lambda x: f"{x:.3f}"),
    st.floats(-1e4, 1e4).map(lambda x: f"{x:.6f}"),
    st.floats(-1e3, 1e3).map(repr),
    st.integers(-1000, 1000).map(str),
)
colors = st.one_of(st.integers(0, 255).map(str), st.integers(0, 255).map(lambda x: f"{x}.000000"))
lines = st.tuples(numbers, numbers, numbers, colors, colors, colors)


@given(rows=st.lists(lines, min_size=1, max_size=20), end=st.sampled_from(["\n", "\r\n"]))
def test_equals_numpy(rows: list[tuple[str, ...]], end: str) -> None:
    text = end.join(" ".join(row) for row in rows)
    pos, color, repairs = parse(text.encode())
    expected = np.loadtxt(io.StringIO(text), ndmin=2)
    assert np.array_equal(pos, expected[:, :3])
    assert np.array_equal(color, expected[:, 3:])
    assert not repairs


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    text = b"".join(b"%d.5 -2.25 3.125 1 2 %d\n" % (i, i % 256) for i in range(500))
    whole = parse(text)
    monkeypatch.setattr(rooms, "CHUNK", 64)
    for have, want in zip(parse(text)[:2], whole[:2], strict=True):
        assert np.array_equal(have, want)
    broken = text[:5000].rpartition(b"\n")[0] + b"\n1 2 three 4 5 6\n"
    with pytest.raises(DatasetError, match=rf"f.txt:{broken.count(10)}: "):
        parse(broken)


@pytest.mark.parametrize(
    ("line", "values"),
    [
        (b"22.350 6.692 3.048 185\x00187 182", [22.35, 6.692, 3.048, 185, 187, 182]),
        (b"1.0 2.0 3.0 4.0 5.0 103.0\x100000", [1, 2, 3, 4, 5, 103]),
        (b"19.302 -9.1\x160 1.785 1 2 3", [19.302, -9.16, 1.785, 1, 2, 3]),
        (b"1 2 3 167.\x1000000 5 6", [1, 2, 3, 167, 5, 6]),
        (b"1 2 3 4 56.00\x10000 6", [1, 2, 3, 4, 56, 6]),
        (b"1 2 3 4 5 2\x111.000000", [1, 2, 3, 4, 5, 211]),
    ],
)
def test_published_damage_is_repaired(line: bytes, values: list[float]) -> None:
    pos, color, repairs = parse(b"0 0 0 9 9 9\n" + line + b"\n1 1 1 8 8 8\n")
    assert pos.shape == (3, 3)
    assert [*pos[1], *color[1]] == values
    assert [(repair.file, repair.line) for repair in repairs] == [("f.txt", 2)]
    noted: list[Repair] = []
    assert check_lines(io.BytesIO(b"0 0 0 9 9 9\n" + line + b"\n"), "w.txt", noted) == 2
    assert [(repair.file, repair.line) for repair in noted] == [("w.txt", 2)]


@pytest.mark.parametrize(
    "line",
    [
        b"1 2 3 4 5",
        b"1 2 3 4 5 6 7",
        b"1 2 x 4 5 6",
        b"1 2 nan 4 5 6",
        b"1 inf 3 4 5 6",
        b"1 2 3 4 5 256",
        b"1 2 3 4 5 -1",
        b"1 2 3 4 5 6.5",
        b"1 2 3 4 5\x01 6",
        b"1 2 3 4 5 1_0",
        b"--1 2 3 4 5 6",
        b"1 2 3 4 \x80 6",
    ],
)
def test_other_damage_is_refused_with_file_and_line(line: bytes) -> None:
    with pytest.raises(DatasetError, match=r"f.txt:2: found .*expected six numbers"):
        parse(b"0 0 0 9 9 9\n" + line + b"\n")


def test_exponents_and_long_numbers_take_the_careful_way() -> None:
    pos, _, repairs = parse(b"1e-3 123456789.123456789123 +2 1 2 3\n")
    assert pos.tolist() == [[1e-3, 123456789.123456789123, 2.0]]
    assert not repairs


def test_blank_lines_and_a_missing_last_newline() -> None:
    pos, _, _ = parse(b"\n1 2 3 4 5 6\n\n  \n1 2 3 4 5 6")
    assert len(pos) == 2
    assert len(parse(b"")[0]) == 0


def test_a_file_without_lines_is_refused_without_reading_it_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rooms, "CHUNK", 8192)
    with pytest.raises(DatasetError, match="more than 4096 bytes"):
        parse(b"7" * 100_000)


def test_a_room_folder(tmp_path: Path) -> None:
    room = tmp_path / "Area_1" / "office_1"
    (room / "Annotations").mkdir(parents=True)
    lines = [f"{p[0]} {p[1]} {p[2]} {c[0]} {c[1]} {c[2]}\n" for p, c in zip(XYZ, RGB, strict=True)]
    (room / "Annotations" / "chair_1.txt").write_text(lines[0])
    (room / "Annotations" / "floor_1.txt").write_text("".join(lines[1:]))
    scan = open_room(room, ScanOptions())
    np.testing.assert_array_equal(placed(scan), XYZ)
    assert scan.notes == ("read from 2 objects",)
    (room / "office_1.txt").write_text("".join(reversed(lines)))
    scan = open_room(room, ScanOptions())
    np.testing.assert_array_equal(placed(scan), XYZ[::-1])
    np.testing.assert_array_equal(scan.colors(), RGB[::-1])
    with pytest.raises(DatasetError, match=r"without Area_1\.txt and Annotations"):
        open_room(tmp_path / "Area_1", ScanOptions())


def test_a_room_folder_without_copies_and_hidden_files(tmp_path: Path) -> None:
    objects = tmp_path / "office_1" / "Annotations"
    objects.mkdir(parents=True)
    for name in ("chair_1.txt", "chair_1 (1).txt", "wall_1.txt"):
        (objects / name).write_text("1 2 3 4 5 6\n0 0 0 7 8 9\n")
    (objects / "._chair_1.txt").write_bytes(b"\0\5\x16\7 Mac OS X")
    scan = open_room(tmp_path / "office_1", ScanOptions())
    assert len(scan) == 4
    assert "1 copied object left out" in scan.notes
