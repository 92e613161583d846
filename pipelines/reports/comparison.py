"""Two or more runs side by side: what differs in their settings and in their scores.

Reference:
    The interval is the percentile bootstrap over rooms (Efron & Tibshirani, 1993, section 13.3):
    rooms are drawn with repetition, the same ones for both runs, and the counts pooled.
    `bootstrap_interval` says what is drawn where there are several trainings a side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.errors import RunError, command
from pipelines.metrics import mean_iou

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Difference:
    """A run against the first one.

    Attributes:
        name: the run.
        miou: difference of the mIoUs, −1 to 1.
        low: lower end of the interval.
        high: upper end.
        iou: difference per class; None where one of them lacks the class.
    """

    name: str
    miou: float
    low: float
    high: float
    iou: tuple[float | None, ...]


def compare_scores(names: Sequence[str], found: Sequence[Mapping[str, Any]]) -> list[Difference]:
    """Compare the scores.json of runs with that of the first.

    Raises:
        RunError: they were not scored on the same rooms under the same protocol.
    """
    first = found[0]
    for name, values in zip(names[1:], found[1:], strict=True):
        _check_comparable(names[0], first, name, values)
    return [
        _difference(name, first, values) for name, values in zip(names[1:], found[1:], strict=True)
    ]


def _check_comparable(
    name: str, first: Mapping[str, Any], other: str, values: Mapping[str, Any]
) -> None:
    for what in ("protocol", "classes", "test_area", "absent_as"):
        if first.get(what) != values.get(what):
            raise RunError(
                f"{other}: found {what} {values.get(what)}, expected that of {name}: "
                f"{first.get(what)}.\n"
                "Only scores on the same rooms under the same protocol compare."
            )
    ours, theirs = ((each.get("store") or {}).get("fingerprint") for each in (first, values))
    if ours != theirs or set(first["rooms"]) != set(values["rooms"]):
        raise RunError(
            f"{other}: scored on other data than {name}.\n"
            f"Score both on the same data: {command('eval', name, other, '--data', 'DIR')}"
        )


def _difference(name: str, first: Mapping[str, Any], other: Mapping[str, Any]) -> Difference:
    rooms = sorted(first["rooms"])
    ours = np.array([other["rooms"][room] for room in rooms])
    theirs = np.array([first["rooms"][room] for room in rooms])
    low, high = bootstrap_interval(theirs, ours)
    pairs = zip(first["iou"], other["iou"], strict=True)
    return Difference(
        name=name,
        miou=other["miou"] - first["miou"],
        low=low,
        high=high,
        iou=tuple(None if a is None or b is None else b - a for a, b in pairs),
    )


def bootstrap_interval(first: np.ndarray, other: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the interval of the difference of mIoUs, other minus first.

    In each draw the rooms are drawn with repetition, and so are the trainings, independently; a
    drawn training is scored on the drawn rooms' pooled counts, and the scores are averaged over
    the drawn trainings. Both sides have the same draw, so what they share cancels. With one
    training on each side that is the bootstrap over rooms.

    Args:
        first: (rooms, C, C) confusion counts, or (trainings, rooms, C, C).
        other: the same rooms' counts of the other side, whose training n is the pair of first's n.
        seed: of the draws.

    Reference:
        Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1 (2), 2007: rows and columns
        of a table drawn independently; its variance is on the large side, not the small one.
    """
    classes = first.shape[-1]
    both = np.stack([first, other]).reshape(2, -1, first.shape[-3], classes * classes)
    trainings, rooms = both.shape[1:3]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, rooms, (DRAWS, rooms))
    weights = np.zeros((DRAWS, rooms))
    np.add.at(weights, (np.arange(DRAWS)[:, None], drawn), 1)
    pooled = weights @ both.astype(np.float64)  # (2, trainings, draws, C·C); counts stay exact
    miou = mean_iou(pooled.reshape(2, trainings, DRAWS, classes, classes))
    differences = miou[1] - miou[0]
    chosen = rng.integers(0, trainings, (trainings, DRAWS))
    means = np.take_along_axis(differences, chosen, axis=0).mean(axis=0)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(low), float(high)


def different_settings(
    configs: Sequence[Mapping[str, Any]], ignored: Sequence[str] = ("name",)
) -> dict[str, list[Any]]:
    """Return the settings in which configurations differ: dotted name → value of each."""
    flat = [_flatten(config) for config in configs]
    names = list(dict.fromkeys(name for values in flat for name in values))
    found = {name: [values.get(name) for values in flat] for name in names if name not in ignored}
    return {name: values for name, values in found.items() if any(v != values[0] for v in values)}


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.update(_flatten(value, f"{prefix}{name}."))
        else:
            found[prefix + name] = value
    return found
