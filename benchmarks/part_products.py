"""Matrix products with float32's digits from bf16 parts on tensor cores: a part of gpu.py.

A number in float32 is the sum of three in bf16. Of the nine products of two such sums six matter;
side by side along the inner dimension they are one product of bf16 matrices, six times as long,
added up in float32. "Error" is the root mean square of the difference to float64, as a fraction of
the result's own.

    python -m benchmarks.part_products     # the errors, added up in float32 by the CPU
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, matmul_precision

SIX = ((2, 0), (0, 2), (1, 1), (1, 0), (0, 1), (0, 0))  # the smallest first
THREE = ((1, 0), (0, 1), (0, 0))
ROWS = 8192  # of a product at once: the parts side by side take six times their bf16 matrix


def parts_of(x: Tensor) -> list[Tensor]:
    """Return three bf16 tensors whose sum is x (float32) but for its last bit."""
    high = x.bfloat16()
    middle = (x - high).bfloat16()
    return [high, middle, (x - high - middle).bfloat16()]


def product(a: Tensor, b: Tensor, pairs: tuple[tuple[int, int], ...]) -> Tensor:
    """Return a bᵀ, (n, m) float32, of (n, l) and (m, l), from the products of pairs of parts."""
    found = torch.empty(a.shape[0], b.shape[0], device=a.device)
    second = parts_of(b)
    right = torch.cat([second[j] for _, j in pairs], dim=1).t()
    for start in range(0, len(a), ROWS):
        first = parts_of(a[start : start + ROWS])
        left = torch.cat([first[i] for i, _ in pairs], dim=1)
        rows = found[start : start + ROWS]
        if left.is_cuda:
            torch.mm(left, right, out_dtype=torch.float32, out=rows)
        else:
            torch.mm(left.float(), right.float(), out=rows)
    return found


def error(found: Tensor, exact: Tensor) -> float:
    """Return the root mean square of the difference, as a fraction of that of `exact`."""
    return float((found.double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def shapes(tiny: bool) -> dict[str, tuple[int, int, int]]:
    """Return (n, m, l) of the products of a ResGCN-28's fusion and first prediction map, B 16."""
    n, m, c = (96, 16, 24) if tiny else (16 * 4096, 1024 + 512, 28 * 64)
    return {"forward": (n, m, c), "gradient of the input": (n, c, m)}


def figures(bench: Bench) -> None:
    """Time the products in float32, TF32 and parts, and measure their errors."""
    for name, (n, m, inner) in shapes(bench.tiny).items():
        # What follows a ReLU has one sign half of the time: sums grow, and roundings with them.
        a = bench.random(n, inner).relu()
        b = bench.random(m, inner, seed=1) / inner**0.5
        few = slice(0, 2048)
        exact = a[few].double() @ b.double().t()
        ways: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {
            "float32": ("highest", lambda a, b: a @ b.t()),
            "TF32": ("high", lambda a, b: a @ b.t()),
            "bf16, 6 products": ("highest", functools.partial(product, pairs=SIX)),
            "bf16, 3 products": ("highest", functools.partial(product, pairs=THREE)),
        }
        for way, (precision, run) in ways.items():
            with matmul_precision(precision):
                spent = bench.seconds(functools.partial(run, a, b))
                off = error(run(a[few], b), exact)
            bench.add("products", f"{name}, {way}", f"{1e3 * spent:.3f} ms", f"error {off:.1e}")


def main() -> None:
    """Print the errors on the CPU."""
    bench = Bench("cpu", None, 1)
    a, b = bench.random(2048, 1792).relu(), bench.random(1536, 1792, seed=1) / 1792**0.5
    exact = a.double() @ b.double().t()
    print(f"float32 {error(a @ b.t(), exact):.1e}")
    for name, pairs in (("6 products", SIX), ("3 products", THREE)):
        print(f"{name} {error(product(a, b, pairs), exact):.1e}")


if __name__ == "__main__":
    main()
