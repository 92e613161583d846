"""Freed memory stays with the process, and the tightest limit is what is available."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runtime import memory
from pipelines.runtime.memory import available_memory

SCRIPT = """
import resource, sys
import numpy as np
from pipelines.runtime.memory import keep_freed_memory

if sys.argv[1] == "kept" and not keep_freed_memory():
    raise SystemExit(3)
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
np.ones(48 << 20, np.uint8)
before = faults()
for _ in range(4):
    np.ones(48 << 20, np.uint8)
print(faults() - before)
"""


def page_faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", SCRIPT, how], capture_output=True, text=True)
    if done.returncode == 3:
        pytest.skip("this C library has no mallopt")
    assert not done.returncode, done.stderr
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    assert page_faults("kept") * 10 < page_faults("as it is")


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files as Linux has them: 8 GiB available, in a group of 2 GiB within one of 3 GiB."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text("MemTotal: 9999999 kB\nMemAvailable: 8388608 kB\n")
    (tmp_path / "proc" / "self" / "cgroup").write_text("0::/outer/inner\n")
    for folder, limit, used in (("outer", 3 << 30, 1 << 30), ("outer/inner", 2 << 30, 1 << 29)):
        group = tmp_path / "groups" / folder
        group.mkdir(parents=True)
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
    monkeypatch.setattr(memory, "PROCESS", tmp_path / "proc")
    monkeypatch.setattr(memory, "GROUPS", tmp_path / "groups")
    return tmp_path


def test_the_tightest_limit_counts(system: Path) -> None:
    assert available_memory("cpu") == 3 << 29
    inner = system / "groups" / "outer" / "inner"
    (inner / "memory.stat").write_text("anon 5\ninactive_file 1048576\n")
    assert available_memory("cpu") == (3 << 29) + (1 << 20)
    (inner / "memory.max").write_text("max\n")
    assert available_memory("cpu") == 2 << 30
    (system / "groups" / "outer" / "memory.max").write_text("max\n")
    assert available_memory("cpu") == 8 << 30


def test_a_system_without_such_files_has_all_of_its_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "PROCESS", tmp_path)
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    assert available_memory("cpu") > 100 << 20


def test_a_limit_of_the_process_counts() -> None:
    code = """
import resource
from pipelines.runtime.memory import available_memory
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (64 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
print(available_memory("cpu"))
"""
    if sys.platform != "linux":
        pytest.skip("reads /proc")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60 << 20 < int(done.stdout) <= 64 << 20
