"""Raw data sets where they are found, damaged and unsafe ones, and the entries of zips."""

from __future__ import annotations

import io
import random
import shutil
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config import PrepareConfig
from pipelines.data.s3dis import CLASSES
from pipelines.data.s3dis import raw as s3dis_raw
from pipelines.data.s3dis.raw import READ_ERRORS, find_raw, open_entry
from pipelines.data.store import Store
from pipelines.errors import DatasetError
from pipelines.prepare import prepare
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

TEXT = b"".join(b"%d.%03d 2.500 3.125 17 200 9\n" % (n % 70, n % 997) for n in range(60_000))


def pack(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("first.txt", b"something else")
        archive.writestr("a/entry.txt", content)
    return path


def read_all(path: Path, size: int) -> bytes:
    whole = io.BytesIO()
    with zipfile.ZipFile(path) as archive, open_entry(archive, "a/entry.txt") as stream:
        while text := stream.read(size):
            assert len(text) <= size
            whole.write(text)
        assert stream.read(size) == b""
    return whole.getvalue()


@given(
    content=st.binary(max_size=3000) | st.just(TEXT) | st.just(bytes(700_000)),
    size=st.sampled_from([1 << 12, 1 << 16, 1 << 22]),
)
def test_gives_what_went_in(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int
) -> None:
    path = pack(tmp_path_factory.mktemp("zip") / "a.zip", content)
    assert read_all(path, size) == content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def test_other_methods(tmp_path: Path, method: int) -> None:
    assert read_all(pack(tmp_path / "a.zip", TEXT, method), 1 << 16) == TEXT


def test_without_isal_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3dis_raw, "inflate", zlib)
    assert read_all(pack(tmp_path / "a.zip", TEXT), 1 << 16) == TEXT


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_byte_is_noticed_or_harmless(tmp_path: Path, seed: int) -> None:
    path = pack(tmp_path / "a.zip", TEXT)
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a/entry.txt")
    start = info.header_offset + 30 + len(info.filename)
    place = random.Random(seed).randrange(start, start + info.compress_size)
    damaged[place] ^= 0x20
    path.write_bytes(damaged)
    with pytest.raises(READ_ERRORS):
        read_all(path, 1 << 16)


def test_a_header_that_is_not_there(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", TEXT)
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        damaged[archive.getinfo("a/entry.txt").header_offset] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(zipfile.BadZipFile, match="magic"):
        read_all(path, 1 << 16)


def read_to_end(archive: zipfile.ZipFile) -> None:
    with open_entry(archive, "a/entry.txt") as stream:
        while stream.read(1 << 16):
            pass


def test_an_entry_longer_than_the_zip_says(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", TEXT)
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("a/entry.txt").file_size -= 5
        with pytest.raises(READ_ERRORS):
            read_to_end(archive)


def test_an_entry_cut_short(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", TEXT)
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("a/entry.txt").compress_size -= 40
        with pytest.raises(READ_ERRORS):
            read_to_end(archive)


@pytest.mark.parametrize("level", ["", "Area_5", "Area_5/hallway_6"])
def test_the_wrong_folder_level_leads_to_the_dataset(tmp_path: Path, level: str) -> None:
    write_tree(tmp_path / "raw", aligned_files())
    result = run(tmp_path / "raw" / (f"{ALIGNED}/{level}" if level else ""), tmp_path / "data")
    assert result.rooms == 5


def test_the_current_folder_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="found no raw S3DIS"):
        run(None, Path("data"))
    write_zip(tmp_path / "s3dis.zip", aligned_files())
    assert run(None, Path("data")).rooms == 5
    write_tree(tmp_path / "other", non_aligned_files())
    with pytest.raises(DatasetError, match=r"found 2 data sets .*other"):
        run(None, Path("data"))


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="found nothing there"):
        run(tmp_path / "no", tmp_path / "data")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DatasetError, match="found no raw S3DIS"):
        run(empty, tmp_path / "data")
    text = tmp_path / "notes.txt"
    text.write_text("no zip")
    with pytest.raises(DatasetError, match="is no zip"):
        run(text, tmp_path / "data")
    whole = write_zip(tmp_path / "raw.zip", aligned_files())
    whole.write_bytes(whole.read_bytes()[:-3000])
    with pytest.raises(DatasetError, match="cut off"):
        run(whole, tmp_path / "data")


def test_a_damaged_zip_entry_stops_its_room_only(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "raw.zip", aligned_files())
    content = bytearray(path.read_bytes())
    place = content.find(b"Area_6/copyRoom_1/Annotations/table_1.txt") + 300
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    result = run(path, tmp_path / "data", allow_incomplete=True)
    assert result.rooms == 4
    assert "Area_6/copyRoom_1" in result.failed


def test_unsafe_zip_paths_are_refused(tmp_path: Path) -> None:
    files = {**aligned_files(), "../Area_1/x/Annotations/wall_1.txt": b"1 2 3 4 5 6\n"}
    with pytest.raises(DatasetError, match="unsafe path"):
        run(write_zip(tmp_path / "raw.zip", files), tmp_path / "data")


@pytest.mark.parametrize("room", ["Area_1/.", "Area_1/hall_1/."])
def test_a_zip_path_with_a_dot_in_it_is_refused(tmp_path: Path, room: str) -> None:
    files = {**aligned_files(), f"{room}/Annotations/wall_1.txt": box(10, 1)}
    with pytest.raises(DatasetError, match=rf"unsafe path '{room}/Annotations/wall_1\.txt'"):
        run(write_zip(tmp_path / "raw.zip", files), tmp_path / "data")
    below = {f"./{name}": text for name, text in aligned_files().items()}
    assert run(write_zip(tmp_path / "below.zip", below), tmp_path / "data").rooms == 5


def test_a_name_that_no_file_can_have_stops_its_room_alone(tmp_path: Path) -> None:
    name = "hall" * 75
    files = {**aligned_files(), f"{ALIGNED}/Area_1/{name}/Annotations/wall_1.txt": box(10, 1)}
    raw = write_zip(tmp_path / "raw.zip", files)
    with pytest.raises(DatasetError, match=rf"Area_1/{name}: found a room name of 300 characters"):
        run(raw, tmp_path / "data")
    result = run(raw, tmp_path / "data", allow_incomplete=True)
    assert (result.rooms, result.reused, list(result.failed)) == (5, 5, [f"Area_1/{name}"])


@pytest.mark.parametrize(
    ("name", "rotated"),
    [(ALIGNED, False), (NON_ALIGNED, True), ("non-aligned", True), ("unaligned", True)],
)
def test_a_folder_is_aligned_by_its_name_wherever_one_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, rotated: bool
) -> None:
    files = {
        "Area_1/hall_1/Annotations/wall_1.txt": box(200, 1),
        "Area_1/Area_1_alignmentAngle.txt": b"## a ##\n## b ##\nhall_1 30\n",
    }
    raw = write_tree(tmp_path / name, files)
    assert find_raw(raw).rotated is rotated
    monkeypatch.chdir(raw)
    assert find_raw(None).rotated is rotated
    assert find_raw(Path()).rotated is rotated


def test_rooms_without_an_angle_are_named(tmp_path: Path) -> None:
    raw = write_tree(tmp_path / "raw", non_aligned_files())
    prepare(PrepareConfig(raw=raw, data=tmp_path / "data", workers=1), progress=(heard := Ears()))
    found = [line for line in heard.warned if "found no alignment angle of 2 rooms" in line]
    assert [line.partition("are: ")[2] for line in found] == ["Area_5/office_19, Area_6/hallway_2."]


def test_only_copies_are_left_out_which_is_said(tmp_path: Path) -> None:
    names = ("chair_1", "chair_1 (1)", "table (1)", "table (2)", "door_2 (1)")
    files = {f"Area_1/hall_1/Annotations/{name}.txt": box(10, n) for n, name in enumerate(names)}
    files["Area_1/hall_1/hall_1.txt"] = box(43, 9)
    raw = write_tree(tmp_path / "raw", files)
    prepare(PrepareConfig(raw=raw, data=tmp_path / "data", workers=1), progress=(heard := Ears()))
    (room,) = Store.open(tmp_path / "data").rooms()
    points = {CLASSES[n]: count for n, count in enumerate(room.counts) if count}
    assert points == {"chair": 10, "table": 20, "door": 10}
    said = "\n".join(heard.said) + "\n"
    assert "left out as copies, by their names: Area_1/hall_1/Annotations/chair_1 (1).txt\n" in said
    assert "left out 3 points of whole rooms" in said


def test_an_entry_that_a_zip_holds_twice(tmp_path: Path) -> None:
    files = aligned_files()
    raw = write_zip(tmp_path / "raw.zip", files)
    run(raw, tmp_path / "once")
    name = f"{ALIGNED}/Area_5/office_36/Annotations/wall_3.txt"
    with zipfile.ZipFile(raw, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(name, files[name])
    run(raw, tmp_path / "twice")
    once, twice = (Store.open(tmp_path / name) for name in ("once", "twice"))
    assert once.fingerprint == twice.fingerprint
    with zipfile.ZipFile(raw, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(name, box(10, 1))
    with pytest.raises(DatasetError, match=r"wall_3\.txt twice with different content"):
        run(raw, tmp_path / "data")


def test_a_table_of_angles_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    table = "Area_1/Area_1_alignmentAngle.txt"
    files = {"Area_1/hall_1/Annotations/wall_1.txt": box(200, 1)}
    damaged = write_tree(tmp_path / "raw", {**files, table: b"## a ##\n## b ##\nhall_1 3\x100\n"})
    with pytest.raises(DatasetError, match=r"alignmentAngle\.txt:3: found 'hall_1 3\\x100'"):
        find_raw(damaged)
    packed = write_zip(tmp_path / "raw.zip", {**files, table: b"hall_1 30\n"})
    content = bytearray(packed.read_bytes())
    at = content.rindex(b"PK\1\2")  # the last entry of the directory: the table
    content[at + 16] ^= 1  # its checksum
    packed.write_bytes(content)
    with pytest.raises(DatasetError, match=r"alignmentAngle\.txt cannot be read: Bad CRC-32"):
        find_raw(packed)


def test_rooms_and_objects_may_be_links_to_folders(tmp_path: Path) -> None:
    """The usual way to make a subset of a large data set."""
    whole = write_tree(tmp_path / "whole", aligned_files()) / ALIGNED
    area = tmp_path / "subset" / "Area_5"
    area.mkdir(parents=True)
    for room in (whole / "Area_5").iterdir():
        (area / room.name).symlink_to(room)
    (area / "round").symlink_to(tmp_path / "subset")
    expected = [room for room in find_raw(whole).rooms if room.area == 5]
    assert len(expected) == 2
    found = find_raw(tmp_path / "subset").rooms
    assert [room.name for room in found] == [room.name for room in expected]
    assert [len(room.files) for room in found] == [len(room.files) for room in expected]


def test_other_things_beside_the_data_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_tree(tmp_path / "s3dis", aligned_files())
    with zipfile.ZipFile(tmp_path / "logs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("run.txt", "the same line\n" * 200_000)
    (tmp_path / "half.zip").write_bytes(b"PK\3\4 cut off")
    monkeypatch.chdir(tmp_path)
    assert "s3dis" in str(find_raw(None).source)
    shutil.rmtree(tmp_path / "s3dis")
    with pytest.raises(DatasetError, match=r"half\.zip"):
        find_raw(None)
