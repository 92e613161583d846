"""Numbers in float32 as sums of three in bf16: what `benchmarks.near` does, in PyTorch."""

from __future__ import annotations

from torch import Tensor

# Of the nine products of two such sums these matter; the smallest first.
SIX = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))


def parts_of(x: Tensor) -> list[Tensor]:
    """Return three bf16 tensors whose sum is x (float32) but for its last bit."""
    high = x.bfloat16()
    middle = (x - high).bfloat16()
    return [high, middle, (x - high - middle).bfloat16()]
