"""A few faults of the harness, always the same ones: what it finds at length, `make soak` finds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from . import __main__ as soak
from .long_runs import figures, grows, works

ROOT = Path(__file__).resolve().parents[2]
# Each a work and a fault: kills at and between points, a signal, a disk that fails or fills up.
CASES = [
    ("prepare-folder", "KILL:main:9:after"),
    ("prepare-folder", "ENOSPC:write:7"),
    ("predict", "KILL:main:20:before"),
    ("predict", "TERM:main:12:after"),
    ("runs-rm", "KILL:main:2:after"),
    ("weights-import", "FSIZE:100000"),
]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
def test_a_short_soak(tmp_path: Path) -> None:
    cases = tmp_path / "cases.txt"
    cases.write_text("".join(f"{work} {fault}\n" for work, fault in CASES))
    command = [sys.executable, "-m", "tests.soak", "--list", str(cases)]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "soak.jsonl")],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = [json.loads(line) for line in (tmp_path / "soak.jsonl").read_text().splitlines()]
    assert [(each["work"], each["fault"]) for each in found] == CASES
    if "LD_PRELOAD" not in os.environ:
        assert all(each["disturbed"] for each in found if each["fault"].startswith("KILL"))


class Pretended:
    """A soak in which all faults meet a command, but for one that cannot be tried."""

    def choose(self, _rng: object, _name: str, kinds: str) -> str:
        return "TMPFS:4" if kinds == "disk" else "KILL:main:1"

    def run(self, name: str, fault: str) -> soak.Outcome:
        if name == "none":
            soak.mount(Path("/absent"), "size=1m")
        return soak.Outcome(name, fault, disturbed=True)


def test_it_ends_with_enough_faults_and_tells_what_it_could_not_try(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = tmp_path / "cases"
    cases.write_text("none TMPFS:4\n")
    out = ["--out", str(tmp_path / "out")]
    assert soak.cases(Pretended(), soak.options([*out, "--list", str(cases)])) == 0
    told = capsys.readouterr().out
    assert "not tried: none TMPFS:4: mount" in told
    assert soak.cases(Pretended(), soak.options([*out, "--only", "a", "--until", "3", "2"])) == 0
    assert "{'kill': 3, 'disk': 2}, 0 failed" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
@pytest.mark.parametrize("name", ["deepgcn predict", "pipelines.segment"])
def test_repeated_calls_leave_nothing(name: str, tmp_path: Path) -> None:
    found = list(figures(works(tmp_path)[name], 12))
    assert [calls for calls, _ in found] == [1, 12]
    assert not grows(found), found
