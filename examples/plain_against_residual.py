"""Does depth need skip connections? Train PlainGCN and ResGCN side by side, from Python.

    .venv/bin/python examples/plain_against_residual.py [STEPS]

Takes about 5 min on 2 CPU cores with the default of 150 steps. Makes a synthetic building in
./depth, trains four networks on two areas of it and prints the mIoU on the third. Started again, it
continues where it was stopped.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pipelines.config import EvalConfig, ModelConfig, PrepareConfig, SynthConfig, TrainConfig
from pipelines.evaluate import evaluate
from pipelines.prepare import prepare
from pipelines.runs.directory import find_runs
from pipelines.synth import synth
from pipelines.train import train

FOLDER = Path("depth")


def main(steps: int = 150) -> None:
    """Train what is missing and print the table."""
    if not (FOLDER / "data" / "manifest.json").is_file():
        synth(SynthConfig(out=FOLDER / "raw", areas=3, rooms=3, density=800))
        prepare(PrepareConfig(raw=FOLDER / "raw", data=FOLDER / "data", test_area=3))
    for depth in (7, 28):
        for arch in ("plaingcn", "resgcn"):
            miou = train_and_score(arch, depth, steps)
            print(f"{arch:8} {depth:3} layers  mIoU {100 * miou:5.1f} %", flush=True)


def train_and_score(arch: str, depth: int, steps: int) -> float:
    """Return the mIoU of a network on the area that it was not trained on, 0 to 1."""
    config = TrainConfig(
        model=ModelConfig.published(arch, depth, width=32, k=8, layout="torch"),
        data=FOLDER / "data",
        runs=FOLDER / "runs",
        name=f"{arch}-{depth}-{steps}",
        extra=("resample",),  # new points of each block every epoch
        epochs=1000,  # `steps` ends it
        max_steps=steps,
        batch_size=8,
        num_points=1024,
        device="cpu",
    )
    begun = {run.name: run.path for run in find_runs(config.runs)}
    run = train(config, resume=begun.get(config.name or "")).run
    scores = evaluate(
        EvalConfig(run_dirs=(run,), checkpoint="last", protocols=("block-s1",), pictures=False)
    )
    return scores.results[0].scores.miou


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
