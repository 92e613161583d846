"""The facts of the machine are JSON and name the commit, if there is one."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import torch

from pipelines.runtime.environment import describe_environment, git_commit


def test_facts_are_json() -> None:
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
