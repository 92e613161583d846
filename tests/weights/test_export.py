"""Weights for other programs: the names come back, and the computation is the network's own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.config import ModelConfig
from pipelines.config.model import RELEASED_CONVS
from pipelines.errors import ConfigError, WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.weights.export import (
    COMPUTATIONS,
    agreement,
    export_weights,
    random_block,
    write_computation,
    write_state,
)
from pipelines.weights.published import published_state
from pipelines.weights.safetensors import load_weights, save_weights
from pipelines.weights.sources import import_weights
from tests.small_disk import largest_file

SMALL = ModelConfig(depth=3, width=8, k=4, fusion_channels=16, layout="torch")
NETWORKS = {
    "resgcn": SMALL,
    "densegcn": dataclasses.replace(SMALL, arch="densegcn"),
    "plaingcn": dataclasses.replace(SMALL, arch="plaingcn", dilation=False, epsilon=0.0),
    "paper": dataclasses.replace(SMALL, layout="paper"),
    **{conv: dataclasses.replace(SMALL, conv=conv) for conv in RELEASED_CONVS if conv != "edge"},
    "dgcnn": ModelConfig.published("dgcnn", k=4, width=8, fusion_channels=16),
}

CHANGED = dataclasses.replace(  # no field is at its default, as far as they go together
    SMALL,
    **{"arch": "plaingcn", "conv": "mr", "dilation": False, "epsilon": 0.1, "knn": "fixed"},
    **{"dropout": 0.1, "rgb": False, "num_classes": 5},
)
COME_BACK = {
    **NETWORKS,
    "changed": CHANGED,
    "changed-dgcnn": dataclasses.replace(CHANGED, arch="dgcnn", conv="edge"),
    "channels": dataclasses.replace(SMALL, in_channels=7),
}
SHARED = dataclasses.replace(SMALL, depth=6, knn_every=2, knn_until=3, spatial="3,3")

POINTS = 48  # of exported computations


def trained(config: ModelConfig) -> DeepGCN:
    """A network whose every number is random, batch norms of both signs included."""
    torch.manual_seed(0)
    model = DeepGCN(config).eval()
    model.num_points = POINTS
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.normal_(0, 0.4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_var.uniform_(0.3, 2)
    return model


def test_published_names_and_shapes_by_hand() -> None:
    shapes = {n: tuple(v.shape) for n, v in published_state(DeepGCN(SMALL)).items()}
    assert shapes["head.gconv.nn.0.weight"] == (8, 18, 1, 1)
    assert shapes["backbone.1.body.gconv.nn.2.running_mean"] == (8,)
    assert shapes["fusion_block.0.weight"] == (16, 24, 1, 1)
    assert shapes["prediction.0.0.weight"] == (512, 40, 1, 1)
    assert shapes["prediction.1.2.num_batches_tracked"] == ()
    assert shapes["prediction.3.0.weight"] == (13, 256, 1, 1)
    assert shapes["prediction.3.0.bias"] == (13,)
    # six tensors and a counter in each of six units, two in the classifier
    assert len(shapes) == 6 * 7 + 2


def test_published_dgcnn_names_and_shapes_by_hand() -> None:
    state = published_state(DeepGCN(ModelConfig.published("dgcnn")))
    assert len(state) == 89  # as in the released file
    assert state["conv1.0.weight"].shape == (64, 18, 1, 1)
    assert state["conv6.0.weight"].shape == (1024, 192, 1)
    assert state["bn8.running_var"].shape == (256,)
    assert state["conv9.weight"].shape == (13, 256, 1)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", COME_BACK)
def test_published_tensors_read_back_as_the_same_network(
    tmp_path: Path, name: str, suffix: str
) -> None:
    assert_comes_back(tmp_path, COME_BACK[name], f"w{suffix}", published=True)


@pytest.mark.parametrize("config", [SHARED, *COME_BACK.values()], ids=["shared", *COME_BACK])
def test_own_names_in_a_torch_file_read_back_as_the_same_network(
    tmp_path: Path, config: ModelConfig
) -> None:
    assert_comes_back(tmp_path, config, "w.pth", published=False)


def assert_comes_back(folder: Path, config: ModelConfig, name: str, *, published: bool) -> None:
    model = trained(config)
    blocks = {"num_points": "64", "block_size": "2", "voxel": "0.04"}
    write_state(folder / name, model, published=published, metadata=blocks)
    result = import_weights(folder / name, folder / "again.safetensors")
    assert result.assumed == {}
    again = load_weights(folder / "again.safetensors")
    assert again.config == model.config
    assert (again.num_points, again.block_size, again.voxel) == (64, 2, 0.04)
    own, found = model.state_dict(), again.state_dict()
    assert found.keys() == own.keys()
    assert all(torch.equal(value, own[key]) for key, value in found.items())


def test_no_field_of_a_network_is_forgotten() -> None:
    """Each differs from its default in a network that the tests above read back."""
    for field in dataclasses.fields(ModelConfig):
        found = {getattr(config, field.name) for config in (SHARED, *COME_BACK.values())}
        assert found - {field.default}, field.name


def test_the_readme_says_what_other_programs_have_to_do_about_colours(tmp_path: Path) -> None:
    source = tmp_path / "own.safetensors"
    for config in (CHANGED, SMALL):
        save_weights(source, DeepGCN(config))
        for name in ("w.pth", "w.safetensors"):
            export_weights(source, tmp_path / name)
            readme = (tmp_path / f"{name}.README.md").read_text()
            assert ("other programs have to set r, g, b to 0.5" in readme) is not config.rgb


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_half_of_the_space_is_read_as_float32(tmp_path: Path, suffix: str) -> None:
    model = trained(SMALL)
    source, out = tmp_path / "own.safetensors", tmp_path / f"half{suffix}"
    write_state(source, model, published=False, metadata={})
    export_weights(source, out, half=True, names="own", notes={"license": "MIT"})
    assert out.stat().st_size < 0.75 * source.stat().st_size  # headers are as large
    assert "- license: MIT\n" in (tmp_path / f"{out.name}.README.md").read_text()
    if suffix == ".pth":
        found = torch.load(out, weights_only=True)["state_dict"]
    else:
        found = load_weights(out).state_dict()
        assert found["fusion.linear.weight"].dtype == torch.float32
    for name, value in model.state_dict().items():
        torch.testing.assert_close(found[name].to(value.dtype), value, rtol=2**-11, atol=1e-7)


def test_what_half_precision_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = trained(SMALL)
    model.get_buffer("fusion.norm.running_var")[0] = 1e5
    source, out = tmp_path / "own.safetensors", tmp_path / "half.safetensors"
    write_state(source, model, published=False, metadata={})
    with pytest.raises(WeightsError, match=r"fusion\.norm\.running_var has values beyond"):
        export_weights(source, out, half=True)
    assert not out.exists()
    with pytest.raises(ConfigError, match=r"--half: found it for \.onnx"):
        export_weights(source, tmp_path / "half.onnx", half=True)
    with pytest.raises(ConfigError, match="the unknown note 'author'"):
        export_weights(source, out, notes={"author": "me"})


def test_nothing_in_a_file_writes_lines_of_the_readme(tmp_path: Path) -> None:
    source, out = tmp_path / "own.safetensors", tmp_path / "out.safetensors"
    evil = {"trained_on": "rooms\n- license: any\x1b[2J", "classes": "floor\x1b[31m wall"}
    earlier = {"name": "z", "trained_on": "rooms\n- license: all\x1b[31m\u202e"}
    evil["started_from"] = json.dumps(earlier)
    write_state(source, DeepGCN(SMALL), published=False, metadata=evil)
    export_weights(source, out)
    text = (tmp_path / "out.safetensors.README.md").read_text()
    assert "- trained on: rooms - license: any [2J\n" in text
    assert "- training 1: z, trained on rooms - license: all [31m" in text
    assert all(line.isprintable() for line in text.splitlines())


def test_own_names_in_a_torch_file(tmp_path: Path) -> None:
    model = trained(SMALL)
    write_state(tmp_path / "w.pth", model, published=False, metadata={})
    found = torch.load(tmp_path / "w.pth", weights_only=True)["state_dict"]
    assert found.keys() == model.state_dict().keys()


@pytest.mark.parametrize("kind", ["arch", "conv"])
def test_a_name_of_the_command_line_is_not_yet_one_of_a_release(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = f"pipelines.weights.published.{kind.upper()}S"
    monkeypatch.setattr(names, ("own:New",), raising=False)
    model = DeepGCN(SMALL)
    model.config = dataclasses.replace(SMALL, **{kind: "own:New"})
    with pytest.raises(ConfigError, match="own:New, which no release has"):
        published_state(model)


def test_networks_without_a_release() -> None:
    with pytest.raises(ConfigError, match="graph convolution GATConv, which no release has"):
        published_state(DeepGCN(dataclasses.replace(SMALL, conv="GATConv")))
    with pytest.raises(ConfigError, match="found depth 2, expected the published 3"):
        published_state(DeepGCN(ModelConfig.published("dgcnn", 2, width=8)))


@pytest.mark.slow  # the first import of torch.export alone can take that long
@pytest.mark.parametrize("name", ["densegcn", "dgcnn"])
def test_exported_program_computes_the_network(tmp_path: Path, name: str) -> None:
    model = trained(NETWORKS[name])
    path = tmp_path / "w.pt2"
    assert write_computation(path, model, {}) == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.pt2"]
    x = torch.rand(1, POINTS, 9)
    torch.testing.assert_close(load_program(path)(x), model(x), rtol=1e-4, atol=1e-5)


def load_program(path: Path) -> nn.Module:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own deprecations
        return torch.export.load(path).module()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densegcn", "mr", "gin", "sage-n", "dgcnn", "paper"])
def test_onnx_labels_are_the_network_s(tmp_path: Path, name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = trained(NETWORKS[name])
    path = tmp_path / "w.onnx"
    assert write_computation(path, model, {"run": "mine"}) == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.onnx"]
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["run"] == "mine"
    x = torch.rand(1, POINTS, 9)
    (found,) = session.run(["logits"], {"features": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_onnx_sorts_equal_distances_by_index(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = trained(SMALL)
    write_computation(tmp_path / "w.onnx", model, {})
    session = onnxruntime.InferenceSession(str(tmp_path / "w.onnx"))
    x = torch.rand(1, 12, 9).repeat(1, 4, 1)  # every point four times, as draws repeat them
    (found,) = session.run(["logits"], {"features": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), model(x), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_a_note_in_bytes_that_are_no_utf_8(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    source, out = tmp_path / "own.safetensors", tmp_path / "w.onnx"
    write_state(source, DeepGCN(SMALL), published=False, metadata={})
    export_weights(source, out, num_points=POINTS, notes={"license": "\udcff"})
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_modelmeta().custom_metadata_map["license"] == r"\udcff"


def test_another_computation_is_not_written(tmp_path: Path) -> None:
    model = trained(SMALL)
    features = random_block(model)
    logits: Tensor = model(features)
    path = tmp_path / "w.onnx"
    assert agreement(path, model, features, logits) == 1.0
    with pytest.raises(WeightsError, match=r"w\.onnx: .* expected at least 99%; nothing was"):
        agreement(path, model, features, -logits)


def test_a_block_that_is_too_small(tmp_path: Path) -> None:
    model = DeepGCN(SMALL)
    model.num_points = 7
    with pytest.raises(ConfigError, match="a block has only 7"):
        write_computation(tmp_path / "w.pt2", model, {})
    assert not list(tmp_path.iterdir())


SLOW = [pytest.param(suffix, marks=pytest.mark.slow) for suffix in (".pt2", ".onnx")]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", *SLOW])
def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("onnxscript")
    model, source, out = trained(SMALL), tmp_path / "w.safetensors", tmp_path / f"out{suffix}"
    save_weights(source, model)
    with largest_file(1000), pytest.raises(OSError, match="File too large") as caught:
        export_weights(source, out, num_points=POINTS if suffix in COMPUTATIONS else None)
    assert caught.value.filename == str(out)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.safetensors"]
