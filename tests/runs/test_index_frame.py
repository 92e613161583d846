"""The frame and the files say the same as the index."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

import pipelines
from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError
from pipelines.runs.directory import create_run
from pipelines.runs.index import export_runs
from pipelines.runs.query import COLUMNS


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    folder = tmp_path / "runs"
    for number, arch in enumerate(("resgcn", "densegcn")):
        model = ModelConfig.published(arch, 7 + number)
        run = create_run(TrainConfig(model=model, runs=folder, name=arch), environment={})
        if number:
            scores = run.path / "eval" / "room"
            scores.mkdir(parents=True)
            (scores / "scores.json").write_text(json.dumps({"oa": 0.9, "macc": 0.8, "miou": 0.7}))
    return folder


def test_frame(runs: Path) -> None:
    frame = pipelines.runs_frame(runs)
    assert list(frame.columns) == list(COLUMNS)
    assert frame["name"].tolist() == ["resgcn", "densegcn"]
    assert frame["depth"].tolist() == [7, 8]
    assert frame["depth"].dtype == "Int64"
    assert frame["room_miou"].isna().tolist() == [True, False]
    assert frame["room_miou"].max() == 0.7
    age = pd.Timestamp.now("UTC") - frame["created"]
    assert age.between(pd.Timedelta(0), pd.Timedelta(minutes=10)).all()
    assert frame["max_steps"].isna().all()


def test_frame_of_some(runs: Path) -> None:
    assert pipelines.runs_frame(str(runs), "miou>0.4")["name"].tolist() == ["densegcn"]
    nothing = pipelines.runs_frame(runs.parent / "nothing", "miou>0.4")
    assert nothing.empty
    assert list(nothing.columns) == list(COLUMNS)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_export_can_be_read_back(runs: Path, ending: str) -> None:
    path = runs.parent / f"out.{ending}"
    assert export_runs(path, runs, sort="-depth") == 2
    found = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
    assert found["name"].tolist() == ["densegcn", "resgcn"]
    assert found["k"].tolist() == [8, 16]
    assert found["room_miou"].tolist()[0] == 0.7
    expected = pipelines.runs_frame(runs, sort="-depth")["created"]
    assert pd.to_datetime(found["created"], utc=True).tolist() == expected.tolist()
    assert export_runs(path, runs, where="miou>0.9") == 0
    assert sorted(file.name for file in runs.parent.iterdir()) == [f"out.{ending}", "runs"]


def test_export_to_something_else(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"out\.xlsx: found '\.xlsx', expected .*\.csv or"):
        export_runs(runs / "out.xlsx", runs)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ConfigError, match=r"pip install 'deepgcn\[parquet\]'"):
        export_runs(runs / "out.parquet", runs)
    assert not (runs / "out.parquet").exists()


def test_a_number_that_no_column_holds_stops_no_table(tmp_path: Path) -> None:
    for name, step in (("good", 7), ("strange", 10**30)):
        config = TrainConfig(runs=tmp_path, name=name, test_area=5)
        create_run(config, environment={}).update_status(step=step)
    frame = pipelines.runs_frame(tmp_path).set_index("name")
    assert frame.loc["good", "step"] == 7
    assert pd.isna(frame.loc["strange", "step"])
