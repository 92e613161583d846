"""The metrics, all from one confusion matrix.

With counts M (rows: ground truth) summed over everything scored, per class c
    TP = M[c, c],  FN = Σ_j M[c, j] − TP,  FP = Σ_i M[i, c] − TP,
    IoU = TP / (TP + FP + FN),  accuracy = TP / (TP + FN),
    OA = Σ TP / Σ M;  mIoU and mAcc are means over the classes that occur.
A class occurs if the ground truth or the prediction has a point of it. An absent class is left out
and named: published code counts it as −1, 0 or 1, which moves an area's mIoU by up to 15 points.
ABSENT has those conventions, to compare with such code only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# What an absent class counts as in the means; None: it is left out. Of the DeepGCNs releases, the
# TensorFlow one takes −1 and the PyTorch one 1.
ABSENT: dict[str, float | None] = {"exclude": None, "zero": 0.0, "one": 1.0, "minus-one": -1.0}


@dataclass(frozen=True)
class Scores:
    """Figures from 0 to 1.

    Attributes:
        oa: overall accuracy.
        macc: mean accuracy, over the classes that occur unless `absent_as` says otherwise.
        miou: mean IoU, likewise.
        iou: per class; None for an absent one.
        accuracy: per class; None for an absent one.
        absent: the classes that neither ground truth nor prediction has.
        points: how many points were scored.
        absent_as: what absent classes count as in the means, a key of ABSENT.
    """

    oa: float
    macc: float
    miou: float
    iou: tuple[float | None, ...]
    accuracy: tuple[float | None, ...]
    absent: tuple[str, ...]
    points: int
    absent_as: str = "exclude"


def confusion(label: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pairs of ground truth and prediction.

    Args:
        label: (n,) integers in 0 … num_classes − 1; points with another one are not counted.
        predicted: (n,) likewise.
        num_classes: C.

    Returns:
        (C, C) int64, rows ground truth, columns prediction.
    """
    known = label < num_classes
    if not known.all():
        label, predicted = label[known], predicted[known]
    pairs = label.astype(np.int64) * num_classes + predicted.astype(np.int64)
    counts = np.bincount(pairs, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes)


def scores(matrix: np.ndarray, classes: Sequence[str], *, absent_as: str = "exclude") -> Scores:
    """Return the scores of a confusion matrix (C, C) over `classes`.

    A class that is predicted but has no ground truth has IoU and accuracy 0. `absent_as` is a key
    of ABSENT.
    """
    correct = np.diagonal(matrix)
    actual, guessed = matrix.sum(axis=1), matrix.sum(axis=0)
    union = actual + guessed - correct
    occurs = union > 0
    iou = np.divide(correct, union, out=np.zeros(len(correct)), where=occurs)
    accuracy = np.divide(correct, actual, out=np.zeros(len(correct)), where=actual > 0)
    total = int(matrix.sum())
    return Scores(
        oa=float(correct.sum() / total) if total else 0.0,
        macc=_mean(accuracy, occurs, absent_as),
        miou=_mean(iou, occurs, absent_as),
        iou=tuple(float(x) if there else None for x, there in zip(iou, occurs, strict=True)),
        accuracy=tuple(
            float(x) if there else None for x, there in zip(accuracy, occurs, strict=True)
        ),
        absent=tuple(name for name, there in zip(classes, occurs, strict=True) if not there),
        points=total,
        absent_as=absent_as,
    )


def _mean(values: np.ndarray, occurs: np.ndarray, absent_as: str) -> float:
    """Return the mean over the classes that occur, or over all with a value for the others."""
    if not occurs.any():
        return 0.0
    value = ABSENT[absent_as]
    return float(values[occurs].mean() if value is None else np.where(occurs, values, value).mean())


def mean_iou(matrices: np.ndarray) -> np.ndarray:
    """Return the mIoU of each of many confusion matrices (…, C, C), over the classes that occur.

    The same figure as `scores(…).miou`, for thousands at once; (…) float64, 0 without counts.
    """
    correct = np.diagonal(matrices, axis1=-2, axis2=-1)
    union = matrices.sum(axis=-1) + matrices.sum(axis=-2) - correct
    iou = np.divide(correct, union, out=np.zeros(union.shape), where=union > 0)
    return iou.sum(axis=-1) / np.maximum((union > 0).sum(axis=-1), 1)
