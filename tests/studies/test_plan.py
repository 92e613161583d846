"""Plans: rows resolved against a store, what is left out or cannot be, and the study file."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import AblateConfig, TrainConfig
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.studies.plan import FILE, Plan, load_plan, make_plan, save_plan, with_other_rows
from pipelines.studies.tables import summarize
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data", points=50)


def config(store: Store, preset: str = "paper-table1", **changes: Any) -> AblateConfig:
    return AblateConfig(preset=preset, data=store.path, runs=store.path / "runs", **changes)


def test_a_row_like_the_reference_is_left_out_and_named(store: Store) -> None:
    plan = make_plan(config(store, base={"epsilon": 0.0}), store)
    assert "no-stochastic" not in [row.name for row in plan.rows]
    (note,) = [note for note in plan.notes if note.startswith("no-stochastic")]
    assert note.endswith("it is the same as reference.")


def grid_plan(store: Store, folder: Path, text: str, **changes: Any) -> Plan:
    """Return the plan of a grid of tiny trainings."""
    grid = folder / "mine.yaml"
    base = "{depth: 3, width: 8, k: 4, num-points: 64, batch-size: 4, max-steps: 5}"
    grid.write_text(f"base: {base}\n{text}", encoding="utf-8")
    runs = folder / "runs"
    return make_plan(AblateConfig(grid=grid, data=store.path, runs=runs, **changes), store)


def test_rows_of_other_micro_batches_are_no_twins(store: Store, tmp_path: Path) -> None:
    plan = grid_plan(store, tmp_path, "axes: {micro-batch: [1, 4]}")
    assert [row.config and row.config.micro_batch for row in plan.rows] == [1, 4]
    assert plan.notes == ()
    assert [row.label.rpartition(", ")[2] for row in plan.rows] == [
        "micro-batches of 1",
        "micro-batches of 4",
    ]


@pytest.mark.parametrize(
    ("reference", "kept"), [(None, "micro, other"), ("micro", "micro, other"), ("whole", "whole")]
)
def test_a_row_of_any_micro_batch_does_not_take_the_run_of_a_row_that_sets_it(
    store: Store, tmp_path: Path, reference: str | None, kept: str
) -> None:
    rows = "rows: {micro: {micro-batch: 2}, whole: {}, other: {micro-batch: 1}}"
    named = f"\nreference: {reference}" if reference else ""
    plan = grid_plan(store, tmp_path, rows + named)
    assert ", ".join(row.name for row in plan.rows) == kept
    left_out = [name for name in ("micro", "whole", "other") if name not in kept]
    assert [note.partition(":")[0] for note in plan.notes] == left_out
    other = kept.partition(",")[0]
    for note in plan.notes:
        assert f"left out; it differs from {other} only in the micro-batch, which one" in note


def test_a_table_says_of_all_rows_only_what_they_share(store: Store, tmp_path: Path) -> None:
    plan = grid_plan(store, tmp_path, "axes: {area: [1, 3], lr: [0.001, 0.01]}")
    (table,) = summarize(plan).tables
    assert table.summary["test area"] == "3 unless the row says another"
    assert table.summary["budget"] == (
        "5 steps, batch 4, 64 points, lr 0.001 unless the row says another, paper layout"
    )
    network = "resgcn-3 (edge, C 8, k 4)"
    assert [line.label for line in table.lines] == [
        f"{network}, area 1",
        f"{network}, area 1, lr 0.01",
        network,
        f"{network}, lr 0.01",
    ]
    same = grid_plan(store, tmp_path, "rows: {a: {}, b: {batch-size: 2, num-points: 32}}")
    (table,) = summarize(same).tables
    assert table.summary["test area"] == "3"
    assert table.summary["budget"] == (
        "5 steps, batch 4 unless the row says another, 64 points unless the row says another, "
        "lr 0.001, paper layout"
    )
    assert table.lines[1].label == f"{network}, batch 2, 32 points"


def test_what_the_rows_of_a_table_do_not_share_is_in_their_labels(
    store: Store, tmp_path: Path
) -> None:
    rows = "a: {}, b: {max-steps: 200}, c: {layout: torch}, d: {epochs: 2}"
    (table,) = summarize(grid_plan(store, tmp_path, f"rows: {{{rows}}}\nreference: b")).tables
    other = "unless the row says another"
    assert table.summary["budget"] == (
        f"5 steps {other}, batch 4, 64 points, lr 0.001, paper layout {other}"
    )
    network = "resgcn-3 (edge, C 8, k 4)"
    assert [line.label for line in table.lines] == [
        network,
        f"{network}, 200 steps",
        f"{network}, torch layout",
        f"{network}, 2 epochs",
    ]
    each = "rows: {a: {max-steps: 1, lr: 0.1}, b: {max-steps: 2, lr: 0.2}}"
    (table,) = summarize(grid_plan(store, tmp_path, each)).tables
    assert table.summary["budget"] == (
        "length as in the rows, batch 4, 64 points, lr as in the rows, paper layout"
    )
    assert [line.label for line in table.lines] == [
        f"{network}, 1 step, lr 0.1",
        f"{network}, 2 steps, lr 0.2",
    ]


def test_some_rows_leave_the_others_of_the_study_as_they_are(store: Store, tmp_path: Path) -> None:
    rows = "rows: {reference: {}, wide: {width: 16}, deep: {depth: 4}}\nreference: reference"
    begun = grid_plan(store, tmp_path, rows, rows=("wide",), seeds=2)
    later = grid_plan(store, tmp_path, rows, rows=("deep",))
    assert [row.name for row in later.rows] == ["reference", "deep"]
    whole = with_other_rows(later, begun)
    assert [row.name for row in whole.rows] == ["reference", "wide", "deep"]
    assert whole.seeds == (0, 1)
    parts = (make_plan(config(store, "recipe", rows=(n,)), store) for n in ("modern", "paper-flip"))
    recipes = with_other_rows(*parts)
    titles = ["Recipe paper", "Recipe modern"]
    assert [section.title for section in recipes.sections] == titles
    assert [row.name for row in recipes.rows] == ["paper", "paper-flip", "modern"]


def test_a_row_that_cannot_be_built_stays_with_its_reason(store: Store) -> None:
    plan = make_plan(config(store, base={"num_points": 432, "depth": 28, "k": 16}), store)
    assert plan.row("reference").config is not None, "28 layers need 27 · 16 = 432 points"
    double = plan.row("depth-double")
    assert double.config is None
    assert double.error.startswith("k·d: layer 55 takes neighbours from the 440 nearest")


def test_chosen_rows_come_with_their_reference(store: Store) -> None:
    plan = make_plan(config(store, rows=("dense", "plain")), store)
    assert [row.name for row in plan.rows] == ["reference", "plain", "dense"]
    recipes = make_plan(config(store, "recipe", rows=("paper-flip",)), store)
    assert [row.name for row in recipes.rows] == ["paper", "paper-flip"]
    with pytest.raises(ConfigError, match=r"unknown row 'dens'\. Did you mean 'dense'"):
        make_plan(config(store, rows=("dens",)), store)


def test_what_the_rows_choose_is_not_for_the_base(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"--depth: found 14, but the rows of depth choose it"):
        make_plan(config(store, "depth", base={"depth": 14}), store)
    with pytest.raises(ConfigError, match=r"--area: found 1"):
        make_plan(config(store, "six-fold", base={"test_area": 1}), store)


def test_every_row_has_the_same_data_seeds_and_budget(store: Store) -> None:
    base = {"max_steps": 7, "batch_size": 2, "lr": 0.01, "num_points": 2048}
    plan = make_plan(config(store, seeds=3, base=base), store)
    assert plan.seeds == (0, 1, 2)
    configs = [row.config for row in plan.rows if row.config is not None]
    assert len(configs) == 19
    same = {
        (c.data, c.test_area, c.max_steps, c.batch_size, c.lr, c.num_points, c.val_fraction)
        for c in configs
    }
    assert same == {(store.path, 3, 7, 2, 0.01, 2048, TrainConfig.val_fraction)}


def test_folds_that_the_data_lacks_are_named(store: Store) -> None:
    plan = make_plan(config(store, "six-fold"), store)
    assert [row.name for row in plan.rows] == ["area-1", "area-2", "area-3"]
    assert "does not hold area-4, area-5, area-6" in plan.notes[0]


def test_a_study_without_rows_is_refused(store: Store) -> None:
    with pytest.raises(ConfigError, match=r"six-fold: found no row\. Not six folds: .* area-5"):
        make_plan(config(store, "six-fold", rows=("area-5",)), store)


def test_published_size_means_network_recipe_budget_and_data(store: Store) -> None:
    """A store that says it is S3DIS: the tiny one, with as many rooms as it claims to have."""
    manifest = {**store.manifest, "published_rooms": len(store.rooms())}
    s3dis = Store(store.path, manifest)
    assert not any(row.full_size for row in make_plan(config(store), store).rows)
    area_3 = make_plan(config(store), s3dis)
    assert not any(row.full_size for row in area_3.rows), "the figures are of area 5"
    assert all(row.full_size for row in make_plan(config(store, "six-fold"), s3dis).rows)
    for base in ({"max_steps": 5}, {"layout": "torch"}, {"width": 32}, {"extra": ("flip",)}):
        rows = make_plan(config(store, "six-fold", base=base), s3dis).rows
        assert not any(row.full_size for row in rows), base


def test_parameters_are_counted(store: Store) -> None:
    published, dense = make_plan(config(store, rows=("dense",)), store).rows
    assert published.parameters == 3_644_301
    assert dense.config is not None
    assert dense.parameters == sum(p.numel() for p in DeepGCN(dense.config.model).parameters())


def test_the_study_file_gives_the_plan_back(store: Store, tmp_path: Path) -> None:
    made = make_plan(config(store, base={"num_points": 432}, seeds=2), store)
    plan = dataclasses.replace(made, runs=tmp_path)
    save_plan(plan)
    path = plan.file
    assert path == tmp_path / "studies" / "paper-table1" / FILE
    assert load_plan(path) == plan


def test_a_study_file_of_version_0_1_is_read(store: Store, tmp_path: Path) -> None:
    """It did not say what the rows change, only what they train."""
    plan = dataclasses.replace(make_plan(config(store), store), runs=tmp_path)
    save_plan(plan)
    values = json.loads(plan.file.read_text())
    assert all(row.pop("changes") is not None for row in values["sections"][0]["rows"])
    plan.file.write_text(json.dumps(values))
    assert [row.config for row in load_plan(plan.file).rows] == [row.config for row in plan.rows]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "found version 99"),
        ({"seeds": None}, "damaged study"),
        ({"sections": [{"title": "x"}]}, "damaged study"),
        ({"surprise": 1}, "damaged study"),
    ],
)
def test_a_damaged_study_file_is_refused(
    store: Store, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = dataclasses.replace(make_plan(config(store), store), runs=tmp_path)
    save_plan(plan)
    path = plan.file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(RunError, match=message):
        load_plan(path)
    path.write_text("{")
    with pytest.raises(RunError, match="damaged study"):
        load_plan(path)


def test_a_missing_study_names_those_there_are(store: Store, tmp_path: Path) -> None:
    save_plan(dataclasses.replace(make_plan(config(store), store), runs=tmp_path))
    with pytest.raises(RunError, match=r"its studies: paper-table1\. Did you mean 'paper-table1'"):
        load_plan(tmp_path / "studies" / "paper-table" / FILE)
