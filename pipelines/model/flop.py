"""The arithmetic of a network, from its configuration alone, if none is left out.

Counted are products, an addition and a multiplication each, of one block: the N² scalar products of
every graph (symmetry saves half of them, and so does knowing which points are too far apart), and
those with weights. A vertex layer of PyTorch Geometric is counted like EdgeConv.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.config import ModelConfig


def forward_flop(model: ModelConfig, points: int) -> float:
    """Return the floating-point operations of a forward pass."""
    maps = _maps(model, points)
    return _graphs(model, points) + maps.first + maps.others


def step_flop(model: ModelConfig, points: int) -> float:
    """Return those of a training step: each map has a gradient of its weight and one of its input.

    But the network's own input needs none, and graphs have no gradients.
    """
    maps = _maps(model, points)
    return _graphs(model, points) + 2 * maps.first + 3 * maps.others


def search_flop(channels: int, points: int) -> float:
    """Return those of a graph among points with so many channels."""
    return 2 * points * points * channels


def _graphs(model: ModelConfig, points: int) -> float:
    spaces = [3, *_layer_inputs(model)[1:]]
    if model.knn == "fixed":
        spaces = spaces[:1]
    return sum(search_flop(channels, points) for channels in spaces)


@dataclass(frozen=True)
class _Maps:
    """The operations of maps whose input needs no gradient, and of all others."""

    first: float
    others: float


def _maps(model: ModelConfig, points: int) -> _Maps:
    layers = [_layer_maps(model, layer, size) for layer, size in enumerate(_layer_inputs(model))]
    first = layers[0][0]
    others = sum(own + following for own, following in layers) - first
    distinct = model.depth * model.width
    others += distinct * (model.fusion_channels + 512) + 512 * 256 + 256 * model.num_classes
    block = model.fusion_channels * 512  # of the vector for the whole block
    return _Maps(2 * points * first, 2 * (points * others + block))


def _layer_maps(model: ModelConfig, layer: int, channels: int) -> tuple[int, int]:
    """Return a layer's multiplications a point: of its input, and of what its weights made."""
    width = model.width
    if model.conv in ("sage", "sage-n"):
        return channels * channels, 2 * channels * width
    if model.conv == "gin":  # ε is a weight
        return 0, channels * width
    if model.conv == "gin-0":
        return channels * width, 0
    again = model.arch == "dgcnn" and layer < model.depth - 1  # a second map, edge by edge
    return 2 * channels * width, model.k * width * width if again else 0


def _layer_inputs(model: ModelConfig) -> list[int]:
    """Return the channels of each layer's input; a dense layer's holds all before it."""
    grows = model.arch == "densegcn"
    return [model.in_channels] + [
        model.width * (layer if grows else 1) for layer in range(1, model.depth)
    ]
