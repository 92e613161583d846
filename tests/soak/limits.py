"""Run commands with little memory: each is done within it, or says what is missing.

    python -m tests.soak.limits --gb 1.5 2 3 --points 10000000

Takes some minutes on 2 cores. The limit is that of `ulimit -v` (RLIMIT_AS): addresses, of which
PyTorch and its threads take more than they use. `--gb 0` is no limit. A traceback, a signal or
another end than "done" or an error in a few lines gives exit code 1. Needs Linux.
"""

# ruff: noqa: T201
from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import save_weights
from tests.soak.__main__ import BAD

NETWORK = ("--depth", "3", "--width", "16", "-k", "8", "--fusion-channels", "64")
BRIEF = ("--max-steps", "2", "--num-points", "1024", "--batch-size", "4", "--device", "cpu")
WORKS = {
    "prepare": ("prepare", "raw", "--area", "1", "--workers", "1"),
    "prepare with 2 workers": ("prepare", "raw", "--area", "1", "--workers", "2"),
    "predict": ("predict", "scan.ply", "--weights", "w.safetensors", "--device", "cpu"),
    "eval": ("eval", "run", "--device", "cpu"),
}


def planes(path: Path, points: int) -> None:
    """Write a scan of random floors and walls in a storey of 40 m × 40 m."""
    rng = np.random.default_rng(0)
    pos = rng.random((points, 3), np.float32) * np.float32((40, 40, 3))
    flat = rng.integers(0, 3, points)  # the axis along which a point lies on a plane, 4 m apart
    rows = np.arange(points)
    pos[rows, flat] = np.where(flat == 2, 0, pos[rows, flat] // 4 * 4)
    write_points(path, pos, rng.integers(0, 256, (points, 3), np.uint8))


def run(folder: Path, *words: str, gb: float = 0.0) -> tuple[int, float, float, str]:
    """Run a command; return its exit code, seconds, most resident GB, and what it said."""

    def limit() -> None:
        if gb:
            most = int(gb * 1e9)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))

    begun = time.monotonic()
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "deepgcn_cli", *words],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=said,
            preexec_fn=limit,
        )
        _, status, usage = os.wait4(process.pid, 0)
        said.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return code, time.monotonic() - begun, usage.ru_maxrss / 1e6, said.read()


def main() -> int:
    """Run the command."""
    parse = argparse.ArgumentParser(prog="python -m tests.soak.limits", description=__doc__)
    parse.add_argument("--gb", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parse.add_argument("--points", type=int, default=10_000_000)
    parse.add_argument("--only", choices=tuple(WORKS))
    options = parse.parse_args()
    failed = False
    with tempfile.TemporaryDirectory(prefix="deepgcn-limits-") as text:
        folder = Path(text)
        planes(folder / "scan.ply", options.points)
        model = DeepGCN(ModelConfig(depth=3, width=16, k=8, fusion_channels=64))
        save_weights(folder / "w.safetensors", model, metadata={"num_points": "4096"})
        for words in (
            ("synth", "raw", "--areas", "2", "--rooms", "2"),
            ("prepare", "raw", "--area", "1"),
            ("train", *NETWORK, *BRIEF, "--name", "run"),
        ):
            code, *_, said = run(folder, *words)
            assert code == 0, said
        print("command                   limit  exit  seconds  resident  said")
        for name, words in WORKS.items():
            if options.only not in (None, name):
                continue
            for gb in options.gb:
                more = ("--data", f"data-{name}-{gb}") if name.startswith("prepare") else ()
                code, seconds, peak, said = run(folder, *words, *more, gb=gb)
                bad = code not in (0, 1) or any(word in said for word in BAD)
                failed |= bad or (code == 1 and "Error: " not in said)
                last = "done" if code == 0 else said.partition("Error: ")[2] or said[-300:]
                print(
                    f"{name:24} {gb:4.1f} GB {code:5} {seconds:8.1f} {peak:6.2f} GB  "
                    f"{' '.join(last.split())[:300]}",
                    flush=True,
                )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
