"""What `kernels.knn_search.cuda` finds, and how fast: the part `knn-speed` of gpu.py.

On the features that a ResGCN-28 makes of a synthetic room (random weights), layer by layer, on
noise, and on points that are drawn again and again. "Alike" is the share of the neighbours that a
search in float64 finds.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, ms, shared_neighbors
from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.data.synthetic import room_features
from pipelines.kernels import reference
from pipelines.model.deepgcn import DeepGCN

DILATIONS = (1, 4, 7, 14, 20, 26)  # of the search in layer d's features


def scan_layers(bench: Bench) -> Tensor:
    """Return the features of a ResGCN-28's layers (L, B, N, C) on a room."""
    torch.manual_seed(0)
    batch, points = (1, 64) if bench.tiny else (16, 4096)
    config = ModelConfig.published("resgcn", 28)
    if bench.tiny:
        config = ModelConfig.published("resgcn", 3, width=8, k=4, fusion_channels=16)
    model = DeepGCN(config).to(bench.device).train()
    features = torch.from_numpy(room_features(batch, points)).to(bench.device)
    with torch.no_grad():
        return torch.stack(tuple(model.backbone(features)))


def figures(bench: Bench) -> None:
    """Compare the neighbours with those of float64, and time the search."""
    if reason := kernels.why_not_triton(torch.device(bench.device)):
        bench.add("knn-speed", "not run", reason)
        return
    layers = scan_layers(bench)
    noise = bench.random(*layers.shape[1:])
    points = noise.shape[1]
    tied = noise[:, torch.arange(points, device=noise.device) * 2 // 7]  # as in a sparse scan
    for dilation in DILATIONS[:1] if bench.tiny else DILATIONS:
        ranks = tuple(range(0, min(16 * dilation, points), dilation))
        for name, x in (("scan", layers[dilation - 1]), ("noise", noise), ("tied", tied)):
            truth = reference.knn(x[:2].double(), ranks)
            alike = [shared_neighbors(m.knn(x[:2], ranks), truth) for m in (kernels, reference)]
            spent = bench.device_seconds(functools.partial(kernels.knn, x, ranks))
            text = "alike {:.6f} (reference {:.6f})".format(*alike)
            bench.add("knn-speed", f"{name}, d {dilation}", ms(spent), text)
