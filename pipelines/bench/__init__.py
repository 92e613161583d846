"""The bench stage: how fast and how lean the network is here, against the released algorithm.

Every figure is measured in a process of its own (`bench.timing`), the naive network in the same
run (`benchmarks/naive.py` of a checkout; without one only our own figures are taken).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from dataclasses import dataclass, replace
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
from pipelines.serialization import from_plain, to_plain

OURS, NAIVE = "pipelines.bench.timing", "benchmarks.case"
GEMM = 2048  # rows of the square matrices whose multiplication measures the machine's speed
POINTS = tuple(1024 * 2**n for n in range(7))  # of the scaling table, to 65,536
DEPTHS = (7, 14, 28, 56, 112, 152)


@dataclass(frozen=True)
class Case:
    """What is measured, on which device, how often.

    The work is forward (evaluation), step (forward, backward, Adam), knn (the middle layer's) or
    gemm (a large float32 matrix multiplication).
    """

    model: ModelConfig
    work: str
    batch_size: int  # B
    num_points: int  # N
    device: str  # cpu or cuda
    threads: int | None  # of the CPU; None: PyTorch's own choice
    repeats: int  # timed runs, after those that warm up
    checkpoint_layers: int = 0  # that the backward pass of a step recomputes at once; 0: none
    # A .npy file with the network's input (B, N, C); None: uniform noise. The search alone is
    # always among normally distributed points.
    features: str | None = None
    captured: bool = True  # replay CUDA graphs on a GPU, as training and evaluation do


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
    gemm = Case(
        *(config.model, "gemm", config.batch_size, config.num_points, device.type),
        *(config.threads, 5, config.checkpoint_layers),
    )
    cases = [replace(gemm, work=work, repeats=config.repeats) for work in config.works]
    cases = scaling_cases(cases) if config.scaling else cases
    rows: list[Row] = []
    with (
        progress.task("Measuring", total=len(cases) * len(networks) + 1, unit="cases") as task,
        tempfile.TemporaryDirectory(prefix="deepgcn-bench-") as folder,
    ):
        speed = 2 * GEMM**3 / min(_measure(OURS, gemm).times)
        task.advance()
        with cpu_threads(config.threads):  # as in the measuring processes
            environment = describe_environment(device)
        result = _save(config, rows, speed, environment)
        for each in cases:
            case = replace(each, features=_features(config, each, folder))
            flop = config.batch_size * _flop(case)
            row = Row(case.work, case.model.depth, case.model.k, case.num_points, flop=flop)
            try:
                for name, module in networks.items():
                    measured: dict[str, Any] = {name: _measure(module, case)}
                    row = replace(row, **measured)
                    task.advance()
            except RunError as error:
                row = replace(row, failed=str(error).splitlines()[-1])
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


def scaling_cases(works: list[Case]) -> list[Case]:
    """Return the cases of the scaling table: N at the network's depth, depths at its N."""
    cases = [replace(case, num_points=points) for points in POINTS for case in works]
    for depth in DEPTHS:
        for case in works:
            model = replace(case.model, depth=depth)
            try:
                model.check_points(case.num_points)
            except ConfigError:  # k·d is too wide for a block: the published deep nets have k 3
                model = replace(model, k=3)
            cases += [replace(case, model=model)] if case.work != "knn" else []
    return [case for case in cases if case.model.k * max(case.model.dilations()) <= case.num_points]


def _flop(case: Case) -> float:
    """Return the operations for one block."""
    if case.work == "knn":
        return search_flop(case.model.width, case.num_points)
    return (forward_flop if case.work == "forward" else step_flop)(case.model, case.num_points)


def _features(config: BenchConfig, case: Case, folder: str) -> str | None:
    """Return the file with the network's input, made once for each N; None: noise."""
    if case.work == "knn" or config.input == "noise":
        return None
    path = Path(folder, f"{case.num_points}.npy")
    if not path.exists():
        np.save(path, room_features(case.batch_size, case.num_points))
    return str(path)


def _measure(module: str, case: Case) -> Figures:
    """Run one measurement in a process of its own and return what it found."""
    command = python_command(module, json.dumps(to_plain(case)))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        name = f"{case.model.arch}-{case.model.depth} {case.work}, N {case.num_points}"
        name = f"{name}, B {case.batch_size}" if case.work != "gemm" else "a matrix multiplication"
        lines = [line for line in done.stderr.splitlines() if line[:1].strip()]  # not indented
        errors = [f"exit code {done.returncode}", *(line for line in lines if "Error" in line)]
        raise RunError(f"bench: {module} failed on {name}.\n{errors[-1]}")
    figures: Figures = from_plain(Figures, json.loads(done.stdout.splitlines()[-1]))
    return figures
