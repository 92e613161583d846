"""The head's first linear maps, over all layers' outputs: folded, and in segments to save memory.

Fusion and prediction both begin with a linear map of the concatenated outputs h_1 … h_L, which is
a sum over the layers: Σ_l W_l h_l + b. So it can be computed segment by segment, while the backbone
runs. With activation checkpointing the backward pass recomputes a segment's activations.

Reference:
    Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016: a chain of L layers that is
    recomputed in segments of about √L keeps activations for about √L of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from pipelines import kernels

from .layers import Matmul, linear, rows

Map = tuple[Tensor, Tensor | None]  # weight (C', C) and bias (C',) of a linear map
HIDDEN = 512, 256  # channels of the prediction's two units
EVALUATION_SEGMENT = 32  # layers per segment of a deep network in evaluation

Run = Callable[..., tuple[Sequence[Tensor], Sequence[Tensor]]]


class Segment(NamedTuple):
    """Some consecutive layers of the backbone."""

    run: Run  # their input, in pieces → their outputs, and the next segment's input, in pieces
    modules: list[nn.Module]  # that `run` calls
    channels: int  # of all their outputs


def segment_length(depth: int) -> int:
    """Return the number of layers in a segment that needs the least memory: about √L.

    Example:
        >>> segment_length(28)
        5
    """
    return max(1, round(math.sqrt(depth)))


def fold(weight: Tensor, columns: Tensor, distinct: int) -> Tensor:
    """Sum the columns of a weight (C', D) that read the same channel, to (C', distinct).

    The outputs of dense blocks repeat their inputs' channels: W [h_1, …, h_L] is then a map of the
    distinct channels alone, in DenseGCN-28 of 896 instead of 12,992. `columns` (D,) int64 says
    which of them each column reads.

    Example:
        >>> fold(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([0, 1, 0]), 2)
        tensor([[5., 2.]])
    """
    return weight.new_zeros(len(weight), distinct).index_add(1, columns, weight)


def linear_pair(pieces: Sequence[Tensor], first: Map, second: Map) -> tuple[Tensor, Tensor]:
    """Return `linear` of x for each of two maps, where x concatenates `pieces`.

    Only the pieces are saved, which other layers save anyway: the backward pass concatenates them
    again, and accumulates the gradient of x in one array where autograd would allocate two. The
    pieces are (…, C₁), (…, C₂), …; each weight (C', C₁ + C₂ + …), with its own C'.

    Example:
        >>> pieces, weight = [torch.ones(2, 5, 3), torch.ones(2, 5, 3)], torch.ones(4, 6)
        >>> [tuple(y.shape) for y in linear_pair(pieces, (weight, None), (weight, None))]
        [(2, 5, 4), (2, 5, 4)]
    """
    if not torch.is_grad_enabled():
        x = torch.cat(tuple(pieces), dim=-1)
        return linear(x, *first), linear(x, *second)
    one, two = _Pair.apply(*first, *second, *(rows(piece) for piece in pieces))
    shape = pieces[0].shape[:-1]
    return one.view(*shape, -1), two.view(*shape, -1)


class _Pair(torch.autograd.Function):
    """Apply two maps to a matrix (n, C) that is given in pieces (n, C₁), (n, C₂), …"""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> tuple[Tensor, Tensor]:
        first, first_bias, second, second_bias, *pieces = args
        ctx.matmul = Matmul(pieces[0])
        ctx.save_for_backward(first, second, *pieces)
        x = torch.cat(pieces, dim=1)
        return linear(x, first, first_bias), linear(x, second, second_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        first, second, *pieces = ctx.saved_tensors
        matmul, wanted = ctx.matmul, ctx.needs_input_grad
        one, two = grads
        x = torch.cat(pieces, dim=1) if wanted[0] or wanted[2] else None
        maps = (
            matmul(one.t(), x) if wanted[0] else None,
            one.sum(0) if wanted[1] else None,
            matmul(two.t(), x) if wanted[2] else None,
            two.sum(0) if wanted[3] else None,
        )
        del x  # before its gradient, which is as large
        if not any(wanted[4:]):
            return *maps, *(None,) * len(pieces)
        dx = matmul.added(matmul(one, first), two, second)
        return *maps, *dx.split([piece.shape[1] for piece in pieces], dim=1)


def map_by_segment(segments: Sequence[Segment], features: Tensor, *maps: Map) -> tuple[Tensor, ...]:
    """Run the backbone and apply linear maps to its concatenated outputs (B, N, D).

    For the backward pass only the segments' inputs and the graphs are kept.
    """
    weights, biases = zip(*maps, strict=True)
    channels = [segment.channels for segment in segments]
    columns = [weight.split(channels, dim=1) for weight in weights]
    pieces: Sequence[Tensor] = (features,)
    total = None
    for segment, *parts in zip(segments, *columns, strict=True):
        work = partial(_map_segment, segment.run, len(parts))
        mapped, *pieces = recomputed(work, segment.modules, *parts, *pieces)
        total = mapped if total is None else total.add_(mapped)
        del mapped  # before the next segment allocates its own
    assert total is not None
    sums = total.split([len(weight) for weight in weights], dim=-1)
    return tuple(
        y.contiguous() if bias is None else y + bias for y, bias in zip(sums, biases, strict=True)
    )


def _map_segment(run: Run, maps: int, *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return the maps of a segment's outputs, concatenated, then the next segment's input.

    The inputs are the weights of the maps, then the segment's input. The matmul comes last, so that
    the recomputation can leave it out.
    """
    outputs, following = run(*inputs[maps:])
    return linear(torch.cat(tuple(outputs), dim=-1), torch.cat(inputs[:maps])), *following


def recomputed(
    work: Callable[..., tuple[Tensor, ...]], modules: Sequence[nn.Module], *inputs: Tensor
) -> tuple[Tensor, ...]:
    """Return `work(*inputs)`, saving only the inputs; the backward pass recomputes the rest.

    The recomputation draws the same random numbers, uses the same kernels and leaves the buffers
    (running statistics) of the `modules` that `work` calls alone, so a training step is the same as
    without checkpointing. Whatever else `work` reads must not change until then.
    """
    if not torch.is_grad_enabled():
        return work(*inputs)
    name = kernels.forced()  # autograd's own threads do not see `kernels.use`
    result: tuple[Tensor, ...] = checkpoint(
        work,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _recomputation(modules, name)),
    )
    return result


@contextmanager
def _recomputation(modules: Sequence[nn.Module], name: str | None) -> Iterator[None]:
    """Use the kernels `name`, and copies of the modules' buffers, in a `with` block."""
    kept = [
        (owner, key, buffer)
        for module in modules
        for owner in module.modules()
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
