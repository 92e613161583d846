"""Links in the place of what is written: replaced or refused, never written through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deepgcn_cli.__main__ import run as deepgcn
from pipelines.config import ModelConfig, TrainConfig
from pipelines.files import atomic_text
from pipelines.inference import label_store
from pipelines.inference.label_store import LabelStore
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.annotations import write_note
from pipelines.runs.directory import create_run
from pipelines.runs.index import query
from pipelines.runs.lock import is_locked
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import save_weights

MINE = "nobody may change this"


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file elsewhere, which stays as it is."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    file = tmp_path / "mine.txt"
    file.write_text(MINE)
    yield file
    assert file.read_text() == MINE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "mine.txt"]


def test_a_file_takes_the_place_of_a_link(mine: Path) -> None:
    for target in (mine, mine.with_name("nothing")):
        for name in ("a.txt", f".a.txt.{os.getpid()}.part"):
            Path(name).unlink(missing_ok=True)
            Path(name).symlink_to(target)
        atomic_text(Path("a.txt"), "new")
        assert not Path("a.txt").is_symlink()
        assert Path("a.txt").read_text() == "new"


def test_results_of_predict(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_weights(
        Path("w.safetensors"),
        DeepGCN(ModelConfig(depth=2, width=4, k=2, fusion_channels=4)),
        metadata={"num_points": "8"},
    )
    pos = np.random.default_rng(0).random((50, 3))
    write_points(Path("s.ply"), pos, np.full((50, 3), 9, np.uint8))
    command = ["predict", "s.ply", "--weights", "w.safetensors", "--device", "cpu"]
    lock = Path(".s.labelled.ply.lock")
    lock.symlink_to(mine)
    assert deepgcn(command) == 1
    assert f"a link in the place of the lock file {lock}; remove it" in capsys.readouterr().err
    lock.unlink()
    Path("s.labelled.ply").symlink_to(mine)
    assert deepgcn(command) == 0
    assert not Path("s.labelled.ply").is_symlink()
    Path("t.ply").symlink_to("s.ply")
    assert deepgcn([*command, "--out", "t.ply"]) == 1, "a link to the scan itself"
    assert "would overwrite the scan s.ply" in capsys.readouterr().err


def test_labels_that_are_kept(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a link in the place of their folder nor one in it is written through."""
    monkeypatch.setattr(label_store, "KEPT_FROM", 1)

    def open_store() -> LabelStore:
        return LabelStore.open(Path(".a.part"), "this", len(MINE), 2, probabilities=False)

    store = open_store()
    store.blocks = 1
    store.save()
    Path(".a.part").rename("theirs")
    Path(".a.part").symlink_to("theirs", target_is_directory=True)
    assert open_store().blocks == 0
    assert not Path(".a.part").is_symlink()
    store = open_store()
    store.blocks = 1
    store.save()
    Path(".a.part/label").unlink()
    Path(".a.part/label").symlink_to(mine)
    assert open_store().blocks == 0


def test_runs(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = create_run(TrainConfig(model=ModelConfig(depth=2), name="a"), environment={})
    for name in (".lock", "note.txt", "status.json"):
        Path(run.path, name).unlink(missing_ok=True)
        Path(run.path, name).symlink_to(mine)
    assert not is_locked(run.path)
    run_command = ["runs", "rm", "a"]
    assert deepgcn(run_command) == 1
    assert "a link in the place of the lock file .lock; remove it" in capsys.readouterr().err
    write_note(run.path, "mine too")
    assert query(Path("runs"), columns=["name", "note"]) == [("a", "mine too")]
    assert "status.json: found a damaged file" in query(Path("runs"), columns=["error"])[0][0]
    Path("runs/.results.lock").unlink()
    Path("runs/.results.lock").symlink_to(mine)
    assert query(Path("runs"), columns=["name"]) == [("a",)], "read without the index"
    Path("runs/gone").symlink_to(mine.with_name("nothing"))
    with pytest.raises(FileExistsError):  # of which the command line says where it leads
        create_run(TrainConfig(model=ModelConfig(depth=2), name="gone"), environment={})
