"""What tests of weights share: a short training from them, scores, a store of two classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from deepgcn_cli.__main__ import run as deepgcn
from pipelines.config import EvalConfig, TrainConfig
from pipelines.data.store import Store
from pipelines.evaluate import evaluate
from pipelines.weights.safetensors import read_metadata
from tests.tiny_store import write_tiny_store


def config(store: Store, runs: Path, weights: object, **changes: Any) -> TrainConfig:
    options: dict[str, Any] = {
        **{"weights": str(weights), "data": store.path, "runs": runs, "name": "tuned"},
        **{"epochs": 1, "max_steps": 4, "batch_size": 4, "num_points": 64},
        **{"device": "cpu", "threads": 1},
    }
    return TrainConfig(**{**options, **changes})


def score(store: Store, runs: Path, *weights: object, **options: Any) -> Any:
    values: dict[str, Any] = {"weights": tuple(map(str, weights)), "data": store.path}
    values |= {"runs": runs, "pictures": False, "device": "cpu", **options}
    return evaluate(EvalConfig(**values)).results


def logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Logits up to a constant of each point."""
    return np.log(np.maximum(probabilities, 1e-30))


def named(weights: Path) -> dict[str, str]:
    """The classes and draws that a weights file records."""
    facts = read_metadata(weights)
    return {name: facts[name] for name in ("classes", "class_colors", "num_points")}


def two_classes(folder: Path) -> Store:
    """A labelled data set of one's own, as text files: floors and the rest."""
    source = write_tiny_store(folder / "source", points=400)
    lines = {1: "a", 2: "b", 3: "c"}
    for info in source.rooms():
        room = source.read(info)
        floor = np.where(room.label == source.classes.index("floor"), 1, 2)
        table = np.column_stack([room.pos.round(4), room.color, floor])
        path = folder / lines[info.area] / f"{info.name}.csv"
        path.parent.mkdir(exist_ok=True)
        rows = "\n".join(",".join(f"{value:g}" for value in row) for row in table)
        path.write_text(f"x,y,z,r,g,b,kind\n{rows}\n")
    (folder / "rooms.yaml").write_text(
        "classes: {floor: [1, 2, 3], rest: [4, 5, 6]}\n"
        'areas: {1: ["a/*.csv"], 2: ["b/*.csv"], 3: ["c/*.csv"]}\n'
        "label: kind\nvalues: {1: floor, 2: rest}\ntest_area: 3\n"
    )
    made = ["prepare", "--dataset", str(folder / "rooms.yaml"), "--data", str(folder / "data")]
    assert deepgcn([*made, "--workers", "1", "--quiet"]) == 0
    return Store.open(folder / "data")
