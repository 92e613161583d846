"""Records are appended whole, and those that will be written again are dropped."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from pipelines.runs.metrics_log import MetricsLog, read_metrics


def write(path: Path, numbers: range, *, keep: int = 0) -> int:
    with closing(MetricsLog(path, keep=keep)) as log:
        for number in numbers:
            log.append({"step": number, "loss": 0.1 * number})
        log.sync()
        return log.records


def steps(path: Path) -> list[int]:
    return [record["step"] for record in read_metrics(path)]


def test_a_reader_sees_records_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path) == []
    with closing(MetricsLog(path)) as log:
        log.append({"step": 1})
        assert read_metrics(path) == [{"step": 1}]


@pytest.mark.parametrize("keep", [0, 2, 4, 9])
def test_keeps_the_first_records(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "metrics.jsonl"
    assert write(path, range(4)) == 4
    assert write(path, range(10, 12), keep=keep) == min(keep, 4) + 2
    assert steps(path) == [*range(min(keep, 4)), 10, 11]


def test_half_a_line_is_no_record(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    write(path, range(2))
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    assert steps(path) == [0, 1]
    write(path, range(2, 3), keep=5)
    assert steps(path) == [0, 1, 2]
