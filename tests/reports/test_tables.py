"""Reports read back: Markdown by eye, CSV and JSON by their parsers."""

from __future__ import annotations

import csv
import io
import json

from pipelines.metrics import Scores
from pipelines.reports.tables import Report, Row, Table, percent

SCORES = Scores(
    oa=0.875, macc=0.5, miou=0.25, iou=(0.5, None), accuracy=(1.0, None), absent=("b",), points=8
)


def report() -> Report:
    rows = (Row.of("mine", SCORES), Row("published †", 0.5249))
    return Report("Area 5", ("a", "b"), rows, {"seed": "0"}, ("A note.",), {"oa": 0.875})


def test_markdown() -> None:
    assert report().texts()["md"]() == (
        "# Area 5\n\n"
        "|  | OA | mAcc | mIoU | a | b |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: |\n"
        "| mine | 87.5 | 50.0 | 25.0 | 50.0 | – |\n"
        "| published † | – | – | 52.5 | – | – |\n\n"
        "A note.\n\n- seed: 0\n"
    )


def test_csv() -> None:
    lines = list(csv.reader(io.StringIO(report().texts()["csv"]())))
    assert lines[0] == ["name", "oa", "macc", "miou", "a", "b"]
    assert lines[1] == ["mine", "0.875000", "0.500000", "0.250000", "0.500000", ""]
    assert lines[2] == ["published †", "", "", "0.524900", "", ""]


def test_json() -> None:
    assert json.loads(report().texts()["json"]()) == {"oa": 0.875}


def test_percent_and_pipes() -> None:
    assert (percent(None), percent(0.0), percent(1.0)) == ("–", "0.0", "100.0")
    assert Table("t", ("a",), (("x|y",),)).as_markdown().endswith("| x\\|y |")
