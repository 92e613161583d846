"""PTX scans: several of them, poses, cells without a return, and files that are cut off."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from pipelines.errors import DatasetError
from pipelines.scans import labelled_name, open_scan, write_labelled
from tests.scans.scan_labels import labels_for, placed

# Two columns of three rows, as the scanner sees them; the second cell has no return.
FIRST = """2
3
1 2 3
1 0 0
0 1 0
0 0 1
1 0 0 0
0 1 0 0
0 0 1 0
10 20 30 1
1 0 0 0.25 1 2 3
0 0 0 0.5 0 0 0
0 0 -0.5 0.75 7 8 9
1.5 2.5 3.5 0 10 20 30
-1 -2 -3 1 40 50 60
0 1 0 0.125 70 80 90
"""
# One column of two rows; x, y, z of the scanner are y, -x, z of the frame, which is row vector
# times matrix; without colour.
SECOND = """1
2
0 0 0
1 0 0
0 1 0
0 0 1
0 1 0 0
-1 0 0 0
0 0 1 0
100 0 0 1
1 2 3 0.5
4 5 6 0.25
"""
PLACED = [[11, 20, 30], [10, 20, 29.5], [11.5, 22.5, 33.5], [9, 18, 27], [10, 21, 30]]
TURNED = [[100 - 2, 1, 3], [100 - 5, 4, 6]]


def test_points_are_placed_by_the_matrix_and_empty_cells_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.ptx").write_text(FIRST)
    scan = open_scan(tmp_path / "a.ptx")
    np.testing.assert_allclose(placed(scan), PLACED)
    assert scan.colors().tolist() == [
        *([1, 2, 3], [7, 8, 9], [10, 20, 30], [40, 50, 60], [70, 80, 90]),
    ]
    assert scan.rows["intensity"].tolist() == [0.25, 0.75, 0, 1, 0.125]
    assert scan.rows["row"].tolist() == [0, 2, 0, 1, 2]
    assert scan.rows["column"].tolist() == [0, 0, 1, 1, 1]
    assert scan.notes == ("1 of 6 cells without a return: left out",)


@pytest.mark.parametrize("block", [1 << 25, 50])
def test_several_scans_in_one_frame(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.scans.text.BLOCK", block)
    path = tmp_path / "a.ptx"
    path.write_text((FIRST + SECOND).replace("\n", "\r\n"))
    scan = open_scan(path)
    assert scan.notes[0] == "2 scans, in their common frame"
    np.testing.assert_allclose(placed(scan), PLACED + TURNED, atol=1e-5)
    assert scan.rows["scan"].tolist() == [0] * 5 + [1] * 2
    assert np.isnan(scan.rows["red"]).tolist() == [False] * 5 + [True] * 2
    out = tmp_path / labelled_name(path)
    assert out.name == "a.labelled.ply"
    write_labelled(out, scan, labels_for(7))
    vertex = PlyData.read(str(out))["vertex"].data
    np.testing.assert_allclose(np.c_[vertex["x"], vertex["y"], vertex["z"]], PLACED + TURNED)
    assert vertex["class"].tolist() == labels_for(7).label.tolist()
    assert vertex["scan_red"].tolist()[:5] == [1, 7, 10, 40, 70]
    assert {"intensity", "row", "column", "scan"} <= set(vertex.dtype.names)


def test_a_scan_without_color(tmp_path: Path) -> None:
    (tmp_path / "a.ptx").write_text(SECOND)
    scan = open_scan(tmp_path / "a.ptx")
    np.testing.assert_allclose(placed(scan), TURNED)
    assert scan.colors() is None
    assert scan.fields == ("x", "y", "z", "intensity", "row", "column")


BAD = {
    "cut off": (FIRST.split("-1 -2")[0], "found 4 of 6 cells of scan 1, and then the end"),
    "one more head": (FIRST + "2\n3\n", "and then the end of the file"),
    "a pose of letters": (FIRST.replace("10 20 30 1\n", "10 20 x 1\n"), "damaged header of a scan"),
    "one value too many": (
        FIRST.replace("0.75 7 8 9", "0.75 7 8 9 9"),
        "ptx:13: found 8 columns",
    ),
    "no grid": ("1 2 3\n" * 20, "found no PTX header"),
    "a large grid": (FIRST.replace("2\n3\n", "99999999\n99999999\n", 1), "found 6 of 9,999,9"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_bad_files_get_one_clear_error(tmp_path: Path, name: str) -> None:
    content, found = BAD[name]
    path = tmp_path / "a.ptx"
    path.write_text(content)
    with pytest.raises(DatasetError) as caught:
        open_scan(path)
    assert found in str(caught.value)
    assert str(caught.value).startswith(f"{path}")
    assert len(str(caught.value).splitlines()) <= 3
