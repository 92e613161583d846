"""Where raw rooms are found, and archives and folders that are not what they should be."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipelines.data.s3dis.raw import find_raw
from pipelines.data.store import Store
from pipelines.errors import DatasetError
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
    with pytest.raises(DatasetError, match=rf"Area_1/{name}: found a room name of 300 letters"):
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


def test_a_table_of_angles_that_cannot_be_read_is_told(tmp_path: Path) -> None:
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
