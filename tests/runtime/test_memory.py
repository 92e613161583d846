"""Freed memory stays: a second, equal allocation needs no new pages from the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
