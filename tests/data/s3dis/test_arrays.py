"""Rooms of S3DIS as NumPy arrays: the files of two preparation scripts, for prepare and predict."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData

from pipelines.config import PredictConfig, PrepareConfig
from pipelines.data.s3dis import CLASSES
from pipelines.data.s3dis.arrays import find_arrays
from pipelines.data.s3dis.rooms import open_room
from pipelines.data.store import Store
from pipelines.errors import ConfigError, DatasetError
from pipelines.predict import predict
from pipelines.prepare import prepare
from pipelines.scans import ScanOptions, open_scan
from tests.raw_tree import aligned_files, run, write_tree
from tests.tiny_store import write_tiny_store
from tests.tiny_training import run_as, tiny_config

RNG = np.random.default_rng(0)
POS = np.round(RNG.random((500, 3)) * (3, 2, 2.5), 3)
RGB = RNG.integers(1, 256, (500, 3))
LABEL = np.arange(500) % 13


def whole_file(folder: Path, name: str) -> None:
    """Write a room as `collect_indoor3d_data.py` of PointNet does."""
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / f"{name}.npy", np.column_stack([POS, RGB, LABEL]))


def arrays(room: Path, label: np.ndarray | None = LABEL) -> None:
    """Write a room as Pointcept does."""
    room.mkdir(parents=True)
    np.save(room / "coord.npy", POS.astype(np.float32))
    np.save(room / "color.npy", RGB.astype(np.uint8))
    np.save(room / "normal.npy", np.zeros((500, 3), np.float32))
    if label is not None:
        np.save(room / "segment.npy", label.reshape(-1, 1).astype(np.int16))


def check_store(data: Path, label: np.ndarray = LABEL) -> None:
    """Compare each room's points and labels with what was written."""
    store = Store.open(data)
    assert store.classes == CLASSES
    assert [(room.area, room.name) for room in store.rooms()] == [(1, "office_1"), (5, "hall_2")]
    expected = {(*p, *c, n) for p, c, n in zip(POS, RGB, label % 256, strict=True)}
    for info in store.rooms():
        room = store.read(info)
        pos = np.round(room.pos.astype(np.float64) + room.origin, 3)
        assert {
            (*p, *c, n) for p, c, n in zip(pos, room.color, room.label, strict=True)
        } == expected


def test_a_file_a_room(tmp_path: Path) -> None:
    for name in ("Area_1_office_1", "Area_5_hall_2"):
        whole_file(tmp_path / "stanford_indoor3d", name)
    result = run(tmp_path / "stanford_indoor3d", tmp_path / "data")
    assert (result.areas, result.test_area) == ({1: 1, 5: 1}, 5)
    check_store(tmp_path / "data")
    with pytest.raises(ConfigError, match=r"--unknown: found it with .+ labels are numbers"):
        run(tmp_path / "stanford_indoor3d", tmp_path / "data", unknown="ignore")


@pytest.mark.parametrize("below", ["s3dis", ""])
def test_a_folder_a_room(tmp_path: Path, below: str) -> None:
    label = np.where(LABEL == 12, -1, LABEL)
    for name in ("Area_1/office_1", "Area_5/hall_2"):
        arrays(tmp_path / "processed/s3dis" / name, label)
    result = run(tmp_path / "processed" / below, tmp_path / "data")
    assert result.test_area == 5
    check_store(tmp_path / "data", label)


def test_a_changed_array_is_noticed(tmp_path: Path) -> None:
    for name in ("Area_1/office_1", "Area_5/hall_2"):
        arrays(tmp_path / "s3dis" / name)
    run(tmp_path / "s3dis", tmp_path / "data")
    np.save(tmp_path / "s3dis/Area_5/hall_2/segment.npy", np.zeros(500, np.int64))
    assert run(tmp_path / "s3dis", tmp_path / "data").reused == 1
    assert Store.open(tmp_path / "data").rooms(5)[0].counts[0] == 500


def test_without_labels_they_are_scans(tmp_path: Path) -> None:
    arrays(tmp_path / "Area_1/office_1", None)
    scan = open_scan(tmp_path / "Area_1/office_1", ScanOptions(), folder=open_room)
    local, frame = scan.positions()
    np.testing.assert_allclose(local + frame.origin, POS, atol=1e-6)
    np.testing.assert_array_equal(scan.colors(), RGB)
    with pytest.raises(DatasetError, match=r"expected the label 'segment'"):
        run(tmp_path, tmp_path / "data")


def test_predict_labels_a_room_of_arrays(tmp_path: Path) -> None:
    arrays(tmp_path / "rooms/hall", None)
    whole_file(tmp_path / "rooms", "Area_1_office_1")
    config = tiny_config(write_tiny_store(tmp_path / "data"), tmp_path / "runs")
    trained = run_as(config, "r", max_steps=1)
    scans = (tmp_path / "rooms/hall", tmp_path / "rooms/Area_1_office_1.npy")
    found = predict(PredictConfig(scans=scans, run=trained.path, device="cpu"))
    assert [scan.out.name for scan in found.scans] == [
        "hall.labelled.ply",
        "Area_1_office_1.labelled.npz",
    ]
    rows = PlyData.read(found.scans[0].out)["vertex"]
    np.testing.assert_allclose(np.stack([rows[axis] for axis in "xyz"], 1), POS, atol=1e-6)
    np.testing.assert_array_equal(rows["scan_red"], RGB[:, 0])
    with np.load(found.scans[1].out) as written:
        np.testing.assert_array_equal(written["class"], rows["class"])


def test_they_can_be_described(tmp_path: Path) -> None:
    arrays(tmp_path / "train/a", LABEL % 2)
    (tmp_path / "rooms.yaml").write_text(
        "{classes: [odd, even], areas: {1: [train/*/coord.npy]}, label: segment,"
        " values: {1: odd, 0: even}}"
    )
    prepare(PrepareConfig(dataset=tmp_path / "rooms.yaml", data=tmp_path / "data", workers=1))
    (room,) = Store.open(tmp_path / "data").rooms()
    assert (room.name, room.counts) == ("train_a", tuple(np.bincount(LABEL % 2)[::-1]))


def test_a_room_twice_is_refused(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        whole_file(tmp_path / folder, "Area_1_office_1")
    with pytest.raises(DatasetError, match="expected one file of a room"):
        find_arrays(tmp_path)


def test_files_may_be_links_to_files_of_other_names(tmp_path: Path) -> None:
    """As data managers keep them."""
    for number, name in enumerate(("Area_1_office_1", "Area_5_hall_2")):
        whole_file(tmp_path / "blobs", name)
        (tmp_path / "blobs" / f"{name}.npy").rename(tmp_path / "blobs" / f"{number}")
        (tmp_path / "rooms").mkdir(exist_ok=True)
        (tmp_path / "rooms" / f"{name}.npy").symlink_to(tmp_path / "blobs" / f"{number}")
    run(tmp_path / "rooms", tmp_path / "data")
    check_store(tmp_path / "data")


def test_raw_data_comes_before_arrays_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "both" / "raw", aligned_files())
    whole_file(tmp_path / "both" / "npy", "Area_1_office_1")
    by_name = run(tmp_path / "both", tmp_path / "data")
    monkeypatch.chdir(tmp_path / "both")
    within = run(None, tmp_path / "within")
    assert by_name.rooms == within.rooms > 1
