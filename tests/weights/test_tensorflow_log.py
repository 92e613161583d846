"""The settings in the log that the TensorFlow release writes beside its checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.config.model import Hints
from pipelines.errors import WeightsError
from pipelines.weights.tensorflow import literals, read_log


def log(tmp_path: Path, **changes: object) -> Path:
    options = {
        "edge_lay": "dilated",
        "gcn": "edgeconv",
        "num_neighbors": [16],
        "dilations": [-1],
        "normalize_sage": False,
        "num_points": 4096,
        "skip_connect": "residual",
        "sto_dilated_epsilon": 0.2,
        "stochastic_dilation": True,
        "zero_epsilon_gin": False,
        **changes,
    }
    shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
    path = tmp_path / "log_train.txt"
    path.write_text(f"Namespace({shown})\n**** EPOCH 001 ****\n")
    return path


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"num_neighbors": [8]}, {"k": 8}),
        ({"num_neighbors": [8, 8, 8]}, {"k": 8}),
        ({"gcn": "mrgcn"}, {"conv": "mr"}),
        ({"gcn": "graphsage"}, {"conv": "sage"}),
        ({"gcn": "graphsage", "normalize_sage": True}, {"conv": "sage-n"}),
        ({"gcn": "gin"}, {"conv": "gin"}),
        ({"gcn": "gin", "zero_epsilon_gin": True}, {"conv": "gin-0"}),
        ({"skip_connect": "dense"}, {"arch": "densegcn"}),
        ({"stochastic_dilation": False}, {"epsilon": 0.0}),
        ({"dilations": [1]}, {"dilation": False, "epsilon": 0.0}),
        (
            {"skip_connect": "none", "edge_lay": "knn", "stochastic_dilation": False},
            {"arch": "plaingcn", "dilation": False, "epsilon": 0.0},
        ),
    ],
)
def test_log_of_the_release(tmp_path: Path, changes: dict, expected: dict) -> None:
    usual = {"k": 16, "conv": "edge", "arch": "resgcn", "dilation": True, "epsilon": 0.2}
    wanted = Hints(**{**usual, "knn": "dynamic", "num_points": 4096, **expected})
    assert read_log(log(tmp_path, **changes)) == wanted


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"num_neighbors": [16, 8]}, r"num_neighbors \[16, 8\], expected the same"),
        ({"dilations": [1, 2, 4]}, r"dilations \[1, 2, 4\]"),
    ],
)
def test_log_of_another_network(tmp_path: Path, changes: dict, told: str) -> None:
    with pytest.raises(WeightsError, match=told):
        read_log(log(tmp_path, **changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"num_neighbors": 16},
        {"num_neighbors": [[16]]},
        {"num_neighbors": ["16"]},
        {"dilations": None},
        {"dilations": 1},
        {"gcn": ["edgeconv"]},
        {"skip_connect": {}},
        {"sto_dilated_epsilon": "much"},
        {"num_points": "4096"},
        {"num_points": 99999999999},
        {"num_points": 10**400},
        {"num_neighbors": [10**400]},
        {"sto_dilated_epsilon": 10**400},
    ],
)
def test_log_with_values_of_other_types(tmp_path: Path, changes: dict) -> None:
    path = log(tmp_path, **changes)
    with pytest.raises(WeightsError, match=r"log_train\.txt: .*found ") as caught:
        read_log(path)
    assert next(iter(changes)).replace("_", "-") in str(caught.value).replace("_", "-")


@given(st.text())
def test_any_first_line_is_only_read(text: str) -> None:
    assert isinstance(literals(text), dict)


@pytest.mark.parametrize("value", ["{[]: 1}", "{{}}", "1e999", "9" * 5000, "b'\\x", "-'a'"])
def test_values_that_are_none(tmp_path: Path, value: str) -> None:
    (tmp_path / "log_train.txt").write_text(f"Namespace(other={value})\n")
    assert read_log(tmp_path / "log_train.txt").k is None


def test_a_line_with_code_is_not_run(tmp_path: Path) -> None:
    made = tmp_path / "made"
    line = f"Namespace(k=__import__('os').mkdir({str(made)!r}))"
    assert literals(line) == {}
    (tmp_path / "log_train.txt").write_text(line)
    assert read_log(tmp_path / "log_train.txt") == Hints()
    assert not made.exists()
