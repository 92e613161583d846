"""The scores of several test areas together: of the pooled counts, and the mean of the areas'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines.metrics import Scores, scores

from .tables import Row


def pool(
    values: Mapping[int, Mapping[str, Any]], *, absent_as: str = "exclude"
) -> tuple[dict[int, Scores], Scores, Row]:
    """Return each area's scores, those of the summed counts, and the mean of the areas'.

    Args:
        values: the scores.json of each area.
        absent_as: what an absent class counts as in the means.
    """
    classes = tuple(next(iter(values.values()))["classes"])
    counts = {area: np.array(each["confusion"]) for area, each in values.items()}
    areas = {area: scores(each, classes, absent_as=absent_as) for area, each in counts.items()}
    pooled = scores(np.sum(list(counts.values()), axis=0), classes, absent_as=absent_as)
    return areas, pooled, mean_over_areas(list(areas.values()))


def mean_over_areas(found: Sequence[Scores]) -> Row:
    """Return the means of the areas' scores; a class's IoU is averaged where it occurs."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    return Row(
        name="mean of areas",
        miou=float(np.mean([each.miou for each in found])),
        oa=float(np.mean([each.oa for each in found])),
        macc=float(np.mean([each.macc for each in found])),
        iou=tuple(mean(values) for values in zip(*(each.iou for each in found), strict=True)),
    )
