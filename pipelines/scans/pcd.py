"""PCD scans: ASCII, binary and compressed in, labelled binary PCD out.

Reference:
    The PCD (Point Cloud Data) file format, version 0.7, Point Cloud Library. Colours are packed
    into one 4-byte field `rgb` or `rgba` as 0xAARRGGBB, or have fields of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import atomic_write

from .lines import number_rows
from .table import (
    LABELLED,
    Labels,
    Scan,
    ScanOptions,
    Spool,
    chunks,
    find_color,
    find_position,
    kept_names,
    single_fields,
)

LONGEST_HEADER = 1 << 16  # bytes
LARGEST_ROW = 1 << 16  # bytes
ENCODINGS = ("ascii", "binary", "binary_compressed")
_PACKED = ("scan_rgb", "scan_rgba", "rgb", "rgba")
_TYPES = {"f": "F", "i": "I", "u": "U"}


@dataclass(frozen=True)
class PcdHeader:
    """What a PCD header says.

    Attributes:
        kind: the row's structured type; padding fields `_` are holes in it.
        filled: the same with every field, in order: what stands in ASCII and compressed files.
        count, width, height: numbers of points.
        viewpoint: seven numbers, as they are written.
        encoding: one of ENCODINGS.
        start: where the data begins, bytes.
        labelled: whether deepgcn wrote the file.
    """

    kind: np.dtype
    filled: np.dtype
    count: int
    width: int
    height: int
    viewpoint: str
    encoding: str
    start: int
    labelled: bool


def read_pcd(path: Path, options: ScanOptions) -> Scan:
    """Open a PCD file.

    Raises:
        DatasetError: the file is no PCD, damaged, cut off, without points or without coordinates.
    """
    facts = read_header(path)
    readers = {"ascii": _read_ascii, "binary": _map_binary, "binary_compressed": _decompress}
    rows = readers[facts.encoding](path, facts)
    names = facts.kind.names or ()
    single = single_fields(facts.kind)
    color = find_color(single, labelled=facts.labelled)
    packed = _packed_field(facts)
    if packed and (color is None or not color[0].lower().startswith("scan_")):
        rows, color = _with_channels(rows, packed)
    position = find_position(path, single)
    return Scan(path, rows, position, color, names, options=options, source=facts)


def _packed_field(facts: PcdHeader) -> str | None:
    """Return the name of the field that packs the scan's colour, if there is one."""
    wanted = _PACKED[:2] if facts.labelled else _PACKED
    for name in wanted:
        if name in (facts.kind.names or ()):
            kind = facts.kind[name]
            if kind.shape == () and kind.itemsize == 4:
                return name
    return None


def _with_channels(rows: np.ndarray, packed: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the same rows with three more names for the colour's bytes, and those names."""
    kind = rows.dtype
    fields = {name: (item[0], item[1]) for name, item in (kind.fields or {}).items()}
    start = fields[packed][1]
    color = tuple(f"{packed}.{channel}" for channel in ("red", "green", "blue"))
    fields |= {name: (np.dtype("u1"), start + 2 - n) for n, name in enumerate(color)}
    names = list(fields)
    view = np.dtype(
        {
            "names": names,
            "formats": [fields[name][0] for name in names],
            "offsets": [fields[name][1] for name in names],
            "itemsize": kind.itemsize,
        }
    )
    return rows.view(view), color


def read_header(path: Path) -> PcdHeader:
    """Read a PCD header and check that what it declares can be in the file.

    Raises:
        DatasetError: it cannot, or the header is damaged.
    """
    with path.open("rb") as file:
        head = file.read(LONGEST_HEADER)
    words, start, labelled = _header_words(path, head)
    try:
        facts = _parse_header(words, start, labelled)
    except (ValueError, IndexError, KeyError) as error:
        raise DatasetError(
            f"{path}: found a damaged PCD header ({error}), expected VERSION, FIELDS, SIZE, TYPE, "
            "COUNT, WIDTH, HEIGHT, POINTS and DATA.\nExport the scan again."
        ) from error
    rest = path.stat().st_size - start
    least = {
        "ascii": facts.count * 2 * len(facts.filled.names or ()) - 1,
        "binary": facts.count * facts.filled.itemsize,
        "binary_compressed": 8,
    }[facts.encoding]
    if rest < least:
        raise DatasetError(
            f"{path}: found {rest:,} bytes after the header, expected at least {least:,} for "
            f"{facts.count:,} points.\nThe file was cut off: copy or export it again."
        )
    return facts


def _header_words(path: Path, head: bytes) -> tuple[dict[str, list[str]], int, bool]:
    """Return the words after each keyword, where the data starts, and if deepgcn wrote it."""
    words: dict[str, list[str]] = {}
    start, labelled = 0, False
    while start < len(head) and "DATA" not in words:
        end = head.find(b"\n", start)
        if end < 0:
            break
        line = head[start:end].decode("latin-1").strip()
        start = end + 1
        labelled |= line.startswith("#") and LABELLED in line
        if line and not line.startswith("#"):
            words[line.split()[0].upper()] = line.split()[1:]
    if "DATA" not in words or not {"FIELDS", "SIZE", "TYPE"} <= words.keys():
        raise DatasetError(
            f"{path}: found no PCD header (its first bytes are {head[:8]!r}), expected FIELDS, "
            f"SIZE, TYPE … DATA within {LONGEST_HEADER} bytes."
        )
    return words, start, labelled


def _parse_header(words: dict[str, list[str]], start: int, labelled: bool) -> PcdHeader:
    names = words["FIELDS"]
    counts = [int(word) for word in words.get("COUNT", ["1"] * len(names))]
    if not len(names) == len(words["SIZE"]) == len(words["TYPE"]) == len(counts):
        raise ValueError("FIELDS, SIZE, TYPE and COUNT differ in length")
    formats = []
    for letter, size, count in zip(words["TYPE"], words["SIZE"], counts, strict=True):
        if f"{letter.upper()}{size}" not in {"F4", "F8", *(a + b for a in "IU" for b in "1248")}:
            raise ValueError(f"the unknown type {letter} of size {size}")
        if not 1 <= count <= LARGEST_ROW:
            raise ValueError(f"COUNT {count}")
        scalar = np.dtype(f"<{letter.lower()}{size}")
        formats.append(scalar if count == 1 else np.dtype((scalar, (count,))))
    if sum(kind.itemsize for kind in formats) > LARGEST_ROW:
        raise ValueError(f"points of more than {LARGEST_ROW} bytes")
    filled = np.dtype(list(zip(_unique(names), formats, strict=True)))
    width, height = int(words["WIDTH"][0]), int(words.get("HEIGHT", ["1"])[0])
    count = int(words["POINTS"][0]) if "POINTS" in words else width * height
    if min(width, height, count) < 0 or width * height != count:
        raise ValueError(f"WIDTH {width} × HEIGHT {height}, but POINTS {count}")
    encoding = words["DATA"][0].lower()
    if encoding not in ENCODINGS:
        raise ValueError(f"DATA {encoding!r}, not one of {', '.join(ENCODINGS)}")
    viewpoint = " ".join(words.get("VIEWPOINT", [*"0001000"]))
    kind = _without_padding(filled, names)
    return PcdHeader(kind, filled, count, width, height, viewpoint, encoding, start, labelled)


def _unique(names: list[str]) -> list[str]:
    """Return the names with a number behind those that occurred before."""
    found: list[str] = []
    for name in names:
        new, number = name, 1
        while new in found:
            new, number = f"{name}_{number}", number + 1
        found.append(new)
    return found


def _without_padding(filled: np.dtype, names: list[str]) -> np.dtype:
    used = [new for new, name in zip(filled.names or (), names, strict=True) if name != "_"]
    assert filled.fields is not None
    return np.dtype(
        {
            "names": used,
            "formats": [filled.fields[name][0] for name in used],
            "offsets": [filled.fields[name][1] for name in used],
            "itemsize": filled.itemsize,
        }
    )


def _map_binary(path: Path, facts: PcdHeader) -> np.ndarray:
    if facts.count == 0:
        return np.empty(0, facts.kind)
    return np.memmap(path, facts.kind, mode="r", offset=facts.start, shape=(facts.count,))


def _decompress(path: Path, facts: PcdHeader) -> np.ndarray:
    """Decompress into a spool; compressed files hold one whole field after the other."""
    from .lzf import LARGEST_RATIO, lzf_decompress

    sizes = np.memmap(path, "<u4", mode="r", offset=facts.start, shape=(2,))
    packed, size = int(sizes[0]), int(sizes[1])
    rest = path.stat().st_size - facts.start - 8
    if (
        size != facts.count * facts.filled.itemsize
        or packed > rest
        or size > LARGEST_RATIO * packed
    ):
        raise DatasetError(
            f"{path}: found {rest:,} bytes that declare {packed:,} compressed and {size:,} plain "
            f"bytes, expected {facts.count * facts.filled.itemsize:,} plain bytes for "
            f"{facts.count:,} points.\nThe file is damaged or cut off: copy or export it again."
        )
    if size == 0:
        return np.empty(0, facts.kind)
    source = np.memmap(path, np.uint8, mode="r", offset=facts.start + 8, shape=(packed,))
    # Written before it is mapped: the system kills who maps a file too large for the disk.
    with Spool(path, np.dtype(np.uint8)) as spool:
        for part in chunks(size):
            spool.append(np.zeros(part.stop - part.start, np.uint8))
        plain = spool.rows(writable=True)
    if not lzf_decompress(source, plain):
        raise DatasetError(
            f"{path}: found damaged compressed data.\nCopy or export the scan again."
        )
    return _interleaved(path, facts, plain)


def _interleaved(path: Path, facts: PcdHeader, plain: np.ndarray) -> np.ndarray:
    """Turn fields that stand one after the other into rows."""
    columns, start = {}, 0
    for name in facts.filled.names or ():
        kind = facts.filled[name]
        column = plain[start : start + facts.count * kind.itemsize].view(kind.base)
        columns[name] = column.reshape(facts.count, *kind.shape)
        start += facts.count * kind.itemsize
    with Spool(path, facts.filled) as spool:
        for part in chunks(facts.count):
            rows = np.empty(part.stop - part.start, facts.filled)
            for name, column in columns.items():
                rows[name] = column[part]
            spool.append(rows)
        return spool.rows().view(facts.kind)


def _read_ascii(path: Path, facts: PcdHeader) -> np.ndarray:
    packed = _packed_field(facts)
    found = 0
    with Spool(path, facts.filled) as spool:
        for values in number_rows(path, facts.start, _parsed_kinds(facts, packed)):
            found += len(values[0])
            if found > facts.count:
                break
            spool.append(_rows_of_words(values, facts.filled, packed))
        rows = spool.rows().view(facts.kind)
    if found != facts.count:
        raise DatasetError(
            f"{path}: found {'more than ' * (found > facts.count)}{min(found, facts.count):,} "
            f"lines of data, expected POINTS {facts.count:,}.\n"
            "The file was cut off or changed: export the scan again."
        )
    return rows


def _rows_of_words(values: list[np.ndarray], kind: np.dtype, packed: str | None) -> np.ndarray:
    """Return rows from one array for each word of a line."""
    rows = np.empty(len(values[0]), kind)
    start = 0
    for name in kind.names or ():
        shape = kind[name].shape
        size = int(np.prod(shape))
        block = np.stack(values[start : start + size], axis=1).reshape(len(rows), *shape)
        with np.errstate(over="ignore"):
            rows[name] = _packed_bits(block, kind[name]) if name == packed else block
        start += size
    return rows


def _parsed_kinds(facts: PcdHeader, packed: str | None) -> list[str]:
    """Return how each word of a line is parsed; a packed colour may be an integer or a float."""
    found: list[str] = []
    for name in facts.filled.names or ():
        kind = facts.filled[name]
        wide = "f8" if name == packed else f"{kind.base.kind}8"
        found += [wide] * int(np.prod(kind.shape))
    return found


def _packed_bits(values: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Return packed colours from text as values of `kind`.

    Some programs write the four bytes as an integer, others as the float with the same bytes,
    which is below 1e-37 (or NaN) for every colour, whatever the type in the header.
    """
    finite = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
    if np.any(np.abs(finite) >= 1):
        bits = (finite.astype(np.int64) & 0xFFFFFFFF).astype(np.uint32)
    else:
        bits = values.astype(np.float32).view(np.uint32)
    return bits.view(kind)


def write_pcd(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the scan's points, in their order, with their labels, as binary PCD.

    Added are `class` (255 for a point without label), `confidence`, the probabilities if there are
    any, and the class colour as packed `rgb`. Every field is kept; one whose name is taken gets
    `scan_` in front. Width, height and viewpoint stay.
    """
    facts: PcdHeader = scan.source
    added = labels.columns()
    kept = kept_names(scan.fields, ("rgb", *added))
    fields = [(kept[name], facts.kind[name]) for name in scan.fields]
    rows = np.dtype([*fields, ("rgb", np.dtype("<u4")), *added.items()])
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_header(facts, rows, labels.comments()))
        for part in chunks(len(scan)):
            table = np.empty(part.stop - part.start, rows)
            for name, new in kept.items():
                table[new] = scan.rows[name][part]
            for name, values in labels.part(part).items():
                table[name] = values
            color = labels.colors(part).astype(np.uint32)
            table["rgb"] = color[:, 0] << 16 | color[:, 1] << 8 | color[:, 2]
            file.write(table.tobytes())


def _header(facts: PcdHeader, rows: np.dtype, comments: list[str]) -> bytes:
    names = rows.names or ()
    bases = [rows[name].base for name in names]
    # PCL looks for `rgb` as a float whose bytes are the colour.
    types = [
        "F" if name == "rgb" else _TYPES[base.kind] for name, base in zip(names, bases, strict=True)
    ]
    lines = ["# .PCD v0.7 - Point Cloud Data file format"]
    lines += [f"# {' '.join(comment.split())}" for comment in comments]
    lines += ["VERSION 0.7", f"FIELDS {' '.join(names)}"]
    lines += [f"SIZE {' '.join(str(base.itemsize) for base in bases)}", f"TYPE {' '.join(types)}"]
    lines.append("COUNT " + " ".join(str(int(np.prod(rows[name].shape))) for name in names))
    lines += [f"WIDTH {facts.width}", f"HEIGHT {facts.height}", f"VIEWPOINT {facts.viewpoint}"]
    lines += [f"POINTS {facts.count}", "DATA binary", ""]
    return "\n".join(lines).encode("utf-8")
