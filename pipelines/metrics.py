"""The metrics, all from one confusion matrix.

With counts M (rows: ground truth) summed over everything scored, per class c
    TP = M[c, c],  FN = Σ_j M[c, j] − TP,  FP = Σ_i M[i, c] − TP,
    IoU = TP / (TP + FP + FN),  accuracy = TP / (TP + FN),
    OA = Σ TP / Σ M;  mIoU and mAcc are means over the classes that the ground truth has.
So all predictions for the same points are averaged over the same classes. A class that is predicted
but absent has accuracy 0 / 0, and its points already count as errors of their true classes. Absent
classes are left out and named: published code counts them as −1, 0 or 1, which moves an area's mIoU
by up to 15 points. ABSENT has those conventions, only to compare with such code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What 0 / 0 counts as in the means; None: classes without ground truth are left out. Of the
# DeepGCNs releases, TensorFlow's takes −1 and PyTorch's 1.
ABSENT: dict[str, float | None] = {"exclude": None, "zero": 0.0, "one": 1.0, "minus-one": -1.0}
RULE = "classes of the ground truth"


@dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1."""

    oa: float  # overall accuracy
    macc: float  # mean accuracy, over `means_over` unless `absent_as` says otherwise
    miou: float  # mean IoU, likewise
    iou: tuple[float | None, ...]  # per class; None if absent
    accuracy: tuple[float | None, ...]  # per class; None if absent
    absent: tuple[str, ...]  # the classes that the ground truth does not have
    points: int  # how many points were scored
    only_predicted: tuple[str, ...] = ()  # those of `absent` that are predicted
    absent_as: str = "exclude"  # a key of ABSENT
    means_over: str = RULE  # scores of version 0.1 lack it: they counted predicted classes, too


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pairs of ground truth (n,) and prediction (n,) below C, the `num_classes`.

    Points with a label ≥ C are not counted. Returns (C, C) int64, rows ground truth.

    Examples:
        >>> confusion(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
        [[1, 1], [0, 1]]
    """
    known = label < num_classes
    pairs = label[known].astype(np.int64) * num_classes + predicted[known].astype(np.int64)
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def scores(matrix: np.ndarray, classes: Sequence[str], *, absent_as: str = "exclude") -> Scores:
    """Return the scores of a confusion matrix (C, C) over `classes`.

    `absent_as` is a key of ABSENT.

    Examples:
        >>> found = scores(np.array([[1, 1], [0, 2]]), ["wall", "door"])
        >>> found.iou, found.oa
        ((0.5, 0.6666666666666666), 0.75)
    """
    correct = np.diagonal(matrix)
    actual, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    union = actual + predicted - correct
    there, total = actual > 0, int(matrix.sum())
    iou = np.divide(correct, union, out=np.zeros(len(correct)), where=union > 0)
    accuracy = np.divide(correct, actual, out=np.zeros(len(correct)), where=there)

    def per_class(values: np.ndarray) -> tuple[float | None, ...]:
        return tuple(float(v) if found else None for v, found in zip(values, there, strict=True))

    def mean(values: np.ndarray, defined: np.ndarray) -> float:
        value = ABSENT[absent_as]
        counted = values[there] if value is None else np.where(defined, values, value)
        return float(counted.mean()) if there.any() else 0.0

    def named(chosen: np.ndarray) -> tuple[str, ...]:
        return tuple(name for name, is_chosen in zip(classes, chosen, strict=True) if is_chosen)

    return Scores(
        oa=float(correct.sum() / total) if total else 0.0,
        macc=mean(accuracy, there),
        miou=mean(iou, union > 0),
        iou=per_class(iou),
        accuracy=per_class(accuracy),
        absent=named(~there),
        points=total,
        only_predicted=named(~there & (predicted > 0)),
        absent_as=absent_as,
    )


def mean_iou(matrices: np.ndarray) -> np.ndarray:
    """Return the mIoU (…) of many confusion matrices (…, C, C), over the ground truth's classes.

    The same as `scores(…).miou`, for thousands at once; 0 without counts.

    >>> mean_iou(np.array([[[1, 1], [0, 2]], [[3, 0], [0, 2]]])).round(3).tolist()
    [0.583, 1.0]
    """
    correct = np.diagonal(matrices, axis1=-2, axis2=-1)
    actual = matrices.sum(axis=-1)
    union = actual + matrices.sum(axis=-2) - correct
    iou = np.divide(correct, union, out=np.zeros(union.shape), where=actual > 0)
    return iou.sum(axis=-1) / np.maximum((actual > 0).sum(axis=-1), 1)
