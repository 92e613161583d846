"""The names that published networks give their tensors, and what follows from them.

Three releases are known: the authors' PyTorch one (`deep_gcns_torch`), their TensorFlow one
(`deep_gcns`), and the PyTorch DGCNN of `dgcnn.pytorch`. Names and shapes tell depth, width and
channels; what they do not tell is in `Untold`.

Reference:
    github.com/lightaime/deep_gcns_torch, github.com/lightaime/deep_gcns (sem_seg/model.py,
    utils/tf_util.py), github.com/antao97/dgcnn.pytorch (model.py, DGCNN_semseg).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.config import ARCHS, CONVS, POINTS, ModelConfig
from pipelines.config.options import check_choice
from pipelines.errors import ConfigError, WeightsError
from pipelines.model.deepgcn import DeepGCN

from .safetensors import as_matrix, build_network, describe, from_reference, infer_config

PYTORCH = "deep_gcns_torch"
TENSORFLOW = "deep_gcns"
DGCNN = "dgcnn.pytorch"
RELEASES = (PYTORCH, TENSORFLOW, DGCNN)
UNTOLD_BY = {  # what the tensors of each release do not tell
    PYTORCH: ("k", "conv", "arch", "layout", "dilation"),
    TENSORFLOW: ("k", "conv", "arch", "dilation"),
    DGCNN: ("k",),
}
LAYOUTS = {PYTORCH: "torch", TENSORFLOW: "paper", DGCNN: "paper"}


@dataclass(frozen=True)
class Untold:
    """What no tensor tells of a network; None: as published for its depth and release.

    `k`, `conv`, `arch`, `layout`, `knn`, `dilation` and `epsilon` are those of
    `pipelines.config.ModelConfig`; `num_points` are the points of a block in training.
    """

    k: int | None = None
    conv: str | None = None
    arch: str | None = None
    layout: str | None = None
    knn: str | None = None
    dilation: bool | None = None
    epsilon: float | None = None
    num_points: int | None = None

    def __post_init__(self) -> None:
        if self.conv is not None:
            check_choice("graph convolution", self.conv, CONVS, flag="--conv")
        if self.arch is not None:
            check_choice("architecture", self.arch, ARCHS, flag="--arch")
        if self.num_points is not None:
            POINTS.check("--num-points", self.num_points)

    def or_else(self, other: Untold) -> Untold:
        """Return these values, and those of `other` where there is none."""
        known = {name: value for name, value in vars(self).items() if value is not None}
        return dataclasses.replace(other, **known)


def assumed(release: str, told: Untold, config: ModelConfig) -> dict[str, object]:
    """Return the options that nothing told, with the published values that they were given."""
    names = (name for name in UNTOLD_BY[release] if getattr(told, name) is None)
    return {name: getattr(config, name) for name in names}


def recognise(names: Iterable[str]) -> str | None:
    """Return the release whose names these are, or None."""
    plain = {name.removeprefix("module.") for name in names}
    if "adj_conv_0/weights" in plain:
        return TENSORFLOW
    if any(name.startswith("head.gconv.") for name in plain):
        return PYTORCH
    return DGCNN if {"conv1.0.weight", "conv9.weight"} <= plain else None


def build_released(release: str, state: Mapping[str, Tensor], untold: Untold) -> DeepGCN:
    """Build the network that holds the tensors of a release, in evaluation mode.

    Raises:
        WeightsError: a name or a shape does not fit; says which.
        ConfigError: what was given in `untold` cannot be.
    """
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    if release == DGCNN:
        model = build_dgcnn(plain, untold)
    else:
        published = with_published_names(plain) if release == TENSORFLOW else plain
        model = build_gcn(published, untold, layout=LAYOUTS[release])
    _check_taken(release, model.config, untold)
    return model


def build_gcn(plain: Mapping[str, Tensor], untold: Untold, *, layout: str) -> DeepGCN:
    """Build a GCN from tensors under the PyTorch release's names.

    Raises:
        WeightsError: a name or a shape does not fit.
    """
    conv = untold.conv or infer_conv(plain)
    if conv == "gin-0":
        plain = without_epsilon(plain)
    inferred = infer_config(plain, conv=conv, arch=untold.arch)
    published = ModelConfig.published(inferred["arch"], inferred["depth"])
    model = from_reference(
        plain,
        k=published.k if untold.k is None else untold.k,
        conv=conv,
        layout=untold.layout or layout,
        arch=untold.arch,
    )
    return with_graph(model, untold)


def _check_taken(release: str, config: ModelConfig, untold: Untold) -> None:
    """Raise ConfigError for a value that was given and that this release cannot have."""
    for name, value in vars(untold).items():
        if value is not None and name != "num_points" and getattr(config, name) != value:
            flag = "-k" if name == "k" else f"--{name}"
            raise ConfigError(
                f"{flag} {value}: the weights are of {describe(config)} ({release}), "
                f"whose {name} is {getattr(config, name)}.\nLeave {flag} out."
            )


def with_graph(model: DeepGCN, untold: Untold) -> DeepGCN:
    """Return the network with another graph, which is no matter of its tensors."""
    names = ("knn", "dilation", "epsilon")
    wanted = {name: value for name in names if (value := getattr(untold, name)) is not None}
    config = dataclasses.replace(model.config, **wanted)
    if config == model.config:
        return model
    other = DeepGCN(config).to(next(model.parameters()).dtype)
    other.load_state_dict(model.state_dict())
    return other.eval()


def infer_conv(names: Iterable[str]) -> str:
    """Return the vertex layer whose names these are; edge and mr have the same, as sage and -n."""
    names = tuple(names)
    if any(".gconv.nn1." in name for name in names):
        return "sage"
    return "gin" if any(name.endswith(".gconv.eps") for name in names) else "edge"


def without_epsilon(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without GIN's ε, which the release stores even where it is fixed at 0.

    Raises:
        WeightsError: an ε is not 0.
    """
    learned = [n for n, value in state.items() if n.endswith(".eps") and value.any()]
    if learned:
        value = state[learned[0]]
        raise WeightsError(
            f"--conv gin-0: found {learned[0]} = {value[value != 0][0].item():.4g}, expected 0.\n"
            "Its ε was learned: import it with --conv gin."
        )
    return {name: value for name, value in state.items() if not name.endswith(".eps")}


_TENSORFLOW_PARTS = {
    "weights": "0.weight",
    "biases": "0.bias",
    "bn/gamma": "2.weight",
    "bn/beta": "2.bias",
    "bn/pop_mean": "2.running_mean",
    "bn/pop_var": "2.running_var",
}
_TENSORFLOW_SCOPES = {
    "adj_conv_final": "fusion_block",
    "seg/conv1": "prediction.0",
    "seg/conv2": "prediction.1",
    "seg/conv3": "prediction.3",
}
_OPTIMIZER = re.compile(r"(.*/)?(Adam(_\d+)?|Momentum|beta[12]_power(_\d+)?|Variable|global_step)")


def is_optimizer(name: str) -> bool:
    """Whether a TensorFlow variable belongs to the training, not to the network."""
    return _OPTIMIZER.fullmatch(name) is not None


def published_name(name: str, *, aggregates: bool = False) -> str:
    """Return what the PyTorch release calls the TensorFlow variable `name`.

    Args:
        name: such as adj_conv_3/bn/gamma.
        aggregates: the layers have a second map over the neighbours (GraphSAGE).

    Raises:
        WeightsError: the release has no such variable.
    """
    if found := re.fullmatch(r"adj_conv_([0-9]{1,9})_epsilon", name):
        return f"{_published_layer(int(found[1]))}.eps"
    parts = "|".join(_TENSORFLOW_PARTS)
    found = re.fullmatch(
        rf"(adj_conv_([0-9]{{1,9}})(_aggr)?|adj_conv_final|seg/conv[123])/({parts})", name
    )
    if not found:
        raise WeightsError(
            f"TensorFlow checkpoint: found the unknown variable {name!r}.\n"
            "Expected the release's scopes: adj_conv_0 …, adj_conv_final, seg/conv1, 2, 3."
        )
    scope, layer, neighbors, part = found.groups()
    if layer is None:
        return f"{_TENSORFLOW_SCOPES[scope]}.{_TENSORFLOW_PARTS[part]}"
    mlp = "nn1" if neighbors else "nn2" if aggregates else "nn"
    return f"{_published_layer(int(layer))}.{mlp}.{_TENSORFLOW_PARTS[part]}"


def _published_layer(number: int) -> str:
    return "head.gconv" if number == 0 else f"backbone.{number - 1}.body.gconv"


def with_published_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return TensorFlow's tensors under the PyTorch release's names and in its order of axes.

    A kernel (1, 1, in, out) becomes (out, in); the optimizer's variables are left out.
    """
    aggregates = any("_aggr/" in name for name in state)
    tensors: dict[str, Tensor] = {}
    for name, value in state.items():
        if is_optimizer(name):
            continue
        own = published_name(name, aggregates=aggregates)
        kernel = value.dim() == 4 and value.shape[:2] == (1, 1)
        tensors[own] = value[0, 0].t().contiguous() if kernel else value
        if own.endswith("running_mean"):
            counter = own.replace("running_mean", "num_batches_tracked")
            tensors[counter] = torch.zeros((), dtype=torch.int64)
    return tensors


DGCNN_UNITS = {
    "conv1": "layers.0.mlp.0",
    "conv2": "layers.0.mlp.1",
    "conv3": "layers.1.mlp.0",
    "conv4": "layers.1.mlp.1",
    "conv5": "layers.2.mlp.0",
    "conv6": "fusion",
    "conv7": "prediction.0",
    "conv8": "prediction.1",
}
DGCNN_EDGE_MAPS = ("conv1", "conv3", "conv5")  # the units that take edges


def build_dgcnn(state: Mapping[str, Tensor], untold: Untold) -> DeepGCN:
    """Build DGCNN from the names of `dgcnn.pytorch`, which has every norm under two names.

    Raises:
        WeightsError: a name or a shape does not fit, or the two copies of a norm differ.
    """
    first = as_matrix("conv1.0.weight", state["conv1.0.weight"])
    fusion = state.get("conv6.0.weight")
    sizes = {
        "width": first.shape[0],
        "in_channels": first.shape[1] // 2,
        "num_classes": as_matrix("conv9.weight", state["conv9.weight"]).shape[0],
    }
    if fusion is not None:
        sizes["fusion_channels"] = as_matrix("conv6.0.weight", fusion).shape[0]
    config = ModelConfig.published("dgcnn", k=untold.k, **sizes)
    return build_network(config, dgcnn_own_state(state), source=DGCNN)


def dgcnn_own_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of `dgcnn.pytorch` under our names and in our order of channels."""
    tensors = {}
    for name, value in state.items():
        found = re.fullmatch(r"(?:conv|bn)(\d)\.(?:([01])\.)?(\w+)", name)
        if not found or (name != "conv9.weight" and f"conv{found[1]}" not in DGCNN_UNITS):
            raise WeightsError(f"{DGCNN}: found the unknown tensor {name!r}.")
        unit, place, part = f"conv{found[1]}", found[2], found[3]
        if name.startswith("bn"):
            _check_copy(state, name, f"{unit}.1.{part}")
        elif unit == "conv9":
            tensors["classifier.weight"] = as_matrix(name, value)
        elif place == "0":
            # The release's edges are [x_j − x_i ; x_i], ours the other way round.
            matrix = as_matrix(name, value)
            matrix = swap_halves(matrix) if unit in DGCNN_EDGE_MAPS else matrix
            tensors[f"{DGCNN_UNITS[unit]}.linear.{part}"] = matrix
        else:
            tensors[f"{DGCNN_UNITS[unit]}.norm.{part}"] = value
    return tensors


def swap_halves(matrix: Tensor) -> Tensor:
    """Return the columns of [a ; b] in the order [b ; a]."""
    half = matrix.shape[1] // 2
    return torch.cat([matrix[:, half:], matrix[:, :half]], dim=1)


def _check_copy(state: Mapping[str, Tensor], name: str, original: str) -> None:
    if original not in state or not torch.equal(state[name], state[original]):
        raise WeightsError(
            f"{DGCNN}: {name} and {original} differ, expected the same tensor twice."
        )
