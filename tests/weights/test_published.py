"""Published names and tensor orders, against the releases' own formulas written out.

The TensorFlow release and dgcnn.pytorch are written here once more, slowly: every edge stored,
every map a product with the kernel as the release shapes it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipelines.config import ModelConfig
from pipelines.config.model import RELEASED_CONVS, Hints
from pipelines.errors import ConfigError, WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.weights.published import RELEASES, build_released, recognise
from pipelines.weights.pytorch import read_torch
from pipelines.weights.safetensors import expected_tensors
from pipelines.weights.tensorflow import is_optimizer

WIDTH, K, POINTS = 6, 3, 40
State = dict[str, Tensor]
Conv = Callable[[State, str, Tensor, Tensor], Tensor]


def at_neighbors(x: Tensor, space: Tensor, k: int, dilation: int) -> Tensor:
    """x (B, N, C) → (B, N, k, C): the points at ranks 0, d, 2d, … of the distances in `space`."""
    order = torch.cdist(space, space, compute_mode="donot_use_mm_for_euclid_dist").argsort(-1)
    index = order[..., : k * dilation : dilation]
    return torch.stack([block[rows] for block, rows in zip(x, index, strict=True)])


# The TensorFlow release: kernels (1, 1, in, out), conv → norm (ε 1e-3) → ReLU.


def tensorflow_unit(state: State, scope: str, x: Tensor) -> Tensor:
    x = torch.tensordot(x, state[f"{scope}/weights"][0, 0], dims=1) + state[f"{scope}/biases"]
    if f"{scope}/bn/gamma" not in state:
        return x
    mean, var = state[f"{scope}/bn/pop_mean"], state[f"{scope}/bn/pop_var"]
    x = (x - mean) / (var + 1e-3).sqrt()
    return (x * state[f"{scope}/bn/gamma"] + state[f"{scope}/bn/beta"]).relu()


def edge(state: State, scope: str, x: Tensor, near: Tensor) -> Tensor:
    own = x.unsqueeze(2).expand_as(near)
    return tensorflow_unit(state, scope, torch.cat([own, near - own], -1)).amax(2)


def mr(state: State, scope: str, x: Tensor, near: Tensor) -> Tensor:
    return tensorflow_unit(state, scope, torch.cat([x, (near - x.unsqueeze(2)).amax(2)], -1))


def sage(state: State, scope: str, x: Tensor, near: Tensor) -> Tensor:
    messages = tensorflow_unit(state, f"{scope}_aggr", near)
    return tensorflow_unit(state, scope, torch.cat([x, messages.amax(2)], -1))


def sage_n(state: State, scope: str, x: Tensor, near: Tensor) -> Tensor:
    return F.normalize(sage(state, scope, x, near), dim=-1)


def gin(state: State, scope: str, x: Tensor, near: Tensor) -> Tensor:
    return tensorflow_unit(state, scope, (1 + state[f"{scope}_epsilon"]) * x + near.sum(2))


CONV: dict[str, Conv] = {"edge": edge, "mr": mr, "sage": sage, "sage-n": sage_n, "gin": gin}
SKIPS = {
    "plaingcn": lambda new, _: new,
    "resgcn": lambda new, old: new + old,
    "densegcn": lambda new, old: torch.cat([new, old], -1),
}


def tensorflow_forward(state: State, x: Tensor, depth: int, conv: str, arch: str) -> Tensor:
    graphs: list[Tensor] = []
    for layer in range(depth):
        source = x if layer == 0 else graphs[-1]
        space = x[..., 6:] if layer == 0 else source
        dilation = 1 if arch == "plaingcn" else max(layer, 1)
        near = at_neighbors(source, space, K, dilation)
        new = CONV[conv](state, f"adj_conv_{layer}", source, near)
        graphs.append(new if layer == 0 else SKIPS[arch](new, source))
    fused = tensorflow_unit(state, "adj_conv_final", torch.cat(graphs, -1)).amax(1, keepdim=True)
    y = torch.cat([fused.expand(-1, x.shape[1], -1), *graphs], -1)
    for scope in ("seg/conv1", "seg/conv2", "seg/conv3"):
        y = tensorflow_unit(state, scope, y)
    return y


def tensorflow_state(depth: int, conv: str, arch: str, classes: int = 5) -> State:
    """Random variables under the release's scopes, with the optimizer's beside them."""
    generator = torch.Generator().manual_seed(depth)
    state: State = {"Variable": torch.tensor(3), "beta1_power": torch.tensor(0.9)}

    def draw(*shape: int, low: float = -0.5, high: float = 0.5) -> Tensor:
        unit = torch.rand(shape, generator=generator, dtype=torch.float64)
        return low + (high - low) * unit

    def unit(scope: str, inputs: int, outputs: int, norm: bool = True) -> None:
        state[f"{scope}/weights"] = draw(1, 1, inputs, outputs)
        state[f"{scope}/biases"] = draw(outputs)
        state[f"{scope}/weights/Adam_1"] = draw(1, 1, inputs, outputs)
        for part in ("gamma", "beta", "pop_mean") if norm else ():
            state[f"{scope}/bn/{part}"] = draw(outputs, low=-1, high=1)
        if norm:
            state[f"{scope}/bn/pop_var"] = draw(outputs, low=0.2, high=2)

    channels, outputs = 9, []
    for layer in range(depth):
        if conv == "gin":
            state[f"adj_conv_{layer}_epsilon"] = draw(1)
        if conv in ("sage", "sage-n"):
            unit(f"adj_conv_{layer}_aggr", channels, channels)
        unit(f"adj_conv_{layer}", channels if conv == "gin" else 2 * channels, WIDTH)
        channels = WIDTH * (layer + 1) if arch == "densegcn" else WIDTH
        outputs.append(channels)
    unit("adj_conv_final", sum(outputs), 32)
    unit("seg/conv1", sum(outputs) + 32, 512)
    unit("seg/conv2", 512, 256)
    unit("seg/conv3", 256, classes, norm=False)
    return state


@pytest.mark.parametrize(
    ("conv", "arch", "depth"),
    [
        ("edge", "resgcn", 4),
        ("edge", "densegcn", 4),
        ("edge", "plaingcn", 3),
        ("mr", "resgcn", 3),
        ("sage", "resgcn", 3),
        ("sage-n", "resgcn", 3),
        ("gin", "resgcn", 3),
    ],
)
def test_tensorflow_weights_give_the_release_s_logits(conv: str, arch: str, depth: int) -> None:
    state = tensorflow_state(depth, conv, arch)
    assert recognise(state) == "deep_gcns"
    model = build_released("deep_gcns", state, Hints(k=K, conv=conv, arch=arch))
    assert (model.config.arch, model.config.depth, model.config.layout) == (arch, depth, "paper")
    assert (model.config.width, model.config.num_classes) == (WIDTH, 5)
    x = torch.rand(2, POINTS, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            model(x), tensorflow_forward(state, x, depth, conv, arch), rtol=1e-9, atol=1e-9
        )


def test_names_of_tensorflow_weights_show_the_convolution() -> None:
    for conv in ("edge", "sage", "gin"):
        state = tensorflow_state(2, conv, "resgcn")
        assert build_released("deep_gcns", state, Hints(k=2)).config.conv == conv


def test_epsilon_that_is_fixed_at_zero() -> None:
    state = tensorflow_state(2, "gin", "resgcn")
    with pytest.raises(WeightsError, match=r"gin-0: found adj_conv_0_epsilon = .*expected 0"):
        build_released("deep_gcns", state, Hints(k=2, conv="gin-0"))
    several = {**state, "adj_conv_0_epsilon": torch.tensor([0.0, 0.25])}
    with pytest.raises(WeightsError, match=r"adj_conv_0_epsilon = 0\.25, expected 0"):
        build_released("deep_gcns", several, Hints(k=2, conv="gin-0"))
    zeros = {n: v * 0 if n.endswith("_epsilon") else v for n, v in state.items()}
    assert build_released("deep_gcns", zeros, Hints(k=2, conv="gin-0")).config.conv == "gin-0"


@pytest.mark.parametrize(
    "name",
    [
        "Variable",
        "beta1_power",
        "beta2_power_1",
        "seg/conv1/weights/Adam",
        "seg/conv1/bn/beta/Adam_1",
    ],
)
def test_variables_of_the_optimizer(name: str) -> None:
    assert is_optimizer(name)


@pytest.mark.parametrize("name", ["adj_conv_0/weights", "adj_conv_0_epsilon", "seg/conv3/biases"])
def test_variables_of_the_network(name: str) -> None:
    assert not is_optimizer(name)


def test_unknown_and_missing_tensorflow_variables() -> None:
    state = tensorflow_state(2, "edge", "resgcn")
    with pytest.raises(WeightsError, match="unknown tensor 'seg/conv4/weights'"):
        build_released("deep_gcns", {**state, "seg/conv4/weights": torch.zeros(1)}, Hints(k=2))
    del state["adj_conv_1/bn/gamma"]
    state["seg/conv2/biases"] = torch.zeros(7)
    with pytest.raises(WeightsError, match="2 tensors do not fit") as caught:
        build_released("deep_gcns", state, Hints(k=2))
    assert "layers.1.mlp.0.norm.weight: found none, expected (6,)" in str(caught.value)
    assert "prediction.1.linear.bias: found (7,), expected (256,)" in str(caught.value)


# dgcnn.pytorch: kernels (out, in, 1[, 1]), conv → norm → LeakyReLU 0.2, edges [x_j − x_i ; x_i].


def dgcnn_unit(state: State, name: str, x: Tensor) -> Tensor:
    """x (B, C, N) or (B, C, N, k), as the release has it."""
    convolve = F.conv2d if x.dim() == 4 else F.conv1d
    norms = (f"{name}.1.{part}" for part in ("running_mean", "running_var", "weight", "bias"))
    y = F.batch_norm(convolve(x, state[f"{name}.0.weight"]), *(state[n] for n in norms))
    return F.leaky_relu(y, 0.2)


def dgcnn_forward(state: State, features: Tensor, k: int) -> Tensor:
    """features (B, N, C) → logits (B, N, classes)."""
    x, space, outputs = features, features[..., 6:], []
    for names in (("conv1", "conv2"), ("conv3", "conv4"), ("conv5",)):
        near = at_neighbors(x, space, k, 1)
        own = x.unsqueeze(2).expand_as(near)
        y = torch.cat([near - own, own], -1).permute(0, 3, 1, 2)
        for name in names:
            y = dgcnn_unit(state, name, y)
        x = space = y.amax(-1).transpose(1, 2)
        outputs.append(x)
    points = torch.cat(outputs, -1).transpose(1, 2)
    block = dgcnn_unit(state, "conv6", points).amax(-1, keepdim=True)
    y = torch.cat([block.expand(-1, -1, points.shape[-1]), points], 1)
    y = dgcnn_unit(state, "conv8", dgcnn_unit(state, "conv7", y))
    return F.conv1d(y, state["conv9.weight"]).transpose(1, 2)


def dgcnn_state(width: int = 8, fused: int = 16, prefix: str = "module.") -> State:
    generator = torch.Generator().manual_seed(0)
    sizes = {
        **{"conv1": (18, width, 2), "conv2": (width, width, 2), "conv3": (2 * width, width, 2)},
        **{"conv4": (width, width, 2), "conv5": (2 * width, width, 2)},
        **{"conv6": (3 * width, fused, 1), "conv7": (3 * width + fused, 512, 1)},
        **{"conv8": (512, 256, 1)},
    }
    state: State = {}
    for name, (inputs, outputs, axes) in sizes.items():
        kernel = torch.randn(outputs, inputs, generator=generator, dtype=torch.float64)
        state[f"{name}.0.weight"] = kernel.view(outputs, inputs, *[1] * axes) / inputs**0.5
        parts = {
            "weight": torch.randn(outputs, generator=generator, dtype=torch.float64),
            "bias": torch.randn(outputs, generator=generator, dtype=torch.float64),
            "running_mean": torch.randn(outputs, generator=generator, dtype=torch.float64),
            "running_var": 0.5 + torch.rand(outputs, generator=generator, dtype=torch.float64),
            "num_batches_tracked": torch.tensor(9),
        }
        for part, value in parts.items():
            state[f"{name}.1.{part}"] = state[f"bn{name[4:]}.{part}"] = value
    kernel = torch.randn(13, 256, 1, generator=generator, dtype=torch.float64)
    state["conv9.weight"] = kernel
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_dgcnn_weights_give_the_release_s_logits(prefix: str) -> None:
    state = dgcnn_state(prefix=prefix)
    assert recognise(state) == "dgcnn.pytorch"
    model = build_released("dgcnn.pytorch", state, Hints(k=5))
    assert model.config == ModelConfig.published("dgcnn", k=5, width=8, fusion_channels=16)
    x = torch.rand(2, POINTS, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(x), dgcnn_forward(plain, x, 5), rtol=1e-9, atol=1e-9)


def test_dgcnn_trained_on_s3dis(real_dir: Path) -> None:
    state, _ = read_torch(real_dir / "dgcnn_s3dis_area1.t7")
    doubled = {n: v.double() if v.is_floating_point() else v for n, v in state.items()}
    model = build_released("dgcnn.pytorch", doubled, Hints())
    assert model.config == ModelConfig.published("dgcnn")
    x = torch.rand(1, 200, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    plain = {name.removeprefix("module."): value for name, value in doubled.items()}
    with torch.no_grad():
        torch.testing.assert_close(model(x), dgcnn_forward(plain, x, 20), rtol=1e-9, atol=1e-9)


def test_dgcnn_mismatch_is_named() -> None:
    state = dgcnn_state(prefix="")
    with pytest.raises(WeightsError, match=r"unknown tensor 'conv11\.weight'"):
        build_released("dgcnn.pytorch", {**state, "conv11.weight": torch.zeros(1)}, Hints())
    with pytest.raises(WeightsError, match=r"bn3\.weight and conv3\.1\.weight differ"):
        build_released("dgcnn.pytorch", {**state, "bn3.weight": torch.zeros(8)}, Hints())
    short = {n: v for n, v in state.items() if not n.startswith(("conv7", "bn7"))}
    with pytest.raises(WeightsError, match=r"6 tensors do not fit.*\n.*prediction\.0.*; …"):
        build_released("dgcnn.pytorch", short, Hints())


@pytest.mark.parametrize(
    "name", ["conv1.0.weight", "conv2.0.weight", "conv6.0.weight", "conv9.weight"]
)
@pytest.mark.parametrize("shape", [(), (8,), (0, 4), (8, 1)])
def test_dgcnn_of_impossible_shapes(name: str, shape: tuple[int, ...]) -> None:
    state = {**dgcnn_state(prefix=""), name: torch.zeros(shape)}
    with pytest.raises((WeightsError, ConfigError), match="found"):
        build_released("dgcnn.pytorch", state, Hints())


def test_what_a_release_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--layout torch: the weights are of dgcnn-3"):
        build_released("dgcnn.pytorch", dgcnn_state(), Hints(layout="torch"))
    with pytest.raises(ConfigError, match=r"unknown graph convolution 'egde'. Did you mean 'edge'"):
        Hints(conv="egde")
    with pytest.raises(ConfigError, match="-k: found 0"):
        build_released("deep_gcns", tensorflow_state(2, "edge", "resgcn"), Hints(k=0))


# Settings beside the tensors.


def test_what_is_given_comes_before_what_is_recorded() -> None:
    recorded = Hints(k=8, conv="mr", dilation=False)
    assert Hints(k=4).or_else(recorded) == dataclasses.replace(recorded, k=4)
    assert Hints(dilation=True).or_else(recorded).dilation is True
    assert Hints().or_else(Hints()) == Hints()


@pytest.mark.parametrize("release", list(RELEASES))
@pytest.mark.parametrize("conv", RELEASED_CONVS)
def test_the_table_of_a_release_reads_both_ways(release: str, conv: str) -> None:
    dgcnn = release == "dgcnn.pytorch"
    if dgcnn and conv != "edge":
        return
    published = ModelConfig.published("dgcnn") if dgcnn else ModelConfig(depth=12)
    config = dataclasses.replace(published, conv=conv, width=8, k=2)
    own = [name for name in expected_tensors(config) if not name.endswith("tracked")]
    names = [RELEASES[release].publish(name, conv) for name in own]
    assert len(set(names)) == len(own)
    inverse = RELEASES[release].inverse(own, conv)
    assert [inverse[name] for name in names] == own


def test_another_graph_has_the_same_tensors() -> None:
    state = tensorflow_state(3, "edge", "resgcn")
    usual = build_released("deep_gcns", state, Hints(k=2))
    other = build_released("deep_gcns", state, Hints(k=2, dilation=False, knn="fixed"))
    assert (usual.config.dilation, usual.config.knn) == (True, "dynamic")
    assert (other.config.dilation, other.config.knn) == (False, "fixed")
    own = other.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in usual.state_dict().items())


def test_unknown_names_are_of_no_release() -> None:
    assert recognise(["conv1.weight", "fc.bias"]) is None
    assert recognise([]) is None
    assert recognise(DeepGCN(ModelConfig(depth=2, width=4, k=2)).state_dict()) is None


def test_golden_tensors_under_tensorflow_names(golden_dir: Path) -> None:
    tensors = dict(np.load(golden_dir / "paper-res-edge-5.npz"))
    published = {
        key.removeprefix("state/"): torch.from_numpy(value)
        for key, value in tensors.items()
        if key.startswith("state/")
    }
    state = {}
    for layer in range(5):
        scope = "head.gconv" if layer == 0 else f"backbone.{layer - 1}.body.gconv"
        state |= tensorflow_names(published, f"{scope}.nn", f"adj_conv_{layer}")
    state |= tensorflow_names(published, "fusion_block", "adj_conv_final")
    for number in (0, 1, 3):
        scope = f"seg/conv{min(number, 2) + 1}"
        state |= tensorflow_names(published, f"prediction.{number}", scope)
    k = json.loads(str(tensors["config"]))["k"]
    model = build_released("deep_gcns", state, Hints(k=k)).double()
    x = torch.from_numpy(tensors["input"]).double().transpose(1, 2)
    expected = torch.from_numpy(tensors["eval_logits"]).transpose(1, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(x), expected, rtol=1e-8, atol=1e-8)


def tensorflow_names(published: State, name: str, scope: str) -> State:
    kernel = published[f"{name}.0.weight"]
    matrix = kernel.reshape(kernel.shape[0], -1)
    parts = {"weights": matrix.t()[None, None], "biases": published[f"{name}.0.bias"]}
    norm = {"gamma": "weight", "beta": "bias", "pop_mean": "running_mean", "pop_var": "running_var"}
    for ours, theirs in norm.items():
        for place in (1, 2):
            if f"{name}.{place}.{theirs}" in published:
                parts[f"bn/{ours}"] = published[f"{name}.{place}.{theirs}"]
    return {f"{scope}/{part}": value for part, value in parts.items()}
