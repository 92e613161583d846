"""The table of a study: figures by hand, formats read back."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.reports.latex import latex_table
from pipelines.reports.studies import (
    Delta,
    Line,
    Published,
    Sample,
    StudyTable,
    curves,
    duration,
    study_figure,
    tables_markdown,
    tables_values,
    write_study,
)
from pipelines.reports.tables import Table, render_page


def sample(seed: int, miou: float, seconds: float | None = 60.0) -> Sample:
    figures = 0.8, 0.6, miou, seconds, 2_000_000_000
    return Sample(seed, f"run-{seed}", *figures, loss=1.5 - miou)


LINES = (
    Line(
        "reference",
        "reference",
        "resgcn-28",
        (sample(0, 0.50), sample(1, 0.53), sample(2, 0.56)),
        parameters=3_644_301,
        published=Published(52.49, None, cited=True, comparable=True),
        axes={"arch": "resgcn"},
        network={"depth": 28, "width": 64, "k": 16},
    ),
    Line(
        "deep",
        "depth",
        "resgcn-56 | wide",
        (sample(0, 0.55, None),),
        delta=Delta(0.05, -0.01, 0.11, rooms=68, seeds=1),
        published=Published(53.64, 1.15, cited=False, comparable=False),
        remark="seed 1 failed: the loss is nan; seed 2 waiting",
        axes={"arch": "resgcn", "depth": 56},
        network={"depth": 56, "width": 64, "k": 8},
    ),
    Line("none", "depth", "resgcn-7", remark="waiting", axes={"arch": "resgcn", "depth": 7}),
)
TABLE = StudyTable("mine", "mIoU & more", "reference", LINES, {"data": "data"}, ("A note.",))


def cells(table: StudyTable, row: str) -> dict[str, str]:
    shown = table.table()
    line = next(line for line in shown.lines if line[1] == row)
    return dict(zip(shown.columns, line, strict=True))


def test_means_and_deviations_over_the_seeds() -> None:
    found = cells(TABLE, "reference")
    # mean 0.53; squares of ±0.03 summed over n − 1 = 2: a deviation of 0.03
    assert found["mIoU"] == "53.00 ± 3.00"
    assert found["seeds"] == "3"
    assert found["training loss"] == "0.970 ± 0.030"  # 1.5 less the mIoU's values
    assert cells(TABLE, "deep")["training loss"] == "0.950"
    assert cells(TABLE, "none")["training loss"] == "–"
    assert found["parameters"] == "3.644 M"
    assert (found["time"], found["memory"]) == ("1 min 0 s", "2.00 GB")
    assert (found["published"], found["ours − published"]) == ("52.49", "+0.51")
    deep = cells(TABLE, "deep")
    assert deep["mIoU"] == "55.00 ± –", "one seed has no deviation"
    assert deep["Δ mIoU"] == "+5.00 [-1.00, +11.00]"
    assert (deep["published Δ, full size"], deep["published"]) == ("+1.15 †", "–")
    assert deep["remark"].startswith("seed 1 failed")
    none = cells(TABLE, "none")
    assert (none["mIoU"], none["seeds"], none["remark"]) == ("–", "0", "waiting")


def test_columns_without_anything_are_left_out() -> None:
    only = Sample(0, "run-0", 0.8, 0.6, 0.5, None, 2_000_000_000)
    bare = StudyTable("mine", "t", None, (Line("a", "g", "n", (only,)),))
    assert bare.table().columns == ("group", "row", "network", "OA", "mIoU", "seeds", "memory")


def test_markdown_and_latex() -> None:
    text = tables_markdown([TABLE])
    assert "| depth | deep | resgcn-56 \\| wide | 80.00 ± – | 55.00 ± – |" in text
    assert text.splitlines()[5].startswith("| --- | --- | --- | ---: |")
    latex = latex_table(TABLE.table(), page_columns=2)
    assert r"\caption{mIoU \& more.}" in latex
    assert r"53.00 $\pm$ 3.00" in latex
    assert r"$\Delta$ mIoU" in latex
    found = 1  # the rows' names come with every part
    for part in latex.split(r"\toprule")[1:]:
        head, rows = part.split(r"\midrule")
        columns = head.count(" & ") + 1
        lines = rows.split(r"\bottomrule")[0].strip().splitlines()
        assert [line.split(" & ")[0] for line in lines] == ["reference", "deep", "none"]
        assert all(line.count(" & ") == columns - 1 and line.endswith(r"\\") for line in lines)
        found += columns - 1
    assert found == len(TABLE.table().columns)
    assert not [sign for sign in latex.split(r"\toprule")[1] if ord(sign) > 127]


def test_the_title_of_a_study_is_its_heading(tmp_path: Path) -> None:
    named = replace(TABLE, study_title="How deep, at öne tenth of the size")
    assert tables_markdown([named]).startswith("# How deep, at öne tenth of the size\n")
    assert tables_markdown([TABLE]).startswith("# mine\n")
    (page,) = write_study(tmp_path, [named], reports=("html",), pictures=False)
    assert "<h1>How deep, at öne tenth of the size</h1>" in page.read_text(encoding="utf-8")


def test_a_title_is_no_mathematics(tmp_path: Path) -> None:
    """It is the user's own text, which a picture would not be drawn for."""
    odd = replace(TABLE, title=r"k in $\alpha_$ for $5")
    files = write_study(tmp_path, [odd], reports=("md",), pictures=True)
    assert {file.suffix for file in files} == {".md", ".png"}


def test_csv_and_json_are_unrounded(tmp_path: Path) -> None:
    (path,) = write_study(tmp_path, [TABLE], reports=("csv",), pictures=False)
    records = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    assert [record["row"] for record in records] == ["reference", "deep", "none"]
    assert float(records[0]["miou_mean"]) == pytest.approx(0.53)
    assert float(records[0]["miou_sd"]) == pytest.approx(0.03)
    assert float(records[0]["difference"]) == pytest.approx(0.51)
    assert (records[1]["miou_sd"], records[1]["difference"]) == ("", "")
    assert records[1]["delta_low"] == "-0.010000"
    (values,) = json.loads(json.dumps(tables_values([TABLE])))
    assert [s["miou"] for s in values["rows"][0]["samples"]] == [0.50, 0.53, 0.56]


def test_a_curve_goes_through_the_reference() -> None:
    found = curves([TABLE], "depth")
    assert found == {"resgcn": [LINES[0], LINES[1]]}
    axes = study_figure("mine", {"depth": found}).axes[0]
    assert [text.get_text() for text in axes.texts] == ["k 8"], "what else differs is noted"
    assert curves([TABLE], "width") == {}, "nothing varies the width"


def test_every_file_is_written(tmp_path: Path) -> None:
    kinds = ("md", "csv", "json", "tex", "html")
    files = write_study(tmp_path, [TABLE], reports=kinds, pictures=True)
    assert [file.name for file in files] == [*(f"table.{kind}" for kind in kinds), "plot.png"]
    assert files[-1].read_bytes().startswith(b"\x89PNG")
    page = files[4].read_text(encoding="utf-8")
    assert '<td class="number" data-value="53">53.00 ± 3.00</td>' in page
    assert "mIoU &amp; more" in page
    assert "data:image/png;base64," in page
    bare = write_study(tmp_path / "bare", [TABLE], reports=("md",), pictures=False)
    assert [file.name for file in bare] == ["table.md"]


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(4.4, "4 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7805, "2 h 10 min")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_times_on_a_page_sort_by_their_length() -> None:
    shown = [duration(seconds) for seconds in (9, 45, 185, 7800)]
    table = Table("Times", ("row", "time"), tuple((f"r{n}", text) for n, text in enumerate(shown)))
    page = render_page("study.html", "Times", tables=[table])
    found = re.findall(r'data-value="([^"]+)">([^<]+ (?:s|min))<', page)
    assert found == [("9", "9 s"), ("45", "45 s"), ("185", "3 min 5 s"), ("7800", "2 h 10 min")]
