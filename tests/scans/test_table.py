"""The table of points: places, colours, and the spool that it is unpacked into."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError, DatasetError
from pipelines.scans import open_scan
from pipelines.scans.ply import write_points
from pipelines.scans.table import Scan, ScanOptions, color_scale, spooled


@pytest.mark.parametrize("options", [{"up": "w"}, {"scale": 0}, {"scale": float("nan")}])
def test_impossible_options(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        ScanOptions(**options)


def test_color_scale() -> None:
    assert color_scale(np.dtype("f4"), 1.0) == 255
    assert color_scale(np.dtype("f4"), 200.0) == 1
    assert color_scale(np.dtype("u1"), 1.0) == 1, "an almost black scan stays almost black"
    assert color_scale(np.dtype("f4"), 1.2) == 255, "brighter than white"
    assert color_scale(np.dtype("f8"), 256.0) == 1, "some programs multiply by 256"
    for bits in (10, 12, 16):
        assert color_scale(np.dtype("u2"), 2**bits - 1) == 255 / (2**bits - 1)


@given(
    values=st.lists(
        st.tuples(*[st.floats(width=64, allow_nan=True, allow_infinity=True)] * 3),
        min_size=1,
        max_size=20,
    )
)
def test_any_floats_give_finite_rows_or_nan_rows(values: list[tuple[float, ...]]) -> None:
    rows = np.array(values, [(name, "f8") for name in "xyz"])
    scan = Scan(Path("scan"), rows, tuple("xyz"), None, tuple("xyz"))
    with np.errstate(over="ignore"):
        local, frame = scan.positions()
    assert np.isfinite(frame.origin).all()
    bad = np.isnan(local).any(axis=1)
    assert np.isnan(local[bad]).all()
    assert (local[~bad] >= 0).all()
    wild = ~np.isfinite(np.array(values)).all(axis=1)
    assert bad[wild].all()


def test_a_spool_holds_its_parts_in_order() -> None:
    kind = np.dtype([("n", "i4")])
    parts = [np.array([(n,)] * n, kind) for n in range(5)]
    rows = spooled(Path("scan"), iter(parts), kind)
    assert rows["n"].tolist() == [1, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    assert not rows.flags.writeable
    assert len(spooled(Path("scan"), [], kind)) == 0


def test_a_full_disk_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    monkeypatch.setattr("tempfile.TemporaryFile", lambda: full.open("wb"))
    with pytest.raises(DatasetError, match="set TMPDIR to a folder on a larger disk"):
        spooled(Path("scan"), [np.zeros(3)], np.dtype("f8"))


def test_an_invalid_point_moves_no_other(tmp_path: Path) -> None:
    path = tmp_path / "scan.npy"
    np.save(
        path, np.array([[5.0, 6, 7, 1, 2, 3], [6, 8, 10, 1, 2, 3], [np.nan, -50, -99, 1, 2, 3]])
    )
    pos, frame = open_scan(path).positions()
    assert frame.origin.tolist() == [5, 6, 7]
    assert pos[:2].tolist() == [[0, 0, 0], [1, 2, 3]]
    assert np.isnan(pos[2]).all()


def test_white_a_little_above_1_is_white(tmp_path: Path) -> None:
    color = np.array([[1.0000001, 0.5, 0], [1, 1, 0.25], [0, 0, 0]], np.float32)
    np.savez(tmp_path / "scan.npz", pos=np.eye(3), color=color)
    colors = open_scan(tmp_path / "scan.npz").colors()
    assert colors is not None
    assert colors.tolist() == [[255, 128, 0], [255, 255, 64], [0, 0, 0]]


def test_millimetres_far_away_keep_their_precision(tmp_path: Path) -> None:
    """UTM coordinates in millimetres: 4e9 with steps of 1 mm, beyond float32 by far."""
    pos = np.array([[5e8, 4e9, 0], [5e8 + 1, 4e9 + 3, 7]])
    write_points(tmp_path / "mm.ply", pos, np.zeros((2, 3), np.uint8))
    local, _ = open_scan(tmp_path / "mm.ply", ScanOptions(scale=0.001)).positions()
    np.testing.assert_allclose(local[1], [0.001, 0.003, 0.007], rtol=1e-6)
