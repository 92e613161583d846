"""Records are appended whole, and those that will be written again are dropped."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from pipelines.errors import RunError
from pipelines.runs.directory import METRICS, MetricsLog, Run


def write(run: Run, numbers: range, *, keep: int = 0) -> int:
    with closing(MetricsLog(run, keep=keep)) as log:
        for number in numbers:
            log.append({"step": number, "loss": 0.1 * number})
        log.sync()
        return log.records


def steps(run: Run) -> list[int]:
    return [record["step"] for record in run.metrics()]


def test_a_reader_sees_records_at_once(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert run.metrics() == []
    with closing(MetricsLog(run)) as log:
        log.append({"step": 1})
        assert run.metrics() == [{"step": 1}]


@pytest.mark.parametrize("keep", [0, 2, 4, 9])
def test_keeps_the_first_records(tmp_path: Path, keep: int) -> None:
    run = Run(tmp_path)
    assert write(run, range(4)) == 4
    assert write(run, range(10, 12), keep=keep) == min(keep, 4) + 2
    assert steps(run) == [*range(min(keep, 4)), 10, 11]


def test_half_a_line_is_no_record(tmp_path: Path) -> None:
    run = Run(tmp_path)
    write(run, range(2))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert steps(run) == [0, 1]
    write(run, range(2, 3), keep=5)
    assert steps(run) == [0, 1, 2]


@pytest.mark.parametrize(
    "line", [b'{"step": 1, \xff', b"[1]", b'{"loss": "0.5"}', b'{"val_miou": {}}', b"[" * 100_000]
)
def test_a_damaged_record_is_named(tmp_path: Path, line: bytes) -> None:
    run = Run(tmp_path)
    write(run, range(2))
    with (tmp_path / METRICS).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(RunError, match=r"metrics\.jsonl: found a damaged record in line 3, "):
        run.metrics()
