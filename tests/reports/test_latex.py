"""Tables in LaTeX: signs by eye, widths by TeX itself where it is installed."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipelines.data.s3dis import CLASSES
from pipelines.reports.latex import SIGNS, latex_table
from pipelines.reports.tables import Report, Row, Table
from tests.reports.test_studies import TABLE
from tests.reports.test_tables import report

NAMES = (
    "mine: ResGCN-28 (edge, C 64, k 16), recipe modern without ema",
    "published, S3DIS Area 5 †",
)
WIDE = Report("Area_5", CLASSES, tuple(Row(n, 0.6, 0.9, 1.0, (0.5,) * 13) for n in NAMES), {})
MANY = tuple(f"große-Klasse_{number}" for number in range(40))
CASES = {
    "S3DIS": WIDE.texts(1)["tex"](),
    "40 classes": Report("t", MANY, (Row("a", 0.6, 0.9, 1.0, (0.5,) * 40),), {}).texts(1)["tex"](),
    "study": latex_table(TABLE.table()),
    "one long word": latex_table(Table("t", ("", "a"), (("x" * 40, "1"), ("m" * 12, "2")))),
}
CASES_OF_TWO = {
    "S3DIS": WIDE.texts(2)["tex"](),
    "study": latex_table(TABLE.table(), page_columns=2),
}


def test_latex() -> None:
    text = report().texts()["tex"]()
    assert r"mine & 87.5 & 50.0 & 25.0 & 50.0 & -- \\" in text
    assert r"published $\dagger$ & -- & -- & 52.5 & -- & -- \\" in text
    assert r"\begin{tabular}{@{}lrrrrr@{}}" in text
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 1
    assert "% A note." in text
    assert "% seed: 0" in text


def test_every_sign_is_shown_as_it_is() -> None:
    text = r"a_b & 5 % {x} \ ~".translate(SIGNS)
    assert text == r"a\_b \& 5 \% \{x\} \textbackslash{} \textasciitilde{}"


def test_what_does_not_fit_goes_below_and_nothing_is_lost() -> None:
    text = CASES["S3DIS"]
    assert text.count(r"\begin{table}") == 1
    parts = text.split(r"\begin{tabular}")[1:]
    assert len(parts) > 1
    heads = [name for part in parts for name in re.findall(r"rotatebox\{90\}\{(\w+)\}", part)]
    assert heads == list(CLASSES)
    assert all("published, S3DIS Area 5" in part for part in parts)
    assert text.count(" & 50.0") == 2 * len(CLASSES)


def test_two_columns_take_one_wide_table() -> None:
    text = CASES_OF_TWO["S3DIS"]
    assert text.count(r"\begin{table*}") == text.count(r"\begin{tabular}") == 1


@pytest.mark.parametrize("columns", [1, 2])
def test_no_table_is_wider_than_the_text(tmp_path: Path, columns: int) -> None:
    if shutil.which("pdflatex") is None:
        pytest.skip("pdflatex is missing (apt-get install texlive-latex-recommended)")
    cases = CASES if columns == 1 else CASES_OF_TWO
    # The width of each column of text is that of CVPR's style; article's own has 10 pt less.
    form = "" if columns == 1 else r"\setlength{\textwidth}{6.875in}"
    twocolumn = "[twocolumn]" if columns == 2 else ""
    source = "\n".join(
        [
            rf"\documentclass{twocolumn}{{article}}\usepackage{{array,booktabs,graphicx}}{form}",
            r"\hbadness=10000 \begin{document}",
            *cases.values(),
            r"\end{document}",
        ]
    )
    (tmp_path / "tables.tex").write_text(source, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout, done.stdout
