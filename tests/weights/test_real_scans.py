"""Scores of weights on real scans: those of `eval`, resumed, and recorded for the catalogue."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import real_scans
from benchmarks.real_scans import BANDS, read_rows, save_rows, score_table, score_weights
from pipelines import kernels
from pipelines.config import EvalConfig
from pipelines.data.store import Store
from pipelines.evaluate import evaluate
from pipelines.runs.weights import NamedWeights
from pipelines.weights import catalogue
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data", points=300)


@pytest.fixture(scope="module")
def files(store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two weights, as files alone: after 10 steps, and after 20."""
    folder = tmp_path_factory.mktemp("weights")
    for steps in (10, 20):
        run = train_tiny_run(store.path, folder, f"after-{steps}", max_steps=steps)
        shutil.copy(run.weights(), folder / f"w{steps}.safetensors")
    return folder / "w10.safetensors", folder / "w20.safetensors"


@pytest.mark.parametrize(("votes", "suffix"), [(1, ""), (3, ", 3 votes")])
def test_the_counts_are_those_of_eval(
    votes: int, suffix: str, store: Store, files: tuple[Path, Path], tmp_path: Path
) -> None:
    rows: dict[str, real_scans.Row] = {}
    weights = [NamedWeights(path.stem, path) for path in files]
    scored = [*score_weights(store, weights, rows, average=True, votes=votes)]
    assert len(scored) == len(store.rooms())
    names = tuple(map(str, files))
    config = EvalConfig(
        weights=names,
        average=True,
        votes=votes,
        data=store.path,
        test_area=3,
        pictures=False,
        runs=tmp_path,
    )
    for found in evaluate(config).results:
        values = json.loads(found.files[0].read_text())
        ours = [
            rows[found.name.partition(":")[0] + suffix]["rooms"][real_scans.title_of(room)]
            for room in store.rooms(3)
        ]
        assert np.sum(ours, axis=0).tolist() == values["confusion"]
    one, other, both = (rows[name + suffix]["rooms"] for name in ("w10", "w20", "average of 2"))
    assert one != other != both


def test_a_stopped_scoring_goes_on(store: Store, files: tuple[Path, Path], tmp_path: Path) -> None:
    weights = [NamedWeights("mine", files[0])]
    out, rows = tmp_path / "scores.json", {}
    next(score_weights(store, weights, rows))
    save_rows(out, store, rows)
    rows = read_rows(out, store)
    assert len([*score_weights(store, weights, rows)]) == len(store.rooms()) - 1
    assert [*score_weights(store, weights, rows)] == []
    other = [NamedWeights("mine", files[1])]  # of the same name
    assert len([*score_weights(store, other, rows)]) == len(store.rooms())
    out.write_text(json.dumps({"fingerprint": "another", "rows": {}}))
    with pytest.raises(SystemExit, match="found scores on other data"):
        read_rows(out, store)


def test_a_table_of_counts_by_hand(store: Store) -> None:
    """Two classes of thirteen: three points in each room of area 1, one in each other room."""
    counts = {}
    for info in store.rooms():
        matrix = np.zeros((13, 13), int)
        matrix[0, 0], matrix[1, 0] = (3, 1) if info.area == 1 else (0, 1)
        counts[real_scans.title_of(info)] = matrix.tolist()
    first, others = len(store.rooms(1)), len(store.rooms()) - len(store.rooms(1))
    rows = {BANDS: {"rooms": counts}, "net": {"rooms": counts}, "half": {"rooms": {}}}
    table = score_table(store, rows, None)
    assert table.columns[4:] == tuple(store.classes[:2])
    assert [line[0] for line in table.lines] == ["net", BANDS], "not what is scored in part"
    right = 3 * first
    assert table.lines[0][1] == f"{100 * right / (4 * first + others):.1f}"
    without = score_table(store, rows, 1)
    assert without.title == f"{others} rooms, without area 1"
    assert without.lines[0][1:] == ("0.0", "0.0", "0.0", "0.0")


def test_recorded_scores_are_in_the_catalogue(
    store: Store,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(catalogue, "EMBEDDED", tmp_path)
    monkeypatch.setattr(catalogue, "OURS", ("ours",))
    shutil.copy(files[0], "ours.safetensors")
    arguments = ["real_scans", "ours", "--data", str(store.path), "--record", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", arguments)
    real_scans.main()
    shown = capsys.readouterr().out.splitlines()
    (line,) = (line for line in shown[:8] if line.startswith("| ours"))
    whole, apart = catalogue.catalogue()[0].scores
    assert line.split("|")[2].strip() == f"{100 * (whole.oa or 0):.1f}"
    assert whole.data == f"{len(store.rooms())} real RGB-D scans"
    assert apart.data.endswith("not area 1")
    shutil.copy(files[1], "ours.safetensors")
    monkeypatch.setattr(sys, "argv", ["real_scans", "--data", str(store.path), "--record"])
    with pytest.raises(SystemExit, match="ours: the weights have changed"):
        real_scans.main()
