"""Results on stdout: tables for people (drawn on a terminal, plain in a pipe) and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from pipelines.serialization import to_plain

from .errors import holds_all_text

MEANS = (("OA", "oa"), ("mAcc", "macc"), ("mIoU", "miou"))  # what scores.json has beside classes
UNBOUNDED = 10_000  # characters: wider than any terminal
DRAWN = 200  # rows; longer tables are printed plain: drawing takes longer than reading them


def print_json(value: Any) -> None:
    """Print a result (dataclass, dictionary, list) as indented JSON."""
    text = json.dumps(to_plain(value), indent=2, ensure_ascii=not holds_all_text(), default=str)
    print_text(text)


def print_text(text: str) -> None:
    """Print text as it is."""
    sys.stdout.write(f"{text}\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of texts; a column of numbers is aligned to the right."""
    right = [is_numeric(row[number] for row in rows) for number in range(len(columns))]
    if sys.stdout.isatty() and len(rows) <= DRAWN:
        draw_table(columns, rows, right)
    else:
        print_text(plain_table(columns, rows, right))


def draw_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> None:
    """Draw a table on the terminal, or print it plain where its words and numbers do not fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column, align in zip(columns, right, strict=True):
        table.add_column(Text(column), justify="right" if align else "left", no_wrap=align)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    unbounded = console.options.update(width=UNBOUNDED)
    if console.measure(table, options=unbounded).minimum > console.width:
        print_text(plain_table(columns, rows, right))
    else:
        console.print(table)


def plain_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]
) -> str:
    """Return a table as text: columns two spaces apart, nothing drawn."""
    lines = [tuple(columns), *map(tuple, rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    signs = [">" if align else "<" for align in right]
    # One template for all rows: a list of 10,000 runs should not take its time here.
    template = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    return "\n".join(template.format(*line).rstrip() for line in lines)


def is_numeric(cells: Any) -> bool:
    """Whether all cells begin with a digit or stand for no number."""
    return all(not cell or cell[0] in "+-–0123456789" for cell in cells)


def percent(fraction: float | None) -> str:
    """Return a score from 0 to 1 in percent, "–" for none."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"
