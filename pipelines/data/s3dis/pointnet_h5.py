"""The published HDF5 form of S3DIS: frozen blocks, as PointNet released them and PyG reads them.

indoor3d_sem_seg_hdf5_data/
    ply_data_all_<i>.h5    data (M, 4096, 9) float32, label (M, 4096) uint8, 1000 blocks each
    all_files.txt          one line a file: indoor3d_sem_seg_hdf5_data/ply_data_all_<i>.h5
    room_filelist.txt      one line a block: Area_<k>_<room>
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np

from pipelines.data.blocks import block_features, block_points, draw, room_blocks
from pipelines.data.store import Room, Store
from pipelines.files import atomic_text, atomic_write

FOLDER = "indoor3d_sem_seg_hdf5_data"
BLOCKS_PER_FILE = 1000
POINTS = 4096
STRIDE = 0.5  # m


def export_pointnet_h5(
    store: Store, out: Path, *, seed: int, done: Callable[[Room], None] = lambda _room: None
) -> Path:
    """Write every block of the store below `out`, by areas and rooms; return the folder written.

    A room's draws follow from the seed and its name alone. One file's blocks are in memory.
    """
    folder = out / FOLDER
    files: list[str] = []
    names: list[str] = []
    waiting: list[tuple[np.ndarray, np.ndarray]] = []
    for info in store.rooms():
        room = store.read(info)
        for block in _frozen_blocks(room, seed):
            waiting.append(block)
            names.append(f"Area_{room.area}_{room.name}")
            if len(waiting) == BLOCKS_PER_FILE:
                files.append(_write_file(folder, len(files), waiting))
                waiting.clear()
        done(room)
    if waiting:
        files.append(_write_file(folder, len(files), waiting))
    atomic_text(folder / "all_files.txt", "".join(f"{FOLDER}/{name}\n" for name in files))
    atomic_text(folder / "room_filelist.txt", "".join(f"{name}\n" for name in names))
    return folder


def _frozen_blocks(room: Room, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield features (4096, 9) float32 and labels (4096,) uint8 of a room's blocks."""
    rng = np.random.default_rng([seed, room.area, zlib.crc32(room.name.encode())])
    for block in room_blocks(room.grid, stride=STRIDE):
        points = block_points(block)[draw(block.count, POINTS, rng)]
        pos, color = room.pos[points], room.color[points]
        yield block_features(pos, color, block.corner, room.extent), room.label[points]


def _write_file(folder: Path, number: int, blocks: list[tuple[np.ndarray, np.ndarray]]) -> str:
    name = f"ply_data_all_{number}.h5"
    with atomic_write(folder / name) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("data", data=np.stack([features for features, _ in blocks]))
        file.create_dataset("label", data=np.stack([label for _, label in blocks]))
    return name
