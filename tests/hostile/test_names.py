"""Names of files and folders in any bytes: a scan, a room, a zip's entry, data, a run's folder."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from deepgcn_cli.__main__ import run as deepgcn
from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.data.store import Store
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import Run
from pipelines.scans import open_scan
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import save_weights
from tests.raw_tree import box
from tests.tiny_store import write_tiny_store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are texts elsewhere")
BAD = os.fsdecode(b"d\xff\xe9")  # latin-1, and no UTF-8


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_data_scans_and_results(capsys: pytest.CaptureFixture[str]) -> None:
    """From the data to a labelled scan, with the names in records, weights, pages and pictures."""
    store = write_tiny_store(Path(BAD), points=250)
    room = store.read(store.rooms(3)[0])
    write_points(Path(f"{BAD}.ply"), room.pos, room.color)
    network = ["--depth", "2", "--width", "8", "-k", "4", "--fusion-channels", "16"]
    brief = ["--num-points", "64", "--batch-size", "4", "--device", "cpu"]
    train = ["train", "--data", BAD, *network, *brief, "--max-steps", "1"]
    with kernels.use("reference"):
        for command in (
            [*train, "--name", "one"],
            [*train[:1], "--resume", "one", "--max-steps", "2"],
            ["eval", "one", "--report", "html", "--report", "csv", "--device", "cpu"],
            ["predict", f"{BAD}.ply", "--view", "--picture", "--probabilities"],
            ["weights", "export", "one", "--out", f"{BAD}.pth"],
            ["runs", "list", "--columns", "name,data,error"],
            ["runs", "show", "one", "--json"],
            ["runs", "export", f"{BAD}.csv"],
        ):
            assert deepgcn(command) == 0, (command, capsys.readouterr().err)
    assert Run(Path("runs/one")).config.data == Path(BAD)
    assert len(open_scan(Path(f"{BAD}.labelled.ply"))) == len(room.pos)
    made = {path.suffix for path in Path().glob(f"{BAD}.*")}
    assert made == {".ply", ".html", ".png", ".pth", ".csv", ".md"}
    assert deepgcn([*train, "--name", BAD]) == 1
    assert "--name: found" in capsys.readouterr().err
    shutil.copytree("runs/one", f"runs/{BAD}")
    assert deepgcn(["runs", "list"]) == 0
    assert deepgcn(["runs", "show", BAD]) == 0
    with kernels.use("reference"):  # of which the safetensors library cannot open the weights
        again = ["predict", f"{BAD}.ply", "--out", "a.ply", "--run", f"runs/{BAD}"]
        assert deepgcn(again) == 1
    assert "its path is no UTF-8.\nRename the folder" in capsys.readouterr().err


def test_labels_of_a_large_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept as they are made; and a name that Matplotlib would take for mathematics."""
    monkeypatch.setattr("pipelines.inference.label_store.KEPT_FROM", 1)
    model = DeepGCN(ModelConfig(depth=2, width=4, k=2, fusion_channels=4))
    save_weights(Path("w.safetensors"), model, metadata={"num_points": "16"})
    rng = np.random.default_rng(0)
    pos, color = rng.random((50, 3)), np.full((50, 3), 9, np.uint8)
    command = ["--weights", "w.safetensors", "--device", "cpu", "--picture"]
    for name in (BAD, r"$\frac$", "$a_"):
        write_points(Path(f"{name}.ply"), pos, color)
        assert deepgcn(["predict", f"{name}.ply", *command]) == 0


def test_a_room_in_other_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("office_1", BAD):
        folder = Path("raw/Area_1", name, "Annotations")
        folder.mkdir(parents=True)
        (folder / "floor_1.txt").write_bytes(box(300, 1))
    assert deepgcn(["prepare", "raw"]) == 1
    assert "whose name is no UTF-8.\nRename its folder." in capsys.readouterr().err
    assert not Path("data").exists()
    Path("raw/Area_1", BAD).rename("raw/Area_1/d\u20ac\u0301")
    with zipfile.ZipFile("raw.zip", "w") as archive:
        for path in sorted(Path("raw").rglob("*.txt")):
            archive.write(path, path.relative_to("raw"))
    for source in ("raw", "raw.zip"):
        command = ["prepare", source, "--data", f"{source}{BAD}", "--workers", "1", "--area", "1"]
        assert deepgcn(command) == 0, capsys.readouterr().err
        assert len(Store.open(Path(f"{source}{BAD}")).rooms()) == 2
