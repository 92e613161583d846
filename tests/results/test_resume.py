"""What may change when a run goes on, and what may not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import RunError
from pipelines.results.resume import check_same
from pipelines.results.runs import create_run


def start(tmp_path: Path) -> tuple[object, TrainConfig]:
    config = TrainConfig(model=ModelConfig(depth=7), runs=tmp_path, name="run", test_area=5)
    return create_run(config, environment={"store": {"fingerprint": "aa"}}), config


def test_length_speed_and_places_may_change(tmp_path: Path) -> None:
    run, config = start(tmp_path)
    changed = dataclasses.replace(
        config,
        epochs=7,
        max_steps=3,
        device="cpu",
        workers=2,
        threads=1,
        name=None,
        data=Path("elsewhere"),
        runs=Path("other"),
    )
    check_same(run, changed, "aa")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 8}, "batch_size was 16, now 8"),
        ({"num_points": 2048}, "num_points was 4096, now 2048"),
        ({"lr": 0.01}, "lr was 0.001, now 0.01"),
        ({"seed": 3}, "seed was 0, now 3"),
        ({"test_area": 1}, "test_area was 5, now 1"),
        ({"model": ModelConfig(depth=7, k=8)}, "model.k was 16, now 8"),
        (
            {"model": ModelConfig(depth=14, layout="torch"), "val_fraction": 0.2},
            "model.depth was 7, now 14; model.layout was paper, now torch; "
            "val_fraction was 0.1, now 0.2",
        ),
    ],
)
def test_what_shapes_the_result_may_not(
    tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    run, config = start(tmp_path)
    with pytest.raises(RunError) as error:
        check_same(run, dataclasses.replace(config, **changes), "aa")
    assert f"cannot go on with other settings: {said}.\n" in str(error.value)
    assert f"deepgcn train --resume {tmp_path / 'run'}" in str(error.value)


def test_nor_the_data(tmp_path: Path) -> None:
    run, config = start(tmp_path)
    with pytest.raises(RunError, match=r"other data: the run began on aa, data is bb\.\n.*--data"):
        check_same(run, config, "bb")
