"""Results on stdout: tables for people (drawn on a terminal, plain in a pipe) and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import typer

from pipelines.progress import Progress
from pipelines.serialization import to_plain

from .streams import holds_all_text, one_line, show

MEANS = (("OA", "oa"), ("mAcc", "macc"), ("mIoU", "miou"))  # what scores.json has beside classes
UNBOUNDED = 10_000  # characters: wider than any terminal
DRAWN = 200  # rows; longer tables are printed plain: drawing takes longer than reading them


@dataclass(frozen=True)
class Table:
    """A table of texts."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    @property
    def right(self) -> list[bool]:
        """Which columns are aligned to the right: those of numbers."""
        cells = (tuple(row[number] for row in self.rows) for number in range(len(self.columns)))
        return [all(not text or text[0] in "+-–0123456789" for text in column) for column in cells]


@dataclass(frozen=True)
class Answer:
    """What a command has found: `value` for `--json`, else `parts` for people."""

    value: Any  # dataclass, dictionary or list
    parts: Iterable[str | Table]  # not read with --json
    hint: str = ""  # on stderr, after the parts: what to do next
    failed: bool = False  # exit code 1


def print_answer(answer: Answer, progress: Progress, *, as_json: bool) -> None:
    """Print what a command has found; exit with code 1 if it failed in part."""
    if as_json:
        print_json(answer.value)
    else:
        for part in answer.parts:
            print_part(part)
        if answer.hint:
            progress.say(answer.hint)
    if answer.failed:
        raise typer.Exit(1)


def print_json(value: Any) -> None:
    """Print a result (dataclass, dictionary, list) as indented JSON."""
    text = json.dumps(to_plain(value), indent=2, ensure_ascii=not holds_all_text(), default=str)
    print_part(text)


def print_part(part: str | Table) -> None:
    """Print a text as it is, or a table: drawn on a terminal where it fits, else plain."""
    if isinstance(part, str):
        show(part)
    elif not (sys.stdout.isatty() and len(part.rows) <= DRAWN and draw_table(part)):
        print_part(plain_table(part))


def show_parts(parts: Iterable[str | Table], progress: Progress) -> None:
    """Show what a command has found before its work begins, on stderr, unless it is quiet."""
    drawing = sys.stderr.isatty() and not getattr(progress, "quiet", False)
    for part in parts:
        if isinstance(part, str):
            progress.say(part)
        elif not (drawing and draw_table(part, error=True)):
            progress.say(plain_table(part))


def draw_table(table: Table, *, error: bool = False) -> bool:
    """Draw a table and return True; False, and nothing drawn, where the terminal is too narrow."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(box=box.SIMPLE_HEAD)
    for column, align in zip(table.columns, table.right, strict=True):
        drawn.add_column(
            Text(one_line(column)), justify="right" if align else "left", no_wrap=align
        )
    for row in table.rows:
        drawn.add_row(*(Text(one_line(cell)) for cell in row))
    console = Console(highlight=False, stderr=error)
    unbounded = console.options.update(width=UNBOUNDED)
    fits = console.measure(drawn, options=unbounded).minimum <= console.width
    if fits:
        console.print(drawn)
    return fits


def plain_table(table: Table) -> str:
    """Return a table as text: columns two spaces apart, nothing drawn."""
    lines = [tuple(map(one_line, row)) for row in (table.columns, *table.rows)]
    widths = [max(map(len, cells)) for cells in zip(*lines, strict=True)]
    signs = [">" if align else "<" for align in table.right]
    # One template for all rows: a list of 10,000 runs should not take its time here.
    template = "  ".join(f"{{:{sign}{width}}}" for sign, width in zip(signs, widths, strict=True))
    return "\n".join(template.format(*line).rstrip() for line in lines)


def percent(fraction: float | None) -> str:
    """Return a score from 0 to 1 in percent, "–" for none."""
    return "–" if fraction is None else f"{100 * fraction:.2f}"
