"""float32 matrix multiplication from fp16 parts on tensor cores: the part `matmul` of gpu.py.

The products of a ResGCN-28's fusion (1,792 → 1,024 channels) and prediction maps, forward and
backward, of a batch of 16 × 4,096 points: in float32, in TF32, and from fp16 parts. "Error" is the
root mean square of the difference to float64, as a fraction of the result's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, matmul_precision
from pipelines import kernels


def error(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the difference, as a fraction of that of `exact`."""
    return float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


Forms = dict[str, tuple[Tensor, Tensor]]


def forms(bench: Bench, inner: int, m: int, points: int) -> Forms:
    """Return what is multiplied for a linear map from `inner` to m channels, forward and back."""
    # What follows a ReLU has one sign half of the time: sums grow, and roundings with them.
    x = bench.random(points, inner).relu()
    weight = bench.random(m, inner, seed=1) / inner**0.5
    dy = bench.random(points, m, seed=2)
    return {
        "forward": (x, weight.t()),
        "gradient of the input": (dy, weight),
        "gradient of the weight": (dy.t(), x),
    }


def figures(bench: Bench) -> None:
    """Time the products in float32, TF32 and parts, and measure their errors."""
    points = 96 if bench.tiny else 16 * 4096
    maps = [(24, 16)] if bench.tiny else [(1792, 1024), (1792, 512), (512, 256)]
    for inner, m in maps:
        given = forms(bench, inner, m, points)
        for name, (a, b) in given.items():
            _form(bench, f"{inner} → {m}, {name}", a, b)


def _form(bench: Bench, name: str, a: Tensor, b: Tensor) -> None:
    """Time a b and measure its error, of the first rows."""
    few = slice(0, 1024)
    exact = a[few].double() @ b.double()
    ways: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "float32": ("highest", torch.mm),
        "TF32": ("high", torch.mm),
    }
    if kernels.why_not_triton(a.device) is None:
        from pipelines.kernels import split_matmul

        ways["fp16 parts"] = ("highest", split_matmul.matmul)
    for way, (precision, multiply) in ways.items():
        if bench.late():
            bench.add("matmul", f"{name}, {way}", "not run", "no time left")
            continue
        with matmul_precision(precision):
            spent = bench.seconds(functools.partial(multiply, a, b))
            off = error(multiply(a, b)[few], exact)
        speed = 2e-12 * a.numel() * b.shape[1] / spent
        bench.add(
            *("matmul", f"{name}, {way}", f"{1e3 * spent:.3f} ms"),
            *(f"error {off:.1e}", f"{speed:.0f} TFLOP/s"),
        )
