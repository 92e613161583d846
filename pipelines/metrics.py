"""The metrics, all from one confusion matrix.

With counts M (rows: ground truth) summed over everything scored, per class c
    TP = M[c, c],  FN = Σ_j M[c, j] − TP,  FP = Σ_i M[i, c] − TP,
    IoU = TP / (TP + FP + FN),  accuracy = TP / (TP + FN),
    OA = Σ TP / Σ M;  mIoU and mAcc are means over the classes that occur.
A class occurs if the ground truth or the prediction has a point of it. Absent classes are left out
and named: published code counts them as −1, 0 or 1, which moves an area's mIoU by up to 15 points.
ABSENT has those conventions, only to compare with such code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The value of an absent class in the means; None: left out. Of the DeepGCNs releases, TensorFlow's
# takes −1 and PyTorch's 1.
ABSENT: dict[str, float | None] = {"exclude": None, "zero": 0.0, "one": 1.0, "minus-one": -1.0}


@dataclass(frozen=True)
class Scores:
    """Scores from 0 to 1."""

    oa: float  # overall accuracy
    macc: float  # mean accuracy, over the classes that occur unless `absent_as` says otherwise
    miou: float  # mean IoU, likewise
    iou: tuple[float | None, ...]  # per class; None if absent
    accuracy: tuple[float | None, ...]  # per class; None if absent
    absent: tuple[str, ...]  # the classes that neither ground truth nor prediction has
    points: int  # how many points were scored
    absent_as: str = "exclude"  # a key of ABSENT


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

    A class that is predicted but has no ground truth has IoU and accuracy 0. `absent_as` is a key
    of ABSENT.

    Examples:
        >>> found = scores(np.array([[1, 1], [0, 2]]), ["wall", "door"])
        >>> found.iou, found.oa
        ((0.5, 0.6666666666666666), 0.75)
    """
    correct = np.diagonal(matrix)
    actual, predicted = matrix.sum(axis=1), matrix.sum(axis=0)
    union = actual + predicted - correct
    occurs = union > 0
    iou = np.divide(correct, union, out=np.zeros(len(correct)), where=occurs)
    accuracy = np.divide(correct, actual, out=np.zeros(len(correct)), where=actual > 0)
    total = int(matrix.sum())

    def per_class(values: np.ndarray) -> tuple[float | None, ...]:
        return tuple(float(v) if found else None for v, found in zip(values, occurs, strict=True))

    return Scores(
        oa=float(correct.sum() / total) if total else 0.0,
        macc=_mean(accuracy, occurs, absent_as),
        miou=_mean(iou, occurs, absent_as),
        iou=per_class(iou),
        accuracy=per_class(accuracy),
        absent=tuple(name for name, found in zip(classes, occurs, strict=True) if not found),
        points=total,
        absent_as=absent_as,
    )


def _mean(values: np.ndarray, occurs: np.ndarray, absent_as: str) -> float:
    """Return the mean over the classes that occur, or over all with ABSENT's value for others."""
    if not occurs.any():
        return 0.0
    value = ABSENT[absent_as]
    return float(values[occurs].mean() if value is None else np.where(occurs, values, value).mean())


def mean_iou(matrices: np.ndarray) -> np.ndarray:
    """Return the mIoU (…) of many confusion matrices (…, C, C), over the classes that occur.

    The same as `scores(…).miou`, for thousands at once; 0 without counts.

    >>> mean_iou(np.array([[[1, 1], [0, 2]], [[3, 0], [0, 2]]])).round(3).tolist()
    [0.583, 1.0]
    """
    correct = np.diagonal(matrices, axis1=-2, axis2=-1)
    union = matrices.sum(axis=-1) + matrices.sum(axis=-2) - correct
    iou = np.divide(correct, union, out=np.zeros(union.shape), where=union > 0)
    return iou.sum(axis=-1) / np.maximum((union > 0).sum(axis=-1), 1)
