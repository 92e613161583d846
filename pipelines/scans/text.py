"""Text scans: XYZ, TXT, CSV, PTS and ASC in, the same lines with their labels out.

The points are parsed once, into a spool of coordinates and colours. The result repeats the file's
own lines, each with its label behind, so that every other column stays to the letter.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError
from pipelines.files import atomic_write

from .columns import Layout, find_layout
from .lines import is_data, line_blocks, parse_block
from .table import COLOR_NAMES, Labels, Scan, ScanOptions, Spool, chunks

SAMPLE = 1000  # lines from which the columns are detected
_TEXT = (np.dtype("<f8"), np.dtype("<f4"))  # of coordinates and of colours in the spool


def read_text(path: Path, options: ScanOptions) -> Scan:
    """Open a text scan.

    Raises:
        ConfigError: `options.columns` does not fit the file.
        DatasetError: it is no text, holds no points, or a line that cannot be read.
    """
    first = _first_lines(path)
    layout = find_layout(path, first, options.columns, options.label)
    names = [*"xyz", *(COLOR_NAMES if layout.has_color else ()), *layout.label]
    kinds = [_TEXT[name in COLOR_NAMES] for name in names]
    kind = np.dtype(list(zip(names, kinds, strict=True)))
    with Spool(path, kind) as spool:
        for number, lines in _after_head(path, layout):
            columns = parse_block(path, number, lines, layout.columns)
            if columns is None:
                continue
            table = np.empty(len(columns[0]), kind)
            for name, where in zip(names, layout.used_order(), strict=True):
                with np.errstate(over="ignore"):
                    table[name] = columns[where]
            spool.append(table)
        rows = spool.rows()
    notes = layout.notes
    if layout.counted and (told := int(first[0])) != len(rows):
        notes += (f"found {len(rows):,} points, but its first line tells {told:,}: is it whole?",)
    return Scan(
        path,
        rows,
        ("x", "y", "z"),
        COLOR_NAMES if layout.has_color else None,
        tuple(names),
        notes=notes,
        options=options,
        source=layout,
    )


def _first_lines(path: Path) -> list[bytes]:
    """Return the first lines of a file, refusing what is no text in an encoding known here."""
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        raise DatasetError(
            f"{path}: found bytes that are no UTF-8 text (the first are {head[:8]!r}), expected "
            "lines of numbers.\nSave it as UTF-8 text, or name it by its real format."
        )
    lines = chain.from_iterable(lines for _, lines in line_blocks(path))
    return [line.rstrip(b"\r") for line in islice(lines, SAMPLE)]


def _after_head(path: Path, layout: Layout) -> Iterator[tuple[int, list[bytes]]]:
    """Yield the blocks of lines without the header."""
    for number, lines in line_blocks(path):
        skipped = max(0, layout.head_lines + 1 - number)
        if skipped < len(lines):
            yield number + skipped, lines[skipped:]


def write_text(path: Path, scan: Scan, labels: Labels) -> None:
    """Write the scan's lines again, each with class, confidence and probabilities behind.

    The first lines (in a PTS file the second and third: the first is the number of points) are
    comments `#` with the class names and, if the scan has no header, its columns. A header line
    gets the new columns' names; a column of the scan that has such a name already gets `scan_` in
    front.

    Raises:
        DatasetError: the scan has changed since it was read.
    """
    layout: Layout = scan.source
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        file.write(_head(scan, layout, labels))
        words = _label_words(labels, layout)
        written = 0
        for _, lines in _after_head(scan.path, layout):
            for line in lines:
                if is_data(line):
                    end = b"\r\n" if line.endswith(b"\r") else b"\n"
                    file.write(line.rstrip(b"\r") + next(words, b"") + end)
                    written += 1
                else:
                    file.write(line + b"\n")
        if written != len(scan):
            raise DatasetError(
                f"{scan.path}: found {written:,} points, expected {len(scan):,} as when it was "
                "read.\nIt has changed meanwhile: try again."
            )


def _head(scan: Scan, layout: Layout, labels: Labels) -> bytes:
    """Return what stands before the first point."""
    with scan.path.open("rb") as file:
        lines = list(islice(file, layout.head_lines))
    lines = [line.removeprefix(b"\xef\xbb\xbf") for line in lines]
    added = list(labels.columns())
    if layout.header is not None:
        lines[layout.header] = _longer_header(lines[layout.header], layout, added)
    comments = [f"{labels.comments()[0]}; columns behind the scan's own: {', '.join(added)}"]
    names = ", ".join(f"{number} {name}" for number, name in enumerate(labels.classes))
    comments.append(f"classes: {' '.join(names.split())}")
    if layout.header is None:
        comments.append(layout.joint.join([*layout.names(), *added]))
    comment = "".join(f"# {comment}\n" for comment in comments).encode()
    counted = 1 if layout.counted else 0
    lines = [line if line.endswith(b"\n") else line + b"\n" for line in lines]
    return b"".join([*lines[:counted], comment, *lines[counted:]])


def _longer_header(line: bytes, layout: Layout, added: list[str]) -> bytes:
    """Return the header line with the names of the new columns."""
    text = line.decode("utf-8", "surrogateescape").rstrip("\r\n")
    joint = layout.joint
    words = text.split(joint)
    plain = [word.strip(' "') for word in words]
    for number, word in enumerate(plain):
        new = word
        while new in added or (new != word and new in plain):
            new = f"scan_{new}"
        words[number] = words[number].replace(word, new) if word else words[number]
    text = joint.join(words)
    end = "\r\n" if line.endswith(b"\r\n") else "\n"
    return (joint.join([text, *added]) + end).encode("utf-8", "surrogateescape")


def _label_words(labels: Labels, layout: Layout) -> Iterator[bytes]:
    """Yield, for each point, what stands behind its line."""
    joint = layout.joint
    for part in chunks(len(labels.label)):
        found = labels.part(part)
        columns = [found["class"].tolist()]
        columns += [values.tolist() for name, values in found.items() if name != "class"]
        form = joint + "%d" + (joint + "%.4f") * (len(columns) - 1)
        for values in zip(*columns, strict=True):
            text = form % values
            yield (text.replace(".", ",") if layout.columns.decimal == "," else text).encode()
