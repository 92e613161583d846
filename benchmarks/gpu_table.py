"""What the parts of `benchmarks.gpu` share: the rows of its table, timing, precision."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """A line of the table; `naive` and `ratio` are empty where nothing is compared."""

    part: str
    case: str
    ours: str
    naive: str = ""
    ratio: str = ""


class Bench:
    """The device, the sizes and the rows found so far."""

    def __init__(self, device: str, golden: Path | None, repeats: int) -> None:
        self.device = device
        self.golden = golden
        self.repeats = repeats
        self.tiny = device == "cpu"
        self.rows: list[Row] = []
        self.deadline = float("inf")

    def add(self, *row: str) -> None:
        """Print a row and keep it."""
        part, *rest = row
        self.rows.append(Row(part, *rest))
        print(" | ".join(row), flush=True)

    def late(self) -> bool:
        """Tell whether this part's time is up."""
        return time.monotonic() > self.deadline

    def random(self, *shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
        """Return normally distributed values, the same every time."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(shape, generator=generator, dtype=dtype).to(self.device)

    def seconds(self, run: Callable[[], Any]) -> float:
        """Return the median time of a run, after one that warms up."""
        times = []
        for _ in range(self.repeats + 1):
            self.wait()
            start = time.perf_counter()
            run()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times[1:])

    def device_seconds(self, run: Callable[[], Any], calls: int = 10) -> float:
        """Return how long a run takes on the device, of some one after another, as a CUDA graph.

        Launched from Python, what takes little time on the GPU takes as long as Python does.
        """
        if self.device != "cuda":
            return self.seconds(run)
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            for _ in range(calls):
                run()
        return self.seconds(graph.replay) / calls

    def wait(self) -> None:
        """Wait until the GPU has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def ms(seconds: float) -> str:
    """Show a time in milliseconds."""
    return f"{seconds * 1e3:.3g} ms"


@contextlib.contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Set PyTorch's float32 matrix precision within a `with` block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def shared_neighbors(found: Tensor, expected: Tensor) -> float:
    """Return which share of the expected neighbours was found, as sets per point."""
    both = torch.cat([found, expected], dim=-1).sort(dim=-1).values
    return float((both[..., 1:] == both[..., :-1]).sum()) / expected.numel()


def table(rows: list[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| part | case | ours | naive | ratio |", "|---|---|---|---|---|"]
    lines += ["| " + " | ".join(asdict(row).values()) + " |" for row in rows]
    return "\n".join(lines) + "\n"
