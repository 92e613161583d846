"""What lower precision does to the graphs and labels of a trained network, on real blocks.

    python -m benchmarks.precision RUN --data data [--device cuda]

Blocks of the test area go through the network in float64, then in float32, TF32 (on a GPU) and bf16
as training has them (`--precision`): matmuls alone have lower precision, neighbours are found from
float32 distances. Each is compared with float32, and float32 with float64: neighbours per layer,
logits and labels; then again along float32's own graph, to see the effect of the matmuls alone.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pipelines
from pipelines import kernels
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Store
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.precision import Precision

Graphs = list[Tensor]


@contextmanager
def watched(given: Graphs | None) -> Iterator[Graphs]:
    """Note the graphs that networks search for in a `with` block, or answer with those `given`."""
    search: Any = kernels.knn
    found: Graphs = []

    def knn(x: Tensor, ranks: Sequence[int], bound: int | None = None) -> Tensor:
        found.append(search(x, ranks, bound) if given is None else given[len(found)])
        return found[-1]

    vars(kernels)["knn"] = knn
    try:
        yield found
    finally:
        vars(kernels)["knn"] = search


def outcome(
    model: DeepGCN, features: Tensor, name: str, given: Graphs | None = None
) -> tuple[Tensor, Graphs]:
    """Return the logits (B, N, classes) float64 and the graph of every layer."""
    kind = torch.float64 if name == "64" else torch.float32
    precision = Precision("32" if name == "64" else name, features.device)
    forced = "reference" if name == "64" else None
    with torch.inference_mode(), watched(given) as graphs, kernels.use(forced):
        with precision.matmuls():
            logits = model.to(kind)(features.to(kind))
        return logits.double(), graphs


def shared(found: Tensor, expected: Tensor) -> float:
    """Return the share of the expected neighbours that were found."""
    return float((found.unsqueeze(-1) == expected.unsqueeze(-2)).any(-1).double().mean())


def compare(found: tuple[Tensor, Graphs], expected: tuple[Tensor, Graphs]) -> list[str]:
    """Return the cells of a line: neighbours (mean, worst layer), logits, labels."""
    layers = [shared(one, other) for one, other in zip(found[1], expected[1], strict=True)]
    off = (found[0] - expected[0]).square().mean().sqrt() / expected[0].std()
    same = (found[0].argmax(-1) == expected[0].argmax(-1)).double().mean()
    cells = [100 * statistics.mean(layers), 100 * min(layers), 100 * float(off), 100 * float(same)]
    return [f"{cell:.3g}" if index == 2 else f"{cell:.2f}" for index, cell in enumerate(cells)]


def blocks_of(data: Path, area: int, model: DeepGCN, count: int) -> Tensor:
    """Return blocks (count, N, 9) of an area, spread evenly over it."""
    store = Store.open(data)
    rooms = [room for room in store.rooms() if room.area == area]
    sampler = BlockSampler(store, rooms, model.num_points, 0, 1.0, model.config.layout)
    chosen = torch.linspace(0, len(sampler) - 1, min(count, len(sampler))).long().numpy()
    return torch.from_numpy(sampler.batch(0, chosen).features)


def main(arguments: Any = None) -> int:
    """Print one Markdown table."""
    parser = argparse.ArgumentParser(description="Compare precisions on a trained network.")
    parser.add_argument("run", type=Path, help="a run directory or a .safetensors file")
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--area", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args(arguments)
    model = pipelines.load_model(options.run).to(options.device).eval()
    features = blocks_of(options.data, options.area, model, options.blocks).to(options.device)
    names = ["tf32", "bf16", "16"] if options.device == "cuda" else ["bf16"]

    exact, full = outcome(model, features, "64"), outcome(model, features, "32")
    lines = [("32 against 64", compare(full, exact))]
    for name in names:
        lines.append((f"{name} against 32", compare(outcome(model, features, name), full)))
        alike = outcome(model, features, name, given=full[1])
        lines.append((f"{name} against 32, along its graph", compare(alike, full)))
    heads = ("", "equal neighbours %", "worst layer %", "logits off, % of σ", "equal labels %")
    sys.stdout.write("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads) + "\n")
    for title, cells in lines:
        sys.stdout.write("| " + " | ".join([title, *cells]) + " |\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
