"""Scores against figures worked out by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from pipelines.metrics import confusion, mean_iou, scores


def test_figures_worked_out_by_hand() -> None:
    label = np.array([0, 0, 0, 0, 1, 1, 2], np.uint8)
    predicted = np.array([0, 0, 0, 1, 1, 0, 3], np.uint8)
    matrix = confusion(label, predicted, 5)
    assert matrix.tolist() == [
        [3, 1, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]
    found = scores(matrix, ("a", "b", "c", "d", "e"))
    # IoU: a 3 / (4 + 4 − 3), b 1 / (2 + 2 − 1), c 0 / 1; d (only predicted) and e are not there.
    assert found.iou == pytest.approx((3 / 5, 1 / 3, 0, None, None))
    assert found.accuracy == pytest.approx((3 / 4, 1 / 2, 0, None, None))
    assert found.oa == pytest.approx(4 / 7)
    assert found.miou == pytest.approx((3 / 5 + 1 / 3) / 3)
    assert found.macc == pytest.approx((3 / 4 + 1 / 2) / 3)
    assert (found.absent, found.only_predicted) == (("d", "e"), ("d",))
    assert found.points == 7


def test_an_absent_class_changes_no_mean() -> None:
    matrix = np.array([[8, 2], [1, 9]])
    wider = np.zeros((3, 3), int)
    wider[np.ix_([0, 2], [0, 2])] = matrix
    small, large = scores(matrix, ("a", "c")), scores(wider, ("a", "b", "c"))
    assert (small.oa, small.macc, small.miou) == (large.oa, large.macc, large.miou)
    assert large.absent == ("b",)


@pytest.mark.parametrize(("name", "value"), [("zero", 0), ("one", 1), ("minus-one", -1)])
def test_conventions_for_absent_classes(name: str, value: float) -> None:
    """By hand: IoU 1/2 and 1/2 for two classes, and `value` for the two that never occur."""
    matrix = np.zeros((4, 4), int)
    matrix[0, 0], matrix[0, 1], matrix[1, 1] = 1, 1, 1
    found = scores(matrix, tuple("abcd"), absent_as=name)
    assert found.miou == pytest.approx((1 / 2 + 1 / 2 + 2 * value) / 4)
    assert found.macc == pytest.approx((1 / 2 + 1 + 2 * value) / 4)
    assert found.iou == pytest.approx((1 / 2, 1 / 2, None, None))
    assert (found.absent, found.absent_as) == (("c", "d"), name)
    assert found.oa == scores(matrix, tuple("abcd")).oa


def test_all_predictions_are_averaged_over_the_same_classes() -> None:
    """By hand: 10 points each of a and b; one prediction puts a tenth of a into c, the other none.

    a 9 / 10 and 10 / 10, b 10 / 10: a mean over the classes of each prediction would be 19 / 30.
    """
    some, none = np.diag([9, 10, 0]), np.diag([10, 10, 0])
    some[0, 2] = 1
    one, other = scores(some, "abc"), scores(none, "abc")
    assert one.macc == one.miou == pytest.approx((9 / 10 + 1) / 2)
    assert other.macc == other.miou == 1
    assert (one.only_predicted, other.only_predicted) == (("c",), ())
    counted = scores(some, "abc", absent_as="one")  # IoU of c is 0 / 1, its accuracy 0 / 0
    assert counted.miou == pytest.approx((9 / 10 + 1 + 0) / 3)
    assert counted.macc == pytest.approx((9 / 10 + 1 + 1) / 3)


def test_nothing_scored_is_zero() -> None:
    found = scores(np.zeros((2, 2), int), ("a", "b"))
    assert (found.oa, found.macc, found.miou, found.points) == (0, 0, 0, 0)
    assert found.absent == ("a", "b")


@given(
    pairs=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60),
)
def test_agrees_with_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    label, predicted = np.array(pairs).T
    matrix = confusion(label, predicted, 6)
    found = scores(matrix, tuple("abcdef"))
    occur, union = np.unique(label), np.union1d(label, predicted)
    expected = sklearn_metrics.jaccard_score(
        label, predicted, labels=occur, average=None, zero_division=0
    )
    assert [found.iou[n] for n in occur] == pytest.approx(expected.tolist())
    assert found.miou == pytest.approx(expected.mean())
    assert found.oa == pytest.approx(sklearn_metrics.accuracy_score(label, predicted))
    recall = sklearn_metrics.recall_score(
        label, predicted, labels=occur, average="macro", zero_division=0
    )
    assert found.macc == pytest.approx(recall)
    assert (matrix == sklearn_metrics.confusion_matrix(label, predicted, labels=range(6))).all()
    for name, value in (("zero", 0), ("one", 1), ("minus-one", -1)):
        every = np.full(6, float(value))
        every[union] = sklearn_metrics.jaccard_score(
            label, predicted, labels=union, average=None, zero_division=0
        )
        assert scores(matrix, tuple("abcdef"), absent_as=name).miou == pytest.approx(every.mean())


def test_points_without_a_class_are_not_counted() -> None:
    label = np.array([0, 255, 1, 255], np.uint8)
    assert confusion(label, np.array([0, 1, 0, 0], np.uint8), 2).tolist() == [[1, 0], [1, 0]]


def test_counts_of_large_rooms_do_not_overflow() -> None:
    label = np.full(300_000, 12, np.uint8)
    assert confusion(label, label, 13)[12, 12] == 300_000


def test_many_matrices_at_once_have_the_scores_of_each() -> None:
    rng = np.random.default_rng(0)
    matrices = rng.integers(0, 3, (2, 40, 5, 5)) * rng.integers(0, 2, (2, 40, 5, 1))
    matrices[0, 0] = 0
    found = mean_iou(matrices.astype(float))
    assert found.shape == (2, 40)
    for place in np.ndindex(2, 40):
        assert found[place] == pytest.approx(scores(matrices[place], "abcde").miou)
