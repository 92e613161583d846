"""The head's first maps of all layers' outputs: folded, and in segments that save memory.

Fusion and prediction both begin with a linear map of the concatenated outputs h_1 … h_L:
Σ_l W_l h_l + b. Their sums are formed here, with one matmul over all layers or, with activation
checkpointing, one per segment of layers, whose activations the backward pass recomputes.

Reference:
    Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016: a chain of L layers that is
    recomputed in segments of about √L keeps activations for about √L of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipelines import kernels

from .blocks import concatenate
from .layers import Unit
from .linear import linear, linear_pair

if TYPE_CHECKING:
    from .deepgcn import DeepGCN, Graphs

HIDDEN = 512, 256  # channels of the prediction's two units
WITHOUT_GRADIENT = 32  # layers whose outputs are concatenated at once in a deeper network

Part = Callable[..., tuple[Tensor, ...]]


def segment_length(depth: int) -> int:
    """Return the number of layers in a segment that needs the least memory: about √L.

    Example:
        >>> segment_length(28)
        5
    """
    return max(1, round(math.sqrt(depth)))


def head_maps(model: DeepGCN, outputs: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Return fusion's and prediction's first maps of the layers' outputs.

    Returns:
        Σ_l W_l h_l + b, (B, N, fusion_channels) and (B, N, 512).
    """
    return linear_pair(outputs, *zip(*_maps(model), strict=True))


def head_maps_by_segment(
    model: DeepGCN, graphs: Graphs, features: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Run the backbone in segments of `length` layers and return what `head_maps` would.

    For the backward pass only the segments' inputs and the graphs are kept.
    """
    layers = range(len(model.layers))
    segments = [layers[start : start + length] for start in layers[::length]]
    columns = [sum(model.output_channels[n] for n in segment) for segment in segments]
    weights, biases = _maps(model)
    shares = (weight.split(columns, dim=1) for weight in weights)
    inputs: tuple[Tensor, ...] = (features,)
    sums = None
    for segment, *pair in zip(segments, *shares, strict=True):
        part = partial(_segment, model, segment, graphs)
        modules = [module[n] for n in segment for module in (model.layers, model.blocks)]
        share, *outputs = recomputed(part, modules, *pair, *inputs)
        sums = share if sums is None else sums.add_(share)
        del share  # before the next segment allocates its own
        inputs = (*inputs, *outputs) if model.repeats and segment[0] > 0 else tuple(outputs)
    assert sums is not None
    fused, local = sums.split([model.config.fusion_channels, HIDDEN[0]], dim=-1)
    fused, local = (
        part.contiguous() if bias is None else part + bias
        for part, bias in zip((fused, local), biases, strict=True)
    )
    return fused, local


def _segment(
    model: DeepGCN,
    layers: range,
    graphs: Graphs,
    fusion: Tensor,
    prediction: Tensor,
    *inputs: Tensor,
) -> tuple[Tensor, ...]:
    """Return a segment's part of both sums (B, N, fusion_channels + 512), then its outputs.

    Its outputs, like its inputs, are what the next segment needs: the last block's output, or, if
    outputs repeat their inputs, what every block added. The matmul comes last, so that the
    recomputation can leave it out.
    """
    outputs, x = model.run(layers, graphs, concatenate(inputs, model.config.layout))
    points = torch.cat(outputs, dim=-1)
    following = outputs if model.repeats else [x]
    return linear(points, torch.cat([fusion, prediction])), *following


def _maps(model: DeepGCN) -> tuple[list[Tensor], list[Tensor | None]]:
    """Return the weights (…, D) and biases of both maps for the layers' outputs.

    The outputs of dense blocks repeat their inputs' channels: Σ_l W_l h_l is then one matmul with
    the weight columns of equal channels summed (12,992 become 896 in DenseGCN-28).
    """
    first = model.prediction[0]
    assert isinstance(first, Unit)
    own = first.linear.weight[:, model.config.fusion_channels :]
    weights = [model.fusion.linear.weight, own]
    columns, distinct = model.dense_columns, sum(model.output_channels)
    if columns is not None:
        weights = [w.new_zeros(len(w), distinct).index_add(1, columns, w) for w in weights]
    return weights, [model.fusion.linear.bias, first.linear.bias]


def recomputed(part: Part, modules: Iterable[nn.Module], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return `part(*inputs)`, saving only the inputs; the backward pass recomputes the rest.

    The recomputation draws the same random numbers, uses the same kernels and leaves the modules'
    buffers (running statistics) alone, so a training step is the same as without checkpointing.

    Args:
        part: a function of tensors; anything else that it reads must not change until then.
        modules: those that `part` calls.
        inputs: the arguments of `part`.
    """
    if not torch.is_grad_enabled():
        return part(*inputs)
    name = kernels.forced()  # autograd's own threads do not see `kernels.use`
    result: tuple[Tensor, ...] = checkpoint(
        part,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _recomputation(list(modules), name)),
    )
    return result


@contextmanager
def _recomputation(modules: list[nn.Module], name: str | None) -> Iterator[None]:
    """Use the kernels `name`, and copies of the modules' buffers, in a `with` block."""
    owners = [owner for module in modules for owner in module.modules()]
    kept = [
        (owner, key, buffer)
        for owner in owners
        for key, buffer in owner.named_buffers(recurse=False)
    ]
    for owner, key, buffer in kept:
        setattr(owner, key, buffer.clone())
    try:
        with kernels.use(name):
            yield
    finally:
        for owner, key, buffer in kept:
            setattr(owner, key, buffer)
