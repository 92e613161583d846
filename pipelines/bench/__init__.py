"""The bench stage: how fast and how lean the network is here, against the released algorithm.

Every figure is measured in a process of its own (`bench.timing`), the naive network in the same
run (`benchmarks/naive.py` of a checkout; without one only our own figures are taken).
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import BenchConfig, ModelConfig
from pipelines.data.synthetic import room_features
from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_json, check_place
from pipelines.model.figures import forward_flop, search_flop, step_flop
from pipelines.progress import SILENT, Progress
from pipelines.runtime.device import cpu_threads, describe_environment, pick_device
from pipelines.runtime.process import ROOT, python_command
from pipelines.serialization import to_plain

OPTIONS = ("batch_size", "threads", "repeats", "checkpoint_layers")  # that each case has
OURS, NAIVE = "pipelines.bench.timing", "benchmarks.case"
POINTS = tuple(1024 * 2**n for n in range(7))  # of the scaling table, to 65,536
DEPTHS = (7, 14, 28, 56, 112, 152)


@dataclass(frozen=True)
class Figures:
    """The measured times of one case (seconds) and its peak memory beyond the start (bytes)."""

    times: tuple[float, ...]
    memory: int

    @property
    def median(self) -> float:
        return statistics.median(self.times)


@dataclass(frozen=True)
class Row:
    """One case: what was measured, and how."""

    work: str  # forward, step or knn
    depth: int
    k: int
    num_points: int  # N
    ours: Figures | None = None  # None if it failed
    naive: Figures | None = None  # of the released algorithm; None if not measured
    flop: float | None = None  # of the work if no operation is left out
    failed: str = ""  # why there are no figures


@dataclass(frozen=True)
class BenchResult:
    """What was measured, on which machine."""

    rows: tuple[Row, ...]
    gemm_speed: float  # floating-point operations a second of a large matrix multiplication
    environment: dict[str, Any]  # hardware and versions
    out: Path  # the JSON file


def bench(config: BenchConfig, *, progress: Progress = SILENT) -> BenchResult:
    """Measure and write `config.out`, each case as soon as it is measured.

    Raises:
        ConfigError: the network does not fit the number of points, or `out` cannot be a file.
        RunError: a measurement fails; one of the scaling table is warned of instead.
    """
    config.model.check_points(config.num_points)
    check_place(config.out, "--out")
    device = pick_device(config.device, progress)
    networks = {"ours": OURS}
    if config.naive and can_compare(config.model, progress) and not config.scaling:
        networks["naive"] = NAIVE
    cases = [(work, config.model, config.num_points) for work in config.works]
    if config.scaling:
        cases = scaling_cases(config)
    total = len(cases) * len(networks) + 1
    rows: list[Row] = []
    with (
        progress.task("Measuring", total=total, unit="cases") as task,
        tempfile.TemporaryDirectory(prefix="deepgcn-bench-") as folder,
    ):
        gemm = {"work": "gemm", "device": device.type, "threads": config.threads}
        speed = _measure(OURS, gemm)["speed"]
        task.advance()
        with cpu_threads(config.threads):  # as in the measuring processes
            environment = describe_environment(device)
        result = _save(config, rows, speed, environment)
        for work, model, points in cases:
            case = {
                **{"model": to_plain(model), "work": work, "num_points": points},
                **{name: getattr(config, name) for name in OPTIONS},
                **{"device": device.type, "features": _features(config, work, points, folder)},
            }
            flop = config.batch_size * _flop(work, model, points)
            row = Row(work, model.depth, model.k, points, flop=flop)
            try:
                for name, module in networks.items():
                    found = _measure(module, case)
                    figures = Figures(tuple(found["times"]), int(found["memory"]))
                    measured: dict[str, Any] = {name: figures}
                    row = dataclasses.replace(row, **measured)
                    task.advance()
            except RunError as error:
                row = dataclasses.replace(row, failed=str(error).splitlines()[-1])
                if not config.scaling:
                    raise
                progress.warn(str(error))
                task.advance()
            finally:
                if row.ours or row.failed:  # what was measured stays, whatever comes next
                    rows.append(row)
                    result = _save(config, rows, speed, environment)
    return result


def _save(
    config: BenchConfig, rows: list[Row], speed: float, environment: dict[str, Any]
) -> BenchResult:
    """Return what was measured so far, and write `config.out`."""
    result = BenchResult(tuple(rows), speed, environment, config.out)
    atomic_json(config.out, {"config": to_plain(config), **to_plain(result)})
    return result


def can_compare(model: ModelConfig, progress: Progress) -> bool:
    """Return whether the naive network is there and has this configuration; warn if not."""
    if not (ROOT / "benchmarks" / "naive.py").is_file():
        progress.warn("no benchmarks/naive.py (not a checkout): measured without a comparison.")
        return False
    known = model.conv in ("edge", "mr") and model.arch in ("plaingcn", "resgcn", "densegcn")
    if not known or model.knn != "dynamic":
        progress.warn("the naive network has dynamic EdgeConv and MRConv only: no comparison.")
        return False
    return True


def scaling_cases(config: BenchConfig) -> list[tuple[str, ModelConfig, int]]:
    """Return the cases of the scaling table: N at the network's depth, depths at its N."""
    cases = [(work, config.model, points) for points in POINTS for work in config.works]
    for depth in DEPTHS:
        model = dataclasses.replace(config.model, depth=depth)
        try:
            model.check_points(config.num_points)
        except ConfigError:  # k·d is too wide for a block: the published deep nets have k 3
            model = dataclasses.replace(model, k=3)
        cases += [(work, model, config.num_points) for work in config.works if work != "knn"]
    return [case for case in cases if case[1].k * max(case[1].dilations()) <= case[2]]


def _flop(work: str, model: ModelConfig, points: int) -> float:
    """Return the operations for one block."""
    if work == "knn":
        return search_flop(model.width, points)
    return (forward_flop if work == "forward" else step_flop)(model, points)


def _features(config: BenchConfig, work: str, points: int, folder: str) -> str | None:
    """Return the file with the network's input, made once for each N; None: noise."""
    if work == "knn" or config.input == "noise":
        return None
    path = Path(folder, f"{points}.npy")
    if not path.exists():
        np.save(path, room_features(config.batch_size, points))
    return str(path)


def _measure(module: str, case: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a process of its own and return what it found."""
    done = subprocess.run(
        python_command(module, json.dumps(case)), capture_output=True, text=True, check=False
    )
    if done.returncode:
        name = "a matrix multiplication"
        if case["work"] != "gemm":
            model, size = case["model"], f"N {case['num_points']}, B {case['batch_size']}"
            name = f"{model['arch']}-{model['depth']} {case['work']}, {size}"
        lines = [line for line in done.stderr.splitlines() if line[:1].strip()]  # not indented
        errors = [f"exit code {done.returncode}", *(line for line in lines if "Error" in line)]
        raise RunError(f"bench: {module} failed on {name}.\n{errors[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
