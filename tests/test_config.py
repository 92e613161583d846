"""Configurations: round trips, checks and their messages."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepgcn_cli.commands.demo import Settings
from pipelines.config import (
    ARCHS,
    BenchConfig,
    EvalConfig,
    ModelConfig,
    PredictConfig,
    PrepareConfig,
    SynthConfig,
    TrainConfig,
)
from pipelines.config.recipes import PARTS
from pipelines.errors import ConfigError
from pipelines.serialization import from_plain, to_plain

CONFIGS = [
    ModelConfig(depth=5, conv="GATConv"),
    TrainConfig(model=ModelConfig(depth=5), test_area=3, name="a", max_steps=7, data=Path("x/y")),
    EvalConfig(run_dirs=(Path("a"), Path("b")), protocols=("room", "block-s1"), data=Path("d")),
    PredictConfig(scans=(Path("s.ply"),), run=Path("runs/r")),
    PrepareConfig(raw=Path("raw.zip"), export="pointnet-h5"),
    SynthConfig(out=Path("o")),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_round_trip_through_json(config: object) -> None:
    again = from_plain(type(config), json.loads(json.dumps(to_plain(config))))
    assert again == config


SEEDED = (
    TrainConfig,
    EvalConfig,
    PredictConfig,
    PrepareConfig,
    lambda seed: SynthConfig(out=Path("o"), seed=seed),
    Settings,
)


@pytest.mark.parametrize("config", SEEDED)
@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_that_cannot_be_stored_is_refused(config: Callable[..., object], seed: int) -> None:
    with pytest.raises(ConfigError, match=f"--seed: found {seed:,}, expected a number from 0 to"):
        config(seed=seed)


def test_unknown_setting_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"'detph'\. Did you mean 'depth'"):
        from_plain(ModelConfig, {"detph": 3})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (ModelConfig, {"depth": 2.5}, r"depth: found 2\.5, expected int"),
        (ModelConfig, {"width": True}, "width: found True, expected int"),
        (ModelConfig, {"k": "16"}, "k: found '16', expected int"),
        (ModelConfig, {"arch": ["resgcn"]}, r"arch: found \['resgcn'\], expected str"),
        (ModelConfig, {"dropout": None}, "dropout: found None, expected float"),
        (ModelConfig, {"dilation": 1}, "dilation: found 1, expected bool"),
        (ModelConfig, [1], r"ModelConfig: found \[1\], expected its settings by name"),
        (TrainConfig, {"model": 3}, "ModelConfig: found 3, expected its settings"),
        (TrainConfig, {"max_steps": 1.0}, r"max_steps: found 1\.0, expected int \| None"),
        (TrainConfig, {"without": [3]}, r"without: found \[3\], expected tuple\[str, \.\.\.\]"),
        (TrainConfig, {"data": 3}, "data: found 3, expected Path"),
        (EvalConfig, {"run_dirs": "runs/a"}, "run_dirs: found .*, expected tuple"),
    ],
)
def test_settings_of_another_type_are_refused(cls: type, values: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_plain(cls, values)


def test_whole_numbers_are_numbers() -> None:
    assert from_plain(ModelConfig, {"dropout": 0}).dropout == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"arch": "rsgcn"}, "Did you mean 'resgcn'"),
        ({"layout": "tf"}, "Expected one of: paper, torch"),
        ({"depth": 1}, "--depth: found 1, expected a number from 2 to 10,000"),
        ({"k": 0}, "-k: found 0"),
        ({"depth": 1_000_000_000}, "--depth: found 1,000,000,000, expected .* from 2 to 10,000"),
        ({"arch": "dgcnn", "depth": 10**30}, "--depth: found .* from 1 to 10,000"),
        ({"width": 10**20}, "--width: found .* from 1 to 16,384"),
        ({"fusion_channels": 10**20}, "--fusion-channels: found .* from 1 to 16,384"),
        ({"in_channels": 10**20}, "--in-channels: found .* from 1 to 16,384"),
        ({"num_classes": 10**20}, "--num-classes: found .* from 1 to 16,384"),
        ({"k": 10**20}, "-k: found .* from 1 to 1,048,576"),
        ({"epsilon": 1.5}, "--epsilon: found 1.5, expected a number from 0 to 1"),
    ],
)
def test_impossible_network_is_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ModelConfig(**values)


def test_k_times_d_above_the_points_says_what_would_fit() -> None:
    with pytest.raises(
        ConfigError, match=r"432 nearest points \(k 16 × dilation 27\).*only 400"
    ) as e:
        TrainConfig(num_points=400)
    with pytest.raises(ConfigError, match=r"\nUse a smaller --depth"):
        TrainConfig(model=ModelConfig(depth=500), num_points=400)  # no k would do
    assert "-k (at most 14)" in str(e.value)
    TrainConfig(num_points=432)


@pytest.mark.parametrize("size", [0.0, 0.25, 0.75, 8.5, -1.0, float("nan"), float("inf")])
def test_a_block_has_whole_cells(size: float) -> None:
    with pytest.raises(ConfigError, match=r"--block-size: .*metres from 0.5 to 8 in steps of 0.5"):
        TrainConfig(block_size=size)


def test_one_point_has_no_variance_to_train_with() -> None:
    for config in (TrainConfig, BenchConfig):
        with pytest.raises(ConfigError, match="found 1, expected points of a block from 2"):
            config(model=ModelConfig(k=1, dilation=False), num_points=1)


@pytest.mark.parametrize("points", [0, -1, 99999999999])
@pytest.mark.parametrize("cls", [TrainConfig, PredictConfig, BenchConfig])
def test_points_that_no_block_has(cls: Any, points: int) -> None:
    message = rf"--num-points: found {points:,}, expected points of a block from [12] to 1,048,576"
    with pytest.raises(ConfigError, match=message):
        cls(num_points=points)


def test_a_recipe_is_its_parts() -> None:
    assert TrainConfig(recipe="paper").parts == ()
    modern = TrainConfig(recipe="modern")
    assert "sgd" in PARTS
    assert "sgd" not in modern.parts
    assert modern.recipe_text == "modern"
    added = {"crop", "thin", "elastic", "tilt", "color-shift"}
    scans = TrainConfig(recipe="scans")
    assert set(scans.parts) == {*modern.parts, *added} - {"balance"}
    assert set(modern.parts).isdisjoint(added)
    changed = TrainConfig(recipe="modern", without=("ema", "adamw"), extra=("sgd",))
    assert set(changed.parts) == {*modern.parts, "sgd"} - {"ema", "adamw"}
    assert changed.recipe_text == "modern without ema, adamw with sgd"
    ordered = TrainConfig(extra=("ema", "balance")).parts
    assert ordered == ("balance", "ema")


def test_the_first_learning_rate_suits_the_optimizer() -> None:
    assert TrainConfig().first_lr == TrainConfig(recipe="modern").first_lr == 1e-3
    assert TrainConfig(extra=("sgd",)).first_lr == 0.1
    assert TrainConfig(extra=("sgd",), lr=0.02).first_lr == 0.02


def test_published_leaves_out_what_is_none() -> None:
    config = ModelConfig.published("densegcn", 28, k=None, width=16)
    assert (config.k, config.width, config.depth) == (8, 16, 28)


@given(
    arch=st.sampled_from(ARCHS),
    depth=st.integers(2, 1200),
    k=st.integers(1, 40),
    dilation=st.booleans(),
)
def test_check_points_is_exact(arch: str, depth: int, k: int, dilation: bool) -> None:
    config = ModelConfig(arch=arch, depth=depth, k=k, dilation=dilation)
    assert len(config.dilations()) == depth
    widest = k * max(config.dilations())
    config.check_points(widest)
    with pytest.raises(ConfigError):
        config.check_points(widest - 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TrainConfig(test_area=7), "--area: found 7"),
        (lambda: TrainConfig(lr=0), "--lr: found 0"),
        (lambda: TrainConfig(val_fraction=1), "--val-fraction"),
        (lambda: TrainConfig(batch_size=0), "--batch-size"),
        (lambda: TrainConfig(recipe="papr"), "Did you mean 'paper'"),
        (lambda: TrainConfig(extra=("emma",)), "unknown part 'emma'. Did you mean 'ema'"),
        (lambda: TrainConfig(without=("ema",)), "'ema', which recipe paper does not have"),
        (lambda: TrainConfig(recipe="modern", extra=("sgd",)), "adamw and sgd, expected one"),
        (lambda: TrainConfig(extra=("sgd", "adamw")), "--without adamw --with sgd"),
        (lambda: EvalConfig(protocols=("rooms",)), "Did you mean 'room'"),
        (lambda: EvalConfig(reports=("pdf",)), "Expected one of: md"),
        (lambda: PredictConfig(run=Path("a"), weights=("b",)), "found both"),
        (lambda: PrepareConfig(export="h5"), "--export"),
        (lambda: SynthConfig(out=Path("o"), areas=7), "--areas: found 7"),
    ],
)
def test_impossible_option_is_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
