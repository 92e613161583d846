"""Zip files that lie: bombs, entries over one another, other places, links, foreign features."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.config import ModelConfig
from pipelines.data.s3dis.published import find_published
from pipelines.data.s3dis.raw import find_raw
from pipelines.data.s3dis.rooms import read_raw_room
from pipelines.data.synthetic.meshes import read_library
from pipelines.errors import DeepGCNError
from pipelines.files import check_apart
from pipelines.model.deepgcn import DeepGCN
from pipelines.scans import open_scan
from pipelines.training.checkpoint import TrainingState
from pipelines.weights.sources import inspect_weights
from tests.raw_tree import box, write_zip

ROOM = "Area_1/office_1/Annotations/{}_1.txt"
LOCAL, CENTRAL, END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
END_64 = b"PK\x06\x06"
# An archive of several disks with 64-bit positions: its locator says that there are two.
DISKS = b"PK\x06\x07" + bytes(12) + b"\2\0\0\0"


def read_raw(path: Path) -> None:
    find_published(path)
    dataset = find_raw(path)
    for room in dataset.rooms:
        read_raw_room(dataset, room)


def raw(path: Path) -> bytes:
    return write_zip(path, {ROOM.format(n): box(20, 1) for n in ("wall", "floor")}).read_bytes()


def weights(path: Path) -> bytes:
    torch.save({"a": torch.zeros(2)}, path)
    return path.read_bytes()


def arrays(path: Path) -> bytes:
    np.savez(path, xyz=np.zeros((3, 3)), rgb=np.zeros((3, 3), np.uint8))
    return path.read_bytes()


def state() -> TrainingState:
    model = DeepGCN(ModelConfig(depth=2, width=2, k=2, fusion_channels=2))
    return TrainingState(model, torch.optim.Adam(model.parameters()))


def checkpoint(path: Path) -> bytes:
    state().save(path)
    return path.read_bytes()


READERS: dict[str, tuple[Callable[[Path], bytes], Callable[[Path], object]]] = {
    "a.zip": (raw, read_raw),
    "a.pth": (weights, inspect_weights),
    "a.npz": (arrays, open_scan),
    "last.pt": (checkpoint, lambda path: state().load(path)),
}


def patched(content: bytes, *changes: tuple[bytes, int, bytes]) -> bytes:
    """Overwrite bytes behind each signature."""
    found = bytearray(content)
    for signature, offset, value in changes:
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            found[at + offset : at + offset + len(value)] = value
    return bytes(found)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "of a later version": lambda c: patched(c, (CENTRAL, 6, b"\x40"), (LOCAL, 4, b"\x40")),
    "of several disks": lambda c: c[: c.rfind(END)] + DISKS + c[c.rfind(END) :],
    "encrypted": lambda c: patched(c, (CENTRAL, 8, b"\1"), (LOCAL, 6, b"\1")),
    "of patches": lambda c: patched(c, (CENTRAL, 8, b"\x20"), (LOCAL, 6, b"\x20")),
    "of an unknown method": lambda c: patched(c, (CENTRAL, 10, b"\x63"), (LOCAL, 8, b"\x63")),
    "with sizes that lie": lambda c: patched(c, (CENTRAL, 24, b"\xff\xff\xff\x7f")),
    "with entries over one another": lambda c: patched(c, (CENTRAL, 42, bytes(4))),
    "with entries behind its end": lambda c: patched(c, (CENTRAL, 42, b"\xff\xff\xff\x7f")),
    "with entries before its begin": lambda c: patched(
        c, (END, 17, b"\x7f"), (END_64, 49, b"\x7f")
    ),
    "cut off": lambda c: c[:-30],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", READERS)
def test_archives_that_cannot_be_read(name: str, damage: str, tmp_path: Path) -> None:
    write, read = READERS[name]
    path = tmp_path / name
    content = write(path)
    read(path)
    path.write_bytes(DAMAGES[damage](content))
    with pytest.raises(DeepGCNError):
        read(path)
    with pytest.raises(DeepGCNError):
        read_library(path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.pth", "last.pt"])
def test_an_end_that_is_far_from_the_end(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(LOCAL + bytes(28) + END + bytes(4116))
    with pytest.raises(DeepGCNError):
        READERS[name][1](path)


@pytest.mark.parametrize("text", [b"1 2 3 4 5 6\n", b"\n", b"1", b"\0"])
def test_bombs_of_text(text: bytes, tmp_path: Path) -> None:
    size = 20_000_000 // len(text)
    path = write_zip(tmp_path / "a.zip", {ROOM.format("wall"): text * size})
    begun = time.process_time()
    with pytest.raises(DeepGCNError, match=r"packed in .* expected at most 100 times as many"):
        read_raw(path)
    assert time.process_time() - begun < 2, "it was unpacked"


def test_bombs_of_blocks(tmp_path: Path) -> None:
    files = {"b/all_files.txt": b"ply_data_all_0.h5", "b/room_filelist.txt": b"Area_1_a_1\n"}
    path = write_zip(tmp_path / "a.zip", {**files, "b/ply_data_all_0.h5": bytes(3_000_000)})
    with pytest.raises(DeepGCNError, match="declares 3,000,000 bytes"):
        find_published(path)


def test_points_that_pack_well_are_no_bomb(tmp_path: Path) -> None:
    lines = (f"{n % 97}.25 2.5 {n % 13}.125 1 2 3\n" for n in range(60_000))
    path = write_zip(tmp_path / "a.zip", {ROOM.format("wall"): "".join(lines).encode()})
    assert path.stat().st_size < 1_000_000
    read_raw(path)


def test_an_archive_within_an_archive_is_not_opened(tmp_path: Path) -> None:
    inner = raw(tmp_path / "a.zip")
    with pytest.raises(DeepGCNError, match="found no raw S3DIS"):
        read_raw(write_zip(tmp_path / "outer.zip", {"a.zip": inner}))


@pytest.mark.parametrize(
    "name", ["/Area_1/a/{}", "../Area_1/a/{}", "b/../Area_1/a/{}", "\\x\\Area_1/a/{}", "b/.././{}"]
)
def test_names_of_other_places(name: str, tmp_path: Path) -> None:
    entry = name.format("Annotations/wall_1.txt")
    with pytest.raises(DeepGCNError, match="found the unsafe path"):
        read_raw(write_zip(tmp_path / "a.zip", {entry: box(9, 1)}))


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    content = patched(raw(tmp_path / "a.zip"), (LOCAL, 6, b"\0\x08"), (LOCAL, 32, b"\xed"))
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(DeepGCNError, match="codec can't decode"):
        read_raw(tmp_path / "a.zip")


def test_a_link_is_read_as_text(tmp_path: Path) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_bytes(box(9, 1))
    link = zipfile.ZipInfo(ROOM.format("wall"))
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, str(secret))
    with pytest.raises(DeepGCNError, match=r"secret\.txt', expected six numbers"):
        read_raw(tmp_path / "a.zip")


def test_what_shares_bytes() -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a", b"1" * 100)
        archive.writestr("b", b"2")
        check_apart(archive)
        archive.infolist()[1].header_offset -= 1
        with pytest.raises(zipfile.BadZipFile, match="'a' and 'b' overlap"):
            check_apart(archive)
