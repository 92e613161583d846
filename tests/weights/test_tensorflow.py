"""TensorFlow's checkpoints, read from files that are built here byte by byte.

The writer below follows LevelDB's table format and TensorFlow's tensor_bundle.proto; its checksums
come from the table-free definition of CRC-32C, one bit at a time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import WeightsError
from pipelines.weights.sources import open_weights
from pipelines.weights.tensorflow import bundle_prefix, masked_crc32c, open_bundle, table_items

MAGIC = bytes.fromhex("57fb808b247547db")
DT = {"float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int64": 9, "bool": 10, "float16": 19}


@cache
def one_byte(value: int) -> int:
    for _ in range(8):
        value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


def slow_crc(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = one_byte((crc ^ byte) & 0xFF) ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def slow_mask(data: bytes) -> bytes:
    crc = slow_crc(data)
    rotated = ((crc >> 15) | (crc << 17)) % 2**32
    return struct.pack("<I", (rotated + 0xA282EAD8) % 2**32)


def varint(value: int) -> bytes:
    result = b""
    while value > 127:
        result += bytes([value & 127 | 128])
        value >>= 7
    return result + bytes([value])


def number(place: int, value: int) -> bytes:
    return varint(place << 3) + varint(value) if value else b""


def message(place: int, content: bytes) -> bytes:
    return varint(place << 3 | 2) + varint(len(content)) + content


def entry_of(value: np.ndarray, offset: int, shard: int = 0) -> bytes:
    """A BundleEntryProto; as in proto3, zeros are left out."""
    shape = b"".join(message(2, number(1, size)) for size in value.shape)
    return (
        number(1, DT[value.dtype.name])
        + message(2, shape)
        + number(3, shard)
        + number(4, offset)
        + number(5, value.nbytes)
        + varint(6 << 3 | 5)
        + slow_mask(value.tobytes())
    )


@dataclass
class Table:
    """A LevelDB table: blocks of entries, an index block, an empty filter block, a footer."""

    per_block: int = 4
    restart_every: int = 3
    compression: int = 0
    content: bytes = field(default=b"", init=False)

    def write(self, items: list[tuple[bytes, bytes]]) -> bytes:
        handles = []
        for start in range(0, len(items), self.per_block):
            part = items[start : start + self.per_block]
            handles.append((part[-1][0], self.block(part)))
        filters = self.block([])
        index = self.block(handles)
        footer = (filters + index).ljust(40, b"\0") + MAGIC
        return self.content + footer

    def block(self, items: list[tuple[bytes, bytes]]) -> bytes:
        """Append a block and return its handle."""
        body, restarts, last = b"", [], b""
        for position, (key, value) in enumerate(items):
            shared = 0
            if position % self.restart_every:
                while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                    shared += 1
            else:
                restarts.append(len(body))
            body += varint(shared) + varint(len(key) - shared) + varint(len(value))
            body += key[shared:] + value
            last = key
        restarts = restarts or [0]
        return self.append(body + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts)))

    def append(self, body: bytes) -> bytes:
        """Append a block's content with its trailer and return its handle."""
        handle = varint(len(self.content)) + varint(len(body))
        kind = bytes([self.compression])
        self.content += body + kind + slow_mask(body + kind)
        return handle


def write_bundle(
    prefix: Path, tensors: dict[str, np.ndarray], *, shards: int = 1, table: Table | None = None
) -> Path:
    """Write a checkpoint; tensors go to its data files in turn."""
    data = [b""] * shards
    items = [(b"", number(1, shards) + message(3, number(1, 1)))]
    for place, name in enumerate(sorted(tensors)):
        shard = place % shards
        items.append((name.encode(), entry_of(tensors[name], len(data[shard]), shard)))
        data[shard] += tensors[name].tobytes()
    prefix.parent.mkdir(parents=True, exist_ok=True)
    prefix.with_name(f"{prefix.name}.index").write_bytes((table or Table()).write(items))
    for shard, content in enumerate(data):
        name = f"{prefix.name}.data-{shard:05d}-of-{shards:05d}"
        prefix.with_name(name).write_bytes(content)
    return prefix


def some_tensors() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "adj_conv_0/weights": rng.normal(size=(1, 1, 18, 8)).astype(np.float32),
        "adj_conv_0/biases": rng.normal(size=8).astype(np.float32),
        "adj_conv_0/bn/gamma": rng.normal(size=8),
        "adj_conv_10/weights": rng.normal(size=(3, 0)).astype(np.float16),
        "Variable": np.array(7, np.int32),
        "step": np.array(2**40, np.int64),
        "flag": np.array([True, False]),
        "bytes": np.arange(256, dtype=np.uint8).reshape(4, 64),
    }


@given(st.binary(max_size=300))
def test_checksums_are_masked_as_tensorflow_does(data: bytes) -> None:
    assert struct.pack("<I", masked_crc32c(data)) == slow_mask(data)


def test_the_checksum_by_which_the_others_are_tested() -> None:
    """RFC 3720, appendix B.4."""
    assert slow_crc(b"123456789") == 0xE3069283
    assert slow_crc(bytes(32)) == 0x8A9136AA
    assert slow_crc(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("shards", [1, 3])
def test_every_tensor_comes_back(tmp_path: Path, shards: int) -> None:
    tensors = some_tensors()
    prefix = write_bundle(tmp_path / "log5" / "epoch_best.ckpt", tensors, shards=shards)
    bundle = open_bundle(prefix)
    assert set(bundle.entries) == set(tensors)
    for name, expected in tensors.items():
        found = bundle.read(name)
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@given(
    st.dictionaries(st.text(min_size=1, max_size=12), st.integers(0, 5), max_size=30),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_any_names_in_any_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: dict[str, int],
    per_block: int,
    restart_every: int,
) -> None:
    tensors = {name: np.arange(size, dtype=np.float32) for name, size in sizes.items()}
    folder = tmp_path_factory.mktemp("bundle")
    # LevelDB sorts by bytes, which UTF-8 keeps in the order of Python's sorted()
    prefix = write_bundle(folder / "a", tensors, table=Table(per_block, restart_every))
    bundle = open_bundle(prefix)
    assert {name: len(bundle.read(name)) for name in bundle.entries} == sizes


def test_prefix_of_any_of_its_files(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "epoch_best.ckpt", some_tensors())
    for name in ("", ".index", ".data-00000-of-00001", ".meta"):
        assert bundle_prefix(tmp_path / f"epoch_best.ckpt{name}") == prefix
    assert bundle_prefix(tmp_path / "other.ckpt") is None


def test_damage_is_found(tmp_path: Path) -> None:
    prefix = write_bundle(tmp_path / "a", some_tensors())
    data = tmp_path / "a.data-00000-of-00001"
    whole = data.read_bytes()
    data.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    last = max(open_bundle(prefix).entries.items(), key=lambda item: item[1].offset)[0]
    with pytest.raises(WeightsError, match=f"tensor '{last}'.*checksum is wrong"):
        open_bundle(prefix).read(last)
    data.write_bytes(whole[:-1])
    with pytest.raises(WeightsError, match="ends before it does"):
        open_bundle(prefix).read(last)
    data.unlink()
    with pytest.raises(WeightsError, match="found no file, but the index"):
        open_bundle(prefix).read(last)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    def index(name: str, header: bytes, entry: bytes = b"", table: Table | None = None) -> Path:
        items = [(b"", header), *([(b"w", entry)] if entry else [])]
        (tmp_path / f"{name}.index").write_bytes((table or Table()).write(items))
        return tmp_path / name

    float_ = np.zeros(2, np.float32)
    cases = {
        "compressed": index("compressed", number(1, 1), table=Table(compression=1)),
        "big-endian": index("big", number(1, 1) + number(2, 1)),
        "number of data files": index("none", b""),
        "in data file 5 of 1": index("shard", number(1, 1), entry_of(float_, 0, shard=5)),
    }
    for told, prefix in cases.items():
        with pytest.raises(WeightsError, match=told):
            open_bundle(prefix)
    sliced = index("sliced", number(1, 1), entry_of(float_, 0) + message(7, b""))
    with pytest.raises(WeightsError, match="stored in slices"):
        open_bundle(sliced).read("w")
    text = index("text", number(1, 1), number(1, 7) + number(5, 3))
    with pytest.raises(WeightsError, match="not an array of numbers"):
        open_bundle(text).read("w")


def test_a_size_is_checked_before_it_is_read(tmp_path: Path) -> None:
    shape = message(2, message(2, number(1, 1 << 40)))
    entry = number(1, 1) + shape + number(5, 1 << 42)
    (tmp_path / "a.index").write_bytes(Table().write([(b"", number(1, 1)), (b"w", entry)]))
    (tmp_path / "a.data-00000-of-00001").write_bytes(bytes(8))
    with pytest.raises(WeightsError, match="ends before it does"):
        open_bundle(tmp_path / "a").read("w")
    entry = number(1, 1) + shape + number(5, 8)
    (tmp_path / "a.index").write_bytes(Table().write([(b"", number(1, 1)), (b"w", entry)]))
    with pytest.raises(WeightsError, match=r"found 8 bytes, expected 4398046511104"):
        open_bundle(tmp_path / "a").read("w")


@pytest.mark.parametrize("sizes", [(0, 1 << 62, 1 << 62), (1 << 62, 2, 0), (1 << 60,)])
def test_a_shape_that_numpy_cannot_have(tmp_path: Path, sizes: tuple[int, ...]) -> None:
    """Also of a tensor without a byte."""
    shape = b"".join(message(2, number(1, size)) for size in sizes)
    items = [(b"", number(1, 1)), (b"w", number(1, 1) + message(2, shape))]
    (tmp_path / "a.index").write_bytes(Table().write(items))
    (tmp_path / "a.data-00000-of-00001").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"a\.index: .*a tensor's shape is too large"):
        open_bundle(tmp_path / "a")


def test_names_cannot_grow_without_bound() -> None:
    # each name repeats the whole one before it and adds a byte: 20,000 of them are 200 MB
    body = b"".join(varint(size) + b"\1\0a" for size in range(20000))
    table = Table()
    names = table.append(body + struct.pack("<2I", 0, 1))
    index = table.block([(b"z", names)])
    content = table.content + (names + index).ljust(40, b"\0") + MAGIC
    assert len(content) < 110_000
    with pytest.raises(ValueError, match="names are too long"):
        list(table_items(content))


def test_a_block_is_read_once() -> None:
    # an index of 3,000 handles of one block with 3,000 empty names: nine million entries
    table = Table()
    block = table.append(b"\0\0\0" * 3000 + struct.pack("<2I", 0, 1))
    index = table.append((b"\0\0" + varint(len(block)) + block) * 3000 + struct.pack("<2I", 0, 1))
    content = table.content + (block + index).ljust(40, b"\0") + MAGIC
    with pytest.raises(ValueError, match="block at 0 is listed twice"):
        list(table_items(content))


def test_tensors_that_share_their_bytes_are_not_written_out(tmp_path: Path) -> None:
    value = np.zeros(1000, np.float32)
    items = [(f"w{place:03}".encode(), entry_of(value, 0)) for place in range(100)]
    (tmp_path / "a.index").write_bytes(Table().write([(b"", number(1, 1)), *items]))
    (tmp_path / "a.data-00000-of-00001").write_bytes(value.tobytes())
    opened = open_weights(tmp_path / "a")
    assert len(opened.tensors) == 100
    with pytest.raises(WeightsError, match=r"a: its tensors claim 400,000 bytes, .* have 4,000"):
        opened.read()


@given(st.data())
def test_no_broken_index_is_anything_but_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    whole = valid_index()
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 8, len(whole))))
    broken = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    prefix = tmp_path_factory.mktemp("broken") / "a"
    prefix.with_name("a.index").write_bytes(broken)
    message, names = outcome(prefix)
    if message is None:  # what was changed is padding, which no checksum covers
        assert names == set(some_tensors())
    else:
        assert "a.index: cannot be read" in message


def outcome(prefix: Path) -> tuple[str | None, set[str]]:
    """The refusal's message, or the tensors' names; any other exception fails the test."""
    try:
        return None, set(open_bundle(prefix).entries)
    except WeightsError as error:
        return str(error), set()


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_broken_messages_under_right_checksums(
    tmp_path_factory: pytest.TempPathFactory, header: bytes, entry: bytes
) -> None:
    prefix = tmp_path_factory.mktemp("broken") / "a"
    for content in ([(b"", header)], [(b"", number(1, 1)), (b"w", entry)]):
        prefix.with_name("a.index").write_bytes(Table().write(content))
        try:
            bundle = open_bundle(prefix)
            for name in bundle.entries:
                bundle.read(name)
        except WeightsError:
            continue


@cache
def valid_index() -> bytes:
    items = [(b"", number(1, 1))]
    for name, value in sorted(some_tensors().items()):
        items.append((name.encode(), entry_of(value, 0)))
    return Table().write(items)


def test_empty_index(tmp_path: Path) -> None:
    (tmp_path / "a.index").write_bytes(b"")
    with pytest.raises(WeightsError, match="no table's footer"):
        open_bundle(tmp_path / "a")
