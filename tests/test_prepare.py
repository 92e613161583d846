"""Raw rooms to the store: defects, resuming, damage, and the published form."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.config import PrepareConfig
from pipelines.data.s3dis import CLASSES
from pipelines.data.store import Store
from pipelines.errors import ConfigError, DatasetError
from pipelines.prepare import prepare
from pipelines.runtime.lock import hold_alone
from tests.ears import Ears
from tests.raw_tree import (
    ALIGNED,
    NON_ALIGNED,
    aligned_files,
    box,
    non_aligned_files,
    run,
    write_tree,
    write_zip,
)
from tests.small_disk import on_a_small_disk
from tests.tiny_store import write_tiny_store


def checksums(data: Path) -> dict[str, str]:
    return {f"{room.area}/{room.name}": room.checksum for room in Store.open(data).rooms()}


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_every_defect_of_the_aligned_release(tmp_path: Path, kind: str) -> None:
    make = write_tree if kind == "folder" else write_zip
    raw = make(tmp_path / ("raw" if kind == "folder" else "raw.zip"), aligned_files())
    ears = Ears()
    result = prepare(PrepareConfig(raw=raw, data=tmp_path / "data", workers=1), progress=ears)
    assert result.areas == {2: 1, 3: 1, 5: 2, 6: 1}
    assert [repair.split(" ")[0].removeprefix(f"{ALIGNED}/") for repair in result.repairs] == [
        "Area_2/auditorium_1/auditorium_1.txt:74",
        "Area_3/hallway_2/hallway_2.txt:92",
        "Area_5/hallway_6/Annotations/ceiling_1.txt:180",
    ]
    assert result.unknown == {"lamp": {"objects": 1, "points": 250}}
    assert any("5 rooms of the published 272" in line for line in ears.heard)
    manifest = Store.open(tmp_path / "data").manifest
    assert [Path(name).name for name in manifest["skipped_files"]] == ["wall_3 (1).txt"]
    assert [Path(name).name for name in manifest["renamed_files"]] == ["copy_Room_1.txt"]
    counts = {room.name: room.counts for room in Store.open(tmp_path / "data").rooms()}
    clutter = CLASSES.index("clutter")
    assert counts["auditorium_1"][clutter] == 500
    assert counts["hallway_2"][clutter] == 200
    assert sum(counts["office_36"]) == 300
    assert not manifest["rotated"]


def test_points_are_those_of_numpy_s_reader(tmp_path: Path) -> None:
    files = aligned_files()
    run(write_tree(tmp_path / "raw", files), tmp_path / "data")
    store = Store.open(tmp_path / "data")
    room = store.read(store.rooms(3)[0])
    names = ("chair_2", "chair_10", "stairs_1")
    tables = [files[f"{ALIGNED}/Area_3/hallway_2/Annotations/{name}.txt"] for name in names]
    rows = [np.loadtxt(io.BytesIO(table)) for table in tables]
    labels = np.repeat([CLASSES.index("chair"), CLASSES.index("chair"), 12], 200)
    expected = {
        (*np.round(row, 3), label) for row, label in zip(np.concatenate(rows), labels, strict=True)
    }
    pos = np.round(room.pos.astype(np.float64) + room.origin, 3)
    found = {(*p, *c, label) for p, c, label in zip(pos, room.color, room.label, strict=True)}
    assert {tuple(map(float, row)) for row in found} == {tuple(map(float, row)) for row in expected}
    assert room.pos.min() == 0
    np.testing.assert_array_equal(room.extent, room.pos.max(axis=0))


def test_an_object_without_a_number_has_the_class_of_its_name(tmp_path: Path) -> None:
    names = ("wall", "Door", "lamp", "chair_a_1")
    files = {f"Area_1/hall_1/Annotations/{name}.txt": box(10, 1) for name in names}
    result = run(write_tree(tmp_path / "raw", files), tmp_path / "data")
    one = {"objects": 1, "points": 10}
    assert result.unknown == {"lamp": one, "chair_a": one}
    (room,) = Store.open(tmp_path / "data").rooms()
    assert {CLASSES[n]: points for n, points in enumerate(room.counts) if points} == {
        "wall": 10,
        "door": 10,
        "clutter": 20,
    }


def class_points(data: Path) -> dict[str, int]:
    """Return how many points of each class the store has, of those that occur."""
    counts = np.sum([room.counts for room in Store.open(data).rooms()], axis=0)
    return {name: int(n) for name, n in zip(CLASSES, counts, strict=True) if n}


def test_unknown_classes_are_what_was_asked_for(tmp_path: Path) -> None:
    """A pipe, and a chair that is misspelt: 30 and 20 points beside 100 of wall."""
    sizes = {"wall_1": 60, "wall_2": 40, "pipe_1": 10, "pipe_2": 20, "chiar_1": 20}
    files = {
        f"Area_1/hall_1/Annotations/{name}.txt": box(count, n)
        for n, (name, count) in enumerate(sizes.items())
    }
    raw, ears = write_tree(tmp_path / "raw", files), Ears()
    config = PrepareConfig(raw=raw, data=tmp_path / "data", workers=1)
    result = prepare(config, progress=ears)
    assert result.unknown == {
        "pipe": {"objects": 2, "points": 30},
        "chiar": {"objects": 1, "points": 20},
    }
    found = "unknown classes: pipe (2 objects), chiar (1 object. Did you mean 'chair'?). They are "
    assert any(f"{found}taken as clutter" in line and "--dataset" in line for line in ears.heard)
    assert class_points(tmp_path / "data") == {"wall": 100, "clutter": 50}
    result = run(raw, tmp_path / "data", unknown="ignore")
    assert (result.reused, result.points, result.unknown["pipe"]["points"]) == (0, 150, 30)
    assert class_points(tmp_path / "data") == {"wall": 100}
    with pytest.raises(DatasetError, match=r"chiar \(1 object. Did you mean 'chair'\?\)\.\n"):
        run(raw, tmp_path / "new", unknown="error", allow_incomplete=True)
    assert not (tmp_path / "new").exists()


def test_every_defect_of_the_non_aligned_release(tmp_path: Path) -> None:
    files = non_aligned_files()
    result = run(write_zip(tmp_path / "raw.zip", files), tmp_path / "data")
    assert [repair.split(" ")[0].removeprefix(f"{NON_ALIGNED}/") for repair in result.repairs] == [
        "Area_1/WC_1/WC_1.txt:42",
        "Area_5/office_19/Annotations/ceiling_1.txt:323",
        "Area_6/hallway_2/hallway_2.txt:84",
    ]
    store = Store.open(tmp_path / "data")
    assert store.manifest["rotated"]
    room = store.read(store.rooms(1)[0])
    raw = np.loadtxt(io.BytesIO(files[f"{NON_ALIGNED}/Area_1/WC_1/Annotations/door_1.txt"]))
    # A quarter turn to the left takes x to y and y to −x.
    turned = np.column_stack([-raw[:, 1], raw[:, 0], raw[:, 2]])
    np.testing.assert_allclose(
        np.sort(room.pos + room.origin, axis=0), np.sort(turned, axis=0), atol=1e-5
    )


def test_rooms_are_measured_and_measured_again_where_they_were_not(tmp_path: Path) -> None:
    files = {
        "Area_1/hall_1/Annotations/floor_1.txt": box(3000, 1, size=(6.0, 4.0, 0.01)),
        "Area_1/hall_1/Annotations/chair_1.txt": box(300, 2, size=(0.5, 0.4, 0.9)),
        "Area_1/hall_1/Annotations/chair_2.txt": box(300, 3, size=(0.5, 1.2, 0.9)),
        "Area_2/hall_1/Annotations/floor_1.txt": box(3000, 4, size=(6.0, 4.0, 0.01)),
        "Area_2/hall_1/Annotations/lamp_1.txt": box(300, 5, size=(0.5, 0.5, 0.5)),
    }
    raw, data = write_tree(tmp_path / "raw", files), tmp_path / "data"
    found = run(raw, data).statistics
    assert (found.rooms, found.points) == (2, 6900)
    assert found.density is not None
    assert found.density.p50 == pytest.approx(3000 / 24, rel=0.25)
    chairs = {each.name: each for each in found.objects}["chair"]
    assert chairs.number == 2
    assert (chairs.smallest, chairs.size.p95) == pytest.approx((0.9, 1.2), abs=0.02)
    assert {each.name for each in found.objects} == {"chair", "floor"}  # S3DIS has no lamps
    floor, chair = CLASSES.index("floor"), CLASSES.index("chair")
    assert (found.class_points[floor], found.class_points[chair]) == (6000, 600)
    assert found.class_blocks[floor] == 2 * 6 * 4

    manifest = json.loads((data / "manifest.json").read_text())
    kept = manifest["rooms"][0].pop("statistics")
    (data / "manifest.json").write_text(json.dumps(manifest))  # as a version before left it
    again = run(raw, data)
    assert again.reused == 2
    assert again.statistics == replace(found, objects=again.statistics.objects)
    measured = json.loads((data / "manifest.json").read_text())["rooms"][0]["statistics"]
    assert measured == {**kept, "objects": []}  # which the prepared data does not tell


def test_worker_count_and_source_do_not_matter(tmp_path: Path) -> None:
    run(write_tree(tmp_path / "raw", aligned_files()), tmp_path / "one")
    run(write_zip(tmp_path / "raw.zip", aligned_files()), tmp_path / "two", workers=2)
    assert checksums(tmp_path / "one") == checksums(tmp_path / "two")


def test_a_room_that_cannot_be_repaired_fails_at_the_end(tmp_path: Path) -> None:
    files = aligned_files()
    bad = f"{ALIGNED}/Area_3/hallway_2/Annotations/chair_2.txt"
    files[bad] = files[bad] + b"1 2 3 4 5\n"
    raw = write_tree(tmp_path / "raw", files)
    with pytest.raises(DatasetError, match=r"chair_2.txt:201: found '1 2 3 4 5', expected six"):
        run(raw, tmp_path / "data")
    with pytest.raises(DatasetError, match="found no prepared data"):
        Store.open(tmp_path / "data")
    result = run(raw, tmp_path / "data", allow_incomplete=True)
    assert (result.rooms, result.reused, list(result.failed)) == (4, 4, ["Area_3/hallway_2"])
    (raw / bad).write_bytes(files[bad][:-10])
    result = run(raw, tmp_path / "data")
    assert (result.rooms, result.reused, result.failed) == (5, 4, {})


def test_nothing_to_do_is_quick_and_the_fold_can_change(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", aligned_files())
    run(raw, tmp_path / "data")
    before = (tmp_path / "data" / "area_5.h5").stat().st_mtime_ns
    result = run(raw, tmp_path / "data", test_area=3)
    assert (result.reused, result.test_area) == (5, 3)
    assert (tmp_path / "data" / "area_5.h5").stat().st_mtime_ns == before


def test_the_test_area_stays_until_another_is_asked_for(tmp_path: Path) -> None:
    raw, data = write_tree(tmp_path / "raw", aligned_files()), tmp_path / "data"
    assert run(raw, data).test_area == 5
    for area in (3, 0):
        assert run(raw, data, test_area=area).test_area == area
        assert run(raw, data).test_area == area
    with pytest.raises(ConfigError, match=r"--area: found 4, expected an area of .*: 2, 3, 5, 6,"):
        run(raw, data, test_area=4)
    assert Store.open(data).test_area == 0
    run(raw, data, test_area=3)
    shutil.rmtree(raw / ALIGNED / "Area_3")
    prepare(PrepareConfig(raw=raw, data=data, workers=1), progress=(heard := Ears()))
    assert f"{data}: the test area is 5, it was 3." in heard.warned


def test_an_only_area_is_trained_on_until_there_are_more(tmp_path: Path) -> None:
    hall = {f"Area_{a}/hall_1/Annotations/wall_1.txt": box(9, a) for a in (1, 2)}
    raw, data = write_tree(tmp_path / "raw", dict([*hall.items()][:1])), tmp_path / "data"
    assert run(raw, data).test_area == 0
    write_tree(raw, hall)
    assert run(raw, data).test_area == 2


def test_changed_and_removed_rooms_are_noticed(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", aligned_files())
    run(raw, tmp_path / "data")
    before = checksums(tmp_path / "data")
    (raw / ALIGNED / "Area_5/office_36/Annotations/door_1.txt").write_bytes(box(50, 30))
    shutil.rmtree(raw / ALIGNED / "Area_6")
    result = run(raw, tmp_path / "data")
    after = checksums(tmp_path / "data")
    assert result.reused == 3
    assert {name for name in before if after.get(name) != before[name]} == {
        "5/office_36",
        "6/copyRoom_1",
    }
    store = Store.open(tmp_path / "data")
    assert all(store.read(info).checksum() == info.checksum for info in store.rooms())


def test_a_store_of_other_data_is_replaced_only_when_asked(tmp_path: Path) -> None:
    wall = {f"Area_{a}/hall_1/Annotations/wall_1.txt": box(9, a) for a in range(1, 7)}
    first = write_tree(tmp_path / "first", wall)
    other = write_tree(
        tmp_path / "other", {f"Area_{a}/hall_1/Annotations/door_1.txt": box(7, a) for a in (1, 2)}
    )
    data = tmp_path / "data"
    run(first, data, export="pointnet-h5")
    before = {path: path.read_bytes() for path in data.glob("*.*")}
    with pytest.raises(DatasetError, match=r"first \(6 rooms\), asked for .*other; nothing was"):
        run(other, data)
    assert {path: path.read_bytes() for path in data.glob("*.*")} == before
    run(other, data, replace=True)
    assert sorted(path.name for path in data.iterdir()) == [
        "area_1.h5",
        "area_2.h5",
        "manifest.json",
    ]
    assert class_points(data) == {"door": 14}


def test_other_data_under_the_same_name_is_other_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    for where, points in (("here", 9), ("there", 7)):
        write_tree(
            tmp_path / where / "raw", {"Area_1/hall_1/Annotations/wall_1.txt": box(points, 1)}
        )
    monkeypatch.chdir(tmp_path / "here")
    run(Path("raw"), data)
    monkeypatch.chdir(tmp_path / "there")
    with pytest.raises(DatasetError, match=r"here/raw \(1 room\), asked for raw; nothing was"):
        run(Path("raw"), data)
    assert class_points(data) == {"wall": 9}


def test_other_data_that_shares_a_room_is_other_data(tmp_path: Path) -> None:
    """As a few rooms of a building that were copied with their times."""
    names = ("hall_1", "office_1", "office_2")
    walls = {f"Area_1/{n}/Annotations/wall_1.txt": box(9, i) for i, n in enumerate(names)}
    raw, data = write_tree(tmp_path / "raw", walls), tmp_path / "data"
    run(raw, data)
    before = checksums(data)
    shutil.copytree(raw / "Area_1" / "office_1", tmp_path / "few" / "Area_1" / "office_1")
    with pytest.raises(DatasetError, match=r"raw \(3 rooms\), asked for .*few; nothing was"):
        run(tmp_path / "few", data)
    assert checksums(data) == before
    result = run(tmp_path / "few", data, replace=True)
    assert (result.rooms, result.reused) == (1, 0)
    assert checksums(data) == {"1/office_1": before["1/office_1"]}
    read_all(data)


def test_a_store_of_unknown_origin_is_not_replaced(tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "data")
    raw = write_tree(tmp_path / "raw", {"Area_1/hall_1/Annotations/wall_1.txt": box(9, 1)})
    with pytest.raises(DatasetError, match=r"data of an unknown source \(7 rooms\)"):
        run(raw, store.path)
    assert Store.open(store.path).fingerprint == store.fingerprint


def test_moved_data_is_the_same(tmp_path: Path) -> None:
    raw, data = write_tree(tmp_path / "raw", aligned_files()), tmp_path / "data"
    run(raw, data)
    assert run(raw.rename(tmp_path / "elsewhere"), data).reused == 5


def test_an_area_that_is_gone_leaves_no_file(tmp_path: Path) -> None:
    raw, data = write_tree(tmp_path / "raw", aligned_files()), tmp_path / "data"
    run(raw, data)
    (data / "area_1.h5").write_text("somebody's own file")
    shutil.rmtree(raw / ALIGNED / "Area_6")
    prepare(PrepareConfig(raw=raw, data=data, workers=1), progress=(heard := Ears()))
    (warned,) = [line for line in heard.warned if "no longer has" in line]
    assert warned.startswith(f"{data}: 1 room removed")
    assert warned.endswith(": Area_6/copyRoom_1.")
    assert sorted(path.stem for path in data.glob("*.h5")) == [f"area_{n}" for n in (1, 2, 3, 5)]


def test_killed_at_any_time_it_goes_on_to_the_same_result(tmp_path: Path) -> None:
    files = {
        f"raw/Area_{area}/office_{n}/Annotations/wall_1.txt": box(4000, 10 * area + n)
        for area in (1, 2)
        for n in range(1, 9)
    }
    raw = write_tree(tmp_path, files) / "raw"
    run(raw, tmp_path / "whole")
    code = (
        "from pathlib import Path; from pipelines.config import PrepareConfig;"
        "from pipelines.prepare import prepare;"
        f"prepare(PrepareConfig(raw=Path({str(raw)!r}), data=Path({str(tmp_path / 'cut')!r}),"
        " workers=1))"
    )
    parts = tmp_path / "cut" / ".parts"
    seen = set()
    for wanted in (1, 5, 11):
        process = subprocess.Popen([sys.executable, "-c", code])
        while process.poll() is None and len(list(parts.glob("*/*.json"))) < wanted:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        seen.add(len(list(parts.glob("*/*.json"))))
    assert seen - {0, 16}, "no process was killed in between"
    result = run(raw, tmp_path / "cut")
    assert result.reused > 0
    assert checksums(tmp_path / "cut") == checksums(tmp_path / "whole")
    assert not parts.exists()


def test_what_a_killed_start_was_writing_is_removed(tmp_path: Path) -> None:
    """An area of S3DIS has gigabytes."""
    left = (
        write_tree(
            tmp_path, {"data/.area_5.h5.123.part": b"half", "data/.manifest.json.7.part": b"{"}
        )
        / "data"
    )
    run(write_tree(tmp_path / "raw", aligned_files()), left)
    assert not list(left.glob(".*"))


def test_a_damaged_part_is_made_again(tmp_path: Path) -> None:
    files = aligned_files()
    bad = f"{ALIGNED}/Area_6/copyRoom_1/Annotations/table_1.txt"
    raw = write_tree(tmp_path / "raw", {**files, bad: b"junk\n"})
    with pytest.raises(DatasetError):
        run(raw, tmp_path / "data")
    part = next((tmp_path / "data/.parts/Area_5").glob("*.h5"))
    part.write_bytes(part.read_bytes()[:2000])
    (raw / bad).write_bytes(files[bad])
    assert run(raw, tmp_path / "data").reused == 3
    run(write_tree(tmp_path / "good", files), tmp_path / "expected")
    assert checksums(tmp_path / "data") == checksums(tmp_path / "expected")


def test_a_part_without_its_entry_is_not_used(tmp_path: Path) -> None:
    """As a stop under other options leaves it just after a room's points were written."""
    files = {f"Area_1/hall_1/Annotations/{name}_1.txt": box(9, 1) for name in ("wall", "lamp")}
    raw, data = write_tree(tmp_path / "raw", files), tmp_path / "data"
    run(raw, data)

    bad = write_tree(tmp_path / "bad", {**files, "Area_2/hall_1/Annotations/wall_1.txt": b"junk\n"})
    with pytest.raises(DatasetError):  # so the other room's part stays
        run(bad, tmp_path / "stopped", unknown="ignore")
    part = Path(".parts/Area_1/hall_1.h5")
    (data / part).parent.mkdir(parents=True)
    shutil.copy(tmp_path / "stopped" / part, data / part)
    assert run(raw, data).reused == 1
    read_all(data)
    assert class_points(data) == {"wall": 9, "clutter": 9}


FILLS_THE_DISK = """
from pathlib import Path
from pipelines.config import PrepareConfig
from pipelines.errors import DatasetError
from pipelines.prepare import prepare
try:
    prepare(PrepareConfig(raw=Path("../raw").resolve(), data=Path("data"), workers=1))
except DatasetError as error:
    print(error)
"""


def test_a_full_disk_is_reported_in_two_lines(tmp_path: Path) -> None:
    raw = {"raw/Area_1/hall_1/Annotations/wall_1.txt": box(150_000, 1)}
    disk = write_tree(tmp_path, {**raw, "disk/none": b""}) / "disk"
    first, second = on_a_small_disk(disk, FILLS_THE_DISK).splitlines()
    assert first == "data: the disk is full (No space left on device)."
    assert second.startswith("Finished rooms are kept")


def test_damaged_stores_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    run(write_tree(tmp_path / "raw", aligned_files()), data)
    manifest = (data / "manifest.json").read_text()
    (data / "manifest.json").write_text(manifest.replace('"version": 1', '"version": 99'))
    with pytest.raises(DatasetError, match="found schema 'deepgcn-store' version 99, expected"):
        Store.open(data)
    (data / "manifest.json").write_text(manifest[:100])
    with pytest.raises(DatasetError, match="damaged manifest"):
        Store.open(data)
    (data / "manifest.json").write_text(manifest)
    area = data / "area_5.h5"
    area.write_bytes(area.read_bytes()[:3000])
    store = Store.open(data)
    with pytest.raises(DatasetError, match="damaged or truncated"):
        store.read(store.rooms(5)[0])
    area.unlink()
    with pytest.raises(DatasetError, match="found no file, but"):
        Store.open(data)


def read_all(data: Path) -> None:
    store = Store.open(data)
    for info in store.rooms():
        store.read(info)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def _flip(path: Path) -> None:
    """Change one point's colour where only its checksum tells."""
    with h5py.File(path, "r+") as file:
        color = next(iter(file["rooms"].values()))["color"]
        color[0, 0] ^= 1


@pytest.mark.parametrize(
    ("name", "damage", "again"),
    [
        ("area_5.h5", Path.unlink, True),
        ("area_5.h5", _cut, True),
        ("area_5.h5", _flip, False),
        ("manifest.json", _cut, True),
        ("manifest.json", lambda path: path.write_text("[]"), True),
    ],
)
def test_damaged_stores_are_prepared_again(
    tmp_path: Path, name: str, damage: Callable[[Path], object], again: bool
) -> None:
    raw, data = write_tree(tmp_path / "raw", aligned_files()), tmp_path / "data"
    run(raw, data)
    before = Store.open(data)
    damage(data / name)
    with pytest.raises(DatasetError, match=r"repare again: deepgcn prepare --data "):
        read_all(data)
    if not again:  # prepare itself does not read every point once more
        (data / name).unlink()
    run(raw, data)
    read_all(data)
    assert Store.open(data).fingerprint == before.fingerprint


def test_the_manifest_of_something_else_is_left_alone(tmp_path: Path) -> None:
    raw, data = write_tree(tmp_path / "raw", aligned_files()), tmp_path / "data"
    data.mkdir()
    (data / "manifest.json").write_text('{"schema": "a web page\'s", "rooms": []}')
    with pytest.raises(DatasetError, match="found the manifest of other software"):
        run(raw, data)
    assert "web page" in (data / "manifest.json").read_text()


@pytest.mark.filterwarnings("ignore:.*torch.load.*:FutureWarning")
def test_the_published_form_is_read_by_pyg(tmp_path: Path) -> None:
    from torch_geometric.datasets import S3DIS

    raw = write_tree(tmp_path / "raw", aligned_files())
    result = run(raw, tmp_path / "data", export="pointnet-h5")
    folder = tmp_path / "data/pointnet_h5/indoor3d_sem_seg_hdf5_data"
    assert result.exported == folder
    names = (folder / "room_filelist.txt").read_text().splitlines()
    assert names[0] == "Area_2_auditorium_1"
    with h5py.File(folder / "ply_data_all_0.h5") as file:
        assert file["data"].shape == (len(names), 4096, 9)
        assert file["label"].shape == (len(names), 4096)
        assert (file["data"].dtype, file["label"].dtype) == (np.float32, np.uint8)
        data, label = file["data"][()], file["label"][()]
    # PyG wants the files in <root>/raw; it then neither downloads nor asks.
    shutil.copytree(folder, tmp_path / "pyg" / "raw")
    test = S3DIS(str(tmp_path / "pyg"), test_area=5, train=False)
    expected = [n for n, name in enumerate(names) if name.startswith("Area_5")]
    assert len(test) == len(expected) > 0
    found = np.concatenate([test[0].pos.numpy(), test[0].x.numpy()], axis=1)
    np.testing.assert_array_equal(found, data[expected[0]])
    np.testing.assert_array_equal(test[0].y.numpy(), label[expected[0]])


def test_the_published_form_is_the_same_each_time(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", aligned_files())
    files = []
    for name in ("a", "b"):
        run(raw, tmp_path / name, export="pointnet-h5", seed=3)
        path = tmp_path / name / "pointnet_h5/indoor3d_sem_seg_hdf5_data/ply_data_all_0.h5"
        with h5py.File(path) as file:
            files.append(file["data"][()])
    np.testing.assert_array_equal(*files)


def test_real_scans(tmp_path: Path, real_dir: Path) -> None:
    result = run(real_dir / "scans_s3dis_layout.zip", tmp_path / "data", workers=2)
    assert (result.rooms, result.points) == (15, 687_103)
    assert result.areas == {1: 3, 2: 2, 3: 2, 4: 3, 5: 2, 6: 3}
    manifest = json.loads((tmp_path / "data/manifest.json").read_text())
    absent = [
        c for n, c in enumerate(CLASSES) if not sum(r["counts"][n] for r in manifest["rooms"])
    ]
    assert absent == ["beam", "column", "bookcase", "board"]


def test_a_point_far_off_stops_its_room_alone(tmp_path: Path) -> None:
    files = aligned_files()
    name = f"{ALIGNED}/Area_5/office_36/Annotations/wall_3.txt"
    files[name] += b"1000000 1000000 0 1 2 3\n"
    raw = write_tree(tmp_path / "raw", files)
    with pytest.raises(DatasetError, match=r"office_36: found an extent of 1e\+06 × 1e\+06"):
        run(raw, tmp_path / "data")
    assert list(run(raw, tmp_path / "data", allow_incomplete=True).failed) == ["Area_5/office_36"]


def test_two_at_once_on_one_folder(tmp_path: Path) -> None:
    raw, data = write_tree(tmp_path / "raw", aligned_files()), tmp_path / "data"
    with (
        hold_alone(data / ".lock", data, "."),
        pytest.raises(
            DatasetError, match=rf"data: another .*\(process {os.getpid()} on .*\n.*--data"
        ),
    ):
        prepare(PrepareConfig(raw=raw, data=data, workers=1))
    prepare(PrepareConfig(raw=raw, data=data, workers=1))
    assert not [path for path in data.iterdir() if path.name.startswith(".")]
