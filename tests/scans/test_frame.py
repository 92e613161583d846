"""The frame of a scan: found without its stray points, and never another one without them.

What is right comes from the clean points alone: their minimum and maximum.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import DatasetError
from pipelines.scans import frame as frames
from pipelines.scans import open_scan
from pipelines.scans.frame import Frame, check_ground, locate


def shell(size: tuple[float, float, float], count: int, seed: int = 0) -> np.ndarray:
    """Return points (count, 3) on the six sides of a box, at random."""
    rng = np.random.default_rng(seed)
    x, y, z = size
    areas = np.array([y * z, y * z, x * z, x * z, x * y, x * y])
    side = rng.choice(6, count, p=areas / areas.sum())
    pos = rng.random((count, 3))
    pos[np.arange(count), side // 2] = side % 2
    return pos * size


def move(pos: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return pos + np.array([x, y, z])


def find(pos: np.ndarray, rule: str = "robust", scale: float = 1.0) -> tuple[Frame, np.ndarray]:
    """Return the frame, and which points are stray."""
    local, found = locate(len(pos), pos.__getitem__, rule, scale)
    return found, found.stray(local)


def is_box_of(found: Frame, pos: np.ndarray) -> bool:
    return (found.low == pos.min(axis=0)).all() and (found.high == pos.max(axis=0)).all()


ROOM = shell((7, 6, 3), 12_000)
LAMP = shell((0.3, 0.3, 0.3), 60)
STAIRS = np.random.default_rng(1).random((150, 3)) * (2, 1, 0.02)
HOUSE = np.concatenate([shell((5, 4, 3), 8000), move(shell((0.2, 1, 2), 300), 5, 1, 0)])
CLEAN = {
    "a room": ROOM,
    "two rooms joined by a door": np.concatenate([HOUSE, move(shell((4, 4, 3), 6000), 5.2, 0, 0)]),
    "two separate rooms": np.concatenate([ROOM, move(shell((3, 3, 2.5), 2500), 0, 25, 0)]),
    "a tall hall": shell((30, 20, 18), 12_000),
    "a thin tall hall": shell((30, 20, 18), 300),
    "a long corridor": shell((80, 2, 3), 5000),
    "a thin scan": np.random.default_rng(2).random((40, 3)) * (9, 9, 3),
    "a lamp a metre above": np.concatenate([ROOM, move(LAMP, 3, 3, 4)]),
    "stairs below the floor": np.concatenate([ROOM, move(STAIRS, 0, 0, -3)]),
    "a line": np.random.default_rng(3).random((500, 3)) * (20, 0, 0),
    "one point": ROOM[:1],
    "the same point": np.repeat(ROOM[:1], 500, axis=0),
    "a regular grid": np.stack(np.mgrid[:20, :20, :3], axis=-1).reshape(-1, 3) * 0.5,
    "two points far apart": np.array([[0.0, 0, 0], [900, 0, 0]]),
}


@pytest.mark.parametrize("name", CLEAN)
def test_a_clean_scan_has_the_published_frame(name: str) -> None:
    pos = CLEAN[name] + np.array([500.0, -30.0, 7.0])
    found, stray = find(pos)
    assert is_box_of(found, pos)
    assert not stray.any()


def noise(count: int) -> np.ndarray:
    """Return points far around the room, none of them near it."""
    pos = np.random.default_rng(4).uniform(-40, 40, (4 * count, 3))
    return pos[(np.abs(pos - (3.5, 3, 1.5)) > (6, 6, 5)).any(axis=1)][:count]


@pytest.mark.parametrize(
    "stray",
    [
        [[2, 2, -3]],
        [[2, 2, -0.6]],
        [[100, 2, 1]],
        [[3, 3, 3e5]],
        [[1e300, -1e300, 1e300]],
        np.zeros((6000, 3)) - (0, 0, 1.2),
        np.zeros((6000, 3)) - (0, 0, 0.1),
        np.zeros((30_000, 3)) - (-3, -3, 1),
        np.random.default_rng(5).random((400, 3)) * 0.05 + (50, 0, 0),
        noise(600),
        np.concatenate([noise(50), np.zeros((800, 3)) - (5e5, 5e6, 40)]),
    ],
    ids=str.split(
        "below near_below beside far_above absurd pile near_pile most_in_a_pile clump noise both"
    ),
)
@pytest.mark.parametrize("first", [True, False])
def test_stray_points_are_left_out(stray: np.ndarray, first: bool) -> None:
    both = (stray, ROOM) if first else (ROOM, stray)
    pos = np.concatenate(both).astype(np.float64)
    found, far = find(pos)
    assert is_box_of(found, ROOM)
    is_stray = np.concatenate([np.full(len(part), part is stray) for part in both])
    np.testing.assert_array_equal(far, is_stray)
    assert is_box_of(find(pos, "published")[0], pos)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.floats(1, 1e4))
def test_a_few_points_far_off_change_no_room(seed: int, count: int, distance: float) -> None:
    room = move(shell((5, 4, 3), 3000, seed), 1e5, 5e6, 200)
    # From the middle of the room, each is beyond its corners, and far from the others.
    rng = np.random.default_rng(seed)
    away = rng.choice([-1, 1], (count, 3)) * (3 + distance * np.arange(1, count + 1)[:, None])
    pos = np.concatenate([room, (room.min(axis=0) + room.max(axis=0)) / 2 + away])
    found, far = find(pos)
    assert is_box_of(found, room)
    assert far.sum() == count


def test_a_pile_within_the_room_is_stray() -> None:
    """As of a depth camera, whose pixels without a depth lie in the camera."""
    pos = np.concatenate([ROOM, np.repeat([[2.0, 2, 1]], 5000, axis=0)])
    found, stray = find(pos)
    assert is_box_of(found, ROOM)
    assert np.flatnonzero(stray).tolist() == list(range(12_000, 17_000))
    assert not find(pos, "published")[1].any()


def test_unit_and_unknown_points() -> None:
    pos = np.concatenate([ROOM * 1000, [[2000, 2000, -3000], [np.nan, 0, 0], [0, np.inf, 0]]])
    local, found = locate(len(pos), pos.__getitem__, "robust", 0.001)
    assert is_box_of(found, ROOM * 1000)
    np.testing.assert_allclose(found.extent, np.ptp(ROOM, axis=0), rtol=1e-6)
    assert np.flatnonzero(np.isnan(local).any(axis=1)).tolist() == [12_001, 12_002]
    assert np.flatnonzero(found.stray(local)).tolist() == [12_000]
    empty, found = locate(3, np.full((3, 3), np.nan).__getitem__)
    assert np.isnan(empty).all()
    assert found.extent.tolist() == [0, 0, 0]


def test_coordinates_keep_their_precision_beside_points_far_off() -> None:
    """Points at the origin are common in scans in UTM coordinates, 5,000 km away."""
    pos = np.concatenate([np.zeros((40, 3)), move(ROOM, 5e5, 5.5e6, 100)])
    local, found = locate(len(pos), pos.__getitem__)
    np.testing.assert_allclose(local[40:] + found.origin, pos[40:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("most", [50, 3000])
def test_memory_is_bounded_by_larger_cells(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "MOST_CELLS", most)
    monkeypatch.setattr(frames, "CHUNK", 1000)
    pos = np.concatenate([ROOM, [[3, 3, -60]]])
    found, stray = find(pos)
    assert is_box_of(found, ROOM)
    assert np.flatnonzero(stray).tolist() == [12_000]


@pytest.mark.parametrize("count", [10**9, 1500])
def test_real_scans_are_clean(real_dir: Path, count: int) -> None:
    scans = [open_scan(real_dir / f"scan_unlabelled.{name}") for name in ("ply", "pcd")]
    found = [scan.coordinates(slice(None)) for scan in scans]
    with zipfile.ZipFile(real_dir / "scans_s3dis_layout.zip") as archive:
        for name in archive.namelist():
            if name.count("/") == 3 and name.endswith(".txt"):
                words = archive.read(name).split()
                found.append(np.array(words, np.float64).reshape(-1, 6)[:, :3])
    assert len(found) == 17
    for number, pos in enumerate(found):
        pos = np.random.default_rng(number).permutation(pos[np.isfinite(pos).all(axis=1)])[:count]
        frame, stray = find(pos)
        assert is_box_of(frame, pos)
        assert not stray.any()


def test_too_much_ground() -> None:
    def check(pos: np.ndarray, rule: str = "published") -> None:
        found = locate(len(pos), pos.__getitem__, rule)[1]
        check_ground("here", len(pos), pos.__getitem__, found, "Give metres.")

    check(np.array([[0.0, 0, 0], [1900, 1900, 3]]))
    for far in ([1e9, 0, 0], [0.01, 1e8, 0], [1e308, -1e308, 0]):
        with pytest.raises(DatasetError, match=r"^here: found an extent of .*\nGive metres\.$"):
            check(np.array([[-1.0, 0, 0], far]))
    with pytest.raises(DatasetError, match=r"extent of 7e\+03 × 6e\+03 × 3e\+03, expected metres"):
        check(ROOM * 1000)
    stray = np.array([[2e4, 3, 1], [5, 8e4, 1]])
    which = r"\(2 of 12,002 points far from the others, the first at index 0: 20000, 3, 1\)"
    with pytest.raises(DatasetError, match=which):
        check(np.concatenate([stray, ROOM]))
    check(np.concatenate([stray, ROOM]), "robust")
    with pytest.raises(DatasetError, match=r"\(4,000 of 16,000 .* at index 12000: .*\)"):
        check(np.concatenate([ROOM, ROOM[:4000] + 1e4]), "robust")
