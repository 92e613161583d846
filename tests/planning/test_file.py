"""A plan's file: what is written is read, and what is wrong is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.errors import ConfigError
from pipelines.planning.choices import Choice
from pipelines.planning.file import Estimate, Plan, PlannedData, read_plan, write_plan
from pipelines.planning.machine import Machine

PLAN = Plan(
    choices=(
        Choice("depth", 14, "a reason"),
        Choice("without", ("balance", "flip"), "two reasons"),
        Choice("weights", None, "none"),
        Choice("lr", 1e-05, "small"),
    ),
    data=PlannedData("data", "f00", 5, 3, 100, 20, 2.0, 2.5, None, None, 99.5, 1.0, "100 points"),
    machine=Machine("cpu", "cpu, 2 threads", 2, 1 << 34),
    budget=60.0,
    estimate=Estimate(0.1, "a guess", 5, 1.5, 50.0, 2.0, 1 << 30),
    notes=("a note",),
)


def test_a_plan_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_plan(path := tmp_path / "plan.json", PLAN)
    assert read_plan(path) == PLAN
    assert read_plan(path).settings["without"] == ("balance", "flip")


def first(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda plan: plan["choices"][0].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (first(option="deph"), "unknown setting 'deph'. Did you mean 'depth'"),
        (first(option="data"), "unknown setting 'data'"),
        (first(value="14"), "choices.depth: found '14', expected a whole number"),
        (first(value=1 << 2000), "choices.depth: found 1"),
        (first(option="block-size", value=0.7), "choices.block-size: found 0.7, expected metres"),
        (first(other=1), "unknown setting 'other'"),
        (lambda plan: plan.update(version=2), "found version 2 of the file, expected 1"),
        (lambda plan: plan.update(choices=3), "can be read"),
        (lambda plan: plan.update(choices=[3]), "found no plan that can be read"),
        (lambda plan: plan.pop("data"), "found no plan that can be read"),
        (lambda plan: plan.update(budget=-1), "budget is -1"),
        (lambda plan: plan["estimate"].update(block=float("nan")), "found NaN"),
        (lambda plan: plan["estimate"].update(training=10**309), "training: found 1"),
        (lambda plan: plan["estimate"].update(training="1e999"), "training is inf"),
        (lambda plan: plan["estimate"].update(epochs=-1.0), "epochs is -1"),
        (lambda plan: plan.update(notes=["x" * (1 << 18)]), "expected a plan of at most 262,144"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    write_plan(path := tmp_path / "plan.json", PLAN)
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values).replace('"1e999"', "1e999"))
    with pytest.raises(ConfigError, match=message) as caught:
        read_plan(path)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("text", ["", "[", "[]", "7", "{}", "[" * 100_000, "\udcff"])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"found (no plan that can be read|version None)"):
        read_plan(path)
