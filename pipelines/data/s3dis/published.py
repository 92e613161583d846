"""The published HDF5 form of S3DIS: blocks of 4,096 drawn points, as PointNet released it.

    indoor3d_sem_seg_hdf5_data/
        ply_data_all_<i>.h5    data (M, 4096, 9) float32, label (M, 4096) uint8, M ≤ 1000
        all_files.txt          one line a file: indoor3d_sem_seg_hdf5_data/ply_data_all_<i>.h5
        room_filelist.txt      one line a block: Area_<k>_<room>

A block's channels are x and y from its middle and z from the floor | r, g, b from 0 to 1 | x, y, z
divided by the room's maximum. So the room's size follows from how far its points are apart in the
first and in the last three, and a point that several blocks have drawn has the same last six.

Reference:
    Qi et al., PointNet, CVPR 2017; `gen_indoor3d_h5.py` of its code.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath

import numpy as np

from pipelines.data.blocks import block_features, block_points, draw, room_blocks
from pipelines.data.hdf5 import atomic_hdf5, open_hdf5, own_array
from pipelines.data.store import IGNORED, UNREADABLE, Room, Store, make_room
from pipelines.errors import DatasetError
from pipelines.files import atomic_text, atomic_write
from pipelines.progress import Progress, counted

from . import CLASS_COLORS, CLASSES, PUBLISHED_ROOMS
from .raw import (
    LARGEST_FILE,
    LARGEST_RATIO,
    READ_ERRORS,
    RawFile,
    RoomFiles,
    check_ratio,
    natural,
    open_zip,
    opened,
)
from .rooms import RoomNotes

FILES, ROOMS = "all_files.txt", "room_filelist.txt"
LARGEST_LIST = 1 << 24  # bytes; the published one has 0.5 MB
PER_FILE = 1000  # blocks
BLOCK_BYTES = 4096 * 37  # of a block, for the progress
TOLERANCE = 0.01  # m, by which positions that the channels give twice may differ
_MISSING: tuple[type[Exception], ...] = (*READ_ERRORS, KeyError)
_PART = re.compile(r"(?:.*/)?ply_data_all_\d+\.h5")
_ROOM = re.compile(r"Area_([1-6])_(\w[\w .-]*)")


@dataclass(frozen=True)
class PublishedDataset:
    """The published blocks, by room."""

    source: Path  # a folder or a zip
    root: str  # the folder within it
    folder: Path  # with the HDF5 files: of `source`, or where they are unpacked
    files: tuple[RawFile, ...]  # in their order
    rooms: tuple[RoomFiles, ...]
    blocks: Mapping[tuple[int, str], tuple[range, ...]]  # a room's, numbered over all files
    total: int  # blocks of all rooms
    rotated: bool = False  # this and the rest as of `RawDataset`
    classes: tuple[str, ...] = CLASSES
    class_colors: tuple[tuple[int, int, int], ...] = CLASS_COLORS
    published: int = sum(PUBLISHED_ROOMS.values())
    test_area: int | None = None
    digest: str = ""
    frame: str = "published"

    @property
    def note(self) -> str:
        """What the form does not tell."""
        return (
            f"rooms are put together from {counted(self.total, 'block')} of drawn points; points "
            "that no block has drawn are missing, so score with --protocol block-s1 or block-s05"
        )

    def unpacked(self, scratch: Path, progress: Progress) -> PublishedDataset:
        """Return the data set with the HDF5 files of a zip unpacked below `scratch`."""
        if self.source.is_dir():
            return self
        folder = scratch / f"unpacked-{self.rooms[0].files[0].stamp[:16]}"
        size = sum(file.size for file in self.files)
        folder.mkdir(parents=True, exist_ok=True)
        with (
            progress.task("Unpacking", total=size / 1e6, unit="MB") as task,
            opened(self.source) as open_file,
        ):
            for file in self.files:
                path = folder / file.name
                if not path.is_file():
                    self._unpack(open_file, file, path)
                task.advance(file.size / 1e6)
        return replace(self, folder=folder)

    def _unpack(self, open_file: Callable, file: RawFile, path: Path) -> None:
        try:
            with (
                open_file(f"{self.root}{file.name}") as packed,
                atomic_write(path) as temporary,
                temporary.open("wb") as copy,
            ):
                shutil.copyfileobj(packed, copy, 1 << 22)
        except READ_ERRORS as error:
            if isinstance(error, OSError):
                raise
            raise DatasetError(
                f"{self.source}: {file.name} cannot be unpacked: {error}.\n"
                "Download the archive again."
            ) from error


def find_published(path: Path) -> PublishedDataset | None:
    """Find the published form in a zip, or in a folder or up to two below it; None: it has none."""
    if path.is_dir():
        found = [*path.glob(ROOMS), *path.glob(f"*/{ROOMS}"), *path.glob(f"*/*/{ROOMS}")]
        folder = found[0].parent if found else path
        root, files = "", {file.name: RawFile.of(file, file.name) for file in folder.glob("*.h5")}
        source, names = folder, [file.name for file in path.glob("*/*.h5")] + list(files)
    elif path.suffix.lower() == ".zip" and path.is_file():
        with open_zip(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
        found = [Path(name) for name in entries if PurePosixPath(name).name == ROOMS]
        root = found[0].as_posix().removesuffix(ROOMS) if found else ""
        files = {
            name.removeprefix(root): RawFile(name.removeprefix(root), e.file_size, f"{e.CRC:08x}")
            for name, e in entries.items()
            if name.startswith(root) and name.endswith(".h5") and "/" not in name[len(root) :]
        }
        for name, file in files.items():
            check_ratio(path, file, entries[root + name].compress_size)
        source, folder, names = path, path, list(entries)
    else:
        return None
    if not found:
        _check_incomplete(path, names)
        return None
    with opened(source) as open_file:
        lists = [_lines(source, open_file, root + name) for name in (FILES, ROOMS)]
    ordered = [_file(source, files, PurePosixPath(line).name) for line in lists[0]]
    return _group(source, root, folder, tuple(ordered), lists[1])


def _check_incomplete(path: Path, files: Iterable[str]) -> None:
    """Raise DatasetError if there are HDF5 files of the published form, but not the list."""
    parts = [name for name in files if _PART.fullmatch(name)]
    if parts:
        raise DatasetError(
            f"{path}: found {parts[0]} without {ROOMS}, which tells the room of each block.\n"
            "Copy or download the data again, or give the folder that holds both."
        )


def _lines(source: Path, open_file: Callable, name: str) -> list[str]:
    try:
        with open_file(name) as stream:
            lines = stream.read(LARGEST_LIST).decode("utf-8", "replace").split("\n")
            return [name for line in lines if (name := line.strip())]  # which may have spaces
    except _MISSING as error:
        raise DatasetError(
            f"{source}: {name} cannot be read ({error}), expected the list of the published form."
            "\nCopy or download the data again."
        ) from error


def _file(source: Path, files: Mapping[str, RawFile], name: str) -> RawFile:
    if name not in files or files[name].size > LARGEST_FILE:
        raise DatasetError(
            f"{source}: found no {name} of at most {LARGEST_FILE:,} bytes, which {FILES} lists.\n"
            "Copy or download the data again."
        )
    return files[name]


def _group(
    source: Path, root: str, folder: Path, files: tuple[RawFile, ...], names: list[str]
) -> PublishedDataset:
    """Sort blocks by the room that each is of."""
    blocks: dict[tuple[int, str], list[range]] = {}
    start = 0
    for stop in range(1, len(names) + 1):
        if stop < len(names) and names[stop] == names[start]:
            continue
        match = _ROOM.fullmatch(names[start])
        if match is None:
            raise DatasetError(
                f"{source}: {ROOMS}:{start + 1}: found {names[start][:60]!r}, expected a room as "
                "Area_1_office_1."
            )
        blocks.setdefault((int(match[1]), match[2]), []).append(range(start, stop))
        start = stop
    stamp = hashlib.sha256(repr(files).encode()).hexdigest()
    rooms = []
    for (area, name), parts in sorted(blocks.items(), key=lambda e: (e[0][0], natural(e[0][1]))):
        size = BLOCK_BYTES * sum(map(len, parts))
        rooms.append(RoomFiles(area, name, (RawFile("blocks", size, f"{stamp} {parts}"),)))
    found = {key: tuple(parts) for key, parts in blocks.items()}
    return PublishedDataset(source, root, folder, files, tuple(rooms), found, len(names))


def read_published_room(dataset: PublishedDataset, raw: RoomFiles) -> tuple[Room, RoomNotes]:
    """Put a room together from the points that its blocks have drawn, each once."""
    where = f"{dataset.source}: Area_{raw.area}/{raw.name}"
    data, label = _read_blocks(dataset, raw)
    inside = (data[..., 3:] >= -1e-3) & (data[..., 3:] <= 1.001)  # not NaN, too
    if not (np.isfinite(data).all() and inside.all()):
        raise DatasetError(f"{where}: found colours or room positions beyond 0 to 1.")
    size = _room_size(where, data)
    rows = np.concatenate([data[..., 6:], data[..., 3:6], label[..., None]], axis=2)
    rows = np.ascontiguousarray(rows.reshape(-1, 7), np.float32)
    each = np.unique(rows.view(np.dtype((np.void, rows.itemsize * 7))))
    rows = each.view(np.float32).reshape(-1, 7)
    pos = np.maximum(rows[:, :3].astype(np.float64) * size, 0)
    color = np.clip(np.rint(rows[:, 3:6] * 255), 0, 255).astype(np.uint8)
    found = rows[:, 6].astype(np.uint8)
    room = make_room(raw.area, raw.name, pos, color, found, origin=np.zeros(3))
    return room, RoomNotes(unlabelled=int((found == IGNORED).sum()))


def _read_blocks(dataset: PublishedDataset, raw: RoomFiles) -> tuple[np.ndarray, np.ndarray]:
    """Return the data (B, n, 9) float32 and label (B, n) of a room's blocks."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    first = 0
    for file in dataset.files:
        path = dataset.folder / file.name
        try:
            with open_hdf5(path) as opened_file:
                data = own_array(opened_file, "data", most=LARGEST_RATIO)
                label = own_array(opened_file, "label")
                if data.ndim != 3 or data.shape[2] != 9 or label.shape != data.shape[:2]:
                    raise ValueError(f"data {data.shape} and label {label.shape}")
                if first + len(data) > dataset.total:
                    raise _other_count(dataset, first + len(data))
                for part in dataset.blocks[raw.area, raw.name]:
                    start, stop = max(part.start - first, 0), min(part.stop - first, len(data))
                    if start < stop:
                        found.append((data[start:stop], label[start:stop]))
                        _check_labels(f"{dataset.source}: {file.name}", raw, found[-1][1])
                first += len(data)
        except UNREADABLE as error:
            raise DatasetError(
                f"{path}: found no published blocks ({str(error).splitlines()[0]}), expected data "
                "(M, 4096, 9) and label (M, 4096).\nCopy or download the file again."
            ) from error
    if first != dataset.total:
        raise _other_count(dataset, first)
    datas, labels = zip(*found, strict=True)
    return np.concatenate(datas).astype(np.float32, copy=False), np.concatenate(labels)


def _check_labels(where: str, raw: RoomFiles, label: np.ndarray) -> None:
    """Refuse labels of no class; they may be of any type of numbers."""
    wrong = label[~np.isin(label, [*range(len(CLASSES)), IGNORED])]
    if len(wrong):
        raise DatasetError(
            f"{where}: found the label {wrong[0]} in Area_{raw.area}/{raw.name}, expected 0 to "
            f"{len(CLASSES) - 1}, or {IGNORED} for none.\nCopy or download the file again."
        )


def _other_count(dataset: PublishedDataset, found: int) -> DatasetError:
    return DatasetError(
        f"{dataset.source}: found {counted(found, 'block')} in the files of {FILES}, expected "
        f"{dataset.total:,}, the lines of {ROOMS}.\nCopy or download the data again."
    )


def _room_size(where: str, data: np.ndarray) -> np.ndarray:
    """Return the room's maximum (3,) float64, m, from the blocks (B, n, 9) of its points."""
    block, room = data[..., :3].astype(np.float64), data[..., 6:].astype(np.float64)
    block -= block.mean(axis=1, keepdims=True)
    room -= room.mean(axis=1, keepdims=True)
    spread = (room**2).sum(axis=(0, 1))
    size = (block * room).sum(axis=(0, 1)) / np.where(spread > 0, spread, 1)
    off = float(np.abs(block - size * room).max())
    if off > TOLERANCE:
        raise DatasetError(
            f"{where}: found positions in the block and in the room that differ by {off:.2g} m, "
            "expected channels as PointNet's: block x y z, r g b, room x y z."
        )
    return size


def export_pointnet_h5(
    store: Store, out: Path, *, seed: int, done: Callable[[], None] = lambda: None
) -> Path:
    """Write fixed blocks of all rooms in the published form, which PyG reads; return its folder.

    A room's draws follow from the seed and its name alone. One file's blocks are in memory. The
    folder is `indoor3d_sem_seg_hdf5_data` below `out`. The lists of an earlier export go first and
    come last, so that none names files of both.
    """

    def frozen() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for info in store.rooms():
            room = store.read(info)
            rng = np.random.default_rng([seed, room.area, zlib.crc32(room.name.encode())])
            for block in room_blocks(room.grid, stride=0.5):
                points = block_points(block)[draw(block.count, 4096, rng)]
                pos, color = room.pos[points], room.color[points]
                features = block_features(pos, color, block.corner, room.extent)
                yield f"Area_{room.area}_{room.name}\n", features, room.label[points]
            done()

    folder = out / "indoor3d_sem_seg_hdf5_data"
    for name in (ROOMS, FILES):
        (folder / name).unlink(missing_ok=True)
    blocks = frozen()
    rooms: list[str] = []
    files: list[str] = []
    while part := list(islice(blocks, PER_FILE)):
        names, features, labels = zip(*part, strict=True)
        path = folder / f"ply_data_all_{len(files)}.h5"
        with atomic_hdf5(path) as file:
            file.create_dataset("data", data=np.stack(features))
            file.create_dataset("label", data=np.stack(labels))
        files.append(f"{folder.name}/{path.name}\n")
        rooms += names
    written = {PurePosixPath(line.strip()).name for line in files}
    for path in folder.glob("*.h5"):
        if _PART.fullmatch(path.name) and path.name not in written:  # of a larger export
            path.unlink()
    atomic_text(folder / FILES, "".join(files))
    atomic_text(folder / ROOMS, "".join(rooms))
    return folder
