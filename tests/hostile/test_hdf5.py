"""HDF5 files with links, other files' data, sizes that lie, filters that are plug-ins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from pipelines.data.s3dis.published import find_published, read_published_room
from pipelines.data.store import read_rooms, write_rooms
from pipelines.errors import DatasetError
from tests.tiny_store import tiny_room

SHAPE = (1, 8, 9)
BLOCK = np.tile(np.linspace(0, 1, 8, dtype="f4")[:, None], 9)[None]
Change = Callable[[h5py.Group, str, Path], None]  # puts an array of a name into a group


def external_link(group: h5py.Group, name: str, other: Path) -> None:
    group[name] = h5py.ExternalLink(str(other), "data")


def soft_link(group: h5py.Group, name: str, _other: Path) -> None:
    group["elsewhere"] = BLOCK
    group[name] = h5py.SoftLink(f"{group.name}/elsewhere")


def circle(group: h5py.Group, name: str, _other: Path) -> None:
    group[name] = h5py.SoftLink(f"{group.name}/{name}")


def external_data(group: h5py.Group, name: str, other: Path) -> None:
    group.create_dataset(name, SHAPE, "f4", external=[(str(other), 0, BLOCK.nbytes)])


def virtual(group: h5py.Group, name: str, other: Path) -> None:
    layout = h5py.VirtualLayout(SHAPE, "f4")
    layout[:] = h5py.VirtualSource(str(other), "data", SHAPE)
    group.create_virtual_dataset(name, layout)


def huge(group: h5py.Group, name: str, _other: Path) -> None:
    group.create_dataset(name, (10**9, 4096, 9), "f4", chunks=SHAPE)


def zeros(group: h5py.Group, name: str, _other: Path) -> None:
    group.create_dataset(name, data=np.zeros((1, 1 << 16, 9), "f4"), compression="gzip")


def texts(group: h5py.Group, name: str, _other: Path) -> None:
    group[name] = ["a"]


def a_group(group: h5py.Group, name: str, _other: Path) -> None:
    group.create_group(name)


def plug_in(group: h5py.Group, name: str, _other: Path) -> None:
    kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kept.set_chunk(SHAPE)
    kept.set_filter(32004, h5py.h5z.FLAG_OPTIONAL, (1,))
    space = h5py.h5s.create_simple(SHAPE)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.IEEE_F32LE, space, kept)
    group[name].id.write_direct_chunk((0, 0, 0), b"abc", 0)


CHANGES = (
    *(
        external_link,
        soft_link,
        circle,
        external_data,
        virtual,
        huge,
        zeros,
        texts,
        a_group,
        plug_in,
    ),
)


@pytest.fixture
def other(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["data"] = BLOCK
    return tmp_path / "other.h5"


@pytest.mark.parametrize("change", CHANGES)
def test_published_blocks(change: Change, other: Path) -> None:
    folder = other.parent
    (folder / "all_files.txt").write_text("ply_data_all_0.h5\n")
    (folder / "room_filelist.txt").write_text("Area_1_office_1\n")
    with h5py.File(folder / "ply_data_all_0.h5", "w") as file:
        change(file, "data", other)
        file["label"] = np.zeros(SHAPE[:2], "u1")
    dataset = find_published(folder)
    assert dataset is not None
    with pytest.raises(DatasetError, match="found no published blocks"):
        read_published_room(dataset, dataset.rooms[0])


def test_more_blocks_than_are_listed_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "all_files.txt").write_text("ply_data_all_0.h5\n")
    (tmp_path / "room_filelist.txt").write_text("Area_1_office_1\n")
    with h5py.File(tmp_path / "ply_data_all_0.h5", "w") as file:
        file["data"], file["label"] = np.tile(BLOCK, (2, 1, 1)), np.zeros((2, 8), "u1")
    dataset = find_published(tmp_path)
    assert dataset is not None
    with pytest.raises(DatasetError, match=r"found 2 blocks in the files of .*, expected 1"):
        read_published_room(dataset, dataset.rooms[0])


@pytest.mark.parametrize("change", CHANGES)
def test_rooms_of_a_store(change: Change, other: Path) -> None:
    path = other.with_name("area_1.h5")
    write_rooms(path, [tiny_room(1, 1, 4)])
    assert len(list(read_rooms(path))) == 1
    with h5py.File(path, "a") as file:
        del file["rooms/office_1/pos"]
        change(file["rooms/office_1"], "pos", other)
    with pytest.raises(DatasetError, match="damaged or truncated"):
        list(read_rooms(path))


def test_a_room_in_another_file(tmp_path: Path) -> None:
    path, other = tmp_path / "area_1.h5", tmp_path / "other.h5"
    for each in (path, other):
        write_rooms(each, [tiny_room(1, 1, 4)])
    with h5py.File(path, "a") as file:
        del file["rooms"]
        file["rooms"] = h5py.ExternalLink(str(other), "rooms")
    with pytest.raises(DatasetError, match="office_1 lies in another file"):
        list(read_rooms(path))


def test_a_text_from_which_hdf5_does_not_return_is_not_read(tmp_path: Path) -> None:
    """One byte of the length of the schema's name, found by the fuzzer."""
    path = tmp_path / "area_1.h5"
    write_rooms(path, [tiny_room(1, 1, 4)])
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b"GCOL") + 24] = 1
    path.write_bytes(damaged)
    code = (
        "import sys\nfrom pathlib import Path\nfrom pipelines.data.store import read_rooms\n"
        "print(*(room.name for room in read_rooms(Path(sys.argv[1]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "office_1\n", done.stderr


@pytest.mark.parametrize("where", ["/", "rooms/office_1"])
def test_numbers_that_are_texts_are_refused(where: str, tmp_path: Path) -> None:
    path = tmp_path / "area_1.h5"
    write_rooms(path, [tiny_room(1, 1, 4)])
    with h5py.File(path, "a") as file:
        file[where].attrs["version" if where == "/" else "nx"] = "1"
    with pytest.raises(DatasetError, match="is no number"):
        list(read_rooms(path))
