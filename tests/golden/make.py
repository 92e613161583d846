"""Write the golden tensors of this folder: small networks, computed edge by edge in float64.

    .venv/bin/python -m tests.golden.make

Takes 5 s on 2 CPU cores and prints the files and their sizes. Nothing of `pipelines` is used:
neighbours come from a full distance matrix and a full sort, every edge is an explicit tensor, the
backbone's residual additions and dense concatenations, the fusion and the prediction are written
out. Weights and features follow from a seed (the stream of NumPy's `RandomState` is frozen), so
only results are stored.

Reference:
    Li et al., DeepGCNs, ICCV 2019; Wang et al., Dynamic Graph CNN, TOG 2019, for "dgcnn".
"""

from __future__ import annotations

import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

FOLDER = Path(__file__).parent
BATCH, POINTS, CLASSES, FUSION = 2, 96, 5, 16
CLEAR = 1e-7  # the relative difference that two distances in a row must have
State = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """One network; the fields are settings of `pipelines.config.ModelConfig`."""

    arch: str = "resgcn"
    conv: str = "edge"
    layout: str = "paper"
    depth: int = 5
    width: int = 5
    k: int = 4
    dilation: bool = True


CASES = {
    "res-edge-paper": Case(),
    "res-edge-torch": Case(layout="torch"),
    "dense-edge-paper": Case("densegcn", depth=4, width=4),
    "dense-edge-torch": Case("densegcn", layout="torch", depth=4, width=6),
    "plain-mr-torch": Case("plaingcn", "mr", "torch", depth=4, width=8, dilation=False),
    "res-sage-torch": Case(conv="sage", layout="torch", depth=4),
    "res-gin-paper": Case(conv="gin", depth=4, width=8),
    "dgcnn": Case("dgcnn", depth=3, width=6, dilation=False),
}


def layer_inputs(case: Case) -> list[int]:
    """Return the channels of each layer's input."""
    grows = case.arch == "densegcn"
    return [9] + [case.width * (layer if grows else 1) for layer in range(1, case.depth)]


def unit_channels(case: Case) -> dict[str, tuple[int, int]]:
    """Return each unit (linear, norm, activation) by name, with its input and output channels."""
    units = {}
    for layer, channels in enumerate(layer_inputs(case)):
        name, width = f"layers.{layer}", case.width
        if case.conv == "edge":
            units[f"{name}.mlp.0"] = (2 * channels, width)
            if case.arch == "dgcnn" and layer < case.depth - 1:
                units[f"{name}.mlp.1"] = (width, width)
        if case.conv == "sage":
            units[f"{name}.neighbor_mlp"] = (channels, channels)
        if case.conv != "edge":
            units[f"{name}.mlp"] = (channels if case.conv == "gin" else 2 * channels, width)
    outputs = case.width * case.depth
    if case.arch == "densegcn":
        outputs = case.width * case.depth * (case.depth + 1) // 2
    units["fusion"] = (outputs, FUSION)
    units["prediction.0"] = (FUSION + outputs, 512)
    units["prediction.1"] = (512, 256)
    return units


def draw(name: str) -> tuple[State, Tensor, Tensor]:
    """Return the weights of a case, its features (B, N, 9) and its labels (B, N)."""
    case, random = CASES[name], np.random.RandomState(zlib.crc32(name.encode()))

    def uniform(*shape: int, low: float = -1.0, high: float = 1.0) -> Tensor:
        return torch.from_numpy(low + (high - low) * random.random_sample(shape))

    state = {}
    for unit, (inputs, outputs) in unit_channels(case).items():
        state[f"{unit}.linear.weight"] = uniform(outputs, inputs) * (3 / inputs) ** 0.5
        if case.arch != "dgcnn":
            state[f"{unit}.linear.bias"] = uniform(outputs, low=-0.5)
        signs = torch.from_numpy(random.randint(0, 2, outputs) * 2.0 - 1)
        state[f"{unit}.norm.weight"] = signs * uniform(outputs, low=0.5, high=1.5)
        state[f"{unit}.norm.bias"] = uniform(outputs, low=-0.5)
        state[f"{unit}.norm.running_mean"] = uniform(outputs)
        state[f"{unit}.norm.running_var"] = uniform(outputs, low=0.5, high=1.5)
    if case.conv == "gin":
        state |= {f"layers.{layer}.eps": uniform(1) for layer in range(case.depth)}
    state["classifier.weight"] = uniform(CLASSES, 256) / 8
    if case.arch != "dgcnn":
        state["classifier.bias"] = uniform(CLASSES)
    features = uniform(BATCH, POINTS, 9, low=0.0)
    return state, features, torch.from_numpy(random.randint(0, CLASSES, (BATCH, POINTS)))


@dataclass
class Network:
    """The forward pass of a case, written out."""

    case: Case
    state: State
    training: bool

    def logits(self, features: Tensor) -> Tensor:
        """Return (B, N, classes)."""
        case, outputs, h = self.case, [], features
        for layer in range(case.depth):
            first = features[..., 6:9] if case.layout == "paper" else features[..., 0:3]
            dilation = max(layer, 1) if case.dilation else 1
            index = neighbors(h if layer else first, case.k, dilation)
            y = self.conv(f"layers.{layer}", h, index)
            if case.arch == "resgcn" and layer:
                y = y + h
            if case.arch == "densegcn" and layer:
                y = torch.cat([y, h] if case.layout == "paper" else [h, y], dim=-1)
            h = y
            outputs.append(h)
        local = torch.cat(outputs, dim=-1)  # (B, N, D)
        block = self.unit("fusion", local).max(dim=1, keepdim=True).values  # (B, 1, FUSION)
        both = torch.cat([block.expand(-1, features.shape[1], -1), local], dim=-1)
        hidden = self.unit("prediction.1", self.unit("prediction.0", both))
        return F.linear(hidden, self.state["classifier.weight"], self.state.get("classifier.bias"))

    def conv(self, name: str, x: Tensor, index: Tensor) -> Tensor:
        """Return what a graph convolution makes of x (B, N, C) and index (B, N, k)."""
        kind = self.case.conv
        x_j = torch.stack([block[rows] for block, rows in zip(x, index, strict=True)])
        x_i = x.unsqueeze(2).expand_as(x_j)  # both (B, N, k, C)
        if kind == "edge":
            edges = self.unit(f"{name}.mlp.0", torch.cat([x_i, x_j - x_i], dim=-1))
            if f"{name}.mlp.1.linear.weight" in self.state:
                edges = self.unit(f"{name}.mlp.1", edges)
            return edges.max(dim=2).values
        if kind == "mr":
            return self.unit(f"{name}.mlp", torch.cat([x, (x_j - x_i).max(dim=2).values], dim=-1))
        if kind == "sage":
            message = self.unit(f"{name}.neighbor_mlp", x_j).max(dim=2).values
            return self.unit(f"{name}.mlp", torch.cat([x, message], dim=-1))
        return self.unit(f"{name}.mlp", (1 + self.state[f"{name}.eps"]) * x + x_j.sum(dim=2))

    def unit(self, name: str, x: Tensor) -> Tensor:
        """Return linear → norm → activation, or for layout torch linear → activation → norm."""
        state, case = self.state, self.case
        x = F.linear(x, state[f"{name}.linear.weight"], state.get(f"{name}.linear.bias"))
        slope = 0.2 if case.arch == "dgcnn" else 0.0
        if case.layout == "torch":
            return self.norm(name, F.leaky_relu(x, slope))
        return F.leaky_relu(self.norm(name, x), slope)

    def norm(self, name: str, x: Tensor) -> Tensor:
        """Return batch norm over all but the last axis; in training the statistics move."""
        mean, var, scale, shift = (
            self.state[f"{name}.norm.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        eps = 1e-3 if self.case.layout == "paper" and self.case.arch != "dgcnn" else 1e-5
        rows = x.reshape(-1, x.shape[-1])
        return F.batch_norm(rows, mean, var, scale, shift, self.training, 0.1, eps).view(x.shape)


def neighbors(x: Tensor, k: int, dilation: int) -> Tensor:
    """Return ranks 0, d, …, (k − 1)·d of each point's neighbours (B, N, k), by a full sort."""
    distances = (x.detach().unsqueeze(2) - x.detach().unsqueeze(1)).square().sum(dim=-1)
    values, order = distances.sort(dim=-1)
    # Another implementation rounds otherwise: no two neighbours may be as good as equally far.
    first = values[..., : k * dilation + 1]
    assert (first.diff(dim=-1) > CLEAR * first[..., 1:]).all()
    return order[..., : k * dilation : dilation]


def compute(name: str) -> dict[str, np.ndarray]:
    """Return what a case's file holds: logits, loss, gradients and running statistics."""
    state, features, label = draw(name)
    weights = {key for key in state if "running" not in key}
    evaluated = Network(CASES[name], state, training=False).logits(features)
    for key in weights:
        state[key].requires_grad_()
    trained = Network(CASES[name], state, training=True).logits(features)
    loss = F.cross_entropy(trained.flatten(0, 1), label.flatten())
    loss.backward()
    whole = next(key for key in state if key.startswith("layers.1") and "linear" in key)
    found = {"eval_logits": evaluated, "train_logits": trained, "train_loss": loss}
    found |= {f"grad_norm/{key}": state[key].grad.norm() for key in state if key in weights}
    found |= {f"grad/{whole}": state[whole].grad}
    found |= {f"after_step/{key}": state[key] for key in state if key not in weights}
    return {key: value.detach().numpy() for key, value in found.items()}


def main() -> None:
    """Write every case's file."""
    for name in CASES:
        path = FOLDER / f"{name}.npz"
        np.savez_compressed(path, **compute(name))
        sys.stdout.write(f"{path.name:24} {path.stat().st_size / 1e3:.0f} kB\n")


if __name__ == "__main__":
    main()
