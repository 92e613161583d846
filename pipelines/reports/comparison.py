"""Runs side by side: settings, scores, the areas of a six-fold evaluation, published results.

Reference:
    The interval is the percentile bootstrap over rooms (Efron & Tibshirani, 1993, section 13.3):
    rooms are drawn with replacement, the same ones for both runs, and the counts pooled.
    See `bootstrap_interval` for several trainings a side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.errors import RunError, command
from pipelines.metrics import RULE, Scores, mean_iou, scores
from pipelines.progress import counted

from .tables import Row

DRAWS = 2000
AT_ONCE = 2**22  # counts of draws in memory
LEVEL = 0.95
FEW_ROOMS = 10  # with fewer, a bootstrap's interval is too narrow as a rule


@dataclass(frozen=True)
class PublishedRow:
    """A published six-fold result on S3DIS, in percent; the IoUs are in the class order of S3DIS.

    Only the figures marked `cited` were read in a public source; the others are quoted from memory
    and carry a dagger wherever they are shown.
    """

    name: str
    oa: float | None
    miou: float
    iou: tuple[float, ...] | None = None
    cited: bool = False


# Li et al., DeepGCNs, ICCV 2019, table 2; each row's IoUs average to its mIoU.
# fmt: off
SIX_FOLD = (
    PublishedRow("PointNet", 78.5, 47.6, (
        88.0, 88.7, 69.3, 42.4, 23.1, 47.5, 51.6, 54.1, 42.0, 9.6, 38.2, 29.4, 35.2)),
    PublishedRow("MS+CU", 79.2, 47.8, (
        88.6, 95.8, 67.3, 36.9, 24.9, 48.6, 52.3, 51.9, 45.1, 10.6, 36.8, 24.7, 37.5)),
    PublishedRow("G+RCU", 81.1, 49.7, (
        90.3, 92.1, 67.9, 44.7, 24.2, 52.3, 51.2, 58.1, 47.4, 6.9, 39.0, 30.0, 41.9)),
    PublishedRow("PointNet++", None, 53.2, (
        90.2, 91.7, 73.1, 42.7, 21.2, 49.7, 42.3, 62.7, 59.0, 19.6, 45.8, 48.2, 45.6)),
    PublishedRow("3DRNN+CF", 86.9, 56.3, (
        92.9, 93.8, 73.1, 42.5, 25.9, 47.6, 59.2, 60.4, 66.7, 24.8, 57.0, 36.7, 51.6)),
    PublishedRow("DGCNN", 84.1, 56.1, cited=True),
    PublishedRow("ResGCN-28", 85.9, 60.0, (
        93.1, 95.3, 78.2, 33.9, 37.4, 56.1, 68.2, 64.9, 61.0, 34.6, 51.5, 51.1, 54.4)),
)
# fmt: on


@dataclass(frozen=True)
class Difference:
    """A run against the first one."""

    name: str  # the run
    miou: float  # difference of the mIoUs over the classes of the ground truth, −1 to 1
    low: float  # lower end of the interval
    high: float  # upper end
    iou: tuple[float | None, ...]  # difference per class; None if one of the two lacks the class


def compare_scores(
    names: Sequence[str], found: Sequence[Mapping[str, Any]], paths: Sequence[Path] = ()
) -> list[Difference]:
    """Compare the scores.json of runs with that of the first; errors advise on the runs by `paths`.

    RunError: they were not scored on the same rooms under the same protocol.
    """
    differences = []
    typed = [*map(str, paths or names)]
    first, rooms = found[0], sorted(found[0]["rooms"])
    theirs = np.array([first["rooms"][room] for room in rooms])
    for name, path, other in zip(names[1:], typed[1:], found[1:], strict=True):
        _check_comparable((names[0], typed[0]), first, (name, path), other)
        ours = np.array([other["rooms"][room] for room in rooms])
        # From the counts, as the interval is: over the classes of the ground truth.
        miou = float(mean_iou(ours.sum(axis=0)) - mean_iou(theirs.sum(axis=0)))
        interval = bootstrap_interval(theirs, ours)
        pairs = zip(first["iou"], other["iou"], strict=True)
        iou = tuple(None if a is None or b is None else b - a for a, b in pairs)
        differences.append(Difference(name, miou, *interval, iou))
    return differences


def few_rooms(rooms: int) -> list[str]:
    """Return a caution if an interval over `rooms` rooms says little; else nothing."""
    if rooms >= FEW_ROOMS:
        return []
    return [
        f"Caution: {counted(rooms, 'test room')}, where such an interval needs {FEW_ROOMS} or "
        "more: other rooms would differ by more than it says."
    ]


def _check_comparable(
    named: tuple[str, str],
    first: Mapping[str, Any],
    other_named: tuple[str, str],
    values: Mapping[str, Any],
) -> None:
    """Raise RunError unless the scores of two runs compare; each has a name and a path."""
    (name, path), (other, other_path) = named, other_named
    for run, typed, scored in ((name, path, first), (other, other_path, values)):
        if scored.get("means_over") != RULE:
            raise RunError(
                f"{run}: found scores of an older version, whose means counted classes that are "
                "predicted but not in the ground truth.\n"
                f"Score it again: {command('eval', typed, '--protocol', scored.get('protocol'))}"
            )
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
            f"Score both on the same data: {command('eval', path, other_path, '--data', 'DIR')}"
        )


def bootstrap_interval(first: np.ndarray, other: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """Return the interval of the difference of mIoUs, other minus first.

    In each draw, rooms and trainings are drawn independently with replacement; each drawn training
    is scored on the pooled counts of the drawn rooms, and the scores are averaged. Both sides share
    the draw, so what they have in common cancels. One training a side: the bootstrap over rooms.

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
    counts = both.astype(np.float64)  # they stay exact
    shape = (2, trainings, -1, classes, classes)
    pieces = math.ceil(DRAWS * 2 * trainings * classes**2 / AT_ONCE)
    miou = np.concatenate(
        [mean_iou((some @ counts).reshape(shape)) for some in np.array_split(weights, pieces)],
        axis=-1,
    )
    differences = miou[1] - miou[0]
    chosen = rng.integers(0, trainings, (trainings, DRAWS))
    means = np.take_along_axis(differences, chosen, axis=0).mean(axis=0)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, (tail, 100 - tail))
    return float(low), float(high)


def pool(
    values: Mapping[int, Mapping[str, Any]], *, absent_as: str = "exclude"
) -> tuple[dict[int, Scores], Scores, Row]:
    """Return each area's scores, those of the summed counts, and the means over the areas.

    `values` has the scores.json of each area; `absent_as` is as for `metrics.scores`.
    """
    classes = tuple(next(iter(values.values()))["classes"])
    counts = {area: np.array(record["confusion"]) for area, record in values.items()}
    areas = {area: scores(each, classes, absent_as=absent_as) for area, each in counts.items()}
    pooled = scores(np.sum(list(counts.values()), axis=0), classes, absent_as=absent_as)
    figures = [(each.miou, each.oa, each.macc) for each in areas.values()]
    miou, oa, macc = (float(np.mean(values)) for values in zip(*figures, strict=True))
    # A class's IoU is averaged over the areas whose ground truth has it.
    by_class = zip(*(each.iou for each in areas.values()), strict=True)
    known = [[value for value in found if value is not None] for found in by_class]
    iou = tuple(float(np.mean(found)) if found else None for found in known)
    return areas, pooled, Row("mean of areas", miou, oa, macc, iou)


def mean_notes(areas: Mapping[int, Scores], pooled: Scores) -> list[str]:
    """Say why the class IoUs of the mean of areas average to another mIoU, if they do."""
    lacking = dict.fromkeys(name for found in areas.values() for name in found.absent)
    some = ", ".join(name for name in lacking if name not in pooled.absent)
    if not some:
        return []
    return [
        "Mean of areas: mIoU is averaged over all areas, a class's IoU over the areas that have "
        f"the class. As some areas lack {some}, the class IoUs average to another mIoU."
    ]
