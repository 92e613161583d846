"""Label a scan many times in one process, and show what that process holds.

    python -m tests.soak.long_runs --predicts 200

Takes about a minute on 2 cores. Memory (resident), open files and threads may not grow from the
first tenth on; a growth ends in exit code 1.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import ctypes
import gc
import io
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path

import numpy as np
import torch

from deepgcn_cli.__main__ import run as deepgcn
from pipelines.config import ModelConfig
from pipelines.inference.segmentation import segment
from pipelines.model.deepgcn import DeepGCN
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import save_weights

POINTS = 5_000
GROWTH = 4 << 20  # bytes of memory that are no growth
TELL = (20, 100)  # calls after which figures are shown, beside the first tenth and the last


def held() -> tuple[int, int, int]:
    """Return this process's resident memory in bytes, open files and threads (Linux).

    What the allocator keeps of freed memory, which differs by tens of MB, is given back before.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = len(os.listdir("/proc/self/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE"), files, len(os.listdir("/proc/self/task"))


def works(folder: Path) -> dict[str, Callable[[], None]]:
    """Return what is repeated: the command, and the function for arrays."""
    rng = np.random.default_rng(0)
    pos, color = rng.random((POINTS, 3)) * (3, 2, 2.5), rng.integers(0, 256, (POINTS, 3), np.uint8)
    model = DeepGCN(ModelConfig(depth=3, width=16, k=8, fusion_channels=64)).eval()
    model.num_points = 1024
    save_weights(folder / "w.safetensors", model, metadata={"num_points": "1024"})
    write_points(folder / "scan.ply", pos, color)
    words = ["predict", str(folder / "scan.ply"), "--weights", str(folder / "w.safetensors")]

    def command() -> None:
        assert deepgcn([*words, "--device", "cpu", "--quiet"]) == 0

    def arrays() -> None:
        segment(model, pos, color)

    return {"deepgcn predict": command, "pipelines.segment": arrays}


def figures(work: Callable[[], None], calls: int) -> Iterator[tuple[int, tuple[int, int, int]]]:
    """Yield the number of calls and what the process then holds, after some of the calls."""
    first = max(1, calls // 10)
    for number in range(1, calls + 1):
        with redirect_stdout(io.StringIO()):
            work()
        if number in (first, *TELL, calls):
            yield number, held()


def grows(found: list[tuple[int, tuple[int, int, int]]]) -> bool:
    """Return whether memory, files or threads are more at the end than after the first tenth."""
    (_, before), (_, after) = found[0], found[-1]
    return after[0] > before[0] + GROWTH or after[1:] > before[1:]


def main() -> int:
    """Run the command."""
    parse = argparse.ArgumentParser(prog="python -m tests.soak.long_runs", description=__doc__)
    parse.add_argument("--predicts", type=int, default=200)
    calls = parse.parse_args().predicts
    torch.set_num_threads(1)
    grown = False
    with tempfile.TemporaryDirectory() as folder:
        for name, work in works(Path(folder)).items():
            print(f"{name}\n  calls  memory MB  files  threads", flush=True)
            found = []
            for number, (memory, files, threads) in figures(work, calls):
                found.append((number, (memory, files, threads)))
                print(f"{number:7,} {memory / 1e6:10.1f} {files:6} {threads:8}", flush=True)
            grown |= grows(found)
    assert threading.active_count() == 1, threading.enumerate()
    return int(grown)


if __name__ == "__main__":
    sys.exit(main())
