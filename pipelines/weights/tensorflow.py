"""TensorFlow's checkpoints (V2, "tensor bundles") and the release's log, without TensorFlow.

A checkpoint `PREFIX` has two kinds of files: `PREFIX.index`, a sorted table with an entry for each
tensor, and `PREFIX.data-00000-of-00001`, …, the tensors' bytes. The table is LevelDB's: blocks of
prefix-compressed keys, a block that indexes them, and a footer with its position. Every block and
every tensor has a checksum.

Nothing in these files is trusted: sizes are compared with the files before anything is allocated.

The release writes its options as `Namespace(gcn='edgeconv', …)` into the first line of
`log_train.txt` beside the checkpoints, and evaluates that line to build the network again. Here
only its literals are read.

Reference:
    LevelDB, doc/table_format.md; TensorFlow, core/protobuf/tensor_bundle.proto and
    core/util/tensor_bundle.
"""

from __future__ import annotations

import ast
import math
import re
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config.model import Hints
from pipelines.errors import ConfigError, WeightsError

MAGIC = 0xDB4775248B80FB57  # the last 8 bytes of every table
FOOTER = 48  # two handles of at most 20 bytes, padding, the magic number
TRAILER = 5  # after each block: its compression, its checksum
LARGEST_INDEX = 1 << 28  # bytes; the released ones have 50 kB
KEY_BYTES = 1 << 26  # of all names together: prefix compression can expand without bound
MOST_AXES = 32  # what every NumPy can hold
MOST_VALUES = 1 << 60  # of 8 bytes; NumPy counts a size of 0 as 1
DTYPES = {
    **{1: "<f4", 2: "<f8", 19: "<f2", 10: "?", 4: "u1", 17: "<u2", 22: "<u4", 23: "<u8"},
    **{6: "i1", 5: "<i2", 3: "<i4", 9: "<i8"},
}
LOG = "log_train.txt"
LONGEST_LINE = 1 << 16
OPTIONS: dict[str, tuple[Any, tuple[type, ...]]] = {  # of the log: the release's default, types
    "gcn": ("", (str,)),
    "edge_lay": ("dilated", (str,)),
    "skip_connect": ("", (str,)),
    "num_neighbors": ([], (list,)),  # of int
    "dilations": ([-1], (list,)),  # of int
    "stochastic_dilation": (False, (bool,)),
    "sto_dilated_epsilon": (0.2, (float, int)),
    "num_points": (None, (int, type(None))),
    "normalize_sage": (False, (bool,)),
    "zero_epsilon_gin": (False, (bool,)),
}
SKIPS = {"residual": "resgcn", "dense": "densegcn", "none": "plaingcn"}
_OPTIMIZER = re.compile(r"(.*/)?(Adam(_\d+)?|Momentum|beta[12]_power(_\d+)?|Variable|global_step)")


@dataclass(frozen=True)
class Entry:
    """A tensor's entry in the table."""

    dtype: str | None  # NumPy's name for it; None if it has none, as for strings
    shape: tuple[int, ...]
    shard: int  # the number of the data file that holds it
    offset: int  # where in that file it begins, bytes
    size: int  # bytes
    crc: int  # the masked CRC-32C of its bytes
    sliced: bool  # it is stored in parts, under other names


@dataclass(frozen=True)
class Bundle:
    """An opened checkpoint."""

    prefix: Path  # without suffixes
    shards: int  # data files
    entries: Mapping[str, Entry]  # by the tensors' names

    def read(self, name: str) -> np.ndarray:
        """Return the tensor `name`, its checksum verified."""
        entry = self.entries[name]
        path = self.data_file(entry.shard)
        where = f"{path}: tensor {name!r}"
        if entry.dtype is None or entry.sliced:
            kind = "is stored in slices" if entry.sliced else "is not an array of numbers"
            raise WeightsError(f"{where} {kind}, which cannot be read.")
        expected = math.prod(entry.shape) * np.dtype(entry.dtype).itemsize
        if entry.size != expected:
            raise WeightsError(
                f"{where}: found {entry.size} bytes, expected {expected} for {entry.shape}."
            )
        if not path.is_file():
            raise WeightsError(f"{path}: found no file, but the index beside it refers to one.")
        if entry.offset + entry.size > path.stat().st_size:
            raise WeightsError(f"{where}: the file ends before it does.\nGet the file again.")
        with path.open("rb") as opened:
            opened.seek(entry.offset)
            content = opened.read(entry.size)
        if masked_crc32c(content) != entry.crc:
            raise WeightsError(
                f"{where}: its checksum is wrong: the file is damaged.\nGet the checkpoint again."
            )
        return np.frombuffer(content, entry.dtype).reshape(entry.shape).copy()

    def read_network(self) -> dict[str, np.ndarray]:
        """Return the network's tensors by name, without the optimizer's."""
        names = [name for name in self.entries if not is_optimizer(name)]
        claimed = sum(self.entries[name].size for name in names)
        files = [self.data_file(shard) for shard in range(self.shards)]
        size = sum(path.stat().st_size for path in files if path.is_file())
        if claimed > size and all(path.is_file() for path in files):
            raise WeightsError(
                f"{self.prefix}: its tensors claim {claimed:,} bytes, its data files have "
                f"{size:,}.\nGet the checkpoint again."
            )
        return {name: self.read(name) for name in names}

    def data_file(self, shard: int) -> Path:
        """Return the path of a data file."""
        return self.prefix.with_name(f"{self.prefix.name}.data-{shard:05d}-of-{self.shards:05d}")


def is_optimizer(name: str) -> bool:
    """Return whether a TensorFlow variable belongs to the training, not to the network."""
    return _OPTIMIZER.fullmatch(name) is not None


def masked_crc32c(data: bytes) -> int:
    """Return the CRC-32C as TensorFlow stores it: rotated right by 15 bits, plus a constant."""
    import google_crc32c

    crc: int = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def index_file(prefix: Path) -> Path:
    """Return the path of a checkpoint's table."""
    return prefix.with_name(f"{prefix.name}.index")


def bundle_prefix(path: Path) -> Path | None:
    """Return the prefix of the checkpoint that `path` is or belongs to; None if there is none."""
    name = re.sub(r"(\.index|\.data-\d{5}-of-\d{5}|\.meta)$", "", path.name)
    prefix = path.with_name(name) if name else path
    return prefix if index_file(prefix).is_file() else None


def open_bundle(prefix: Path) -> Bundle:
    """Read the table of the checkpoint `prefix`; its tensors stay on disk."""
    path = index_file(prefix)
    if path.stat().st_size > LARGEST_INDEX:
        raise WeightsError(f"{path}: too large for an index ({path.stat().st_size:,} bytes).")
    try:
        items = dict(table_items(path.read_bytes()))
        shards = _header(items.pop(b"", b""))
        entries = {key.decode(): _entry(value, shards) for key, value in sorted(items.items())}
    except (ValueError, IndexError) as error:
        raise WeightsError(
            f"{path}: cannot be read as the index of a TensorFlow checkpoint: {error}.\n"
            "Expected version 2 (PREFIX.index with PREFIX.data-00000-of-00001), undamaged."
        ) from error
    return Bundle(prefix, shards, entries)


def table_items(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a LevelDB table, in its order."""
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise ValueError("found no table's footer at its end")
    footer = content[-FOOTER:]
    _, at = _handle(footer, 0)  # of filters, which TensorFlow does not write
    handle, _ = _handle(footer, at)
    total = end = 0
    for _, value in _block_items(_block(content, handle)):
        (offset, size), _ = _handle(value, 0)
        if offset < end:
            raise ValueError(f"the block at {offset} is listed twice or out of order")
        end = offset + size + TRAILER
        for key, item in _block_items(_block(content, (offset, size))):
            total += len(key)
            if total > KEY_BYTES:
                raise ValueError("its names are too long")
            yield key, item


def _block(content: bytes, handle: tuple[int, int]) -> bytes:
    offset, size = handle
    end = offset + size
    if end + TRAILER > len(content) - FOOTER:
        raise ValueError(f"a block at {offset} reaches beyond the file")
    if masked_crc32c(content[offset : end + 1]) != int.from_bytes(
        content[end + 1 : end + TRAILER], "little"
    ):
        raise ValueError(f"the checksum of the block at {offset} is wrong")
    if content[end] != 0:
        raise ValueError(f"the block at {offset} is compressed (kind {content[end]})")
    return content[offset:end]


def _block_items(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block; each key repeats the start of the one before it."""
    if len(block) < 4:
        raise ValueError("a block is too short")
    end = len(block) - 4 * (int.from_bytes(block[-4:], "little") + 1)  # restart points, their count
    if end < 0:
        raise ValueError("a block has more restart points than bytes")
    key, at = b"", 0
    while at < end:
        shared, at = _varint(block, at)
        own, at = _varint(block, at)
        size, at = _varint(block, at)
        if shared > len(key) or at + own + size > end:
            raise ValueError("a block's entry reaches beyond it")
        key = key[:shared] + block[at : at + own]
        yield key, block[at + own : at + own + size]
        at += own + size


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return (offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number that begins at `at`, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise ValueError("a number reaches beyond its block")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than 64 bits")


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield the numbers and values of a protocol buffer's fields."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if kind not in (0, 1, 2, 5):
            raise ValueError(f"found the unknown wire type {kind}")
        number = {1: 8, 5: 4}.get(kind)
        if number is None:
            number, at = _varint(message, at)
        if kind == 0:
            yield tag >> 3, number
            continue
        if at + number > len(message):
            raise ValueError("a field reaches beyond its message")
        value = message[at : at + number]
        yield tag >> 3, value if kind == 2 else int.from_bytes(value, "little")
        at += number


def _header(message: bytes) -> int:
    """Return the number of data files from a BundleHeaderProto."""
    fields = dict(_fields(message))
    shards = fields.get(1, 0)
    if not isinstance(shards, int) or not 1 <= shards <= 99999:
        raise ValueError("found no header with the number of data files")
    if fields.get(2, 0) != 0:
        raise ValueError("its tensors are big-endian")
    return shards


def _entry(message: bytes, shards: int) -> Entry:
    """Parse a BundleEntryProto."""
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    shape: tuple[int, ...] = ()
    sliced = False
    for field, value in _fields(message):
        if isinstance(value, int):
            numbers[field] = value
        elif field == 2:
            shape = _shape(value)
        sliced |= field == 7
    shard, offset, size, crc = (numbers[field] for field in (3, 4, 5, 6))
    if shard >= shards:
        raise ValueError(f"a tensor is in data file {shard} of {shards}")
    return Entry(DTYPES.get(numbers[1]), shape, shard, offset, size, crc, sliced)


def _shape(message: bytes) -> tuple[int, ...]:
    """Parse a TensorShapeProto."""
    sizes = []
    for field, value in _fields(message):
        if field == 2 and isinstance(value, bytes):
            size = dict(_fields(value)).get(1, 0)
            if not isinstance(size, int) or size >= 1 << 63:
                raise ValueError("a tensor's shape is unknown")
            sizes.append(size)
    if len(sizes) > MOST_AXES:
        raise ValueError(f"a tensor has {len(sizes)} axes")
    if math.prod(max(size, 1) for size in sizes) >= MOST_VALUES:
        raise ValueError(f"a tensor's shape is too large: {tuple(sizes)}")
    return tuple(sizes)


def read_log(path: Path) -> Hints:
    """Return the settings in the first line of `log_train.txt`."""
    with path.open(encoding="utf-8", errors="replace") as opened:
        found = literals(opened.readline(LONGEST_LINE))
    if not found:
        return Hints()
    options = {name: _option(path, name, found) for name in OPTIONS}
    neighbors, dilations = options["num_neighbors"], options["dilations"]
    if len(set(neighbors)) > 1:
        raise WeightsError(
            f"{path}: found num_neighbors {neighbors}, expected the same for every layer."
        )
    dilated = options["edge_lay"] == "dilated"
    if dilated and dilations[:1] != [-1] and set(dilations) != {1}:
        raise WeightsError(
            f"{path}: found dilations {dilations}, expected 1, 1, 2, 3, … ([-1]) or none."
        )
    dilated = dilated and set(dilations) != {1}
    stochastic = dilated and options["stochastic_dilation"]
    sage = "sage-n" if options["normalize_sage"] else "sage"
    gin = "gin-0" if options["zero_epsilon_gin"] else "gin"
    names = {"edgeconv": "edge", "mrgcn": "mr", "graphsage": sage, "gin": gin}
    try:
        return Hints(
            k=neighbors[0] if neighbors else None,
            conv=names.get(options["gcn"]),
            arch=SKIPS.get(options["skip_connect"]),
            knn="dynamic",
            dilation=dilated,
            epsilon=float(options["sto_dilated_epsilon"]) if stochastic else 0.0,
            num_points=options["num_points"],
        )
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def _option(path: Path, name: str, found: Mapping[str, Any]) -> Any:
    """Return an option of the log, or its default; refuse another type than the release writes."""
    default, types = OPTIONS[name]
    value = found.get(name, default)
    each = value if isinstance(value, list) else [value]
    other = type(value) not in types or (value is each and {*map(type, each)} - {int})
    if other or any(isinstance(number, int) and abs(number) >= 1 << 63 for number in each):
        raise WeightsError(
            f"{path}: found {name} {reprlib.repr(value)}, expected the release's "
            f"{types[0].__name__}."
        )
    return value


def literals(line: str) -> dict[str, Any]:
    """Return the keywords of a line such as `Namespace(…)`; of any other line, no keywords.

    >>> literals("Namespace(gcn='edgeconv', num_neighbors=[16])")
    {'gcn': 'edgeconv', 'num_neighbors': [16]}
    """
    try:
        call = ast.parse(line.strip(), mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            return {}
        return {item.arg: ast.literal_eval(item.value) for item in call.keywords if item.arg}
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return {}
