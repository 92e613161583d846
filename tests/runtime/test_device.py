"""Devices by name, threads that are given back, and the facts of the machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

from pipelines.errors import ConfigError
from pipelines.runtime.device import (
    cpu_threads,
    describe_device,
    describe_environment,
    git_commit,
    pick_device,
)


def test_auto_takes_a_gpu_where_there_is_one() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert pick_device("auto").type == expected
    assert pick_device("cpu").type == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_a_missing_gpu_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"--device: found no GPU.*\n.*--device cpu"):
        pick_device("cuda")


def test_threads_are_given_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(1):
        assert torch.get_num_threads() == 1
        assert describe_device(torch.device("cpu")) == "cpu, 1 thread"
    assert torch.get_num_threads() == before
    with cpu_threads(None):
        assert torch.get_num_threads() == before


def test_json_output() -> None:
    facts = describe_environment(torch.device("cpu"))
    assert json.loads(json.dumps(facts)) == facts
    assert facts["packages"]["torch"] == torch.__version__
    assert facts["gpu"] is None
    assert facts["cpu"]


def test_commit_of_a_checkout(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert git_commit(tmp_path) is None
    git("init")
    assert git_commit(tmp_path) is None  # nothing committed yet
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "First")
    commit = git("rev-parse", "HEAD")
    assert git_commit(tmp_path) == commit
    (tmp_path / "file").write_text("b")
    assert git_commit(tmp_path) == f"{commit}+changes"
