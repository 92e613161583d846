"""The arithmetic of a network, from its configuration alone."""

from __future__ import annotations

from ..config import ModelConfig


def forward_flop(model: ModelConfig, points: int) -> float:
    """Return the floating-point operations of a forward pass of one block that leaves none out.

    Counted are the N² scalar products of every graph (symmetry saves half of them, and so does
    knowing which points are too far apart), the two products of EdgeConv's split, fusion (over
    distinct channels) and prediction.
    """
    channels, total = model.in_channels, 0.0
    for layer in range(model.depth):
        space = 3 if layer == 0 else channels
        total += 2 * points * points * space
        total += 2 * points * 2 * channels * model.width
        grows = model.arch == "densegcn" and layer > 0
        channels = channels + model.width if grows else model.width
    distinct = model.depth * model.width
    total += 2 * points * distinct * (model.fusion_channels + 512)
    total += 2 * points * (512 * 256 + 256 * model.num_classes)
    return total
