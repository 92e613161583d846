"""Products of float32 matrices from fp16 parts on tensor cores: a part of gpu.py.

The products of a ResGCN-28's fusion (1,792 → 1,024 channels) and prediction maps, forward and
backward, of a batch of 16 × 4,096 points: in float32, in TF32, and from parts with each of
`cuda_product.CANDIDATES`. "Error" is the root mean square of the difference to float64, as a
fraction of the result's own.

    python -m benchmarks.part_products     # the errors to expect, emulated on the CPU; 30 s
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, matmul_precision
from pipelines.kernels import cuda

BITS = 24  # of a float32
SLAB = 1 << 14  # of `cuda_product`, which can't be imported where there is no Triton
AT_ONCE = 16  # products that a tensor core adds to a sum in one step


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
    for number, (inner, m) in enumerate(maps):
        given = forms(bench, inner, m, points)
        if number == 0:
            _splits(bench, given)
        for name, (a, b) in given.items():
            _form(bench, f"{inner} → {m}, {name}", a, b, every=number == 0 and not bench.tiny)


def _form(bench: Bench, name: str, a: Tensor, b: Tensor, *, every: bool) -> None:
    """Time a b and measure its error, of the first rows; `every`: with each candidate."""
    few = slice(0, 1024)
    exact = a[few].double() @ b.double()
    ways: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
        "float32": ("highest", torch.mm),
        "TF32": ("high", torch.mm),
    }
    if cuda.why_not(a.device) is None:
        from pipelines.kernels.matmul import cuda as cuda_product

        for tiles in cuda_product.CANDIDATES if every else [cuda_product.best(a.device)]:
            run = functools.partial(cuda_product.product, tiles=tiles)
            ways[f"parts, {tiles}"] = ("highest", run)
    for way, (precision, multiply) in ways.items():
        if bench.late():
            bench.add("products", f"{name}, {way}", "not run", "no time left")
            continue
        with matmul_precision(precision):
            spent = bench.seconds(functools.partial(multiply, a, b))
            off = error(multiply(a, b)[few], exact)
        speed = 2e-12 * a.numel() * b.shape[1] / spent
        bench.add(
            *("products", f"{name}, {way}", f"{1e3 * spent:.3f} ms"),
            *(f"error {off:.1e}", f"{speed:.0f} TFLOP/s"),
        )


def _splits(bench: Bench, given: Forms) -> None:
    """Time splitting alone: all points along their channels, and along themselves."""
    x, _ = given["forward"]
    if cuda.why_not(x.device) is not None:
        return
    from pipelines.kernels.matmul import cuda as cuda_product

    def split(along_points: bool) -> None:
        for start in range(0, len(x), cuda_product.SLAB):
            some = x[start : start + cuda_product.SLAB]
            cuda_product.split(some.t() if along_points else some, 128, 64)

    for name, along_points in (("channels", False), ("points", True)):
        spent = bench.seconds(functools.partial(split, along_points))
        bench.add("products", f"splitting x along {name}", f"{1e3 * spent:.3f} ms")


def emulated(a: Tensor, b: Tensor, together: int) -> Tensor:
    """Return a b, (n, m) float32, as `cuda_product` computes it, tensor cores included.

    They are taken to add up AT_ONCE products and a sum exactly, and to cut the result off.

    Args:
        together: how many numbers of the inner dimension they add up; ordinary additions the rest.
    """
    if a.shape[1] > SLAB:
        pairs = zip(a.split(SLAB, dim=1), b.split(SLAB), strict=True)
        return functools.reduce(torch.add, [emulated(*pair, together) for pair in pairs])
    (a_high, a_low, a_scale), (b_high, b_low, b_scale) = halves(a), halves(b.t())
    total = torch.zeros(a.shape[0], b.shape[1])
    for first in range(0, a.shape[1], together):
        part = torch.zeros(total.shape, dtype=torch.float64)
        for left, right in ((a_low, b_high), (a_high, b_low), (a_high, b_high)):
            for start in range(first, min(first + together, a.shape[1]), AT_ONCE):
                some = slice(start, start + AT_ONCE)
                part = cut(part + left[:, some] @ right[:, some].t())
        total += part.float()
    return total / a_scale / b_scale.t()


def halves(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the high and low fp16 parts of x (rows, inner) as float64, and the rows' scales."""
    scale = torch.exp2(14 - x.abs().amax(1, keepdim=True).log2().floor())  # (rows, 1)
    high = (x * scale).half()
    low = (x * scale - high.float()).half()
    return high.double(), low.double(), scale


def cut(x: Tensor) -> Tensor:
    """Return float64 x with what a float32 hasn't room for cut off."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp((mantissa * 2**BITS).trunc(), exponent - BITS)


def main() -> None:
    """Print the errors of products over 1,792 channels and over 65,536 points, on the CPU."""
    bench = Bench("cpu", None, 1)
    for inner, n in ((1792, 64), (65536, 32)):
        a, b = bench.random(n, inner).relu(), bench.random(inner, n, seed=1)
        exact = a.double() @ b.double()
        print(f"{inner}: float32 {error(a @ b, exact):.1e}", end="")
        for together in (64, 128, 256):
            found = error(emulated(a, b, together), exact)
            print(f", parts, {together} on tensor cores {found:.1e}", end="")
        print()


if __name__ == "__main__":
    main()
