"""Every published network builds, and has the published number of parameters."""

from __future__ import annotations

import pytest

from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.presets import PRESETS, preset, published_as

MILLIONS = {
    "resgcn-7": 1.404,
    "resgcn-14": 2.151,
    "resgcn-28": 3.644,
    "resgcn-56": 6.632,
    "resgcn-112": 12.606,
    "resgcn-28w": 7.067,
    "resgcn-28-c32": 2.099,
    "resgcn-28-c16": 1.368,
    "plaingcn-28": 3.644,
    "resmrgcn-28": 3.644,
}


def count(config: ModelConfig) -> int:
    return sum(parameter.numel() for parameter in DeepGCN(config).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_preset_builds(name: str) -> None:
    found = count(preset(name).config)
    if name in MILLIONS:
        assert round(found / 1e6, 3) == MILLIONS[name]


def test_dense_counts() -> None:
    assert round(count(preset("densegcn-28").config) / 1e6, 2) == 21.40
    wide = ModelConfig.published("densegcn", 28, width=64)
    assert round(count(wide) / 1e6, 2) == 43.68


def test_dgcnn_count_follows_from_its_published_tensors() -> None:
    # EdgeConv blocks (18→64→64), (128→64→64), (128→64), 192→1024, 1216→512→256→13, no bias;
    # a batch norm has two parameters a channel.
    maps = 18 * 64 + 64 * 64 + 128 * 64 + 64 * 64 + 128 * 64 + 192 * 1024
    maps += 1216 * 512 + 512 * 256 + 256 * 13
    norms = 2 * (5 * 64 + 1024 + 512 + 256)
    assert count(preset("dgcnn").config) == maps + norms


def test_arch_and_depth_are_the_published_network() -> None:
    assert ModelConfig.published("densegcn", 28) == preset("densegcn-28").config
    assert (ModelConfig.published("densegcn", 28).width, preset("densegcn-28").config.k) == (32, 8)
    assert ModelConfig.published("resgcn", 56).k == 8
    assert ModelConfig() == preset("resgcn-28").config


def test_published_as_finds_the_row_in_either_layout() -> None:
    assert published_as(ModelConfig(layout="torch")) == "resgcn-28"
    assert published_as(ModelConfig(k=5)) is None
    assert all(published_as(row.config) for row in PRESETS.values())


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'resgcn-28w'"):
        preset("resgcn-28-w")
