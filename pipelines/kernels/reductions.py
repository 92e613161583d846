"""Sums that batch statistics follow from, in float64 without a float64 copy of what is added up."""

from __future__ import annotations

from torch import Tensor


def row_sums(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return Σ x and Σ x² (C,) float64 over rows (n, C) of any type.

    Squares are taken around the mean, since the variance would drown in the rounding of large ones.
    """
    total = rows.sum(dim=0)
    mean = total / len(rows)
    centred = (rows - mean).square_().sum(dim=0).double()
    first, mean = total.double(), mean.double()
    return first, centred + 2 * mean * first - len(rows) * mean.square()
