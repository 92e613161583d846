"""What a CPU can tell of `benchmarks.near`: how exact its distances and how good its limits are.

    python -m benchmarks.near_on_cpu

The same sums in PyTorch, on features that a ResGCN-28 with random weights makes of a synthetic room
and on noise. Needs Triton installed, but no GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.bf16_parts import SIX, parts_of
from benchmarks.gpu_table import shared_neighbors
from benchmarks.near_figures import ranks_of
from pipelines.config import ModelConfig
from pipelines.data.synthetic_blocks import room_features
from pipelines.kernels import cuda_near as near
from pipelines.kernels import eager
from pipelines.model.deepgcn import DeepGCN

BATCH, POINTS = 2, 4096
DILATIONS = (1, 2, 3, 4, 5, 7, 8, 11, 14, 15, 17, 20, 21, 24, 26)


def distances(x: Tensor, parts: bool) -> Tensor:
    """Return |x_j|² − 2 x_i·x_j, (B, N, N) float32, from products in bf16 parts or in float32."""
    x = x - x.mean(dim=1, keepdim=True)
    if not parts:
        products = x @ x.mT
    else:
        own = [part.float() for part in parts_of(x)]
        products = torch.zeros(())
        for a, b in SIX:
            products = products + own[a] @ own[b].mT
    return (x * x).sum(-1)[:, None] - 2 * products


def alike(distance: Tensor, ranks: tuple[int, ...], truth: Tensor) -> float:
    """Return which share of the true neighbors a sort of distances gives."""
    found = distance.sort(dim=-1, stable=True).indices[..., list(ranks)]
    return shared_neighbors(found.int(), truth)


def wrong_limits(distance: Tensor, wanted: int) -> float:
    """Return the share of rows whose limit, from a sample of the columns, is too low or high."""
    room, every = near.plan(wanted)
    sample = distance[:, :, ::every]
    least, most = near.window(wanted, room, sample.shape[2], distance.shape[2])
    limit = sample.kthvalue((least + most) // 2, dim=-1, keepdim=True).values
    count = (distance <= limit).sum(-1)
    return float(((count < wanted) | (count > room)).float().mean())


def main() -> None:
    """Print a line for each kind of features and dilation."""
    torch.manual_seed(0)
    model = DeepGCN(ModelConfig()).train()
    with torch.no_grad():
        layers = model.backbone(torch.from_numpy(room_features(BATCH, POINTS)))
    layers = layers.unflatten(-1, (28, -1))
    print("| features | d | alike, bf16 parts | alike, float32 | wrong limits |")
    print("|---|---:|---:|---:|---:|")
    for name in ("scan", "noise"):
        for d in DILATIONS:
            x = layers[..., d - 1, :] if name == "scan" else torch.randn(BATCH, POINTS, 64)
            ranks = ranks_of(d, POINTS)
            truth = eager.knn(x.double(), ranks)
            found = distances(x, parts=True)
            shares = [alike(one, ranks, truth) for one in (found, distances(x, parts=False))]
            wrong = wrong_limits(found, ranks[-1] + 1)
            print(f"| {name} | {d} | {shares[0]:.6f} | {shares[1]:.6f} | {wrong:.2%} |", flush=True)


if __name__ == "__main__":
    main()
