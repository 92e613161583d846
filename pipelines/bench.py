"""The bench stage: time and memory of the network here, against the released algorithm.

Every figure is measured in its own process, so that none depends on the memory, caches and threads
of another:

    python -m pipelines.bench '{"model": {"depth": 7}, "work": "forward", …}'

prints one line of JSON. `benchmarks.case` of a checkout does the same for the naive network.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines import kernels
from pipelines.config import BenchConfig, ModelConfig
from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_json, check_place
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.figures import forward_flop, search_flop, step_flop
from pipelines.progress import SILENT, Progress
from pipelines.runtime import memory
from pipelines.runtime.cuda_graphs import GraphedModel, graphed_evaluation
from pipelines.runtime.device import cpu_threads, describe_environment, pick_device
from pipelines.runtime.precision import Precision
from pipelines.runtime.process import ROOT, end_with_parent, python_command
from pipelines.serialization import from_plain, to_plain

OURS, NAIVE = "pipelines.bench", "benchmarks.case"
GEMM = 2048  # rows of the square matrices whose multiplication measures the machine's speed
POINTS = tuple(1024 * 2**n for n in range(7))  # of the scaling table, to 65,536
DEPTHS = (7, 14, 28, 56, 112, 152)
UNTIL_CAPTURED = 3  # runs: a warm-up, the capture of CUDA graphs, and the first replay
Network = Callable[[ModelConfig], nn.Module]
Search = Callable[[Tensor, ModelConfig], Any]


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
    precision: str = "32"  # of a step's matrix multiplications, one of config.PRECISIONS


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
    with (
        progress.task("Measuring", total=len(cases) * len(networks) + 1, unit="cases") as task,
        tempfile.TemporaryDirectory(prefix="deepgcn-bench-") as folder,
    ):
        speed = 2 * GEMM**3 / min(measure_case(OURS, gemm).times)
        task.advance()
        with cpu_threads(config.threads):  # as in the measuring processes
            environment = describe_environment(device)
        result = BenchResult((), speed, environment, config.out)
        settings = {"config": to_plain(config)}
        atomic_json(config.out, settings | to_plain(result))
        for each in cases:
            case = replace(each, features=_features(config, each, folder))
            flop = config.batch_size * _flop(case)
            row = Row(case.work, case.model.depth, case.model.k, case.num_points, flop=flop)
            try:
                for name, module in networks.items():
                    measured: dict[str, Any] = {name: measure_case(module, case)}
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
                    result = replace(result, rows=(*result.rows, row))
                    atomic_json(config.out, settings | to_plain(result))
    return result


def can_compare(model: ModelConfig, progress: Progress) -> bool:
    """Return whether there is a naive network of this configuration; warn if not."""
    if not (ROOT / "benchmarks" / "naive.py").is_file():
        progress.warn("no benchmarks/naive.py (not a checkout): measured without a comparison.")
        return False
    known = model.conv in ("edge", "mr") and model.arch in ("plaingcn", "resgcn", "densegcn")
    if not known or model.sharing:
        progress.warn("the naive network has dynamic EdgeConv and MRConv only: no comparison.")
        return False
    return True


def scaling_cases(works: list[Case]) -> list[Case]:
    """Return the cases of the scaling table: N at the network's depth, depths at its N."""
    cases = [replace(case, num_points=points) for points in POINTS for case in works]
    for depth in DEPTHS:
        for case in works:
            model = case.model.of_depth(depth)
            try:
                model.check_points(case.num_points)
            except ConfigError:  # k·d is too wide for a block: the published deep nets have k 3
                model = replace(model, k=3)
            cases += [replace(case, model=model)] if case.work != "knn" else []
    return [case for case in cases if case.model.widest <= case.num_points]


def _flop(case: Case) -> float:
    """Return the operations for one block."""
    if case.work == "knn":
        return search_flop(case.model.width, case.num_points)
    return (forward_flop if case.work == "forward" else step_flop)(case.model, case.num_points)


def _features(config: BenchConfig, case: Case, folder: str) -> str | None:
    """Return the file with the network's input, made once for each N; None: noise."""
    # Not in the measuring processes: Numba, which it needs, would be in use before they measure.
    from pipelines.data.synthetic import room_features

    if case.work == "knn" or config.input == "noise":
        return None
    path = Path(folder, f"{case.num_points}.npy")
    if not path.exists():
        np.save(path, room_features(case.batch_size, case.num_points))
    return str(path)


def measure_case(module: str, case: Case, seconds: float | None = None) -> Figures:
    """Run one measurement in its own process, for at most `seconds`, and return its figures."""
    command = python_command(module, json.dumps(to_plain(case)))
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode:
        name = f"{case.model.arch}-{case.model.depth} {case.work}, N {case.num_points}"
        name = f"{name}, B {case.batch_size}" if case.work != "gemm" else "a matrix multiplication"
        lines = [line for line in done.stderr.splitlines() if line[:1].strip()]  # not indented
        errors = [f"exit code {done.returncode}", *(line for line in lines if "Error" in line)]
        raise RunError(f"bench: {module} failed on {name}.\n{errors[-1]}")
    figures: Figures = from_plain(Figures, json.loads(done.stdout.splitlines()[-1]))
    return figures


def measure(case: Case, network: Network, search: Search) -> Figures:
    """Return the times, and how far the memory in use rose at its peak."""
    torch.manual_seed(0)
    run = work_of(case, network, search)
    before = memory.memory_in_use(case.device)
    for _ in range(UNTIL_CAPTURED if case.device == "cuda" and case.captured else 1):
        _time(run, case.device)  # compiles, allocates
    times = [_time(run, case.device) for _ in range(case.repeats)]
    return Figures(tuple(times), memory.peak_memory(case.device) - before)


def work_of(case: Case, network: Network, search: Search) -> Callable[[], Any]:
    """Return the work as a function without arguments; its inputs are made beforehand."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.batch_size, case.num_points)
    if case.work == "gemm":
        matrix = torch.rand(GEMM, GEMM, generator=generator).to(case.device)
        return lambda: matrix @ matrix
    if case.work == "knn":
        x = torch.randn(*shape, case.model.width, generator=generator).to(case.device)
        return lambda: search(x, case.model)
    noise = torch.rand(*shape, case.model.in_channels, generator=generator)
    features = torch.from_numpy(np.load(case.features)) if case.features else noise
    features, model = features.to(case.device), network(case.model).to(case.device)
    own = model if case.captured and isinstance(model, DeepGCN) else None
    if case.work == "forward":
        graphed = graphed_evaluation(own) if own else None
        return lambda: evaluate(model, features, graphed)
    label = torch.randint(0, case.model.num_classes, shape, generator=generator).to(case.device)
    if isinstance(model, DeepGCN):
        model.checkpoint_layers = case.checkpoint_layers
    optimizer = torch.optim.Adam(model.train().parameters(), lr=1e-3, fused=True)
    forward = GraphedModel(own, training=True) if own else model
    precision = Precision(case.precision, torch.device(case.device))

    def step() -> None:
        model.zero_grad()
        with precision.matmuls():
            logits = forward(features)
        precision.backward(F.cross_entropy(logits.flatten(0, 1), label.flatten()))
        precision.step(optimizer)

    return step


def evaluate(
    model: nn.Module, features: Tensor, forward: Callable[[Tensor], Tensor] | None = None
) -> Tensor:
    """Return the logits in evaluation, after the norms have learnt their statistics once.

    With the norms' initial statistics the features of a deep residual network would grow by a
    factor in each layer, beyond the range of float32; after training they do not.
    """
    if model.training:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            model(features)
        model.eval()
    with torch.inference_mode():
        logits: Tensor = (forward or model)(features)
    return logits


def _time(run: Callable[[], Any], device: str) -> float:
    gc.collect()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def own_search(x: Tensor, config: ModelConfig) -> Tensor:
    """Find the middle layer's neighbours with this package's k-NN."""
    dilation = config.dilations()[config.depth // 2]
    return kernels.knn(x, tuple(range(0, config.k * dilation, dilation)))


def main(network: Network, search: Search) -> None:
    """Measure the case that the first argument describes, and print the figures."""
    case: Case = from_plain(Case, json.loads(sys.argv[1]))
    if case.threads:
        torch.set_num_threads(case.threads)
    if case.checkpoint_layers:
        memory.return_freed_memory(memory.CHECKPOINTED_ARRAY)  # as the train stage does
    sys.stdout.write(json.dumps(to_plain(measure(case, network, search))) + "\n")


if __name__ == "__main__":
    end_with_parent()
    memory.keep_freed_memory()  # as `pick_device` does for the stages
    main(DeepGCN, own_search)
