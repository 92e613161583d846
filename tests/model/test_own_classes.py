"""Convolutions and blocks of the user's own, by --conv and --arch package.module:Class."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import pipelines
from deepgcn_cli.__main__ import run as deepgcn
from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError, WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.figures import forward_flop, kept_bytes, meta_network, step_flop
from pipelines.scans.ply import write_points
from pipelines.train import train
from pipelines.weights.safetensors import load_weights, save_weights
from tests.tiny_store import write_tiny_store

SOURCE = """
import torch
from pathlib import Path
from torch import nn
from torch_geometric.nn import MessagePassing

Path("imported").touch()

class Conv(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.linear = nn.Linear(in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x, index):
        assert index.dtype == torch.int32
        return self.norm(self.linear(x).flatten(0, 1)).view(*x.shape[:2], -1)

class Passing(MessagePassing):
    def __init__(self, in_channels, out_channels):
        super().__init__(aggr="mean")
        self.linear = nn.Linear(in_channels, out_channels)

    def forward(self, x, edge_index):
        return self.propagate(edge_index, x=self.linear(x))

class Growing(nn.Module):
    def __init__(self, channels, config):
        super().__init__()
        self.gate = nn.Parameter(torch.ones(config.width))
        self.out_channels = channels + config.width

    def forward(self, x, y):
        return torch.cat([x, self.gate * y], dim=-1)

class Sized(nn.Module):
    def __init__(self, in_channels, out_channels, size):
        super().__init__()

class Narrow(Conv):
    def forward(self, x, index):
        return super().forward(x, index)[..., 1:]

class Broken(Conv):
    def forward(self, x, index):
        raise RuntimeError("no such neighbours")

class Untrainable(Conv):
    def forward(self, x, index):
        if self.training:
            raise RuntimeError("no gradient for that")
        return super().forward(x, index)

class Unsized(nn.Module):
    def __init__(self, channels, config):
        super().__init__()

    def forward(self, x, y):
        return y

def function(in_channels, out_channels):
    return Conv(in_channels, out_channels)
"""
SMALL = ModelConfig(depth=4, width=8, k=4, dropout=0.0, fusion_channels=16)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Be in a folder with own.py, which leaves a file when it is imported."""
    (tmp_path / "own.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("own", None)


def build(**changes: object) -> DeepGCN:
    torch.manual_seed(0)
    return DeepGCN(dataclasses.replace(SMALL, **changes)).double()


@pytest.mark.parametrize(
    "names",
    [
        {"conv": "own:Conv"},
        {"conv": "own:Passing"},
        {"arch": "own:Growing"},
        {"arch": "own:Growing", "conv": "own:Conv"},
        {"arch": "densegcn", "conv": "own:Conv"},
    ],
    ids=lambda names: " ".join(names.values()),
)
def test_a_network_of_own_classes_trains_and_is_recomputed(names: dict[str, str]) -> None:
    features = torch.rand(2, 40, 9, dtype=torch.float64)
    gradients = []
    for length in (0, 3):
        model = build(**names, epsilon=0.0).train()
        model.checkpoint_layers = length
        model(features).square().mean().backward()
        assert all(p.grad is not None for p in model.parameters())
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)


def test_own_blocks_decide_how_wide_their_outputs_are() -> None:
    model = build(arch="own:Growing").eval()
    features = torch.rand(1, 20, 9, dtype=torch.float64)
    outputs = model.backbone(features)
    assert [output.shape[-1] for output in outputs] == [8, 16, 24, 32]
    assert torch.equal(outputs[1][..., :8], outputs[0])
    assert model.fusion.linear.in_features == 80


def test_a_class_is_tried_without_leaving_anything() -> None:
    torch.manual_seed(1)
    model = DeepGCN(dataclasses.replace(SMALL, conv="own:Conv"))
    norm = model.layers[0].norm
    assert model.training
    assert norm.training
    assert norm.num_batches_tracked == 0
    assert norm.running_mean.abs().max() == 0


def test_figures_of_an_own_class_are_its_own() -> None:
    edge, own = (dataclasses.replace(SMALL, conv=conv) for conv in ("edge", "own:Conv"))
    flop = 2 * (9 * 8 + 3 * 8 * 8) * 100  # half of EdgeConv's maps, at 100 points
    assert forward_flop(edge, 100) - forward_flop(own, 100) == flop
    assert step_flop(own, 100) < step_flop(edge, 100)
    assert kept_bytes(own, "cpu", 4) != kept_bytes(edge, "cpu", 4)
    wide = meta_network(dataclasses.replace(SMALL, arch="own:Growing", depth=10))
    assert sum(wide.output_channels) == 8 * 55


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("conv", "absent:Conv", r"module absent cannot be imported.*\nExpected it in an installed"),
        ("conv", "own:Cnov", r"Cnov in .*own.py is missing.*Did you mean 'Conv'"),
        ("conv", "own:function", r"function in .*own.py is <function.*expected a torch"),
        ("conv", "own:Sized", r"Sized\(9, 8\).*missing 1 required.*\nIts signature is"),
        ("conv", "own:Narrow", r"Narrow returned \(2, 2, 7\) in eval.*expected shape \(2, 2, 8\)"),
        ("conv", "own:Broken", r"in evaluation: no such neighbours\n.*own.py, line 46;"),
        ("conv", "own:Untrainable", r"in training: no gradient for that\n.*own.py, line 51;"),
        ("conv", "a b:Conv", r"--conv: found 'a b:Conv', expected the form package.module:Class"),
        ("arch", "own:Unsized", r"Unsized\(8, ModelConfig\).*no attribute 'out_channels'"),
        ("arch", "own:", r"--arch: found 'own:', expected the form package.module:Class"),
    ],
)
def test_a_class_that_does_not_fit(option: str, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**{option: name})


def test_the_current_folder_never_hides_an_installed_module(folder: Path) -> None:
    (folder / "colorsys.py").write_text(SOURCE)
    with pytest.raises(ConfigError, match=r"Conv in .*colorsys.py is missing"):
        build(conv="colorsys:Conv")
    assert not (folder / "imported").exists()


def test_a_weights_file_cannot_have_code_imported(folder: Path) -> None:
    path = folder / "weights.safetensors"
    save_weights(path, build(conv="own:Conv"))
    (folder / "imported").unlink()
    del sys.modules["own"]
    for classes in ((), ("own:Passing",)):
        with pytest.raises(WeightsError, match="found the class own:Conv; importing it runs code"):
            load_weights(path, classes=classes)
    assert not (folder / "imported").exists()
    model = pipelines.load_model(path, classes=["own:Conv"])
    assert (folder / "imported").exists()
    assert model.config.conv == "own:Conv"


def test_weights_import_and_inspect_take_the_class(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(SMALL, conv="own:Conv")
    save_weights(folder / "own.safetensors", DeepGCN(config))
    named = ["--own-class", "own:Conv"]
    export = ["weights", "export", "own.safetensors", "--out", "out.pth", "--names", "own"]
    assert deepgcn([*export, *named]) == 0
    (folder / "imported").unlink()
    sys.modules.pop("own", None)
    refusal = "name it yourself: --own-class own:Conv"
    assert deepgcn(["weights", "import", "out.pth"]) == 1
    assert refusal in capsys.readouterr().err
    for file in ("own.safetensors", "out.pth"):
        inspect = ["weights", "inspect", file, "--json"]
        assert deepgcn(inspect) == 0
        assert refusal in json.loads(capsys.readouterr().out)["problem"]
    assert not (folder / "imported").exists()
    for file in ("own.safetensors", "out.pth"):
        assert deepgcn(["weights", "inspect", file, "--json", *named]) == 0
        assert json.loads(capsys.readouterr().out)["network"] == config.label
    assert deepgcn(["weights", "import", "out.pth", *named]) == 0
    assert load_weights(folder / "out.safetensors", classes=named[1:]).config == config


def test_a_run_cannot_have_code_imported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever its config.json says: only a class that the user names is imported."""
    store = write_tiny_store(folder / "data", points=300)
    config = TrainConfig(
        model=dataclasses.replace(SMALL, arch="own:Growing", conv="own:Conv"),
        **{"data": store.path, "runs": folder / "runs", "batch_size": 4, "num_points": 64},
        **{"max_steps": 2, "device": "cpu", "name": "mine"},
    )
    run = train(config).run
    room = store.read(store.rooms(3)[0])
    write_points(folder / "scan.ply", room.pos, room.color)
    (folder / "grid.yaml").write_text("rows: {a: {conv: own:Conv}}")
    named = ["--own-class", "own:Growing", "--own-class", "own:Conv"]
    commands = [
        ["predict", "scan.ply", "--device", "cpu"],
        ["eval", "--no-pictures", "--device", "cpu"],
        ["eval", "--six-fold", "--train-missing"],
        ["weights", "export", str(run), "--out", "a.safetensors"],
        ["train", "--weights", str(run)],
        ["train", "--resume", run.name],
        ["ablate", "--grid", "grid.yaml"],
        ["ablate", "--grid", "grid.yaml", "--dry-run"],
    ]
    for command in commands:
        (folder / "imported").unlink(missing_ok=True)
        sys.modules.pop("own", None)
        for given in ([], named[:2]):
            assert deepgcn([*command, *given]) == 1
            assert "name it yourself: --own-class own:" in capsys.readouterr().err, command
        assert not (folder / "imported").exists(), command
    for command in (*commands[:2], commands[3]):
        assert deepgcn([*command, *named]) == 0, command
    assert (folder / "scan.labelled.ply").is_file()
    assert pipelines.load_model(run, classes=named[1::2]).config == config.model
    saved = run / "config.json"
    saved.write_text(saved.read_text().replace("own:Conv", "runs.mine.evil:Conv"))
    assert deepgcn(["train", "--resume", run.name, *named]) == 1
    assert "--own-class runs.mine.evil:Conv" in capsys.readouterr().err
