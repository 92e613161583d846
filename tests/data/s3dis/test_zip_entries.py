"""Entries of zips: what zipfile reads of them, and damage of every kind."""

from __future__ import annotations

import io
import random
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.data.s3dis import zip_entries
from pipelines.data.s3dis.zip_entries import open_entry

DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError)
TEXT = b"".join(b"%d.%03d 2.500 3.125 17 200 9\n" % (n % 70, n % 997) for n in range(60_000))


def write_zip(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
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
        assert stream.read(size) == b"", "the end stays the end"
    return whole.getvalue()


@given(
    content=st.binary(max_size=3000) | st.just(TEXT) | st.just(bytes(700_000)),
    size=st.sampled_from([1 << 12, 1 << 16, 1 << 22]),
)
def test_gives_what_went_in(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, size: int
) -> None:
    path = write_zip(tmp_path_factory.mktemp("zip") / "a.zip", content)
    assert read_all(path, size) == content


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_BZIP2])
def test_other_methods(tmp_path: Path, method: int) -> None:
    assert read_all(write_zip(tmp_path / "a.zip", TEXT, method), 1 << 16) == TEXT


def test_without_isal_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zip_entries, "_isal", None)
    assert read_all(write_zip(tmp_path / "a.zip", TEXT), 1 << 16) == TEXT


@pytest.mark.parametrize("seed", range(30))
def test_a_flipped_byte_is_noticed_or_harmless(tmp_path: Path, seed: int) -> None:
    path = write_zip(tmp_path / "a.zip", TEXT)
    damaged = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a/entry.txt")
    start = info.header_offset + 30 + len(info.filename)
    place = random.Random(seed).randrange(start, start + info.compress_size)
    damaged[place] ^= 0x20
    path.write_bytes(damaged)
    with pytest.raises(DAMAGE):
        read_all(path, 1 << 16)


def test_a_header_that_is_not_there(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", TEXT)
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


@pytest.mark.parametrize("change", [-5, 5])
def test_a_size_that_is_a_lie_is_noticed(tmp_path: Path, change: int) -> None:
    path = write_zip(tmp_path / "a.zip", TEXT)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("a/entry.txt")
        info.file_size += change
        with pytest.raises(DAMAGE):
            read_to_end(archive)


def test_an_entry_cut_short(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.zip", TEXT)
    with zipfile.ZipFile(path) as archive:
        archive.getinfo("a/entry.txt").compress_size -= 40
        with pytest.raises(EOFError):
            read_to_end(archive)
