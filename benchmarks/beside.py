"""Training steps beside a busy process: how much of their speed is left.

    python -m benchmarks.beside [--steps 6]

A ResGCN-14 (C 32, k 8) on 8 blocks of 1,024 points of noise. The other process does nothing but
count, at a nice value, in this session of processes or one of its own: Linux shares the CPU between
sessions first (sched_autogroup), so a nice value counts within its session only, unless the
session's own is set as well.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.device import pick_device

BLOCKS, POINTS = 8, 1024
BUSY = """import os, sys
os.nice(int(sys.argv[1]))
if len(sys.argv) > 2: open("/proc/self/autogroup", "w").write(sys.argv[2])
while True: pass"""
OTHERS = {
    "nice 0, in this session": (False, ("0",)),
    "nice 19, in this session": (False, ("19",)),
    "nice 0, in its own session": (True, ("0",)),
    "nice 19, in its own session": (True, ("19",)),
    "nice 19, in its own session of nice 19": (True, ("19", "19")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    steps = parser.parse_args().steps
    step = training_step()
    for threads in (2, 1):
        torch.set_num_threads(threads)
        step()
        print(f"{threads} threads, alone: {rate(step, steps)}", flush=True)
        for name, (own, arguments) in OTHERS.items():
            command = [sys.executable, "-c", BUSY, *arguments]
            with subprocess.Popen(command, start_new_session=own) as busy:
                time.sleep(0.5)
                found = rate(step, steps)
                busy.kill()
            print(f"{threads} threads, {name}: {found}", flush=True)


def training_step() -> Callable[[], None]:
    """Return a function that takes a step."""
    pick_device("cpu")
    torch.manual_seed(0)
    model = DeepGCN(ModelConfig(depth=14, width=32, k=8)).train()
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    features, labels = torch.rand(BLOCKS, POINTS, 9), torch.randint(0, 13, (BLOCKS, POINTS))

    def step() -> None:
        optimizer.zero_grad()
        logits = model(features).transpose(1, 2)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()

    return step


def rate(step: Callable[[], None], steps: int) -> str:
    """Time some steps; return blocks a second, and how many cores this process had."""
    begun, used = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    seconds = time.perf_counter() - begun
    cores = (time.process_time() - used) / seconds
    return f"{BLOCKS * steps / seconds:.1f} blocks/s, {cores:.2f} cores"


if __name__ == "__main__":
    main()
