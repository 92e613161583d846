"""Start other Python processes of ours, and tell them what they share a device with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of a checkout: it holds `benchmarks` as well
SHARING = "DEEPGCN_SHARING"  # in a job's environment: how many jobs share its device's memory
# Not `-m`, which looks into the current folder first: a `json.py` of the user's own would be run.
# (`-P`, which forbids that, needs Python 3.11.)
_START = (
    f"import sys; sys.path[:] = sys.argv.pop(1).split({os.pathsep!r}); "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def module_path() -> str:
    """Return where this process finds its modules, as PYTHONPATH has it."""
    return os.pathsep.join([*sys.path, str(ROOT)])


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs `module`, found where this process finds its own modules."""
    return (sys.executable, "-c", _START, module_path(), module, *arguments)


def trainings_at_once() -> int:
    """Return how many trainings, with this one, share its device (`ablate --workers`)."""
    value = os.environ.get(SHARING, "")
    return max(1, int(value)) if value.isdecimal() else 1
