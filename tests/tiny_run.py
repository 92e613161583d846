"""A network trained for seconds on the tiny building, for tests of what comes after training."""

from __future__ import annotations

from pathlib import Path

from pipelines import kernels
from pipelines.config import ModelConfig, TrainConfig
from pipelines.runs.directory import Run, open_run
from pipelines.train import train

MODEL = ModelConfig(depth=3, width=16, k=6, fusion_channels=64, layout="torch")


def train_tiny_run(
    data: Path,
    runs: Path,
    name: str = "tiny",
    max_steps: int = 60,
    model: ModelConfig = MODEL,
    val_fraction: float = TrainConfig.val_fraction,
) -> Run:
    """Train on the tiny building, long enough to tell its three surfaces apart."""
    config = TrainConfig(
        model=model,
        data=data,
        runs=runs,
        name=name,
        epochs=100,
        max_steps=max_steps,
        batch_size=4,
        num_points=128,
        lr=5e-3,
        val_fraction=val_fraction,
        device="cpu",
        threads=1,
    )
    with kernels.use("reference"):
        return open_run(train(config).run)
