"""How many warps run a Triton program: tried out, or fixed where the result could depend on it.

Programs on integers give the same whatever their launch, so the best number of warps is tried out
on the first call of each kind (autotuned, some seconds once per process). A sum of floats can change
in its last bit with the number of warps; those programs use the table below, so that two processes
on the same kind of GPU agree bit for bit. `benchmarks/gpu.py --tune` times its alternatives.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton

# Triton's interpreter runs programs on the CPU, one after the other; there is nothing to tune.
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# (program, major compute capability) → warps. Ampere has less L1 cache per warp in flight.
WARPS: dict[tuple[str, int], int] = {
    ("reduce_edges", 8): 4,
    ("reduce_edges", 9): 4,
    ("spread_to_targets", 8): 4,
    ("spread_to_targets", 9): 4,
    ("spread_to_sources", 8): 4,
    ("spread_to_sources", 9): 4,
}


def tuned(*, warps: Sequence[int], key: Sequence[str], **shapes: Sequence[int]) -> Callable[..., Any]:
    """Decorate a Triton program to find its fastest launch by trying.

    Args:
        warps: numbers of warps to try.
        key: the names of the arguments that make another search necessary.
        shapes: block sizes to try, zipped; the smallest first, which the interpreter takes.
    """
    combinations = list(zip(*shapes.values(), strict=True)) or [()]
    configs = [
        triton.Config(dict(zip(shapes, values, strict=True)), num_warps=count)
        for values in combinations
        for count in warps
    ]
    return triton.autotune(configs[:1] if INTERPRETED else configs, key=list(key))


def warps_of(program: str, device: torch.device) -> int:
    """Return the fixed number of warps of `program` on the GPU `device`."""
    major = torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9
    return WARPS[program, min(major, 9)]
