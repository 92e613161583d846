"""How to start Python again with one of our modules."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # of a checkout, which holds benchmarks, too
# Not `-m`: it looks into the current folder first, and a `pipelines` or `json.py` of the user's own
# there would be run. (`-P`, which forbids that, is Python 3.11's.)
_START = (
    f"import sys; sys.path[:] = sys.argv.pop(1).split({os.pathsep!r}); "
    "import runpy; runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)


def python_command(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs `module`, found where this process finds its own modules."""
    return (
        sys.executable,
        "-c",
        _START,
        os.pathsep.join([*sys.path, str(ROOT)]),
        module,
        *arguments,
    )
