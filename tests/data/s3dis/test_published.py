"""The published HDF5 form as input; blocks are made here by the formulas of PointNet's code."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.config import EvalConfig, PrepareConfig
from pipelines.data.blocks import room_blocks
from pipelines.data.s3dis.published import export_pointnet_h5, find_published
from pipelines.data.store import Room, Store
from pipelines.errors import DatasetError
from pipelines.evaluate import evaluate
from pipelines.prepare import prepare
from tests.ears import Ears
from tests.raw_tree import box, run, write_tree, write_zip
from tests.tiny_training import run_as, tiny_config

POINTS = 512  # of a block, 4,096 in the published files


def raw_room(seed: int) -> np.ndarray:
    """Return rows x y z r g b label, metres from the room's minimum, of a floor and a wall."""
    rng = np.random.default_rng(seed)
    floor, wall = rng.random((2500, 3)) * (3.2, 2.3, 0.1), rng.random((1500, 3)) * (3.2, 0.1, 2.5)
    pos = np.concatenate([floor, wall])
    pos = np.round(pos - pos.min(axis=0), 3)
    return np.column_stack(
        [pos, rng.integers(0, 256, (len(pos), 3)), np.repeat([1, 2], [2500, 1500])]
    )


def pointnet_blocks(rows: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data (B, n, 9), label (B, n) and the rows that were drawn, as PointNet's code does."""
    rng = np.random.default_rng(seed)
    limit, data, label, drawn = rows[:, :3].max(axis=0), [], [], []
    for x in 0.5 * np.arange(np.ceil((limit[0] - 1) / 0.5) + 1):
        for y in 0.5 * np.arange(np.ceil((limit[1] - 1) / 0.5) + 1):
            inside = (rows[:, 0] >= x) & (rows[:, 0] <= x + 1)
            inside &= (rows[:, 1] >= y) & (rows[:, 1] <= y + 1)
            if inside.sum() < 100:
                continue
            chosen = rng.choice(np.flatnonzero(inside), POINTS)
            part = rows[chosen]
            pos = part[:, :3].copy()
            pos[:, 0] -= pos[:, 0].min() + 0.5  # of the points that were drawn
            pos[:, 1] -= pos[:, 1].min() + 0.5
            data.append(np.concatenate([pos, part[:, 3:6] / 255, part[:, :3] / limit], axis=1))
            label.append(part[:, 6])
            drawn.append(chosen)
    return np.array(data, np.float32), np.array(label, np.uint8), np.unique(np.concatenate(drawn))


@pytest.fixture
def rooms() -> dict[str, np.ndarray]:
    return {f"Area_{a}_office_{n}": raw_room(10 * a + n) for a in (1, 2) for n in (1, 2)}


@pytest.fixture
def folder(tmp_path: Path, rooms: dict[str, np.ndarray]) -> Path:
    """The published form in two files; the second begins within a room."""
    path = tmp_path / "indoor3d_sem_seg_hdf5_data"
    path.mkdir()
    names, data, label = [], [], []
    for seed, (name, rows) in enumerate(rooms.items()):
        blocks, labels, _ = pointnet_blocks(rows, seed)
        names += [name] * len(blocks)
        data.append(blocks)
        label.append(labels)
    half = len(names) // 2 + 3
    for number, part in enumerate((slice(0, half), slice(half, None))):
        with h5py.File(path / f"ply_data_all_{number}.h5", "w") as file:
            for key, values in (("data", data), ("label", label)):
                file.create_dataset(
                    key, data=np.concatenate(values)[part], compression="gzip", chunks=True
                )
    lines = [f"indoor3d_sem_seg_hdf5_data/ply_data_all_{n}.h5\n" for n in (0, 1)]
    (path / "all_files.txt").write_text("".join(lines))
    (path / "room_filelist.txt").write_text("".join(f"{name}\n" for name in names))
    return path


def rows_of(room: Room) -> set[tuple[float, ...]]:
    pos = np.round(room.pos.astype(np.float64) + room.origin, 3)
    return {(*p, *c, n) for p, c, n in zip(pos, room.color, room.label, strict=True)}


def test_rooms_have_every_drawn_point_once(
    folder: Path, tmp_path: Path, rooms: dict[str, np.ndarray]
) -> None:
    result = run(folder, tmp_path / "data")
    assert result.areas == {1: 2, 2: 2}
    store = Store.open(tmp_path / "data")
    assert store.drawn
    for seed, (name, rows) in enumerate(rooms.items()):
        (info,) = [r for r in store.rooms() if f"Area_{r.area}_{r.name}" == name]
        room = store.read(info)
        blocks, _, drawn = pointnet_blocks(rows, seed)
        assert rows_of(room) == {tuple(map(float, row)) for row in rows[drawn]}
        assert len(room.pos) == len(np.unique(rows[drawn], axis=0))
        np.testing.assert_allclose(room.extent, rows[drawn, :3].max(axis=0), atol=1e-4)
        assert len(room_blocks(room.grid, stride=0.5, min_points=1)) == len(blocks)


def test_a_zip_gives_the_same_and_is_read_once(folder: Path, tmp_path: Path) -> None:
    files = {f"indoor3d_sem_seg_hdf5_data/{p.name}": p.read_bytes() for p in folder.iterdir()}
    run(folder, tmp_path / "one")
    zipped = write_zip(tmp_path / "published.zip", files)
    run(zipped, tmp_path / "two")
    stores = [Store.open(tmp_path / name) for name in ("one", "two")]
    assert stores[0].fingerprint == stores[1].fingerprint
    assert run(zipped, tmp_path / "two").reused == 4
    assert not (tmp_path / "two" / ".parts").exists()


def test_block_protocols_score_it_and_room_is_said_to_be_partial(
    folder: Path, tmp_path: Path, rooms: dict[str, np.ndarray]
) -> None:
    run(folder, tmp_path / "data", test_area=2)
    store = Store.open(tmp_path / "data")
    trained = run_as(tiny_config(store, tmp_path / "runs"), "r", max_steps=2)
    config = EvalConfig(
        run_dirs=(trained.path,), protocols=("block-s1", "block-s05"), pictures=False
    )
    ears = Ears()
    found = evaluate(config, progress=ears).results
    drawn = [rows[pointnet_blocks(rows, seed)[2]] for seed, rows in enumerate(rooms.values())]
    assert found[1].blocks == sum(len(pointnet_blocks(rows, 0)[0]) for rows in drawn[2:])
    assert not any("these have drawn" in note for each in found for note in each.report.notes)
    assert not any("these have drawn" in said for said in ears.warned)
    every = EvalConfig(run_dirs=(trained.path,), pictures=False)
    (room,) = evaluate(every, progress=ears).results
    assert any("these have drawn" in said for said in ears.warned)
    assert any("only the points that these have drawn" in note for note in room.report.notes)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "ply_data_all_1.h5").unlink(), "found no ply_data_all_1.h5"),
        (lambda p: (p / "all_files.txt").unlink(), "all_files.txt cannot be read"),
        (
            lambda p: (p / "room_filelist.txt").unlink(),
            r"found ply_data_all_\d+.h5 without room_filelist.txt",
        ),
        (
            lambda p: (p / "room_filelist.txt").write_text("Area_1_office_1\n"),
            r"blocks in the files of all_files.txt, expected 1",
        ),
        (
            lambda p: (p / "room_filelist.txt").write_text("Area_1_../../x\n"),
            r"room_filelist.txt:1: found 'Area_1_../../x'",
        ),
        (lambda p: (p / "ply_data_all_0.h5").write_bytes(b"junk"), "found no published blocks"),
    ],
)
def test_damage_is_said(folder: Path, tmp_path: Path, damage: object, message: str) -> None:
    damage(folder)  # type: ignore[operator]
    with pytest.raises(DatasetError, match=message):
        run(folder, tmp_path / "data")


@pytest.mark.parametrize(("wrong", "kind"), [(np.nan, "f4"), (1.5, "f4"), (-2, "i4"), (13, "u1")])
def test_labels_of_no_class_are_refused(
    folder: Path, tmp_path: Path, wrong: float, kind: str
) -> None:
    with h5py.File(folder / "ply_data_all_1.h5", "r+") as file:
        label = file["label"][()].astype(kind)
        label[-1, 7] = 255  # of no class, but allowed
        label[-1, 8] = wrong
        del file["label"]
        file["label"] = label
    found = rf"ply_data_all_1\.h5: found the label {wrong} in Area_2/office_2, expected 0 to 12,"
    with pytest.raises(DatasetError, match=found):
        run(folder, tmp_path / "data")


def test_names_with_spaces_are_read_as_they_were_exported(tmp_path: Path) -> None:
    names = ("office 1", "Büro 2")
    files = {f"Area_1/{name}/Annotations/wall_1.txt": box(3000, 1) for name in names}
    run(write_tree(tmp_path / "raw", files), tmp_path / "a", export="pointnet-h5")
    run(tmp_path / "a" / "pointnet_h5", tmp_path / "b")
    assert {room.name for room in Store.open(tmp_path / "b").rooms()} == {*names}


def test_it_is_found_in_the_current_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    found = prepare(PrepareConfig(data=tmp_path / "data"))
    assert found.rooms == run(folder, tmp_path / "again").rooms


def test_a_zip_without_its_list(folder: Path, tmp_path: Path) -> None:
    (folder / "room_filelist.txt").unlink()
    files = {f"{folder.name}/{path.name}": path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(DatasetError, match=r"without room_filelist\.txt"):
        run(write_zip(tmp_path / "a.zip", files), tmp_path / "data")


def test_a_size_without_bytes_allocates_nothing(folder: Path, tmp_path: Path) -> None:
    path = folder / "ply_data_all_0.h5"
    path.unlink()
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (10**9, 4096, 9), np.float32, chunks=(1, 4096, 9))
        file.create_dataset("label", (10**9, 4096), np.uint8, chunks=(1, 4096))
    with pytest.raises(DatasetError, match="is cut off"):
        run(folder, tmp_path / "data")


def test_an_export_that_was_stopped_is_no_data(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one would otherwise be a mixture of its own blocks and those of the first."""
    run(folder, tmp_path / "data")
    store, out = Store.open(tmp_path / "data"), tmp_path / "h5"
    monkeypatch.setattr("pipelines.data.s3dis.published.PER_FILE", 30)

    def stop() -> None:
        raise KeyboardInterrupt

    exported = export_pointnet_h5(store, out, seed=0)
    assert find_published(out) is not None
    with pytest.raises(KeyboardInterrupt):
        export_pointnet_h5(store, out, seed=1, done=stop)
    with pytest.raises(DatasetError, match=r"found ply_data_all_\d.h5 without room_filelist.txt"):
        find_published(out)
    (exported / "ply_data_all_99.h5").write_bytes(b"of a larger export")
    export_pointnet_h5(store, out, seed=1)
    found = find_published(out)
    assert found is not None
    listed = {file.name for file in found.files}
    assert {path.name for path in exported.glob("*.h5")} == listed
    assert len(listed) > 2


def test_other_channels_are_refused(folder: Path, tmp_path: Path) -> None:
    with h5py.File(folder / "ply_data_all_0.h5", "r+") as file:
        file["data"][:, :, 0] *= 0.5 + np.linspace(0, 1, file["data"].shape[0])[:, None]
    with pytest.raises(DatasetError, match="expected channels as PointNet's"):
        run(folder, tmp_path / "data")


@pytest.mark.slow
def test_real_rooms_exported_and_read_again(real_dir: Path, tmp_path: Path) -> None:
    run(real_dir / "scans_s3dis_layout.zip", tmp_path / "raw", export="pointnet-h5")
    shutil.move(tmp_path / "raw/pointnet_h5", tmp_path / "h5")
    run(tmp_path / "h5", tmp_path / "data")
    raw, again = Store.open(tmp_path / "raw"), Store.open(tmp_path / "data")
    assert [(r.area, r.name) for r in again.rooms()] == [(r.area, r.name) for r in raw.rooms()]
    for before, after in zip(raw.rooms(), again.rooms(), strict=True):
        whole, drawn = raw.read(before), again.read(after)
        points = [
            {(*np.round(p, 3), *c, n) for p, c, n in zip(r.pos, r.color, r.label, strict=True)}
            for r in (whole, drawn)
        ]
        missing = len(points[1] - points[0]) / len(points[1])
        assert missing < 0.002  # rounded to another millimetre
        assert len(drawn.pos) > 0.97 * len(points[0])  # 4,096 draws of about 1,500 points
