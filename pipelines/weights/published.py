"""The names that published networks give their tensors: one table a release, read both ways.

Three releases are known: the authors' PyTorch one (`deep_gcns_torch`), their TensorFlow one
(`deep_gcns`), and the PyTorch DGCNN of `dgcnn.pytorch`. Names and shapes give depth, width and
channels; the settings that they do not show are `Hints`.

Reference:
    github.com/lightaime/deep_gcns_torch, github.com/lightaime/deep_gcns (sem_seg/model.py,
    utils/tf_util.py), github.com/antao97/dgcnn.pytorch (model.py, DGCNN_semseg).
"""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.config import ModelConfig
from pipelines.config.model import RELEASED_ARCHS, RELEASED_CONVS, Hints, as_typed
from pipelines.errors import ConfigError, WeightsError
from pipelines.model.deepgcn import DeepGCN

from .safetensors import build_network, check_depth, expected_tensors
from .tensorflow import is_optimizer

MATRICES = ("linear.weight", "classifier.weight")  # our names of linear maps
SAGE, GIN = ("sage", "sage-n"), ("gin", "gin-0")
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]


@dataclass(frozen=True)
class Release:
    """How a published release stores a network."""

    name: str  # of its repository
    rules: Rules  # from our names to its: patterns and what replaces them, one after the other
    alias: tuple[str, str]  # a pattern of its names, and the second name of such a tensor
    layout: str
    hidden: tuple[str, ...]  # the settings that its tensors do not show

    def publish(self, name: str, conv: str) -> str:
        """Return the release's name of our tensor `name`.

        >>> TORCH.publish("layers.3.mlp.0.linear.weight", "edge")
        'backbone.2.body.gconv.nn.0.weight'
        >>> TENSORFLOW.publish("layers.3.mlp.0.linear.weight", "edge")
        'adj_conv_3/weights'
        """
        for pattern, form in self.rules:
            name = re.sub(pattern, form, name)
        return name.replace(".nn.", ".nn2.") if conv in SAGE else name

    def inverse(self, names: Iterable[str], conv: str) -> dict[str, str]:
        """Return our names by the release's, second ones included, of our tensors `names`."""
        table = {self.publish(name, conv): name for name in names}
        return {re.sub(*self.alias, published): own for published, own in table.items()} | table


TORCH = Release(
    "deep_gcns_torch",
    (
        (r"^layers\.0\.", "head.gconv."),
        (r"^layers\.(\d+)\.", lambda found: f"backbone.{int(found[1]) - 1}.body.gconv."),
        (r"\bneighbor_mlp\.", "nn1."),
        (r"\bmlp\.(0\.)?", "nn."),
        (r"^fusion\.", "fusion_block."),
        (r"^classifier\.", "prediction.3.0."),
        (r"\blinear\.", "0."),
        (r"\bnorm\.", "2."),
    ),
    alias=(r"\.2\.(\w+)$", r".1.\1"),  # the norm where it comes before the activation
    layout="torch",
    hidden=("k", "conv", "arch", "layout", "dilation"),
)
TENSORFLOW = Release(
    "deep_gcns",
    (
        (r"^layers\.(\d+)\.eps$", r"adj_conv_\1_epsilon"),
        (r"^layers\.(\d+)\.neighbor_mlp\.", r"adj_conv_\1_aggr/"),
        (r"^layers\.(\d+)\.mlp\.(0\.)?", r"adj_conv_\1/"),
        (r"^fusion\.", "adj_conv_final/"),
        (r"^prediction\.0\.", "seg/conv1/"),
        (r"^prediction\.1\.", "seg/conv2/"),
        (r"^classifier\.", "seg/conv3/linear."),
        (r"linear\.weight$", "weights"),
        (r"linear\.bias$", "biases"),
        (r"norm\.weight$", "bn/gamma"),
        (r"norm\.bias$", "bn/beta"),
        (r"norm\.running_mean$", "bn/pop_mean"),
        (r"norm\.running_var$", "bn/pop_var"),
    ),
    alias=("^$", ""),
    layout="paper",
    hidden=("k", "conv", "arch", "dilation"),
)
DGCNN = Release(
    "dgcnn.pytorch",
    (
        (
            r"^layers\.(\d)\.mlp\.(\d)\.",
            lambda found: f"conv{2 * int(found[1]) + int(found[2]) + 1}.",
        ),
        (r"^fusion\.", "conv6."),
        (r"^prediction\.0\.", "conv7."),
        (r"^prediction\.1\.", "conv8."),
        (r"^classifier\.", "conv9."),
        (r"\blinear\.", "0."),
        (r"\bnorm\.", "1."),
    ),
    alias=(r"^conv(\d)\.1\.", r"bn\1."),  # every norm is there twice
    layout="paper",
    hidden=("k",),
)
OWN = "deepgcn"  # stands for our own names
RELEASES = {release.name: release for release in (TORCH, TENSORFLOW, DGCNN)}


def assumed(release: str, hints: Hints, config: ModelConfig) -> dict[str, object]:
    """Return the settings that nothing showed, with the published values that they were given."""
    names = (name for name in RELEASES[release].hidden if getattr(hints, name) is None)
    return {name: getattr(config, name) for name in names}


def recognise(names: Iterable[str]) -> str | None:
    """Return the release whose names these are, or None.

    >>> recognise(["module.head.gconv.nn.0.weight"])
    'deep_gcns_torch'
    """
    plain = {name.removeprefix("module.") for name in names}
    if "adj_conv_0/weights" in plain:
        return TENSORFLOW.name
    if any(name.startswith("head.gconv.") for name in plain):
        return TORCH.name
    return DGCNN.name if {"conv1.0.weight", "conv9.weight"} <= plain else None


def build_released(
    release: str, state: Mapping[str, Tensor], hints: Hints, **training: float
) -> DeepGCN:
    """Build the network that holds the tensors of a release, in evaluation mode.

    `training` are settings that matter in training alone, where they differ from the published.
    """
    known = RELEASES[release]
    plain = _without_prefix(state)
    given = hints.settings()
    conv = hints.conv if hints.conv and known is not DGCNN else infer_conv(plain)
    if conv == "gin-0":
        plain = _without_epsilon(plain)
    shown = infer_config(known, plain, conv=conv, arch=hints.arch)
    published = ModelConfig.published(shown["arch"], shown["depth"])
    settings = {"conv": conv, "layout": known.layout, **given}
    if known is DGCNN:  # only k can differ
        settings = {"k": given.get("k", published.k)}
    if not published.dilation:
        training.pop("epsilon", None)
    config = dataclasses.replace(published, **{**training, **settings, **shown})
    check_hints(hints, config, release)
    return build_network(config, own_tensors(known, plain, config), source=release)


def build_exported(release: str, state: Mapping[str, Tensor], config: ModelConfig) -> DeepGCN:
    """Build the network `config` of an export under the names of a release, or under OWN ones."""
    check_depth(config, state, release)
    plain = _without_prefix(state)
    tensors = plain if release == OWN else own_tensors(RELEASES[release], plain, config)
    return build_network(config, tensors, source=release)


def _without_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without what training on several GPUs puts before their names."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def check_hints(hints: Hints, config: ModelConfig, release: str) -> None:
    """Raise ConfigError if weights have another setting than the one that was given."""
    for name, value in hints.settings().items():
        if getattr(config, name) != value:
            raise ConfigError(
                f"{as_typed(name, value)}: the weights are of {config.label} ({release}), "
                f"whose {name} is {getattr(config, name)}.\nLeave it out."
            )


def from_reference(
    state_dict: Mapping[str, Tensor],
    *,
    k: int,
    conv: str = "edge",
    layout: str = "torch",
    epsilon: float = 0.2,
    dropout: float = 0.3,
    arch: str | None = None,
) -> DeepGCN:
    """Build the network that holds weights under the published PyTorch names, in their dtype.

    It is in evaluation mode. Depth, width, class count and a dense backbone follow from names and
    shapes. A plain and a residual backbone have the same: residual is assumed unless `arch` is
    given.

    >>> from pipelines.config import ModelConfig
    >>> model = DeepGCN(ModelConfig(depth=3, width=8, k=4))
    >>> from_reference(published_state(model), k=4).config.depth
    3

    Args:
        state_dict: tensors under the names of the release, with or without `module.` in front;
            linear maps as 1 × 1 convolutions (out, in, 1, 1) or matrices (out, in).
        k: neighbours per point, which no tensor shows.
        conv: the graph convolution: edge, mr, sage, sage-n, gin or gin-0.
        layout: "torch" for the PyTorch release, "paper" for the order of the TensorFlow one.
        epsilon: probability of stochastic dilation while training.
        dropout: dropout rate before the classifier.
        arch: "plaingcn", "resgcn" or "densegcn" to say instead of inferring.

    Raises:
        WeightsError: a name is unknown or a shape does not fit.
    """
    hints = Hints(k=k, conv=conv, layout=layout, arch=arch)
    return build_released(TORCH.name, state_dict, hints, epsilon=epsilon, dropout=dropout)


def infer_conv(names: Iterable[str]) -> str:
    """Return the graph convolution with such names; mr has those of edge, sage-n those of sage."""
    names = tuple(names)
    if any(".gconv.nn1." in name or "_aggr/" in name for name in names):
        return "sage"
    return "gin" if any(name.endswith((".gconv.eps", "_epsilon")) for name in names) else "edge"


def _without_epsilon(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors without GIN's ε, which a release stores even where it is fixed at 0."""
    epsilons = {n: v for n, v in state.items() if n.endswith((".gconv.eps", "_epsilon"))}
    for name, value in epsilons.items():
        if value.any():
            raise WeightsError(
                f"--conv gin-0: found {name} = {value[value != 0][0].item():.4g}, expected 0.\n"
                "Its ε was learned: import it with --conv gin."
            )
    return {name: value for name, value in state.items() if name not in epsilons}


def infer_config(
    release: Release, state: Mapping[str, Tensor], *, conv: str, arch: str | None = None
) -> dict[str, Any]:
    """Return arch, depth, width and channel counts from a release's names and shapes."""

    def matrix(own: str) -> Tensor:
        name = release.publish(own, conv)
        if name not in state:
            raise WeightsError(
                f"{release.name}: found no tensor {name!r} among {len(state)} "
                f"({', '.join(list(state)[:3])}, …).\nExpected the names of this release."
            )
        return _own_value(release, own, name, state[name])

    mlp = "mlp.0.linear.weight" if conv == "edge" else "mlp.linear.weight"
    head, fusion = matrix(f"layers.0.{mlp}"), matrix("fusion.linear.weight")
    width, sides = head.shape[0], 1 if conv in GIN else 2  # [x_i, …] has twice the channels
    shown = {
        "width": width,
        "in_channels": head.shape[1] // sides,
        "num_classes": matrix("classifier.weight").shape[0],
        "fusion_channels": fusion.shape[0],
    }
    if release is DGCNN:
        return {"arch": "dgcnn", "depth": 3, **shown}
    layers = (release.publish(f"layers.{number}.{mlp}", conv) for number in itertools.count())
    depth = sum(1 for _ in itertools.takewhile(state.__contains__, layers))
    inputs = matrix(f"layers.{depth - 1}.{mlp}").shape[1] if depth > 2 else 0
    outputs = width * depth * (depth + 1) // 2  # of a dense backbone, all layers together
    dense = inputs == sides * width * (depth - 1) or fusion.shape[1] == outputs
    return {"arch": arch or ("densegcn" if dense else "resgcn"), "depth": depth, **shown}


def own_tensors(
    release: Release, state: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, Tensor]:
    """Return a release's tensors under our names and in our order of axes."""
    expected = expected_tensors(config)
    names = release.inverse(expected, config.conv)
    tensors: dict[str, Tensor] = {}
    found: dict[str, str] = {}
    for name, value in state.items():
        if release is TENSORFLOW and is_optimizer(name):
            continue
        if name not in names:
            raise WeightsError(
                f"{release.name}: found the unknown tensor {name!r} beside those of {config.label}."
            )
        own = names[name]
        first = found.setdefault(own, name)
        if first != name and not torch.equal(value, state[first]):
            raise WeightsError(
                f"{release.name}: {name} and {first} differ, expected the same tensor twice."
            )
        tensors[own] = _own_value(release, own, name, value)
    if release is TENSORFLOW:  # it does not count batches
        counters = (name for name in expected if name.endswith("num_batches_tracked"))
        tensors |= {name: torch.zeros((), dtype=torch.int64) for name in counters}
    return tensors


def _own_value(release: Release, own: str, name: str, value: Tensor) -> Tensor:
    """Return the release's tensor `name` with our axes: a linear map's weights as (out, in)."""
    if not own.endswith(MATRICES):
        return value
    if release is TENSORFLOW and value.dim() == 4 and value.shape[:2] == (1, 1):
        return value[0, 0].t().contiguous()
    if value.dim() < 2 or value.numel() == 0:
        raise WeightsError(
            f"{name}: found shape {tuple(value.shape)}, expected (out, in) or (out, in, 1, 1)."
        )
    return _swap_halves(release, own, value.flatten(1))


def _released_value(release: Release, own: str, value: Tensor) -> Tensor:
    """Return our matrix (out, in) as the kernel of a release's convolution: (out, in, 1[, 1])."""
    if not own.endswith(MATRICES):
        return value
    kernel = _swap_halves(release, own, value)[:, :, None]
    over_points = release is DGCNN and not own.startswith("layers")  # without neighbours
    return kernel if over_points else kernel[..., None]


def _swap_halves(release: Release, own: str, matrix: Tensor) -> Tensor:
    """Swap the columns [a ; b] of DGCNN's edges, [x_j − x_i ; x_i] there and reversed here."""
    if release is not DGCNN or not re.fullmatch(r"layers\.\d\.mlp\.0\.linear\.weight", own):
        return matrix
    half = matrix.shape[1] // 2
    return torch.cat([matrix[:, half:], matrix[:, :half]], dim=1)


def published_state(model: DeepGCN) -> dict[str, Tensor]:
    """Return the tensors under the names and in the shapes of a published PyTorch release."""
    config = model.config
    release = DGCNN if config.arch == "dgcnn" else TORCH
    for noun, value, known in (
        ("graph convolution", config.conv, RELEASED_CONVS),
        ("architecture", config.arch, RELEASED_ARCHS),
    ):
        if value not in known:
            raise ConfigError(
                f"{config.label}: found the {noun} {value}, which no release has.\n"
                f"Expected one of {', '.join(known)}; or export it under our own names: --names own"
            )
    if config.sharing and config.knn != "fixed":
        raise ConfigError(
            f"{config.label}: found layers that share a graph, which no release has.\n"
            "Export it under our own names: --names own"
        )
    if release is DGCNN and config.depth != 3:
        raise ConfigError(f"{config.label}: found depth {config.depth}, expected the published 3.")
    state: dict[str, Tensor] = {}
    for own, value in model.state_dict().items():
        name = release.publish(own, config.conv)
        state[name] = _released_value(release, own, value)
        if release is DGCNN:
            state[re.sub(*release.alias, name)] = state[name]
    return state
