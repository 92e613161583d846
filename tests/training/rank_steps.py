"""Training steps as one of several processes, for test_distributed.

    RANK=0 WORLD_SIZE=2 MASTER_PORT=29400 python -m tests.training.rank_steps FOLDER

Each process writes what it came to into FOLDER/<case>.<rank>.pt.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines import kernels
from pipelines.config import ModelConfig
from pipelines.data.sampler import Batch
from pipelines.data.store import IGNORED
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.seeding import seed_step
from pipelines.training.distributed import Processes, connected, read_ranks
from pipelines.training.recipe import Rates, Recipe
from pipelines.training.steps import Accumulation, Stepper

# Two processes get 2 + 2, 2 + 1 and 1 + 0 blocks of these.
BATCHES = ([4, 1, 7, 2], [0, 3, 5], [6], [2, 0, 1, 3])
RATES = Rates(lr=0.01, bn_momentum=0.3)
SMALL = ModelConfig(depth=3, width=6, k=3, fusion_channels=8, epsilon=0.7, dropout=0.0)


@dataclass(frozen=True)
class Case:
    """One training: a network, whether its batch norm is synchronised, its kernels."""

    model: ModelConfig
    sync_bn: bool = True
    kernel: str = "reference"


def changed(**changes: Any) -> ModelConfig:
    return ModelConfig(**{**vars(SMALL), **changes})


CASES = {
    "edge, norm first": Case(SMALL),
    "edge, norm last": Case(changed(layout="torch")),
    "edge, compiled": Case(SMALL, kernel="cpu"),
    "mr": Case(changed(conv="mr")),
    "sage": Case(changed(conv="sage")),
    "gin": Case(changed(conv="gin")),
    "PyG": Case(changed(conv="GraphConv")),
    "dense": Case(changed(arch="densegcn")),
    "dgcnn": Case(changed(arch="dgcnn", epsilon=0.0, dilation=False)),
    "local norms": Case(SMALL, sync_bn=False),
}


class Blocks:
    """Random blocks in float64; some of their points have no label, more in some than in others."""

    def batch(self, epoch: int, blocks: Sequence[int] | np.ndarray) -> Batch:  # noqa: ARG002
        features, labels = [], []
        for block in blocks:
            rng = np.random.default_rng(int(block))
            features.append(rng.random((14, 9)))
            label = rng.integers(0, 13, 14).astype(np.uint8)
            label[: block % 4] = IGNORED
            labels.append(label)
        numbers = tuple(int(block) for block in blocks)
        return Batch(np.stack(features), np.stack(labels), numbers)


def build(case: Case) -> tuple[DeepGCN, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = DeepGCN(case.model).double()
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


def take_steps(case: Case, processes: Processes) -> dict[str, Any]:
    """Return the losses, the last gradients and the state after a step on each of BATCHES."""
    model, optimizer = build(case)

    def local_batches() -> Any:
        for step, blocks in enumerate(BATCHES):
            sampler: Any = Blocks()
            seed_step(model, 0, step, processes.rank)
            yield processes.local_batch(sampler, 0, np.array(blocks))

    with kernels.use(case.kernel):
        recipe, whole = Recipe(lambda *_: RATES), Accumulation(len(BATCHES[0]))
        stepper = Stepper(
            model, optimizer, recipe, whole, processes=processes, sync_bn=case.sync_bn
        )
        losses = [step.loss for step in stepper.steps(local_batches(), 0, 0)]
    grads = {name: value.grad for name, value in model.named_parameters()}
    return {"losses": losses, "grads": grads, "state": model.state_dict()}


def main() -> None:
    folder = Path(sys.argv[1])
    torch.set_num_threads(1)
    with connected(read_ranks()) as processes:
        for name, case in CASES.items():
            torch.save(take_steps(case, processes), folder / f"{name}.{processes.rank}.pt")


if __name__ == "__main__":
    main()
