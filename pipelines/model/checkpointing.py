"""Activation checkpointing: what a part keeps for its backward pass is computed again instead.

Reference:
    Chen et al., Training Deep Nets with Sublinear Memory Cost, 2016: a chain of L layers, computed
    again in segments of about √L, keeps memory for √L of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pipelines import kernels

Part = Callable[..., tuple[Tensor, ...]]


def segment_length(depth: int) -> int:
    """Return the layers of a segment that need the least memory: about √L."""
    return max(1, round(math.sqrt(depth)))


def recomputed(part: Part, modules: Iterable[nn.Module], *inputs: Tensor) -> tuple[Tensor, ...]:
    """Return `part(*inputs)`, of which only the inputs are kept; the backward pass repeats it.

    The repetition draws the same random numbers, uses the same kernels and leaves the modules'
    buffers (running statistics) alone, so a training step is the one without checkpointing.

    Args:
        part: a function of tensors; what it uses besides must be the same the second time.
        modules: those that `part` calls.
        inputs: what `part` is called with.
    """
    if not torch.is_grad_enabled():
        return part(*inputs)
    name = kernels.forced()  # the backward pass may run in a thread that does not know of `use`
    result: tuple[Tensor, ...] = checkpoint(
        part,
        *inputs,
        use_reentrant=False,
        context_fn=lambda: (nullcontext(), _repetition(list(modules), name)),
    )
    return result


@contextmanager
def _repetition(modules: list[nn.Module], name: str | None) -> Iterator[None]:
    """Let kernels be those of `name`, and the modules' buffers be copies, in a `with` block."""
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
