"""No cell of a CSV file is a formula to spreadsheets, whatever runs and classes are called."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.reports.tables import csv_text
from pipelines.runs.annotations import write_note
from pipelines.runs.directory import create_run
from pipelines.runs.index import export_runs
from pipelines.scans import open_scan, write_labelled
from pipelines.scans.table import Labels

FORMULAS = ("=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1", "a\r=1")


def cells(text: str) -> list[str]:
    """Return all cells; none may begin as a formula does, unless it is a number."""
    found = [cell for row in csv.reader(io.StringIO(text, newline="")) for cell in row]
    for cell in found:
        try:
            float(cell)
        except ValueError:
            assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")), cell
    return found


@pytest.mark.parametrize("formula", FORMULAS)
def test_tables(formula: str) -> None:
    found = cells(csv_text([formula, "a"], [[formula, -0.5], ["b", -3]]))
    assert found[-3:] == ["-0.500000", "b", "-3"]
    assert len(found) == 6
    assert sum(cell.startswith("'") for cell in found) == 2 * (formula[0] != "a")


def test_runs(tmp_path: Path) -> None:
    for formula in FORMULAS[:4]:
        name = formula.replace("/", "")
        config = TrainConfig(model=ModelConfig(depth=2), runs=tmp_path, name=name)
        run = create_run(config, environment={"gpu": formula})
        run.update_status(state="failed", error=formula)
        write_note(run.path, formula)
    export_runs(tmp_path / "runs.csv", tmp_path)
    found = cells((tmp_path / "runs.csv").read_text("utf-8"))
    for formula in FORMULAS[:4]:
        assert found.count(f"'{formula}") >= 3, "hardware, error and note"


@pytest.mark.parametrize("suffix", [".csv", ".xyz"])
def test_labelled_text(suffix: str, tmp_path: Path) -> None:
    path, out = tmp_path / f"a{suffix}", tmp_path / f"out{suffix}"
    path.write_text("".join(f"{n},-1,2,1,2,3\n" for n in range(4)))
    labels = Labels(
        np.arange(4, dtype=np.uint8), np.ones(4, np.float32), FORMULAS[:4], [(0, 0, 0)] * 4
    )
    write_labelled(out, open_scan(path), labels)
    found = cells(out.read_text("utf-8"))
    assert "'-2+3" in found
    assert "-1" in found
