"""Weights go to a file and come back; foreign or broken files are refused with what differs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipelines.config import ModelConfig
from pipelines.errors import WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.weights import from_reference, load_weights, read_metadata, save_weights
from pipelines.model.weights_settings import config_facts, read_facts

SMALL = ModelConfig(depth=3, width=8, k=4, fusion_channels=16, layout="torch")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_exact(tmp_path: Path, dtype: torch.dtype) -> None:
    model = DeepGCN(SMALL).to(dtype).eval()
    save_weights(tmp_path / "w.safetensors", model, metadata={"num_points": "128"})
    again = load_weights(tmp_path / "w.safetensors")
    assert again.config == SMALL
    assert not again.training
    x = torch.rand(1, 20, 9, dtype=dtype)
    assert torch.equal(model(x), again(x))
    assert read_metadata(tmp_path / "w.safetensors")["num_points"] == "128"


def test_missing_broken_and_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with pytest.raises(WeightsError, match="found no file"):
        load_weights(path)
    path.write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(WeightsError, match=r"read as safetensors: .*\n.*deepgcn weights import"):
        load_weights(path)
    save_weights(path, DeepGCN(SMALL))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        load_weights(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"expected 'deepgcn-weights' .*\n.*weights import"):
        load_weights(path)


def save_with_config(path: Path, text: str, **facts: str) -> None:
    """Write weights of SMALL that say that they are of another network."""
    tensors = DeepGCN(SMALL).state_dict()
    save_file(tensors, path, {"format": "deepgcn-weights", "version": "1", "config": text, **facts})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"depth": 2.5}', "depth: found 2.5, expected int"),
        ('{"width": true}', "width: found True, expected int"),
        ('{"in_channels": 9.0}', "in_channels: found 9.0, expected int"),
        ('{"num_classes": 0}', "--num-classes: found 0, expected at least 1"),
        ("[1]", "expected its settings by name"),
        ("[" * 100_000, "found no JSON"),
        ("", "found no JSON"),
    ],
)
def test_a_configuration_that_cannot_be(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "w.safetensors"
    save_with_config(path, text)
    with pytest.raises(WeightsError) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: its configuration is damaged: ")
    assert told in str(caught.value)


@pytest.mark.parametrize("told", ["99999999999", "0", "-1", "9" * 5000, "many"])
def test_points_of_a_block_that_cannot_be(tmp_path: Path, told: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, DeepGCN(SMALL), metadata={"num_points": told})
    with pytest.raises(
        WeightsError, match=r"w\.safetensors: its config.*num_points: found .?[-9m0]"
    ):
        load_weights(path)
    facts = {**config_facts(SMALL), "num_points": told}
    with pytest.raises(WeightsError, match=r"num_points: found .*, expected"):
        read_facts(facts)


def published_state(config: ModelConfig, *, sides: int = 2, prefix: str = "") -> dict:
    """Make tensors under the PyTorch release's names, straight from its naming rules."""
    state: dict[str, torch.Tensor] = {}

    def unit(name: str, inputs: int, outputs: int) -> None:
        state[f"{name}.0.weight"] = torch.randn(outputs, inputs, 1, 1)
        state[f"{name}.0.bias"] = torch.randn(outputs)
        for part in ("weight", "bias", "running_mean"):
            state[f"{name}.2.{part}"] = torch.randn(outputs)
        state[f"{name}.2.running_var"] = torch.rand(outputs) + 0.1
        state[f"{name}.2.num_batches_tracked"] = torch.tensor(7)

    dense = config.arch == "densegcn"
    widths = [config.width * (n + 1 if dense else 1) for n in range(config.depth)]
    unit("head.gconv.nn", sides * config.in_channels, config.width)
    for number in range(config.depth - 1):
        unit(f"backbone.{number}.body.gconv.nn", sides * widths[number], config.width)
    unit("fusion_block", sum(widths), config.fusion_channels)
    unit("prediction.0", sum(widths) + config.fusion_channels, 512)
    unit("prediction.1", 512, 256)
    state["prediction.3.0.weight"] = torch.randn(config.num_classes, 256, 1, 1)
    state["prediction.3.0.bias"] = torch.randn(config.num_classes)
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("arch", ["resgcn", "densegcn"])
def test_reference_names_tell_the_network(arch: str, depth: int, prefix: str) -> None:
    config = dataclasses.replace(SMALL, arch=arch, depth=depth)
    model = from_reference(published_state(config, prefix=prefix), k=4)
    assert model.config == config


@pytest.mark.parametrize(("conv", "sides"), [("mr", 2), ("gin-0", 1)])
def test_reference_names_of_other_layers(conv: str, sides: int) -> None:
    config = dataclasses.replace(SMALL, conv=conv)
    assert from_reference(published_state(config, sides=sides), k=4, conv=conv).config == config


def test_reference_mismatch_names_tensors_and_shapes() -> None:
    state = published_state(SMALL)
    state["backbone.0.body.gconv.nn.0.weight"] = torch.zeros(8, 3, 1, 1)
    del state["fusion_block.0.bias"]
    with pytest.raises(
        WeightsError, match=r"2 tensors do not fit.*\n.*fusion.linear.bias: found none"
    ):
        from_reference(state, k=4)
    state["extra.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match=r"unknown tensor 'extra.weight'"):
        from_reference(state, k=4)
    with pytest.raises(WeightsError, match=r"found no tensor 'head.gconv.nn.0.weight'"):
        from_reference({"conv1.weight": torch.zeros(1)}, k=4)
