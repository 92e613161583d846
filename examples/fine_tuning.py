"""Train a network from the weights inside the package, and the same one from nothing, as long.

    python examples/fine_tuning.py --data data --area 5 --minutes 10 --seeds 3

Takes 2 × seeds × minutes, an hour as above, and the scoring, on 2 CPU cores or what there is.
`--area` is left out of the training and scored. Both rows of the study have the same network,
recipe and steps, as many as take so many minutes on this machine; the learning rates are those that
`deepgcn plan` chooses for so many steps, from nothing and from weights; of the same classes, the
network halfway from the weights is scored (`--with wise-ft`). The study's settings are written to
fine-tuning-area<n>-<minutes>min.yaml: the same command goes on from there where it was stopped, run
by run, and `deepgcn ablate --grid` takes the file too.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

from deepgcn_cli.progress import open_progress
from pipelines.ablate import ablate, dry_run
from pipelines.config import AblateConfig, ModelConfig
from pipelines.config.options import flag_of, options_of
from pipelines.data.store import Store
from pipelines.model.deepgcn import DeepGCN
from pipelines.planning.rules import first_lr
from pipelines.progress import Progress
from pipelines.reports.studies import tables_markdown
from pipelines.runs.weights import find_weights, packaged_weights

TRIED = 100  # steps that are estimated, to know how many fit


def study(
    model: DeepGCN, weights: str, area: int, steps: int, *, same: bool = True
) -> dict[str, Any]:
    """Return the study of two rows, as `deepgcn ablate --grid` reads it.

    `same` says whether the data has the classes of the weights.
    """
    network = {
        flag_of(name, option).lstrip("-"): getattr(model.config, name)
        for name, option in options_of(ModelConfig, "train").items()
    }
    training = {"area": area, "recipe": "modern", "epochs": 100_000}
    training["without"] = ["balance", "smoothing"]  # as `plan` does in so short a training
    training |= {"max-steps": steps, "batch-size": 16, "num-points": model.num_points}
    training |= {"block-size": model.block_size, "val-fraction": 0.15, "val-blocks": 32}
    return {
        "title": f"Area {area}: from weights and from nothing, {steps} steps",
        "base": {**network, **training},
        "rows": {
            "from-nothing": {"lr": first_lr(steps, from_weights=False)},
            "from-weights": {
                "lr": first_lr(steps, from_weights=True),
                "weights": weights,
                "with": ["wise-ft"] if same else [],
            },
        },
        "reference": "from-nothing",
    }


def write_study(path: Path, options: argparse.Namespace, progress: Progress) -> None:
    """Write the study of as many steps as fit into the time, unless it is there."""
    if path.is_file():
        return
    named = find_weights(options.weights) if options.weights else packaged_weights()
    model = named.load()
    same = Store.open(options.data).classes == model.classes

    def write(path: Path, steps: int) -> None:
        values = study(model, options.weights or named.name, options.area, steps, same=same)
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")

    steps = options.steps
    if steps is None:
        trial = path.with_suffix(".trial.yaml")
        try:
            write(trial, TRIED)
            seconds = dry_run(config(trial, options, seeds=1), progress=progress).seconds
        finally:
            trial.unlink(missing_ok=True)
        if seconds is None:
            raise SystemExit("No step could be timed; say with --steps how many to take.")
        steps = max(1, round(60 * options.minutes * 2 * TRIED / seconds))
    write(path, steps)


def config(path: Path, options: argparse.Namespace, seeds: int) -> AblateConfig:
    """Return the study's configuration."""
    return AblateConfig(grid=path, data=options.data, runs=options.runs, seeds=seeds)


def main() -> None:
    """Train, score and compare both rows."""
    parser = argparse.ArgumentParser(description="From weights and from nothing, compared.")
    parser.add_argument("--data", type=Path, default=Path("data"), help="prepared rooms")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--area", type=int, required=True, help="to leave out and score")
    parser.add_argument("--minutes", type=float, default=10.0, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", help="to start from; default: those inside the package")
    parser.add_argument("--steps", type=int, help="of each training, instead of its minutes")
    options = parser.parse_args()
    progress = open_progress()
    path = Path(f"fine-tuning-area{options.area}-{options.minutes:g}min.yaml")
    write_study(path, options, progress)
    result = ablate(config(path, options, options.seeds), progress=progress)
    sys.stdout.write(f"{tables_markdown(result.tables)}\n")


if __name__ == "__main__":
    main()
