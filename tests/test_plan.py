"""The plan stage: what it chooses for whole stores, and the training that follows."""

from __future__ import annotations

import dataclasses
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import kernels, load_model
from pipelines.config import ModelConfig, PlanConfig, TrainConfig
from pipelines.config.budget import duration_text, seconds_of
from pipelines.data.statistics import of_rooms, of_store
from pipelines.data.store import Store, write_manifest, write_rooms
from pipelines.errors import ConfigError, DatasetError
from pipelines.plan import _Draft, _Planning, plan
from pipelines.planning.blocks import check_validation, count_blocks
from pipelines.planning.changes import changed_plan
from pipelines.planning.file import Plan
from pipelines.planning.rules import SIZES
from pipelines.planning.settings import planned_config
from pipelines.progress import SILENT
from pipelines.runs.directory import create_run
from pipelines.runs.weights import packaged_weights
from pipelines.train import open_samplers, resolve
from tests.planning.clouds import as_room, box
from tests.tiny_store import CLASS_COLORS, CLASSES, tiny_room, write_tiny_store
from tests.tiny_training import AtStep


@pytest.fixture(scope="module")
def building(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven rooms as dense as those of S3DIS, two of them in the test area."""
    data = tmp_path_factory.mktemp("building") / "data"
    write_tiny_store(data, points=30_000)
    return data


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("tiny") / "data"
    write_tiny_store(data)
    return data


def planned(data: Path, time: str = "1h", **options: Any) -> Plan:
    about = {n: options.pop(n) for n in ("gpu_memory", "cores", "memory") if n in options}
    return plan(PlanConfig(time, data, base=options, **about), measure=False)


def one_room(data: Path, points: np.ndarray) -> Store:
    """Return a new store of one room and no test area."""
    room = as_room(points)
    write_rooms(data / "area_1.h5", [room])
    about: dict[str, Any] = {"classes": ("floor", "rest"), "class_colors": ((0, 0, 0), (9, 9, 9))}
    write_manifest(data, [vars(room.info(2))], test_area=0, **about)
    return Store.open(data)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1d", 86_400), ("0.5h", 1800)],
)
def test_a_time_is_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds
    assert seconds_of(duration_text(seconds)) == seconds


@pytest.mark.parametrize("text", ["", "30", "m30", "1h 30m", "-1h", "30m1h", "0s", "9d9", "1e9h"])
def test_a_text_that_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a time such as 90s"):
        PlanConfig(text)


def test_much_time_on_a_large_gpu_gives_the_published_training(building: Path) -> None:
    """On rooms as dense as the published ones; the recipe is the modern one."""
    made = planned(building, "1d", gpu_memory=80)
    config = planned_config(made, {})
    assert config.model == ModelConfig()
    assert (config.block_size, config.num_points, config.voxel) == (1.0, 4096, 0.0)
    assert (config.batch_size, config.weights) == (16, None)
    assert config.lr == pytest.approx(1e-3, rel=0.3)
    assert (made.machine.device, made.machine.memory) == ("cuda", 80e9)
    assert made.estimate.memory < 8e9
    assert "not measured" in made.estimate.source


def test_a_plan_for_a_gpu_needs_none_here(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    made = planned(tiny, weights="none", gpu_memory=80, device="cuda")
    assert (made.machine.device, made.settings["device"]) == ("cuda", "cuda")


def test_a_plan_for_a_cpu_does_not_have_the_memory_of_a_gpu(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = {"is_available": True, "mem_get_info": (10**15, 10**15), "get_device_name": "a GPU"}
    gpu |= {"memory_reserved": 0, "memory_allocated": 0, "get_device_capability": (9, 0)}
    for name, value in gpu.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda *_, value=value: value)
    made = planned(tiny, weights="none", cores=8)
    assert (made.machine.device, made.machine.cores) == ("cpu", 8)
    assert 0 < made.machine.memory < 10**15


def test_little_time_gives_a_small_network(building: Path) -> None:
    configs = [
        planned_config(planned(building, time, cores=2, weights="none"), {})
        for time in ("30s", "30m", "6h", "9d")
    ]
    sizes = [config.model.depth * config.model.width for config in configs]
    assert sizes == [112, 448, 896, 1792]
    assert configs[0].max_steps < configs[1].max_steps  # type: ignore[operator]


def test_memory_divides_a_step(building: Path) -> None:
    large = {"weights": "none", "depth": 28, "width": 64, "num_points": 4096, "batch_size": 16}
    made = planned(building, "9d", memory=2.0, **large)
    assert made.settings["micro_batch"] < 16
    assert made.estimate.memory < 2e9


def test_a_smaller_batch_that_timing_leads_to_has_no_larger_micro_batch(building: Path) -> None:
    base = {"weights": "none", "depth": 28, "width": 64, "num_points": 4096}
    config = PlanConfig("9d", building, cores=64, memory=2.0, base=base)
    planning = _Planning(config, False, None, SILENT, seconds_of("9d"))
    draft = _Draft(planning, SIZES[0], None, "")
    assert 4 < (draft.config.micro_batch or 0) < draft.config.batch_size == 16
    draft.pace = dataclasses.replace(draft.pace, block=1000.0)
    draft.fill()
    assert (draft.config.batch_size, draft.config.micro_batch) == (4, None)


def test_threads_are_the_cores_of_a_plan(tiny: Path) -> None:
    made = planned(tiny, threads=3)
    assert (made.machine.cores, made.machine.name) == (3, "cpu, 3 threads")


def test_an_area_given_to_a_plan_is_its_own(tiny: Path) -> None:
    listener = AtStep()
    changed = changed_plan(planned(tiny), {"test_area": 1}, listener)
    assert changed.data.test_area == 1
    assert listener.said == ["The plan is for the rooms outside area 3; left out is area 1."]


def test_other_data_of_another_test_area_leaves_out_that_of_the_plan(
    tiny: Path, tmp_path: Path
) -> None:
    made = planned(tiny, test_area=2)
    other = write_tiny_store(tmp_path / "other", points=500).path
    listener = AtStep()
    listener.warn = listener.say  # type: ignore[method-assign]
    changed = changed_plan(made, {"data": other}, listener)
    assert changed.data.test_area == planned_config(changed, {}).test_area == 2
    assert listener.said[-1].endswith("outside area 3; left out is area 2.")


def test_a_part_that_was_planned_can_be_left_out(tiny: Path) -> None:
    made = planned(tiny, "10m", weights="indoor")
    assert made.settings["extra"] == ("wise-ft",), "the classes are theirs"
    for given in ({"without": ("wise-ft",)}, {"weights": "none"}):
        config = planned_config(changed_plan(made, given), {})
        assert "wise-ft" not in config.parts
        assert set(made.settings["without"]) >= {*config.without}
    assert "wise-ft" in planned_config(changed_plan(made, {"lr": 1e-3}), {}).parts
    plain = planned(tiny, "10m", weights="none", extra=("balance",))
    for part in ("balance", "wise-ft"):
        config = planned_config(changed_plan(plain, {"without": (part,)}), {})
        assert part not in config.parts


def test_weights_start_where_rooms_are_like_theirs(tmp_path: Path) -> None:
    one_room(tmp_path, box(800))
    made = planned(tmp_path, "10m")
    assert made.settings["weights"] == packaged_weights().name
    config = planned_config(made, {})
    model = load_model()
    theirs = model.block_size, model.num_points, model.config.depth
    assert (config.block_size, config.num_points, config.model.depth) == theirs
    samplers = open_samplers(resolve(config, Store.open(tmp_path)), Store.open(tmp_path))
    assert all(samplers), "the only room trains and validates"
    assert planned(tmp_path, "10m", weights="none").settings["weights"] == "none"
    assert planned(tmp_path, "10m", depth=7).settings["weights"] is None
    with pytest.raises(ConfigError, match=r"--with wise-ft: found the classes floor, rest"):
        planned(tmp_path, "9d", extra=("wise-ft",))
    frozen = planned(tmp_path, "9d", freeze=1, extra=("frozen-norm",))
    assert (frozen.settings["weights"], frozen.settings["freeze"]) == (made.settings["weights"], 1)


def test_a_run_of_the_same_name_is_not_taken_for_the_weights_in_the_package(tmp_path: Path) -> None:
    """Such as one that has only begun."""
    one_room(tmp_path, box(800))
    packaged = packaged_weights()
    begun = TrainConfig(runs=tmp_path / "runs", name=packaged.name, test_area=5)
    create_run(begun, environment={})
    made = planned(tmp_path, "10m", runs=tmp_path / "runs")
    config = resolve(planned_config(made, {}), Store.open(tmp_path))
    assert config.weights_sha256 == packaged.sha256


def test_an_only_room_of_one_block_is_trained_on_without_validation(tmp_path: Path) -> None:
    store = one_room(tmp_path, box(5000, 0.9, 0.8, 0.7))
    made = planned(tmp_path, "20s", cores=2)
    config = planned_config(made, {})
    assert (config.val_fraction, made.settings["block_size"]) == (0, 1)
    check_validation(config)
    trained, validated = open_samplers(resolve(config, store), store)
    assert (len(trained), validated) == (1, None)
    with pytest.raises(DatasetError, match=r"one room to train on, of 0\.9 × 0\.8 m"):
        check_validation(dataclasses.replace(config, val_fraction=0.2))
    with pytest.raises(DatasetError, match=r"one room to train on, of 0\.9 × 0\.8 m"):
        planned(tmp_path, "20s", cores=2, val_fraction=0.2)


def test_an_only_room_of_several_blocks_validates_on_some(tmp_path: Path) -> None:
    one_room(tmp_path, box(2000, 2.4, 0.8, 0.7))
    assert planned(tmp_path, "20s", cores=2, block_size=1.0).settings["val_fraction"] == 0.2
    assert planned(tmp_path, "20s", cores=2, block_size=3.0).settings["val_fraction"] == 0


@pytest.mark.parametrize("side", [1.0, 2.5])  # the second is not measured by prepare
def test_the_number_of_blocks_is_about_right(building: Path, side: float) -> None:
    store = Store.open(building)
    of_store(store, SILENT)  # measures what prepare has not
    rooms = [room for room in store.rooms() if room.area != 3]
    found = of_rooms(store, rooms)
    config = resolve(TrainConfig(data=building, val_fraction=0, block_size=side), store)
    trained, _ = open_samplers(config, store)
    assert found is not None
    assert count_blocks(rooms, found, side)[0] == pytest.approx(len(trained), rel=0.1)
    measured = (dataclasses.replace(each, number=each.number // 2) for each in found.blocks)
    half = dataclasses.replace(found, blocks=tuple(measured))
    assert count_blocks(rooms, half, side)[0] == pytest.approx(len(trained) / 2, rel=0.1, abs=0.5)


def test_a_few_steps_are_timed(tiny: Path) -> None:
    listener = AtStep()
    with kernels.use("reference"):
        config = PlanConfig("20s", tiny, base={"device": "cpu", "threads": 1})
        made = plan(config, progress=listener)
    assert listener.tasks[-1][0].startswith("Timing steps of")
    assert "timed on this machine" in made.estimate.source
    steps, batch = (made.settings[name] for name in ("max_steps", "batch_size"))
    assert steps * batch * made.estimate.block <= made.estimate.training
    assert 10 < made.estimate.training + made.estimate.scoring < 20
    assert len(made.notes) == (steps < 100)


def test_rooms_of_few_points_do_not_hinder_timing(tmp_path: Path) -> None:
    rooms = [dataclasses.replace(tiny_room(1, n, 10), name=f"a{n}") for n in range(5)]
    rooms.append(tiny_room(1, 9, 300))
    write_rooms(tmp_path / "area_1.h5", rooms)
    infos = [vars(room.info(len(CLASSES))) for room in rooms]
    about: dict[str, Any] = {"classes": CLASSES, "class_colors": CLASS_COLORS}
    write_manifest(tmp_path, infos, test_area=0, **about)
    with kernels.use("reference"):
        base = {"device": "cpu", "threads": 1, "weights": "none", "num_points": 64, "depth": 3}
        made = plan(PlanConfig("9s", tmp_path, base=base))
    assert "timed on this machine" in made.estimate.source


def test_a_part_of_the_rooms_without_a_block_is_found_before_training(tmp_path: Path) -> None:
    rooms = [tiny_room(1, n, 10 if n == 2 else 300) for n in range(3)]
    write_rooms(tmp_path / "area_1.h5", rooms)
    infos = [vars(room.info(len(CLASSES))) for room in rooms]
    about: dict[str, Any] = {"classes": CLASSES, "class_colors": CLASS_COLORS}
    write_manifest(tmp_path, infos, test_area=0, **about)
    of_store(Store.open(tmp_path))
    found: dict[str, list[str]] = {"planning": [], "training": []}
    for part in ("1/3", "2/3", "3/3"):
        config = TrainConfig(data=tmp_path, test_area=0, val_fold=part, block_size=1.0)
        store = Store.open(tmp_path)
        with suppress(DatasetError):
            check_validation(config)
            found["planning"].append(part)
        with suppress(DatasetError):
            open_samplers(resolve(config, store), store)
            found["training"].append(part)
    assert found["planning"] == found["training"]
    (bad,) = {"1/3", "2/3", "3/3"} - {*found["planning"]}
    with pytest.raises(DatasetError) as error:
        check_validation(TrainConfig(data=tmp_path, test_area=0, val_fold=bad))
    assert str(error.value) == (
        f"{tmp_path}: --val-fold {bad}: found no block of 1 m in the rooms that validate "
        "(Area_1/office_2)."
    )


def test_given_options_take_the_place_of_planned_ones(tiny: Path) -> None:
    made, listener = planned(tiny, "10m"), AtStep()
    given = {"batch_size": 2, "without": ("flip",), "extra": ("balance",), "loggers": ()}
    changed = changed_plan(made, given, listener)
    config = planned_config(changed, given)
    assert (config.batch_size, config.model) == (2, planned_config(made, {}).model)
    assert "balance" in config.parts
    assert "flip" not in config.parts
    shown = {choice.option: choice.reason for choice in changed.choices}
    assert (shown["batch-size"], shown["depth"] == "given") == ("given", False)
    assert listener.said == [
        "The plan's steps are for its own options; given are others: batch-size."
    ]
    changed_plan(made, {"fusion_channels": 2048, "voxel": 0.1, "val_blocks": 9}, listener)
    assert listener.said[1:] == [
        "The plan's steps are for its own options; given are others: fusion-channels, voxel, "
        "val-blocks."
    ]
    changed_plan(made, {"rgb": True, "in_channels": 9, "num_classes": 13}, listener)
    assert len(listener.said) == 2, "these are as planned, or no options"
    own = planned(tiny, "10m", depth=5)
    changed_plan(own, {}, listener)
    assert len(listener.said) == 2, "what was given to the plan is its own"
    paper = planned_config(changed_plan(made, {"recipe": "paper"}), {"recipe": "paper"})
    assert (paper.parts, paper.lr) == ((), 1e-3)
    weights = {"weights": "indoor"}
    other = planned_config(changed_plan(made, weights), weights)
    assert (other.model.depth, other.weights) == (14, "indoor")


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({"max_steps": 5000}, 5000),
        ({"batch_size": 64}, None),
        ({"block_size": 3.0}, None),
        ({"epochs": 1000}, 0),
        ({"epochs": 2, "max_steps": 3}, 3),
    ],
)
def test_a_given_length_is_that_of_the_training(
    tiny: Path, given: dict[str, Any], steps: int | None
) -> None:
    made = planned(tiny, "1m", weights="none", cores=1)
    changed = changed_plan(made, given)
    config = planned_config(changed, given)
    expected = made.settings["max_steps"] if steps is None else steps or None
    assert config.max_steps == expected
    if "epochs" not in given:
        assert expected is not None
        assert config.epochs * len(batches(made, config)) >= expected
    assert config.epochs == given.get("epochs", config.epochs)
    assert expected in (None, changed.estimate.steps)
    before, after = (
        sum(islice(cycle(batches(made, training)), plan.estimate.steps))
        for plan, training in ((made, planned_config(made, {})), (changed, config))
    )
    per_block = made.estimate.training / before
    assert changed.estimate.training == pytest.approx(per_block * after)


def batches(made: Plan, config: TrainConfig) -> list[float]:
    """Return about how many blocks each batch of an epoch has."""
    left = max(1.0, made.data.blocks * (1.0 / (config.block_size or 1.0)) ** 2)
    found = []
    while left > 0:
        found.append(min(left, float(config.batch_size)))
        left -= found[-1]
    return found


def test_given_validation_blocks_take_their_part_of_the_time(building: Path) -> None:
    base = {"val_fraction": 0.5, "weights": "none"}
    few, all_of_them = (planned(building, "10m", val_blocks=n, **base) for n in (1, 100_000))
    assert few.estimate.steps > all_of_them.estimate.steps
    for made in (few, all_of_them):
        assert made.estimate.training <= 600


def test_the_rate_follows_the_weights_and_the_optimizer(tiny: Path) -> None:
    made = planned(tiny, "10m", weights="indoor")
    from_nothing = changed_plan(made, {"weights": "none"}).settings["lr"]
    assert (made.settings["lr"], from_nothing >= 1e-3) == (3e-4, True)
    with pytest.raises(ConfigError, match="--recipe: found the unknown recipe 'scan'"):
        changed_plan(made, {"recipe": "scan"})
    sgd_plan = planned(tiny, "10m", recipe="paper", extra=("sgd", "warm-up"))
    recipe = {"recipe": "modern"}
    assert "adamw" in planned_config(changed_plan(sgd_plan, recipe), recipe).parts
    scans = changed_plan(made, {"recipe": "scans"}).settings
    assert (scans["lr"], "smoothing" in scans["without"]) == (3e-4, True)
    sgd = changed_plan(made, {"without": ("adamw",), "extra": ("sgd",)}).settings["lr"]
    assert sgd == pytest.approx(100 * 3e-4)
    assert changed_plan(made, {"weights": "none", "lr": 0.5}).settings["lr"] == 0.5
    nothing = planned(tiny, "10m", weights="none", block_size=4.0)
    changed = changed_plan(nothing, {"weights": "indoor"})
    assert changed.settings["lr"] == 3e-4
    assert planned_config(changed, {"weights": "indoor"}).block_size == 2, "that of the weights"


def test_a_fold_takes_the_place_of_a_fraction(tiny: Path) -> None:
    settings = changed_plan(planned(tiny), {"val_fold": "1/3"}).settings
    assert (settings["val_fold"], "val_fraction" in settings) == ("1/3", False)


def test_a_plan_is_for_its_data(tiny: Path, building: Path) -> None:
    warned: list[str] = []
    listener = AtStep()
    listener.warn = warned.append  # type: ignore[method-assign]
    made = planned(tiny)
    made = dataclasses.replace(made, data=dataclasses.replace(made.data, test_area=6))
    config = planned_config(changed_plan(made, {"data": building}, listener), {"data": building})
    assert (config.data, config.test_area) == (building, 3)
    assert len(warned) == 1
    assert "other data" in warned[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_area": 4}, "--area: found 4, expected an area of .*: 1, 2, 3"),
        ({"weights": "indoors"}, "indoors: found no such weights"),
        ({"k": 600, "num_points": 512, "depth": 7}, "k·d: layer 6 takes"),
    ],
)
def test_what_cannot_be_planned_is_reported(
    tiny: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        planned(tiny, **options)
    assert "found" in str(caught.value) or "k·d" in str(caught.value)


def test_a_store_without_blocks_is_refused(tmp_path: Path) -> None:
    write_tiny_store(tmp_path, points=5)
    with pytest.raises(DatasetError, match="no block with enough points"):
        planned(tmp_path)
