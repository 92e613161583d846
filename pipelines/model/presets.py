"""The published networks by name, with their published scores beside them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from pipelines.config import ModelConfig
from pipelines.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Preset:
    """A published network."""

    config: ModelConfig
    published: float | None  # mIoU in percent on S3DIS Area 5 as the paper gives it
    # Whether the figure was read in a public source; if not, it is from memory and is shown with a
    # dagger.
    cited: bool
    note: str  # the table that the row is from


def _row(
    arch: str, depth: int, miou: float | None, note: str, *, cited: bool = False, **changes: Any
) -> Preset:
    return Preset(ModelConfig.published(arch, depth, **changes), miou, cited, note)


_TABLE1 = "ICCV 2019, table 1"
_VARIANTS = "TPAMI 2021, graph convolutions"
_SHARED = "not published; layers share graphs"
_PLAIN_DILATED: dict[str, Any] = {"dilation": True, "epsilon": 0.2}

PRESETS: dict[str, Preset] = {
    "resgcn-28": _row("resgcn", 28, 52.49, f"{_TABLE1}, reference", cited=True),
    "resgcn-28-no-stochastic": _row("resgcn", 28, 51.98, f"{_TABLE1}, dilation", epsilon=0.0),
    "resgcn-28-no-dilation": _row("resgcn", 28, 49.64, f"{_TABLE1}, dilation", dilation=False),
    "plaingcn-28": _row("plaingcn", 28, 40.31, f"{_TABLE1}, connections"),
    "resgcn-28-fixed": _row("resgcn", 28, 48.38, f"{_TABLE1}, fixed k-NN", knn="fixed"),
    "plaingcn-28-fixed": _row("plaingcn", 28, 43.43, f"{_TABLE1}, fixed k-NN", knn="fixed"),
    "densegcn-28": _row("densegcn", 28, 51.27, f"{_TABLE1}, connections"),
    "resgcn-28-k8": _row("resgcn", 28, 49.98, f"{_TABLE1}, neighbours", k=8),
    "resgcn-28-k4": _row("resgcn", 28, 49.22, f"{_TABLE1}, neighbours", k=4),
    "resgcn-56": _row("resgcn", 56, 53.64, f"{_TABLE1}, depth"),
    "resgcn-14": _row("resgcn", 14, 49.90, f"{_TABLE1}, depth"),
    "resgcn-7": _row("resgcn", 7, 48.95, f"{_TABLE1}, depth"),
    "resgcn-28w": _row("resgcn", 28, 53.78, f"{_TABLE1}, width", width=128, k=8),
    "resgcn-28-c32": _row("resgcn", 28, 48.80, f"{_TABLE1}, width", width=32),
    "resgcn-28-c16": _row("resgcn", 28, 45.62, f"{_TABLE1}, width", width=16),
    "plaingcn-28-dilated": _row("plaingcn", 28, 40.47, f"{_TABLE1}, no skip", **_PLAIN_DILATED),
    "plaingcn-56-dilated": _row("plaingcn", 56, 38.79, f"{_TABLE1}, no skip", **_PLAIN_DILATED),
    "plaingcn-14-dilated": _row("plaingcn", 14, 49.23, f"{_TABLE1}, no skip", **_PLAIN_DILATED),
    "plaingcn-7-dilated": _row("plaingcn", 7, 47.92, f"{_TABLE1}, no skip", **_PLAIN_DILATED),
    "resmrgcn-28": _row("resgcn", 28, 51.17, _VARIANTS, conv="mr"),
    "resgraphsage-28": _row("resgcn", 28, 49.20, _VARIANTS, conv="sage"),
    "resgraphsage-n-28": _row("resgcn", 28, 49.02, _VARIANTS, conv="sage-n"),
    "resgin-28": _row("resgcn", 28, 42.81, _VARIANTS, conv="gin"),
    "resgcn-112": _row("resgcn", 112, None, "TPAMI 2021, depth"),
    "resgcn-152-k3": _row("resgcn", 152, None, "TPAMI 2021, depth; converges in 80 epochs", k=3),
    "dgcnn": _row("dgcnn", 3, None, "TOG 2019; six-fold mIoU 56.1, OA 84.1"),
    "resgcn-28-every2": _row("resgcn", 28, None, _SHARED, knn_every=2),
    "resgcn-28-every4": _row("resgcn", 28, None, _SHARED, knn_every=4),
    "resgcn-28-every7": _row("resgcn", 28, None, _SHARED, knn_every=7),
    "resgcn-28-until2": _row("resgcn", 28, None, _SHARED, knn_until=2),
    "resgcn-28-until4": _row("resgcn", 28, None, _SHARED, knn_until=4),
}


def preset(name: str) -> Preset:
    """Return the preset `name`.

    Raises:
        ConfigError: no preset has that name; the nearest is suggested.

    Example:
        >>> preset("densegcn-28").config.width
        32
    """
    if name not in PRESETS:
        raise ConfigError(
            f"--preset: found the unknown preset {name!r}.{did_you_mean(name, PRESETS)}\n"
            f"`deepgcn presets` lists all {len(PRESETS)}."
        )
    return PRESETS[name]


def published_as(config: ModelConfig) -> str | None:
    """Return the name of the preset that `config` is, whatever its layout and number of classes.

    Example:
        >>> published_as(ModelConfig(layout="torch"))
        'resgcn-28'
    """
    for name, row in PRESETS.items():
        same = dataclasses.replace(row.config, layout=config.layout, num_classes=config.num_classes)
        if same == config:
            return name
    return None
