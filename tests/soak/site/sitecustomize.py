"""Count the points of processes that a command under test starts, and kill them there."""

import importlib.util
import os
from pathlib import Path

if "SOAK_POINTS" in os.environ:
    spec = importlib.util.spec_from_file_location(
        "soak_points", Path(__file__).parents[1] / "points.py"
    )
    points = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(points)
    points.install("child")
