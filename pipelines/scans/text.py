"""Read and write text scans: XYZ, TXT, CSV, PTS and ASC.

The points are parsed once, by pandas and a block of lines at a time, into a spool of coordinates
and colours. The labelled scan repeats the lines of the file, each with its label at the end.

Reference:
    CloudCompare, libs/qCC_io/src/AsciiFilter.cpp and AsciiOpenDlg.cpp. It writes `//` and the names
    of the columns, then the number of points, each if wanted. It reads a first line that begins
    with `//`, or one that is skipped, as names; it passes over other lines that begin with `//` and
    lines with too few words, and over columns with words. `#` is no comment to it.
"""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import atomic_write
from pipelines.progress import Task, counted
from pipelines.serialization import csv_cell

from .columns import (
    COLUMN_NAMES,
    NOT_A_NUMBER,
    Cut,
    Layout,
    find_layout,
    is_count,
    is_data,
    is_number,
    shown,
    to_float,
)
from .table import COLOR_NAMES, Labels, Scan, ScanOptions, chunks, kept_names, spooled, tables

_MISSING = sorted(NOT_A_NUMBER)  # pandas takes a list
BLOCK = 1 << 25  # bytes of text handled at a time
LONGEST_LINE = 1 << 16  # bytes
CLASS_NAME = "class_name"  # the column with the name of each point's class
SAMPLE = 1000  # lines from which the layout is detected
PLACES, LINES = 16, 20  # further lines, from several places, show what the first ones lack


def read_text(path: Path, options: ScanOptions) -> Scan:
    """Open a text scan."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:  # UTF-16, or no text
        raise DatasetError(
            f"{path}: found bytes that are no UTF-8 text (the first are {head[:8]!r}), expected "
            "lines of numbers.\nSave it as UTF-8 text, or name it by its real format."
        )
    if b"\r" in head and b"\n" not in head:
        raise DatasetError(
            f"{path}: found lines that end in CR alone, expected LF or CR and LF.\n"
            "Save it with the line ends of today's systems."
        )
    lines = chain.from_iterable(lines for _, lines in line_blocks(path))
    first = [line.rstrip(b"\r") for line in islice(lines, SAMPLE)]
    more = _spread_lines(path) if len(first) == SAMPLE else ()
    layout = find_layout(path, first, more, options.columns, options.label)
    columns = layout.read()
    kind = np.dtype([(name, "<f4" if name in COLOR_NAMES else "<f8") for name in columns])
    kinds = dict.fromkeys(columns.values(), "f8")
    counts = layout.split_counts(first[: layout.head_lines])[1]
    comments = 0

    def parts() -> Iterator[np.ndarray]:
        nonlocal comments
        for number, lines in _after_head(path, layout, options.task):
            points, more = layout.split_counts(lines)
            counts.extend(more)
            found = parse_lines(path, number, points, layout.cut, kinds) or {}
            if len(next(iter(found.values()), ())) < len(points):
                comments += sum(not is_data(line) for line in points if line.strip())
            if found:
                read = {name: found[column] for name, column in columns.items()}
                yield from (table for _, table in tables(read, kind))

    rows = spooled(path, parts(), kind)
    notes: tuple[str, ...] = (layout.note,)
    if comments:
        notes += (f"lines among the points that begin with # or //, so no points: {comments:,}",)
    if len(counts) > 1:
        notes += (f"{len(counts)} scans, in one frame",)
    if counts and sum(counts) != len(rows):
        where = "first line says" if len(counts) == 1 else "counts add up to"
        notes += (
            f"found {counted(len(rows), 'point')}, but its {where} {sum(counts):,}: is it whole?",
        )
    color, names = COLOR_NAMES if "r" in layout.roles else None, tuple(columns)
    return Scan(path, rows, tuple("xyz"), color, names, notes, options=options, source=layout)


def _spread_lines(path: Path) -> list[bytes]:
    """Return lines from places spread over a file."""
    found: list[bytes] = []
    with path.open("rb") as file:
        for place in range(1, PLACES):
            file.seek(path.stat().st_size * place // PLACES)
            _, *lines = (file.readline(LONGEST_LINE).rstrip(b"\r\n") for _ in range(LINES))
            found += lines
    return found


class _NoWholeNumber(Exception):
    """A word for no number in columns of whole numbers."""

    def __init__(self, columns: list[int]) -> None:
        super().__init__(columns)
        self.columns = columns


def text_rows(
    path: Path,
    start: int,
    kind: np.dtype,
    count: int,
    wanted: range = range(sys.maxsize),
    newline: bytes = b"\n",
    change: Callable[[bytes], bytes] | None = None,
    task: Task | None = None,
) -> np.ndarray:
    """Return `count` rows of a structured type, parsed from as many lines of data.

    The lines begin at byte `start`, those numbered `wanted` from there on are rows, and `newline`
    ends a line. A field of several elements is as many words. A field of whole numbers that has a
    word for no number becomes one of floats, with NaN. `change` is applied to each line first. The
    task is as of `ScanOptions`.
    """
    fields = [kind[name] for name in kind.names or ()]
    words = [f"{field.base.kind}8" for field in fields for _ in range(math.prod(field.shape))]
    cut, kinds = Cut(count=len(words)), dict(enumerate(words))

    def parts() -> Iterator[np.ndarray]:
        passed = found = 0
        for number, lines in line_blocks(path, start, newline, task):
            low, high = (max(0, edge - passed) for edge in (wanted.start, wanted.stop))
            wanted_lines = lines[low:high]
            if change is not None:
                wanted_lines = list(map(change, wanted_lines))
            if columns := parse_lines(path, number + low, wanted_lines, cut, kinds):
                yield _rows_of(path, list(columns.values()), kind)
                found += len(columns[0])
            passed += len(lines)
            if found > count or passed >= wanted.stop:
                return

    try:
        rows = spooled(path, parts(), kind)
    except _NoWholeNumber as error:
        wide = _widened(kind, error.columns)
        return text_rows(path, start, wide, count, wanted, newline, change, task)
    if len(rows) != count:
        raise DatasetError(
            f"{path}: found {'more than ' * (len(rows) > count)}"
            f"{counted(min(len(rows), count), 'line')} of data, expected {count:,}.\n"
            "The file was cut off or changed: export the scan again."
        )
    return rows


def _widened(kind: np.dtype, columns: list[int]) -> np.dtype:
    """Return a structured type with floats in the fields that have some of the words `columns`."""
    found, end = [], 0
    for name in kind.names or ():
        base, shape = kind[name].base, kind[name].shape
        start, end = end, end + math.prod(shape)
        if any(start <= column < end for column in columns):
            base = np.dtype("f4" if base.itemsize < 4 else "f8")
        found.append((name, base, shape))
    return np.dtype(found)


def _rows_of(path: Path, columns: list[np.ndarray], kind: np.dtype) -> np.ndarray:
    """Return rows from one array for each word of a line."""
    rows = np.empty(len(columns[0]), kind)
    words = iter(columns)
    for name in kind.names or ():
        shape = kind[name].shape
        values = np.stack([next(words) for _ in range(math.prod(shape))], axis=1)
        values = values.reshape(len(rows), *shape)
        with np.errstate(over="ignore"):
            rows[name] = values
        if kind[name].base.kind in "iu" and (rows[name] != values).any():
            raise DatasetError(
                f"{path}: found a value of {name} that is too large for its type, "
                f"{kind[name].base.name}.\nExport the scan again."
            )
    return rows


def line_blocks(
    path: Path, start: int = 0, newline: bytes = b"\n", task: Task | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield blocks of lines, without ends, and the number in the file of each block's first one.

    The task is advanced by the megabytes of the blocks that were used.
    """
    with path.open("rb") as file:
        number = file.read(start).count(newline) + 1
        rest = b""
        while block := file.read(BLOCK):
            size = len(block)
            block = block.replace(b"\r", b"\n") if newline == b"\r" else block
            lines = (rest + block).removeprefix(b"\xef\xbb\xbf").split(b"\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                raise DatasetError(
                    f"{path}:{number + len(lines)}: found a line of more than {LONGEST_LINE} "
                    "bytes, expected lines of numbers."
                )
            yield number, lines
            number += len(lines)
            if task is not None:
                task.advance(size / 1e6)
        if rest:
            yield number, [rest]


def _after_head(
    path: Path, layout: Layout, task: Task | None = None
) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the blocks of lines behind the header."""
    for number, lines in line_blocks(path, task=task):
        skipped = max(0, layout.head_lines + 1 - number)
        if skipped < len(lines):
            yield number + skipped, lines[skipped:]


def parse_lines(
    path: Path, number: int, lines: list[bytes], cut: Cut, kinds: Mapping[int, str]
) -> dict[int, np.ndarray] | None:
    """Return the columns that have one of `kinds` ("f8", "i8", "u8"), or None without any data."""
    import pandas as pd

    data = [line for line in lines if is_data(line)]
    if not data:
        return None
    if any(cut.count_words(line) != cut.count for line in data):
        raise _complaint(path, number, lines, cut, kinds)
    try:
        with np.errstate(invalid="raise"):  # infinite, in a column of whole numbers
            table = pd.read_csv(
                io.BytesIO(b"\n".join(data)),
                sep=r"\s+" if cut.delimiter == " " else cut.delimiter,
                header=None,
                names=range(cut.count),
                index_col=False,
                usecols=list(kinds),
                dtype=dict(kinds),
                decimal=cut.decimal,
                skipinitialspace=True,
                keep_default_na=False,
                na_values=_MISSING,
                encoding="latin-1",
                low_memory=False,
            )
    except (ValueError, ArithmeticError, pd.errors.ParserError) as error:
        if columns := _no_whole_numbers(data, cut, kinds):
            raise _NoWholeNumber(columns) from error
        raise _complaint(path, number, lines, cut, kinds) from error
    if len(table) != len(data):
        raise DatasetError(
            f"{path}:{number}: found quotes that span lines in or after this line, expected one "
            "point a line.\nExport the scan again without them."
        )
    return {column: table[column].to_numpy() for column in kinds}


def _is_lost(word: str) -> bool:
    """Return whether a word is a number only if taken as a float: NaN or infinite."""
    return is_number(word) and not math.isfinite(to_float(word, "."))


def _no_whole_numbers(lines: list[bytes], cut: Cut, kinds: Mapping[int, str]) -> list[int]:
    """Return the columns of whole numbers in which some words stand for no number."""
    whole = [column for column, kind in kinds.items() if kind != "f8"]
    words = (cut.split(line) for line in lines) if whole else ()
    return sorted({n for line in words for n in whole if _is_lost(line[n])})


def _complaint(
    path: Path, number: int, lines: list[bytes], cut: Cut, kinds: Mapping[int, str]
) -> DatasetError:
    """Return an error that names the first line that is not cut into numbers as expected."""
    for where, line in enumerate(lines, start=number):
        if not is_data(line):
            continue
        words, found = cut.split(line), ""
        if (count := cut.count_words(line)) != cut.count:
            found = f"{counted(count, 'column')}, expected {cut.count} as in the lines before"
        for column, kind in kinds.items() if not found else ():
            if words[column] and not is_number(words[column], cut.decimal, kind):
                expected = "a number" if kind == "f8" else "a whole number"
                found = f"{words[column][:40]!r} in column {column + 1}, expected {expected}"
                break
        if found:
            return DatasetError(
                f"{path}:{where}: found {found}.\nCorrect this line ({shown(line)}), or write nan "
                "where a value is missing."
            )
    return DatasetError(
        f"{path}:{number}: found a line that cannot be read in or after this line, expected "
        "numbers.\nExport the scan again."
    )


def write_text(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the scan's lines again, each followed by its label.

    Added are the class's name (one word where columns are cut by spaces, `unlabelled` for 255),
    its number, confidence, and probabilities if there are any. A header line gets the new columns'
    names; a column of the scan that has such a name already gets `scan_` in front. A scan without
    one gets a header, unless it is a PTS file or begins with a number of points.
    """
    layout: Layout = scan.source
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_head(scan, layout, labels))
        words = _label_words(labels, layout)
        file.writelines(_labelled_lines(scan.path, layout, words))
        if next(words, None) is not None:
            raise DatasetError(
                f"{scan.path}: found fewer than {counted(len(scan), 'point')}, the number when it "
                "was read.\nIt has changed meanwhile: label it again."
            )


def _labelled_lines(path: Path, layout: Layout, words: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines behind the header, until there are no more words for a point."""
    for _, lines in _after_head(path, layout):
        for line in lines:
            if not is_data(line) or (layout.counted and is_count(line)):
                yield line + b"\n"
            elif (added := next(words, None)) is not None:
                yield line.rstrip(b"\r") + added + (b"\r\n" if line.endswith(b"\r") else b"\n")
            else:
                return


def _head(scan: Scan, layout: Layout, labels: Labels) -> bytes:
    """Return what precedes the first point."""
    with scan.path.open("rb") as file:
        lines = [line.removeprefix(b"\xef\xbb\xbf") for line in islice(file, layout.head_lines)]
    added = [CLASS_NAME, *labels.columns()]
    if layout.header is not None:
        line = lines[layout.header].decode("utf-8", "surrogateescape")
        words = line.rstrip("\r\n").split(layout.joint)
        bare = [word.lstrip("/#").strip(' "') for word in words]
        kept = kept_names(dict.fromkeys(bare), added)
        words = [word.replace(name, kept[name]) for word, name in zip(words, bare, strict=True)]
        line = layout.joint.join([*words, *added]) + ("\r\n" if line.endswith("\r\n") else "\n")
        lines[layout.header] = line.encode("utf-8", "surrogateescape")
    elif not layout.counted and scan.path.suffix.lower() != ".pts":
        roles = [f"column_{n}" if r == "-" else r for n, r in enumerate(layout.roles, start=1)]
        columns = [COLUMN_NAMES.get(role, role) for role in roles]
        lines.append(f"{layout.joint.join([*columns, *added])}\n".encode())
    return b"".join(line if line.endswith(b"\n") else line + b"\n" for line in lines)


def _label_words(labels: Labels, layout: Layout) -> Iterator[bytes]:
    """Yield what is added to the end of each point's line."""
    joint, comma = layout.joint, layout.cut.decimal == ","
    # What would cut a name in two, for pandas too, is replaced in it.
    cutting = re.compile(f'["#{joint}]' if joint in ",;|" else r'["#\s]+')
    plain = (cutting.sub("_", " ".join(name.split())) for name in labels.classes)
    names = dict(enumerate(map(csv_cell, plain)))
    for part in chunks(len(labels.label)):
        label, *others = (values[part].tolist() for values in labels.columns().values())
        form = (joint + "%.4f") * len(others)
        for number, *values in zip(label, *others, strict=True):
            text = form % tuple(values)
            name = names.get(number, "unlabelled") or "_"
            text = text.replace(".", ",") if comma else text
            yield f"{joint}{name}{joint}{number}{text}".encode()
        labels.task.advance(len(label))
