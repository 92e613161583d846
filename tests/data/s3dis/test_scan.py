"""Room folders of S3DIS as scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.s3dis.rooms import open_room
from pipelines.errors import DatasetError
from pipelines.scans.table import ScanOptions
from tests.scans.scan_labels import RGB, XYZ, placed


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
