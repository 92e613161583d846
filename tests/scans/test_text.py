"""Text scans: what is detected, that every line stays to the letter, and what is refused."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.s3dis import CLASSES
from pipelines.errors import ConfigError, DatasetError
from pipelines.scans import open_scan, write_labelled
from pipelines.scans.table import Labels, ScanOptions
from tests.scans.scan_labels import RGB, XYZ, labels_for, placed

FLOATS = (RGB / 255).round(6)
NORMALS = np.array([[0.5, -0.25, 0.75], [0, 0, 1], [-1, 0, 0]])
ONE = np.ones((3, 1))
PTS_HEAD = "3\n"


def lines_of(*columns: np.ndarray, joint: str = " ", decimal: str = ".") -> str:
    table = np.hstack([np.asarray(column, float) for column in columns]).tolist()
    shown = [[f"{value:.10g}".replace(".", decimal) for value in row] for row in table]
    return "".join(joint.join(row) + "\n" for row in shown)


DETECTED = {
    "a.xyz": (lines_of(XYZ), "x,y,z", "space or tab"),
    "b.txt": (lines_of(XYZ, RGB), "x,y,z,r,g,b", "space or tab"),
    "c.txt": (lines_of(XYZ, FLOATS, joint="\t"), "x,y,z,r,g,b", "tab"),
    "d.csv": (lines_of(XYZ, RGB, joint=","), "x,y,z,r,g,b", "comma"),
    "e.csv": (lines_of(XYZ, RGB, joint=", "), "x,y,z,r,g,b", "comma"),
    "f.csv": (
        lines_of(XYZ, RGB, joint=";", decimal=","),
        "x,y,z,r,g,b",
        "semicolon, with decimal commas",
    ),
    "g.txt": (lines_of(XYZ, decimal=","), "x,y,z", "space or tab, with decimal commas"),
    "h.pts": (PTS_HEAD + lines_of(XYZ, 70 * ONE, RGB), "x,y,z,-,r,g,b", "space or tab"),
    "i.pts": (PTS_HEAD + lines_of(XYZ, -70 * ONE, RGB), "x,y,z,-,r,g,b", "space or tab"),
    "j.txt": (lines_of(XYZ, -70 * ONE, RGB), "x,y,z,-,r,g,b", "space or tab"),
    "k.txt": (lines_of(XYZ, RGB, 7 * ONE), "x,y,z,r,g,b,-", "space or tab"),
    "l.txt": (lines_of(XYZ, NORMALS), "x,y,z,-,-,-", "space or tab"),
    "m.txt": (lines_of(XYZ, NORMALS, RGB), "x,y,z,-,-,-,r,g,b", "space or tab"),
    "n.txt": (lines_of(XYZ, abs(NORMALS[1:2].repeat(3, 0)), RGB), "x,y,z,-,-,-,r,g,b", "space"),
    "o.txt": (lines_of(XYZ, RGB, NORMALS), "x,y,z,r,g,b,-,-,-", "space or tab"),
    "p.csv": (
        '"Blue",z,Y,X,id,Green,RED\n' + lines_of(RGB[:, 2:], XYZ[:, ::-1], ONE, RGB[:, 1::-1],
                                                   joint=","),
        "b,z,y,x,-,g,r",
        "comma",
    ),
    "q.asc": ("//X Y Z Nx Ny Nz R G B\n" + lines_of(XYZ, RGB, RGB), "x,y,z,-,-,-,r,g,b", "space"),
    "r.txt": ("\ufeff# a comment\n\n# x y z\n" + lines_of(XYZ), "x,y,z", "space or tab"),
    "s.csv": (lines_of(XYZ, RGB, joint=",").replace("\n", ",chair\r\n"), "x,y,z,r,g,b,-", "comma"),
    "t.txt": (lines_of(XYZ, RGB, joint="|"), "x,y,z,r,g,b", "bar"),
    "u.csv": (lines_of(XYZ, RGB, joint=",").replace("\n", ",\n"), "x,y,z,r,g,b,-", "comma"),
    "v.xyzrgb": (lines_of(XYZ, FLOATS, joint="   "), "x,y,z,r,g,b", "space or tab"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DETECTED))
def test_columns_are_detected_and_said(tmp_path: Path, name: str) -> None:
    content, columns, cut = DETECTED[name]
    path = tmp_path / name
    path.write_bytes(content.encode())
    scan = open_scan(path)
    (note,) = scan.notes
    assert note.startswith(f"columns {columns} (")
    assert f"cut by {cut}" in note
    np.testing.assert_array_equal(placed(scan), XYZ)
    if "r" in columns.split(","):
        np.testing.assert_array_equal(scan.colors(), RGB)
    else:
        assert scan.colors() is None


@pytest.mark.parametrize("name", list(DETECTED))
def test_every_line_stays_and_gets_its_label(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(DETECTED[name][0].encode())
    labels = labels_for(3, probabilities=True)
    out = tmp_path / f"out{path.suffix}"
    write_labelled(out, open_scan(path), labels)
    before = path.read_bytes().removeprefix("\ufeff".encode()).splitlines()
    after = out.read_bytes().splitlines()
    header = [after.pop(0)] if len(after) > len(before) else []
    assert all(b"class_name" in line for line in header)
    rest = after
    assert all(new.startswith(old) for new, old in zip(rest, before, strict=True))
    decimal = "," if b",0" in before[-1] and b";" in before[-1] else "."
    if "decimal commas" in DETECTED[name][2]:
        decimal = ","
    added = [line[len(old) :].decode() for line, old in zip(rest, before, strict=True)][-3:]
    joint = added[0][0]
    for row, text in enumerate(added):
        words = text.replace(decimal, ".") if decimal == "," else text
        called, number, *others = words.split(joint)[1:]
        values = [float(word) for word in (number, *others)]
        assert values[0] == labels.label[row]
        assert called == (CLASSES[labels.label[row]] if labels.label[row] < 255 else "unlabelled")
        np.testing.assert_allclose(values[1], labels.confidence[row], atol=5.1e-5)
        np.testing.assert_allclose(values[2:], labels.probabilities[row], atol=5.1e-5)
    again = open_scan(out)
    np.testing.assert_array_equal(placed(again), XYZ)
    assert (again.colors() is None) == (open_scan(path).colors() is None)


def test_pandas_reads_the_result(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y,z,red,green,blue,class\n" + lines_of(XYZ, RGB, 5 * ONE, joint=","))
    labels = labels_for(3)
    write_labelled(tmp_path / "b.csv", open_scan(path), labels)
    table = pd.read_csv(tmp_path / "b.csv")
    assert list(table)[:6] == ["x", "y", "z", "red", "green", "blue"]
    assert table["scan_class"].tolist() == [5, 5, 5]
    assert table["class"].tolist() == labels.label.tolist()
    np.testing.assert_allclose(table["confidence"], labels.confidence, atol=5.1e-5)


def test_given_columns_win(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines_of(ONE, XYZ[:, ::-1], RGB, RGB[:, ::-1]))
    scan = open_scan(path, ScanOptions(columns="-,z,y,x,-,-,-,b,g,r"))
    np.testing.assert_array_equal(placed(scan), XYZ)
    np.testing.assert_array_equal(scan.colors(), RGB)
    assert scan.notes[0].startswith("columns -,z,y,x,-,-,-,b,g,r (as given)")
    with pytest.raises(ConfigError, match="found 11 names, expected at most 10"):
        open_scan(path, ScanOptions(columns="-,z,y,x,-,-,-,b,g,r,-"))


NUMBERS = np.arange(1, 31)[:, None]
PLACES = (np.random.default_rng(0).random((30, 3)) * 8).round(3)
GREYS = np.random.default_rng(1).integers(1, 250, (30, 1))
COLORS = GREYS + np.array([[0, 5, 3]])  # alike, as those of most things
INTENSITY = np.random.default_rng(2).integers(0, 256, (30, 1))
CLASS = np.random.default_rng(3).integers(0, 13, (30, 1))
QUIRKS = {  # what the columns of a file begin or end with, and what they are
    "numbers of the points": ("", (NUMBERS, PLACES, COLORS), "-,x,y,z,r,g,b"),
    "numbers and names of no coordinates": ("n a b c\n", (NUMBERS, PLACES), "-,x,y,z"),
    "R's numbers without a name": ('"y" "x" "z"\n', (NUMBERS, PLACES[:, [1, 0, 2]]), "-,y,x,z"),
    "an intensity before the colours": ("", (PLACES, INTENSITY, COLORS), "x,y,z,-,r,g,b"),
    "two columns before the colours": (
        "",
        (PLACES, -INTENSITY, INTENSITY, COLORS),
        "x,y,z,-,-,r,g,b",
    ),
    "a class behind the colours": ("", (PLACES, COLORS, CLASS), "x,y,z,r,g,b,-"),
    "a column without a name": ("x y z r g b\n", (PLACES, COLORS, CLASS), "x,y,z,r,g,b,-"),
    "units": ("% Z[m] X_m Y(m) id\n", (PLACES[:, [2, 0, 1]], INTENSITY), "z,x,y,-"),
    "names of ParaView": (
        "RGB:0 RGB:1 RGB:2 Points:0 Points:1 Points:2\n",
        (COLORS, PLACES),
        "r,g,b,x,y,z",
    ),
}


@pytest.mark.parametrize("name", list(QUIRKS))
def test_columns_that_were_taken_for_others(tmp_path: Path, name: str) -> None:
    header, table, columns = QUIRKS[name]
    text = header + lines_of(*table)
    if name.startswith("R's"):  # it quotes them
        text = header + "".join(f'"{line.replace(" ", chr(34) + " ", 1)}' for line in
                                lines_of(*table).splitlines(keepends=True))  # fmt: skip
    (tmp_path / "a.txt").write_text(text)
    scan = open_scan(tmp_path / "a.txt")
    assert scan.notes[0].startswith(f"columns {columns} (")
    np.testing.assert_allclose(placed(scan), PLACES, atol=1e-6)
    if "r" in columns:
        np.testing.assert_array_equal(scan.colors(), COLORS)
    write_labelled(tmp_path / "b.txt", scan, labels_for(30))
    np.testing.assert_allclose(placed(open_scan(tmp_path / "b.txt")), PLACES, atol=1e-6)


def test_a_label_that_is_called_like_a_coordinate(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x y z a\n7 1 2 3\n8 4 5 6\n")
    with pytest.raises(ConfigError, match="by the number: column_1"):
        open_scan(path, ScanOptions(columns="-,x,y,z", label="x"))
    scan = open_scan(path, ScanOptions(columns="-,x,y,z", label="column_1"))
    assert scan.rows["column_1"].tolist() == [7, 8]
    assert scan.rows["x"].tolist() == [1, 4]


def test_labels_by_number_below_a_header_that_is_too_short(tmp_path: Path) -> None:
    """`column_1` was the last column there."""
    (tmp_path / "a.txt").write_text("x y z\n" + "1 2 3 4 5\n2 3 4 5 6\n")
    scan = open_scan(tmp_path / "a.txt", ScanOptions(label="column_5"))
    assert scan.rows["column_5"].tolist() == [5, 6]
    assert "column_1" not in (open_scan(tmp_path / "a.txt", ScanOptions(label="column_1")).fields)


def test_nan_and_empty_words_cannot_be_placed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y,z\n1,2,3\nnan,2,3\n1,,3\n1,2,-nan(ind)\n4,5,inf\n2,3,4\n")
    local, _ = open_scan(path).positions()
    assert np.isnan(local).all(axis=1).tolist() == [False, True, True, True, True, False]


def test_words_for_no_number_among_the_first_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("1,2,3,NA\n4,null,6,7\n8,9,10,11\n")
    local, _ = open_scan(path).positions()
    assert np.isnan(local).any(axis=1).tolist() == [False, True, False]


def test_blocks_of_few_bytes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    pos = (rng.random((50, 3)) * 10).round(3)
    path = tmp_path / "a.txt"
    path.write_text("# a comment\nx y z\n" + lines_of(pos).replace("\n", "\n\n", 3))
    expected = placed(open_scan(path))
    write_labelled(tmp_path / "b.txt", open_scan(path), labels_for(50))
    whole = (tmp_path / "b.txt").read_bytes()
    monkeypatch.setattr("pipelines.scans.text.BLOCK", 37)
    np.testing.assert_array_equal(placed(open_scan(path)), expected)
    write_labelled(tmp_path / "b.txt", open_scan(path), labels_for(50))
    assert (tmp_path / "b.txt").read_bytes() == whole
    np.testing.assert_allclose(expected, pos, atol=1e-6)


@given(
    pos=st.lists(st.tuples(*[st.floats(-1e9, 1e9, allow_nan=False)] * 3), min_size=1, max_size=9),
    joint=st.sampled_from([" ", "\t", ",", ";", "  ", ", "]),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    pos: list[tuple[float, ...]],
    joint: str,
    end: str,
    last: bool,
) -> None:
    folder = tmp_path_factory.getbasetemp()
    path = folder / "trip.txt"
    text = end.join(joint.join(map(repr, row)) for row in pos) + (end if last else "")
    path.write_bytes(text.encode())
    scan = open_scan(path)
    # pandas may be off by one in the last of 53 bits, far below float32.
    np.testing.assert_allclose(
        np.stack([scan.rows[name] for name in "xyz"], axis=1), np.array(pos), rtol=1e-15
    )
    write_labelled(folder / "trip.out.txt", scan, labels_for(len(pos)))
    again = open_scan(folder / "trip.out.txt")
    np.testing.assert_array_equal(again.rows, scan.rows)


BAD = {
    "empty": ("", "found 0 points"),
    "comments only": ("# nothing\n\n", "found 0 points"),
    "words": ("once upon a time\nthere was a scan\n", "found 'there was a scan', expected a point"),
    "two columns": ("1 2\n3 4\n", "expected a point"),
    "a word": ("1 2 3\n4 five 6\n", ":2: found 'five' in column 2, expected a number"),
    "a missing column": ("x,y,z\n1,2,3\n1,2\n", ":3: found 2 columns, expected 3"),
    "one more column": ("1 2 3\n# fine\n1 2 3 4\n", ":3: found 4 columns, expected 3"),
    "digits with underscores": ("1 2 3\n1 2 3_0\n", ":2: found '3_0' in column 3"),
    "a hexadecimal": ("1 2 3\n1 2 0x1F\n", ":2: found '0x1F'"),
    "UTF-16": ("\ufeff1 2 3\n".encode("utf-16").decode("latin-1"), "no UTF-8 text"),
    "a long line": ("1 " * 100_000, "found a line of more than"),
    "other names": ("lat,lon,name,a,b,c\n" + "a,1,b,2,c,3\n" * 3, "--columns x,y,z,r,g,b,-"),
    "names of other columns": ("r g b x y z\n" + "1 2 3 4 5 6 7\n" * 9, "for 7 in the lines"),
    "line ends of CR": ("1 2 3\r4 5 6\r", "found lines that end in CR alone"),
    "names only": ("x,y,z\n", "expected a point"),
    "quotes and other line ends": ('1;2;3\n4;\r"5;6\n', ":2: found '\"5' in column 2"),
    "quotes over lines": ('1,2,3,"a"\n1,2,3,"b\n1,2,3,c"\n', "one"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_get_one_clear_error(tmp_path: Path, name: str) -> None:
    content, found = BAD[name]
    path = tmp_path / "scan.txt"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(DatasetError) as caught:
        open_scan(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert found in message
    assert len(message.splitlines()) <= 3


def test_a_scan_that_changes_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(lines_of(XYZ))
    scan = open_scan(path)
    path.write_text(lines_of(XYZ[:2]))
    with pytest.raises(DatasetError, match="as when it was read"):
        write_labelled(tmp_path / "b.txt", scan, labels_for(3))
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_class_names_of_any_language(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("x,y,z\n" + lines_of(XYZ, joint=","))
    label, confidence = np.array([0, 1, 0], np.uint8), np.ones(3, np.float32)
    table = np.full((3, 2), 0.5, np.float32)
    labels = Labels(label, confidence, ("Stuhl, grün", "Stuhl; grün"), [(1, 2, 3)] * 2, table)
    for suffix in (".csv", ".ply"):
        write_labelled(tmp_path / f"b{suffix}", open_scan(path), labels)
        assert len(open_scan(tmp_path / f"b{suffix}")) == 3
    found = pd.read_csv(tmp_path / "b.csv")
    assert found["class_name"].tolist() == ["Stuhl_ grün", "Stuhl; grün", "Stuhl_ grün"]
    assert list(found)[-2:] == ["p_0", "p_1"], "the names would be the same"


@pytest.mark.parametrize("joint", [";", " ", "\t", "|"])
def test_a_first_line_of_whole_numbers_does_not_hide_decimal_commas(
    tmp_path: Path, joint: str
) -> None:
    """A spreadsheet writes 1 for 1,000."""
    path = tmp_path / "scan.csv"
    path.write_text("1 2 3 10 20 30\n4,5 5,25 6 40 50 60\n".replace(" ", joint))
    scan = open_scan(path)
    assert placed(scan).tolist() == [[1, 2, 3], [4.5, 5.25, 6]]
    assert scan.colors().tolist() == [[10, 20, 30], [40, 50, 60]]
    write_labelled(tmp_path / "out.csv", scan, labels_for(2))
    again = open_scan(tmp_path / "out.csv")
    assert placed(again).tolist() == placed(scan).tolist()


def test_a_pts_with_fewer_points_than_it_declares(tmp_path: Path) -> None:
    path = tmp_path / "cut.pts"
    path.write_text("3\n1 2 3 -100 4 5 6\n7 8 9 -200 10 11 12\n")
    assert "found 2 points, but its first line says 3: is it whole?" in open_scan(path).notes
    path.write_text(path.read_text() + "1 1 1 -100 4 5 6\n")
    assert not any("first line" in note for note in open_scan(path).notes)


def cloudcompare(path: Path, joint: str) -> tuple[list[str], np.ndarray]:
    """Names and numbers of a text file by the rules of CloudCompare's own reader, see `text.py`."""
    lines = [line for line in path.read_text().splitlines() if line]
    names = lines[0].lstrip("/").split(joint) if lines[0].startswith("//") else []
    lines = lines[1:] if names else lines
    parts = [line.split(joint) for line in lines if not line.startswith("//")]
    most, numeric = 0, list[bool]()
    for place, words in enumerate(parts[:20]):
        grown, most = len(words) > most, max(most, len(words))
        numeric += [True] * (most - len(numeric))
        for column, word in enumerate(words):
            try:
                float(word)
                numeric[column] |= grown or place == 1  # the lines before were a header
            except ValueError:
                numeric[column] = False
    used = [column for column, number in enumerate(numeric) if number]
    rows = []
    for words in parts:
        with contextlib.suppress(ValueError):  # a line that is passed over with a warning
            rows += [[float(words[n]) for n in used]] if len(words) > used[-1] else []
    return [names[n] for n in used if names], np.array(rows)


# Each with what a labelled scan begins with, and how pandas reads that.
HEADS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "header.txt": ("//X Y Z R G B\n", "//X Y Z R G B class_name class confidence\n", {}),
    "both.txt": (
        "//X Y Z R G B\n3\n",
        "//X Y Z R G B class_name class confidence\n3\n",
        {"skiprows": [1]},
    ),
    "plain.txt": ("X Y Z R G B\n", "X Y Z R G B class_name class confidence\n", {}),
    "none.txt": ("", "x y z red green blue class_name class confidence\n", {}),
    "count.txt": ("3\n", "3\n", {"names": range(9), "skiprows": 1}),
    "count.pts": ("3\n", "3\n", {"names": range(9), "skiprows": 1}),
    "no_count.pts": ("", "", {"names": range(9)}),
    "hash.txt": (
        "# X Y Z R G B\n",
        "# X Y Z R G B class_name class confidence\n",
        {"comment": "#", "header": None},
    ),
    "quoted.txt": (
        '"X" "Y" "Z" "R" "G" "B"\n',
        '"X" "Y" "Z" "R" "G" "B" class_name class confidence\n',
        {},
    ),
}


@pytest.mark.parametrize("name", list(HEADS))
def test_what_cloudcompare_writes_and_reads(tmp_path: Path, name: str) -> None:
    head, expected, call = HEADS[name]
    (tmp_path / name).write_text(head + lines_of(XYZ, RGB))
    scan, labels = open_scan(tmp_path / name), labels_for(3)
    np.testing.assert_array_equal(placed(scan), XYZ)
    np.testing.assert_array_equal(scan.colors(), RGB)
    assert not any("is it whole" in note for note in scan.notes)
    out = tmp_path / f"out{Path(name).suffix}"
    write_labelled(out, scan, labels)
    assert out.read_text().startswith(f"{expected}500000.25 -3.5 2 1 2 3 board 11 ")
    again = open_scan(out)
    np.testing.assert_array_equal(placed(again), XYZ)
    np.testing.assert_array_equal(again.colors(), RGB)
    whole = np.c_[XYZ, RGB, labels.label, labels.confidence]
    names, rows = cloudcompare(out, " ")
    np.testing.assert_allclose(rows, whole, atol=5.1e-5)
    assert names in ([], ["X", "Y", "Z", "R", "G", "B", "class", "confidence"])
    table = pd.read_csv(out, sep=" ", **call)
    assert table.iloc[:, 6].tolist() == [*(CLASSES[n] for n in labels.label[:2]), "unlabelled"]
    np.testing.assert_allclose(table.drop(columns=table.columns[6]), whole, atol=5.1e-5)


def test_a_csv_without_names_gets_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(lines_of(XYZ, RGB, 7 * ONE, joint=","))
    write_labelled(tmp_path / "b.csv", open_scan(tmp_path / "a.csv"), labels_for(3))
    table = pd.read_csv(tmp_path / "b.csv")
    columns = ["x", "y", "z", "red", "green", "blue", "column_7"]
    assert list(table) == [*columns, "class_name", "class", "confidence"]
    np.testing.assert_array_equal(table[columns], np.c_[XYZ, RGB, 7 * ONE])


def test_names_in_quotes_can_hold_spaces(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text('//"Scan angle" "Z" "Y" "X"\n' + lines_of(ONE, XYZ[:, ::-1]))
    np.testing.assert_array_equal(placed(open_scan(tmp_path / "a.txt")), XYZ)


def test_a_pts_of_several_scans(tmp_path: Path) -> None:
    """Each scan has its own count; the points are those of one file with one count."""
    first, second = lines_of(XYZ, -70 * ONE, RGB), lines_of(XYZ[:2] + 1, -9 * ONE[:2], RGB[:2])
    path = tmp_path / "two.pts"
    path.write_text(f"3\n{first}2\n{second}")
    (tmp_path / "one.pts").write_text(f"5\n{first}{second}")
    scan, one = open_scan(path), open_scan(tmp_path / "one.pts")
    np.testing.assert_array_equal(scan.rows, one.rows)
    assert scan.notes[1:] == ("2 scans, in one frame",)
    labels = labels_for(5)
    write_labelled(tmp_path / "out.pts", scan, labels)
    lines = (tmp_path / "out.pts").read_text().splitlines()
    assert (lines[0], lines[4]) == ("3", "2")
    read = pd.read_csv(tmp_path / "out.pts", sep=" ", names=range(10)).dropna()
    assert read[8].tolist() == labels.label.tolist()
    np.testing.assert_array_equal(open_scan(tmp_path / "out.pts").rows, scan.rows)
    path.write_text(f"3\n{first}3\n{second}")
    assert "found 5 points, but its counts add up to 6: is it whole?" in open_scan(path).notes


def test_comments_among_the_points_are_said(tmp_path: Path) -> None:
    text = lines_of(XYZ, RGB)
    path = tmp_path / "scan.xyz"
    path.write_text("# head\n" + text + "#1 2 3 9 9 9\n\n" + text + "// end\n")
    scan = open_scan(path)
    assert len(scan) == 2 * len(XYZ)
    assert "lines among the points that begin with # or //, so no points: 2" in scan.notes
    path.write_text("# head\n" + text + "\n" + text)
    assert not any("begin with #" in note for note in open_scan(path).notes)


@pytest.mark.parametrize("word", ["#N/A", "#NV", "#WERT!", "#VALEUR!", "#N/D"])
@pytest.mark.parametrize("joint", [" ", ",", "\t"])
def test_a_spreadsheet_s_error_begins_no_comment(tmp_path: Path, word: str, joint: str) -> None:
    path = tmp_path / "scan.txt"
    path.write_text(lines_of(XYZ, RGB, joint=joint) + joint.join([word] * 3 + ["1"] * 3) + "\n")
    local, _ = open_scan(path).positions()
    assert np.isnan(local).any(axis=1).tolist() == [False] * len(XYZ) + [True]


def test_a_word_that_is_no_number_is_named(tmp_path: Path) -> None:
    """Python's own `float` takes the first one for a number."""
    for word in ("nAn", "void"):
        (tmp_path / "scan.txt").write_text(lines_of(XYZ) + f"1 2 {word}\n")
        with pytest.raises(
            DatasetError, match=rf"txt:4: found '{word}' in column 3.*\n.*write nan"
        ):
            open_scan(tmp_path / "scan.txt")


def test_tabs_with_spaces_around_are_spaces(tmp_path: Path) -> None:
    (tmp_path / "scan.txt").write_text(lines_of(XYZ, RGB, joint=" \t "))
    scan = open_scan(tmp_path / "scan.txt")
    np.testing.assert_array_equal(placed(scan), XYZ)
    np.testing.assert_array_equal(scan.colors(), RGB)
