"""Weights go to a file and come back; foreign or broken files are refused with what differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.config import ModelConfig
from pipelines.config.model import Hints
from pipelines.errors import WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.weights import weights_in_package
from pipelines.serialization import to_plain
from pipelines.weights.provenance import describe
from pipelines.weights.published import from_reference
from pipelines.weights.safetensors import (
    expected_tensors,
    exported_settings,
    load_weights,
    read_metadata,
    save_weights,
)

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


def test_the_same_weights_are_the_same_bytes(tmp_path: Path) -> None:
    """So that a hash names them; the order of the metadata given does not matter."""
    model = DeepGCN(SMALL).eval()
    facts = {f"fact {number}": "é" * number for number in range(20)}
    files = []
    for number, given in enumerate((facts, dict(reversed(facts.items())))):
        files.append(tmp_path / f"{number}.safetensors")
        save_weights(files[-1], model, metadata=given)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert read_metadata(files[0]).items() >= facts.items()
    assert int.from_bytes(files[0].read_bytes()[:8], "little") % 8 == 0


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


def test_a_size_beyond_all_numbers(tmp_path: Path) -> None:
    path, tensor = tmp_path / "w.safetensors", {"dtype": "F32", "shape": [0, 1 << 63]}
    header = json.dumps({"w": {**tensor, "data_offsets": [0, 0]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match=r"w\.safetensors: cannot be read .*\n.*weights import"):
        load_weights(path)


def test_any_flipped_bit_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, DeepGCN(SMALL), metadata={"note": "0" * 64, "num_points": "128"})
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    header = 8 + int.from_bytes(content[:8], "little")
    key = content.index(b"deepgcn_sha256")  # without which older files are taken
    places = [*range(0, header, 7), *range(key, key + len("deepgcn_sha256"))]
    places += [*rng.integers(header, len(content), 60), len(content) - 1]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"w\.safetensors: (found other content|cannot be)"):
            load_weights(path)
    path.write_bytes(content)
    assert load_weights(path).num_points == 128


def test_a_checksum_is_that_of_the_file_without_it(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, DeepGCN(SMALL))
    with safe_open(path, framework="pt") as opened:
        digits = opened.metadata()["deepgcn_sha256"]
    blank = path.read_bytes().replace(digits.encode(), b"0" * 64)
    assert hashlib.sha256(blank).hexdigest() == digits
    assert "deepgcn_sha256" not in read_metadata(path), "a fact about the file, not the weights"


def save_with_config(path: Path, text: str, tensors: dict | None = None) -> None:
    """Write tensors, SMALL's if none are given, that say that they are of the network `text`."""
    facts = {"format": "deepgcn-weights", "version": "1", "config": text}
    save_file(tensors or DeepGCN(SMALL).state_dict(), path, facts)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"depth": 2.5}', "depth: found 2.5, expected int"),
        ('{"width": true}', "width: found True, expected int"),
        ('{"in_channels": 9.0}', "in_channels: found 9.0, expected int"),
        ('{"num_classes": 0}', "--num-classes: found 0, expected a number from 1"),
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
    assert str(caught.value).startswith(
        f"{path}: found settings of another version of deepgcn, or damaged"
    )
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 16_384}, r"tensors do not fit resgcn-3 \(edge, C 16384, k 4\)"),
        ({"width": 10**9}, "--width: found 1,000,000,000, expected a number from 1 to 16,384"),
        ({"width": 10**40}, "--width: found 1"),
        ({"fusion_channels": 16_384}, "tensors do not fit"),
        ({"in_channels": 16_384}, r"layers\.0\.mlp\.0\.linear\.weight: found \(8, 18\), expected"),
        ({"num_classes": 16_384}, r"classifier\.weight: found \(13, 256\), expected"),
        ({"depth": 2000}, "found 44 tensors, expected those of resgcn-2000"),
        ({"depth": 10**40}, "--depth: found 1"),
        ({"conv": "GATConv", "width": 16_384}, "tensors do not fit"),
        ({"conv": "../x"}, "unknown convolution"),
        ({"arch": "dgcnn", "conv": "mr"}, "DGCNN is EdgeConv only"),
    ],
)
def test_memory_is_taken_for_the_file_s_tensors_only(
    tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    path = tmp_path / "w.safetensors"
    save_with_config(path, json.dumps({**to_plain(SMALL), **changes}))
    with pytest.raises(WeightsError, match=told) as caught:
        load_weights(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool, torch.float8_e5m2])
def test_weights_that_are_no_real_numbers(tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "w.safetensors"
    tensors = DeepGCN(SMALL).state_dict()
    tensors["fusion.linear.bias"] = tensors["fusion.linear.bias"].to(dtype)
    save_with_config(path, json.dumps(to_plain(SMALL)), tensors)
    with pytest.raises(
        WeightsError, match=r"w\.safetensors: fusion\.linear\.bias: found .*float16"
    ):
        load_weights(path)


@pytest.mark.parametrize("conv", ["edge", "mr", "sage", "gin", "GATConv", "GCNConv", "MFConv"])
@pytest.mark.parametrize("arch", ["resgcn", "densegcn"])
def test_expected_tensors_are_the_network_s(conv: str, arch: str) -> None:
    config = dataclasses.replace(SMALL, conv=conv, arch=arch)
    expected = expected_tensors(config)
    own = DeepGCN(config).state_dict()
    assert all(value.is_meta for value in expected.values())
    assert {n: (v.shape, v.dtype) for n, v in expected.items()} == {
        n: (v.shape, v.dtype) for n, v in own.items()
    }


@pytest.mark.parametrize("told", ["99999999999", "0", "-1", "9" * 5000, "many"])
def test_points_of_a_block_that_cannot_be(tmp_path: Path, told: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, DeepGCN(SMALL), metadata={"num_points": told})
    with pytest.raises(
        WeightsError, match=r"w\.safetensors: found settings.*num_points: found .?[-9m0]"
    ):
        load_weights(path)
    with pytest.raises(WeightsError, match=r"num_points: found .*, expected"):
        exported_settings({"deepgcn_config": json.dumps(to_plain(SMALL)), "num_points": told})


@pytest.mark.parametrize(("told", "size"), [("2", 2.0), ("0.5", 0.5), (None, 1.0)])
def test_side_of_a_block(tmp_path: Path, told: str | None, size: float) -> None:
    path = tmp_path / "w.safetensors"
    metadata = {} if told is None else {"block_size": told}
    save_weights(path, DeepGCN(SMALL), metadata=metadata)
    assert load_weights(path).block_size == size
    exported = {"deepgcn_config": json.dumps(to_plain(SMALL)), **metadata}
    assert exported_settings(exported)[1].block_size == (size if told else None)


@pytest.mark.parametrize("told", ["0", "9", "1.25", "0.7", "nan", "1e0", "", "٢"])
def test_side_of_a_block_that_cannot_be(tmp_path: Path, told: str) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, DeepGCN(SMALL), metadata={"block_size": told})
    with pytest.raises(WeightsError, match=r"found settings.*block_size: found .*, expected"):
        load_weights(path)


def test_configuration_in_an_export() -> None:
    config = ModelConfig(arch="plaingcn", depth=4, k=3, conv="mr", dilation=False, epsilon=0.0)
    found = exported_settings({"deepgcn_config": json.dumps(to_plain(config)), "num_points": "128"})
    assert found == (config, Hints(num_points=128))
    assert exported_settings({"epoch": "3"}) == (None, Hints())
    with pytest.raises(WeightsError, match="damaged"):
        exported_settings({"deepgcn_config": '{"arch": 3}'})
    with pytest.raises(WeightsError, match="damaged"):
        exported_settings({"deepgcn_config": "{"})


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


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("head.gconv.nn.0.weight", torch.zeros(()), r"found shape \(\), expected \(out, in\)"),
        ("head.gconv.nn.0.weight", torch.zeros(8), r"found shape \(8,\), expected \(out, in\)"),
        ("head.gconv.nn.0.weight", torch.zeros(0, 18, 1, 1), r"found shape \(0, 18, 1, 1\)"),
        ("prediction.0.0.weight", torch.zeros(512), r"found shape \(512,\), expected \(out, in"),
        ("backbone.50000.body.gconv.nn.0.weight", torch.zeros(8, 16), "unknown tensor"),
        ("backbone.50000000000.body.gconv.nn.0.weight", torch.zeros(8, 16), "unknown tensor"),
        ("head.gconv.nn.0.bias", torch.zeros(8, dtype=torch.complex64), "found complex64"),
    ],
)
def test_reference_tensors_that_cannot_be(name: str, value: torch.Tensor, told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        from_reference({**published_state(SMALL), name: value}, k=4)


def test_of_several_precisions_none_is_lost() -> None:
    state = {name: v.half() if v.dim() > 1 else v for name, v in published_state(SMALL).items()}
    exact = torch.rand(16) + 1e5  # beyond half precision's largest number
    state["fusion_block.2.running_var"] = exact
    found = from_reference(state, k=4).state_dict()
    assert torch.equal(found["fusion.norm.running_var"], exact)
    assert found["fusion.linear.weight"].dtype == torch.float32


def test_a_negative_variance_is_refused(tmp_path: Path) -> None:
    model = DeepGCN(ModelConfig(depth=2, width=4, k=2))
    with torch.no_grad():
        model.fusion.norm.running_var[3] = -1.0
    save_weights(tmp_path / "w.safetensors", model)
    with pytest.raises(WeightsError, match=r"fusion\.norm\.running_var: found a negative variance"):
        load_weights(tmp_path / "w.safetensors")


def test_weights_under_a_name_of_their_own_are_called_so() -> None:
    """Not by a run that nobody else knows."""
    assert describe(weights_in_package()[0].provenance).startswith("indoor-wide (run ")
    assert describe({"name": "mine/best", "run": "mine"}) == "run mine"
    assert describe({"run": "mine"}) == "run mine"
    assert describe({"name": "chosen", "run": "mine"}) == "chosen (run mine)"
