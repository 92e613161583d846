"""The HTML report: its tables by hand, everything escaped, nothing from outside."""

from __future__ import annotations

import base64
import dataclasses
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.errors import RunError
from pipelines.metrics import scores
from pipelines.reports.scores import html_report
from pipelines.reports.tables import Report, Row
from pipelines.reports.tables import Table as FurtherTable

CLASSES = ("floor", "wall", "sofa")
MATRIX = [[6, 2, 0], [1, 11, 0], [0, 0, 0]]
ROOMS = {
    "good": [[5, 0, 0], [0, 5, 0], [0, 0, 0]],
    "bad": [[1, 2, 0], [1, 6, 0], [0, 0, 0]],
}
PICTURE = b"\x89PNG\r\n\x1a\n and so on"
EPOCHS = [
    {"event": "epoch", "step": 10, "loss": 2.0, "val_miou": 0.25, "val_oa": 0.5},
    {"event": "epoch", "step": 20, "loss": 1.0, "val_miou": None, "val_oa": 0.6},
    {"event": "epoch", "step": 30, "loss": float("nan"), "val_miou": 0.75, "val_oa": 0.7},
]


@dataclass
class Table:
    caption: str = ""
    rows: list[list[str]] = field(default_factory=list)


class Outline(HTMLParser):
    """Collects headings, tables, terms and pictures; checks that elements are closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.tables: list[Table] = []
        self.terms: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "table":
            self.tables.append(Table())
        if tag == "tr":
            self.tables[-1].rows.append([])
        if tag in ("th", "td"):
            self.tables[-1].rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"{tag} {attrs}: only SVG has elements that close themselves"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        place = self.open[-1] if self.open else ""
        if place in ("h1", "h2"):
            self.headings.append(data)
        elif place in ("dt", "dd"):
            self.terms.append(data)
        elif place == "caption":
            self.tables[-1].caption = data
        elif place in ("th", "td"):
            self.tables[-1].rows[-1][-1] += data


def report_page(**changes: Any) -> tuple[str, Outline]:
    """Make a report of the small matrix and read it."""
    found = scores(np.array(MATRIX), CLASSES)
    rows = (Row.of("ours", found), Row("published", 0.6))
    summary = {"protocol": "room", "seed": "3"}
    report = changes.pop("report", Report("A title", CLASSES, rows, summary, ("A note.",)))
    values = {"confusion": MATRIX, "rooms": ROOMS, **changes.pop("values", {})}
    text = html_report(dataclasses.replace(report, values=values), **changes)
    return text, Outline(text)


def test_the_tables_by_hand() -> None:
    _, outline = report_page()
    summary, classes, confusion, rooms = outline.tables
    assert summary.rows[1:] == [["ours", "85.0", "83.3", "72.6"], ["published", "–", "–", "60.0"]]
    # IoU: floor 6/9, wall 11/14; accuracy: 6/8, 11/12.
    assert classes.rows[1:] == [
        ["floor", "", "66.7", "75.0", "8", "7"],
        ["wall", "", "78.6", "91.7", "12", "13"],
        ["sofa", "", "–", "–", "0", "0"],
    ]
    assert confusion.rows[1:] == [
        ["floor", "75", "25", "·", "8"],
        ["wall", "8", "92", "·", "12"],
        ["sofa", "–", "–", "–", "0"],
    ]
    # bad: IoU floor 1/4, wall 6/9; of 10 points 2 are floor taken for wall.
    assert rooms.rows[1:] == [
        ["bad", "45.8", "70.0", "10", "floor as wall: 20.0 % of its points"],
        ["good", "100.0", "100.0", "10", "none"],
    ]
    assert outline.headings == [
        *("A title", "Scores", "Classes", "Confusion", "Worst rooms", "Facts")
    ]
    assert outline.terms == ["protocol", "room", "seed", "3"]


def test_further_tables() -> None:
    lines = (("floor", "1,234", "5.5"), ("<wall>", "–", "-1"), ("3 to 4", "0", "7"))
    table = FurtherTable("Most confused", ("truth", "points", "%"), lines)
    report = Report("A title", CLASSES, (), {}, tables=(table,))
    text, outline = report_page(report=report)
    assert outline.tables[4].caption == "Most confused"
    assert [tuple(row) for row in outline.tables[4].rows] == [table.columns, *lines]
    assert re.findall(r'data-value="([^"]*)"', text.split("Most confused")[-1]) == [
        *("1234", "5.5", "-1", "0", "7")
    ]


def test_at_most_twenty_rooms_the_worst_first() -> None:
    rooms = {f"room {n}": [[n, 30 - n, 0], [0, 30, 0], [0, 0, 0]] for n in range(25)}
    _, outline = report_page(values={"rooms": rooms})
    table = outline.tables[3]
    assert [row[0] for row in table.rows[1:]] == [f"room {n}" for n in range(20)]
    assert "20 rooms of least mIoU, of 25" in table.caption


def test_pictures_are_embedded(tmp_path: Path) -> None:
    paths = [tmp_path / "room_hall_1.png", tmp_path / "confusion.png"]
    for number, path in enumerate(paths):
        path.write_bytes(PICTURE + bytes([number]))
    _, outline = report_page(pictures=paths)
    for path, image in zip(paths, outline.images, strict=True):
        kind, data = (image["src"] or "").split(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(data) == path.read_bytes()
    assert [image["alt"] for image in outline.images] == ["room hall 1", "confusion"]


def test_a_picture_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "room.png"
    with pytest.raises(RunError, match=r"room\.png: cannot be read"):
        report_page(pictures=[path])
    path.write_text("<svg>")
    with pytest.raises(RunError, match="found no PNG"):
        report_page(pictures=[path])


def test_nothing_comes_from_outside() -> None:
    text, _ = report_page(history=EPOCHS)
    assert not re.search(r"https?:|url\(|@import|<link", text)
    assert "default-src 'none'" in text
    assert "{{" not in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    name = "<script>alert('{{style}}')</script>"
    classes, table = (name, "wall", "sofa"), FurtherTable(name, (name, name), ((name, name),))
    report = Report(name, classes, (Row(name, 0.5),), {name: name}, (name,), tables=(table,))
    picture = tmp_path / f"{name.replace('/', '')}.png"
    picture.write_bytes(PICTURE)
    text, outline = report_page(
        report=report,
        values={"rooms": {name: ROOMS["bad"]}},
        pictures=[picture],
    )
    assert "<script>alert" not in text
    assert outline.headings[0] == name
    assert outline.terms == [name, name]
    assert outline.tables[3].rows[1][0] == name


def test_two_epochs_are_drawn() -> None:
    text, outline = report_page(history=EPOCHS)
    (chart,) = outline.images
    kind, data = (chart["src"] or "").split(",")
    assert kind == "data:image/svg+xml;base64"
    assert b"</svg>" in base64.b64decode(data)
    assert text == report_page(history=EPOCHS)[0], "the same each time"
    assert "Training" not in report_page(history=EPOCHS[:1])[1].headings


@pytest.mark.parametrize(("share", "width"), [(0.0, "0.0"), (0.375, "37.5")])
def test_the_bar_of_a_class(share: float, width: str) -> None:
    correct = round(1000 * share)
    matrix = [[correct, 1000 - correct, 0], [0, 0, 0], [0, 0, 0]]
    text, _ = report_page(values={"confusion": matrix})
    assert f'<rect width="{width}" height="10" fill="#0072b2"/>' in text
