"""Train a deep network with a graph convolution and with blocks of your own.

    .venv/bin/python examples/own_layer.py [STEPS]

Takes about 30 s on 2 CPU cores with the default of 60 steps. Makes a synthetic building in ./own,
trains three small networks on two areas of it, and prints their mIoU on the third: ResGCN as
published, with the convolution below, and with the blocks below. In the folder of this file the
command line takes both classes as well:

    deepgcn train --conv own_layer:MeanMaxConv
    deepgcn train --arch own_layer:GatedBlock

docs/model.md describes such classes.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import EvalConfig, ModelConfig, PrepareConfig, SynthConfig, TrainConfig
from pipelines.evaluate import evaluate
from pipelines.prepare import prepare
from pipelines.synth import synth
from pipelines.train import train

FOLDER = Path("own")
NETWORKS = {
    "as published": {},
    "MeanMaxConv": {"conv": "own_layer:MeanMaxConv"},
    "GatedBlock": {"arch": "own_layer:GatedBlock"},
}


class MeanMaxConv(nn.Module):
    """Compute relu(norm(W [x_i, max_j x_j − x_i, mean_j x_j − x_i]))."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * in_channels, out_channels)
        self.norm = nn.BatchNorm1d(out_channels)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        """Map x (B, N, C) with the neighbours index (B, N, k) to (B, N, C')."""
        largest = kernels.neighbor_max(x, index) - x
        mean = kernels.neighbor_sum(x, index) / index.shape[-1] - x
        y = self.linear(torch.cat([x, largest, mean], dim=-1))
        return F.relu(self.norm(y.flatten(0, 1))).view_as(y)


class GatedBlock(nn.Module):
    """Add to a block's input x what a learned gate lets through of y = F(x)."""

    def __init__(self, channels: int, config: ModelConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(channels, config.width)
        self.out_channels = config.width

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the block's output (B, N, out_channels)."""
        return x + torch.sigmoid(self.gate(x)) * y


def main(steps: int = 60) -> None:
    """Train the three networks and print their scores."""
    if not (FOLDER / "data" / "manifest.json").is_file():
        synth(SynthConfig(out=FOLDER / "raw", areas=3, rooms=1, density=400))
        prepare(PrepareConfig(raw=FOLDER / "raw", data=FOLDER / "data", test_area=3))
    for name, own in NETWORKS.items():
        settings = {"arch": "resgcn", "width": 32, "k": 8, "layout": "torch", **own}
        config = TrainConfig(
            model=ModelConfig.published(depth=7, **settings),
            data=FOLDER / "data",
            runs=FOLDER / "runs",
            extra=("resample",),  # new points of each block every epoch
            epochs=1000,  # `steps` ends it
            max_steps=steps,
            batch_size=4,
            num_points=512,
            device="cpu",
        )
        scores = evaluate(
            EvalConfig(
                run_dirs=(train(config).run,),
                own_classes=tuple(own.values()),  # no run's file alone has code imported
                checkpoint="last",
                protocols=("block-s1",),
                pictures=False,
            )
        )
        print(f"{name:12} mIoU {100 * scores.results[0].scores.miou:5.1f} %", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
