"""Tables and results as text."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from deepgcn_cli.commands.stages import described
from deepgcn_cli.display import Table, percent, plain_table, print_json, print_part
from pipelines.config import PrepareConfig
from pipelines.predict import PredictResult, ScanResult


def test_a_table_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    print_part(Table(("name", "mIoU"), [("a", "5.25"), ("longer", "–")]))
    assert capsys.readouterr().out == "name    mIoU\na       5.25\nlonger     –\n"


@pytest.mark.parametrize("width", [20, 45, 80])
def test_no_terminal_breaks_words_and_numbers(
    width: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    rows = [("resgcn-28", "finished early", "81.23 (80 – 82)"), ("x", "", "–")]
    print_part(Table(("name", "state", "OA"), rows))
    said = capsys.readouterr().out
    for word in ("resgcn-28", "finished", "early", "81.23 (80 – 82)"):
        assert word in said
    assert ("───" in said) == (width > 20)
    print_part(Table(("name", "OA"), []))


def test_columns_of_words_are_aligned_to_the_left() -> None:
    assert plain_table(Table(("x", "y"), [("one", "1")])) == "x    y\none  1"


def test_the_pace_of_a_resumed_prediction_is_its_own() -> None:
    scan = ScanResult(
        **{"scan": Path("a.ply"), "out": Path("b.ply"), "points": 1000, "unlabelled": 100},
        **{"counts": {"wall": 900}, "areas": {"wall": 2.0}, "extent": (1.0, 2.0, 3.0)},
        **{"confidence": 0.5, "seconds": 9.0, "label_seconds": 2.0, "earlier": 500},
    )
    _, speed, _ = described(PredictResult((), (scan,)))
    assert speed.endswith("labelling 2.0 s (200 points/s); 500 points labelled before")
    _, speed, _ = described(PredictResult((), (dataclasses.replace(scan, earlier=0),)))
    assert speed.endswith("labelling 2.0 s (450 points/s)")


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json([{"path": Path("a/b"), "config": PrepareConfig(), "values": (1, None)}])
    (found,) = json.loads(capsys.readouterr().out)
    assert found["path"] == "a/b"
    assert found["config"]["data"] == "data"
    assert found["values"] == [1, None]


def test_percent() -> None:
    assert (percent(0.12345), percent(None)) == ("12.35", "–")
