"""What may change when a run goes on, and what may not."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.config.recipes import PARTS, RECIPES
from pipelines.data.store import RoomInfo, Store
from pipelines.errors import DatasetError, RunError
from pipelines.runs.directory import CONFIG, create_run
from pipelines.runs.resume import (
    check_same,
    different_settings,
    identity,
    open_data,
    room_checksums,
)
from tests.tiny_store import write_tiny_store


def store_of(fingerprint: str, **checksums: str) -> Store:
    """Return a store of rooms in area 1 that have no points."""
    rooms = [
        RoomInfo(1, name, 0, (1.0, 1.0, 1.0), checksum, ()) for name, checksum in checksums.items()
    ]
    return Store(
        Path("data"),
        {
            **{"classes": [], "class_colors": [], "test_area": 5, "fingerprint": fingerprint},
            "rooms": json.loads(json.dumps([dataclasses.asdict(room) for room in rooms])),
        },
    )


def start(tmp_path: Path) -> tuple[object, TrainConfig]:
    config = TrainConfig(
        model=ModelConfig(depth=7), runs=tmp_path, name="run", test_area=5, lr=0.001
    )
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
    check_same(run, changed, store_of("aa"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 8}, "batch_size was 16, now 8"),
        ({"num_points": 2048}, "num_points was 4096, now 2048"),
        ({"lr": 0.01}, "lr was 0.001, now 0.01"),
        ({"extra": ("ema",)}, "parts was [], now ['ema']"),
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
        check_same(run, dataclasses.replace(config, **changes), store_of("aa"))
    assert f"cannot resume with other settings: {said}.\n" in str(error.value)
    assert f"deepgcn train --resume {tmp_path / 'run'}" in str(error.value)


def test_the_length_may_not_where_the_rate_follows_it(tmp_path: Path) -> None:
    config = TrainConfig(recipe="modern", runs=tmp_path, name="run", test_area=5, max_steps=9)
    run = create_run(config, environment={"store": {"fingerprint": "aa"}})
    with pytest.raises(RunError) as error:
        check_same(run, dataclasses.replace(config, max_steps=12), store_of("aa"))
    assert "max_steps was 9, now 12. The learning rate of cosine depends on the length.\n" in str(
        error.value
    )


def test_a_run_keeps_its_parts_when_its_recipe_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(recipe="modern", without=("ema",), runs=tmp_path, name="run", test_area=5)
    run = create_run(config, environment={"store": {"fingerprint": "aa"}})
    monkeypatch.setattr("pipelines.config.recipes.PARTS", ("mixup", *PARTS))
    monkeypatch.setitem(RECIPES, "modern", ("mixup", *RECIPES["modern"]))
    assert run.config.parts == config.parts
    assert run.config.recipe_text == "modern without mixup, ema"
    check_same(run, run.config, store_of("aa"))
    renewed = TrainConfig(recipe="modern", without=("ema",), test_area=5)
    assert renewed.parts == ("mixup", *config.parts)
    assert identity(renewed, "aa") != identity(run.config, "aa")
    with pytest.raises(RunError, match=r"parts was \['balance', .*, now \['mixup', 'balance'"):
        check_same(run, renewed, store_of("aa"))


def test_a_run_of_version_0_1_has_the_parts_of_its_recipe_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(recipe="modern", without=("ema",), runs=tmp_path, name="run", test_area=5)
    run = create_run(config, environment={})
    values = json.loads((run.path / CONFIG).read_text(encoding="utf-8"))
    assert values.pop("parts") == list(config.parts)
    (run.path / CONFIG).write_text(json.dumps(values), encoding="utf-8")
    assert run.config == dataclasses.replace(config, name="run")
    now = ("mixup", *(part for part in RECIPES["modern"] if part not in ("clip", "ema")))
    monkeypatch.setitem(RECIPES, "modern", now)
    assert run.config.parts == config.parts
    assert (run.config.without, run.config.extra) == (("mixup",), ("clip",))


def test_nor_the_data(tmp_path: Path) -> None:
    run, config = start(tmp_path)
    with pytest.raises(RunError, match=r"other data: the run began on aa, data is bb\.\n.*--data"):
        check_same(run, config, store_of("bb"))


def test_data_that_is_not_where_the_run_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = write_tiny_store(Path("data"))
    run, _ = start(tmp_path)
    assert open_data(run, None).fingerprint == store.fingerprint
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"the training began in\.\n.* --data DIR, or go there"):
        open_data(run, None)
    assert open_data(run, tmp_path / "data").fingerprint == store.fingerprint
    with pytest.raises(DatasetError, match="Prepare it first"):
        open_data(run, tmp_path / "other")


def test_the_rooms_that_differ_are_named(tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(depth=7), runs=tmp_path, name="run", test_area=5)
    before = store_of("aa", office_1="1" * 64, office_2="2" * 64, office_3="3" * 64)
    environment = {"store": {"fingerprint": "aa"}, "rooms": room_checksums(before)}
    run = create_run(config, environment=environment)
    check_same(run, config, before)
    now = store_of("bb", office_1="1" * 64, office_2="f" * 64, lobby_1="4" * 64, lobby_2="5" * 64)
    with pytest.raises(RunError) as error:
        check_same(run, config, now)
    assert (
        "data is bb (1 room changed: Area_1/office_2; 1 room gone: Area_1/office_3; "
        "2 rooms new: Area_1/lobby_1, Area_1/lobby_2).\n"
    ) in str(error.value)
    many = store_of("cc", **{f"hall_{number}": "6" * 64 for number in range(1, 6)})
    with pytest.raises(RunError, match=r"5 rooms new: Area_1/hall_1, .*/hall_2, .*/hall_3, …\)"):
        check_same(run, config, many)


def test_different_settings_are_named_with_dots() -> None:
    configs = [
        {"name": "a", "seed": 0, "model": {"depth": 7, "k": 16}},
        {"name": "b", "seed": 0, "model": {"depth": 28, "k": 16}},
    ]
    assert different_settings(configs) == {"model.depth": [7, 28]}
    assert different_settings(configs, ignored=()) == {"name": ["a", "b"], "model.depth": [7, 28]}
