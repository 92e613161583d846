"""Lines of numbers, millions at a time: what text scans and ASCII PCD files are made of."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipelines.errors import DatasetError

BLOCK = 1 << 25  # bytes of text handled at a time
LONGEST_LINE = 1 << 16  # bytes
_COMMENTS = (b"#", b"//")
_NOT_A_NUMBER = ["", "nan", "-nan", "nan(ind)", "-nan(ind)", "NaN", "NAN", "null", "NULL", "NA"]


@dataclass(frozen=True)
class Columns:
    """How the lines of a file are cut.

    Attributes:
        count: columns of a line.
        used: the columns to read, ascending.
        kinds: how each used column is read: "f8", "i8" or "u8".
        delimiter: one character; " " stands for any run of spaces and tabs.
        decimal: "." or ",".
    """

    count: int
    used: tuple[int, ...]
    kinds: tuple[str, ...]
    delimiter: str = " "
    decimal: str = "."

    def split(self, line: bytes) -> list[str]:
        """Return the words of a line."""
        text = line.decode("utf-8", "replace")
        if self.delimiter == " ":
            return text.split()
        words = text.split(self.delimiter)
        if '"' in text:
            # Quotes that are no CSV's stay letters, which are no number.
            with suppress(csv.Error):
                words = next(csv.reader([text], delimiter=self.delimiter))
        return [word.strip() for word in words]

    def count_words(self, line: bytes) -> int:
        """Return the number of words of a line."""
        if self.delimiter == " ":
            return len(line.split())
        if b'"' in line:
            return len(self.split(line))
        return line.count(self.delimiter.encode()) + 1


def is_data(line: bytes) -> bool:
    """Tell a line of data from an empty one and a comment."""
    return bool(line) and not line.isspace() and not line.startswith(_COMMENTS)


def line_blocks(path: Path, start: int = 0) -> Iterator[tuple[int, list[bytes]]]:
    """Yield blocks of lines without line ends and byte order mark, with the first line's number.

    `start` is the byte at which a line begins; the numbers count from the file's beginning.

    Raises:
        DatasetError: a line is too long for text.
    """
    with path.open("rb") as file:
        number = file.read(start).count(b"\n") + 1
        rest = b""
        while block := file.read(BLOCK):
            lines = (rest + block).removeprefix(b"\xef\xbb\xbf").split(b"\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                raise DatasetError(
                    f"{path}:{number + len(lines)}: found a line of more than {LONGEST_LINE} "
                    "bytes, expected lines of numbers."
                )
            yield number, lines
            number += len(lines)
        if rest:
            yield number, [rest]


def number_rows(path: Path, start: int, kinds: Sequence[str]) -> Iterator[list[np.ndarray]]:
    """Yield the columns of blocks of lines that hold as many numbers as there are `kinds`.

    Raises:
        DatasetError: a line holds something else.
    """
    columns = Columns(len(kinds), tuple(range(len(kinds))), tuple(kinds))
    for number, lines in line_blocks(path, start):
        if found := parse_block(path, number, lines, columns):
            yield found


def parse_block(
    path: Path, number: int, lines: list[bytes], columns: Columns
) -> list[np.ndarray] | None:
    """Return the used columns of the lines of data, or None if there are none.

    Args:
        path: the file, for messages.
        number: the first line's number.
        lines: lines without line ends; empty ones and comments are left out.
        columns: how they are cut.

    Raises:
        DatasetError: a line has another number of columns, or no number in a used one.
    """
    import pandas as pd

    data = [line for line in lines if is_data(line)]
    if not data:
        return None
    count = columns.count_words
    if any(count(line) != columns.count for line in data):
        raise _uneven(path, number, lines, columns)
    try:
        table = pd.read_csv(
            io.BytesIO(b"\n".join(data)),
            sep=r"\s+" if columns.delimiter == " " else columns.delimiter,
            header=None,
            names=range(columns.count),
            index_col=False,
            usecols=list(columns.used),
            dtype=dict(zip(columns.used, columns.kinds, strict=True)),
            decimal=columns.decimal,
            skipinitialspace=True,
            keep_default_na=False,
            na_values=_NOT_A_NUMBER,
            encoding="latin-1",
            low_memory=False,
        )
    except (ValueError, OverflowError, pd.errors.ParserError) as error:
        raise _no_number(path, number, lines, columns) from error
    if len(table) != len(data):
        raise DatasetError(
            f"{path}:{number}: found quotes that span lines in or after this line, expected one "
            "point a line.\nExport the scan again without them."
        )
    return [table[column].to_numpy() for column in columns.used]


def _uneven(path: Path, number: int, lines: list[bytes], columns: Columns) -> DatasetError:
    for line_number, line in enumerate(lines, start=number):
        if is_data(line) and columns.count_words(line) != columns.count:
            return DatasetError(
                f"{path}:{line_number}: found {columns.count_words(line)} columns, expected "
                f"{columns.count} as in the lines before.\nCorrect this line ({shown(line)})."
            )
    raise AssertionError("called without an uneven line")


def _no_number(path: Path, number: int, lines: list[bytes], columns: Columns) -> DatasetError:
    for line_number, line in enumerate(lines, start=number):
        if not is_data(line):
            continue
        words = columns.split(line)
        for column, kind in zip(columns.used, columns.kinds, strict=True):
            if not _reads(words[column], kind, columns.decimal):
                return DatasetError(
                    f"{path}:{line_number}: found {words[column][:40]!r} in column {column + 1}, "
                    f"expected {'a number' if kind == 'f8' else 'a whole number'}.\n"
                    f"Correct this line ({shown(line)})."
                )
    return DatasetError(
        f"{path}:{number}: found a line that cannot be read in or after this line, expected "
        "numbers.\nExport the scan again."
    )


def _reads(word: str, kind: str, decimal: str) -> bool:
    try:
        if kind == "f8":
            float(word.replace(decimal, ".") if word not in _NOT_A_NUMBER else "nan")
            return "_" not in word
        lowest, highest = (0, 2**64) if kind == "u8" else (-(2**63), 2**63)
        return "_" not in word and lowest <= int(word) < highest
    except ValueError:
        return False


def is_number(word: str, decimal: str = ".") -> bool:
    """Tell a number, NaN or infinity from any other word."""
    if decimal == "," and ("." in word or word.endswith(",") or word.startswith(",")):
        return False
    return bool(word) and _reads(word, "f8", decimal)


def shown(line: bytes) -> str:
    """Return a line as a message can show it."""
    return repr(line[:60].decode("latin-1").strip())
