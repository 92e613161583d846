"""A table as LaTeX, no wider than the text of a page.

What does not fit beside the names of the lines goes below, with the names again; a column of long
texts is broken into lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tables import Table

TEXT_WIDTH = {1: 345.0, 2: 496.0}  # pt, of one column (article, 10 pt) and across two (CVPR)
GAP = 6.0  # pt between two columns
WRAPPED = 0.22  # of the text width: where a column's texts are broken
LINE = 10.0  # pt, the height of a line and so the width of a rotated one
# Widths of signs in Computer Modern at 9 pt, rather large; others take 5.2 pt, capitals 7.7.
WIDTHS = {
    **dict.fromkeys(".,:;!|'", 2.7),
    **dict.fromkeys(" Iijlft()[]-", 3.7),
    **dict.fromkeys("0123456789–", 4.7),
    **dict.fromkeys("mw%@&+−±×Δ", 7.7),
}
SIGNS = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "†": r"$\dagger$",
        "–": "--",
        "±": r"$\pm$",
        "×": r"$\times$",
        "ε": r"$\varepsilon$",
        "Δ": r"$\Delta$",
        "−": "$-$",
    }
)


@dataclass(frozen=True)
class _Column:
    cells: tuple[str, ...]  # the heading, then one a line, in LaTeX
    width: float  # pt
    form: str  # as tabular has it


def latex_table(
    table: Table, remark: str = "", *, upright: int | None = None, page_columns: int = 1
) -> str:
    """Return a table for pages of one or two columns of text; notes and summary are comments.

    `remark` follows the title in the caption. All but the first `upright` headings are rotated;
    None: no heading is.
    """
    room = TEXT_WIDTH[page_columns]
    texts = list(zip(table.columns, *table.lines, strict=True))
    columns = [
        _column(each, "l" if n < table.texts else "r", room * WRAPPED, n >= (upright or n + 1))
        for n, each in enumerate(texts)
    ]
    parts = "\n\\par\\medskip\n".join(_tabular(part) for part in _parts(columns, table.key, room))
    environment = "table" if page_columns == 1 else "table*"
    remarks = [*table.notes, *(f"{name}: {value}" for name, value in table.summary.items())]
    return "\n".join(
        [
            *(f"% {text}" for text in remarks),
            rf"% needs \usepackage{{array,booktabs{'' if upright is None else ',graphicx'}}}",
            rf"\begin{{{environment}}}",
            rf"\centering\small\setlength{{\tabcolsep}}{{{GAP / 2:g}pt}}",
            rf"\caption{{{table.title.translate(SIGNS)}.{remark}}}",
            parts,
            rf"\end{{{environment}}}",
            "",
        ]
    )


def _column(texts: Sequence[str], form: str, room: float, rotated: bool) -> _Column:
    """Return a column of a heading and cells; wider than `room` only if a word is."""
    head, *cells = (text.translate(SIGNS) for text in texts)
    flat = texts[1:] if rotated else texts
    width = max(LINE, *map(_width, flat))
    if width > room:
        words = (word for text in flat for word in re.split(r" |(?<=-)", text))
        width = max(room, *map(_width, words))
        form = rf">{{\raggedright\arraybackslash}}p{{{width:.0f}pt}}"
    if rotated:
        head = rf"\rotatebox{{90}}{{{head}}}"
    return _Column((head, *cells), width, form)


def _width(text: str) -> float:
    """Return an estimate of the width of a text in pt."""
    return sum(WIDTHS.get(sign, 7.7 if sign.isupper() else 5.2) for sign in text)


def _parts(columns: Sequence[_Column], key: int, room: float) -> Iterator[list[_Column]]:
    """Yield the column `key` and as many of the others as fit into `room`, until all are there."""
    first = columns[key]
    part, left = [first], room - first.width
    for column in (each for each in columns if each is not first):
        if column.width + GAP > left and len(part) > 1:
            yield part
            part, left = [first], room - first.width
        part.append(column)
        left -= column.width + GAP
    yield part


def _tabular(columns: Sequence[_Column]) -> str:
    lines = zip(*(column.cells for column in columns), strict=True)
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    forms = "".join(column.form for column in columns)
    ruled = [r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{@{{}}{forms}@{{}}}}", *ruled, r"\end{tabular}"])
