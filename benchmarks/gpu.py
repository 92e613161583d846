"""Check and time the GPU kernels: correctness, speed, memory, precision, in one run.

    python -m benchmarks.gpu --golden DIR --out results     (a GPU; 10 minutes at most)
    TRITON_INTERPRET=1 python -m benchmarks.gpu --device cpu     (tiny sizes; 5 minutes)

Prints what it finds as it goes, then one Markdown table; writes gpu.json and gpu.md to --out. A
part that fails, or whose time is up, loses its own figures only. "naive" is `benchmarks.naive`, the
published algorithm step by step; "reference" the plain PyTorch kernels.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_checks, knn_figures, matmul_figures
from benchmarks.case import naive_search
from benchmarks.gpu_table import Bench, matmul_precision, ms, shared_neighbors, table
from benchmarks.naive import NaiveDeepGCN
from pipelines import kernels
from pipelines.bench import Case, measure, own_search
from pipelines.config import ModelConfig
from pipelines.kernels import reference
from pipelines.model.deepgcn import DeepGCN


def environment(bench: Bench) -> None:
    """Tell the versions, the GPU and its speed."""
    bench.add("environment", "torch", torch.__version__)
    with contextlib.suppress(ImportError):
        import triton

        bench.add("environment", "triton", triton.__version__)
    reason = kernels.why_not_triton(torch.device(bench.device))
    bench.add("environment", "Triton kernels", reason or "used")
    chosen = kernels.implementation(torch.zeros(1, device=bench.device))
    bench.add("environment", "chosen kernels", chosen)
    if bench.device == "cuda":
        bench.add("environment", "GPU", torch.cuda.get_device_name())
    size = 256 if bench.tiny else 8192
    a = bench.random(size, size)
    for name, precision, dtype in (
        ("float32", "highest", torch.float32),
        ("TF32", "high", torch.float32),
        ("bf16", "highest", torch.bfloat16),
    ):
        b = a.to(dtype)
        with matmul_precision(precision):
            speed = 2 * size**3 / bench.seconds(functools.partial(torch.matmul, b, b))
        bench.add("environment", f"matrix product, {name}", f"{speed / 1e12:.3g} TFLOP/s")
    copied = 2 * a.nbytes / bench.seconds(lambda: a.clone())
    bench.add("environment", "copy", f"{copied / 1e12:.3g} TB/s")


def time_operations(bench: Bench) -> None:
    """Time each operation of a ResGCN-28's layer by itself."""
    batch, points, channels, k = (1, 40, 8, 4) if bench.tiny else (16, 4096, 64, 16)
    x = bench.random(batch, points, channels)
    for dilation in (1, 7, 14, 27):
        ranks = tuple(range(0, min(k * dilation, points), dilation))
        ours = bench.seconds(functools.partial(kernels.knn, x, ranks))
        slow = bench.seconds(functools.partial(reference.knn, x, ranks))
        bench.add("operation", f"knn d {dilation} (second: eager)", ms(ours), ms(slow))
    rows = min(256, points)
    slab = bench.seconds(lambda: torch.bmm(x[:, :rows], x.transpose(1, 2))) * points / rows
    bench.add("operation", "scalar products of knn, cuBLAS float32", ms(slab))
    arrays = gpu_checks.edge_case(bench, torch.float32, (batch, points, channels), k)
    for relu in (False, True):
        flags = {"relu": relu, "moments": True}
        for name, run in (
            ("edge_reduce", lambda m, f: m.edge_reduce(*arrays, **f)),
            ("edge_reduce and gradients", lambda m, f: gpu_checks.edge_gradients(m, arrays, f)),
        ):
            both = [bench.seconds(functools.partial(run, m, flags)) for m in (kernels, reference)]
            bench.add("operation", f"{name}, relu {relu} (second: eager)", *map(ms, both))
    if kernels.why_not_triton(torch.device(bench.device)) is None:
        from pipelines.kernels.reductions.cuda import reverse

        spent = bench.seconds(lambda: reverse(arrays[2]))
        bench.add("operation", "reverse adjacency", ms(spent))


def compare(bench: Bench, config: ModelConfig, work: str, batch: int, points: int) -> None:
    """Time a network's work, and its peak memory, ours and naive."""
    found: list[tuple[float, int]] = []
    repeats = bench.repeats if batch * points < 1 << 17 and points < 1 << 14 else 2
    for network, search in ((DeepGCN, own_search), (NaiveDeepGCN, naive_search)):
        case = Case(config, work, batch, points, bench.device, None, repeats)
        try:
            figures = measure(case, network, search)
            found.append((figures.median, figures.memory))
        except torch.OutOfMemoryError:
            found.append((float("nan"), 0))
        if bench.device == "cuda":
            torch.cuda.empty_cache()
    texts = [
        f"{ms(spent)}, {batch / spent:.1f} blocks/s, {memory / 2**30:.2f} GiB"
        if memory or spent == spent
        else "out of memory"
        for spent, memory in found
    ]
    name = f"{config.arch}-{config.depth} k {config.k} {work}, B {batch}, N {points:,}"
    speed = found[1][0] / found[0][0]
    space = found[1][1] / found[0][1] if found[0][1] else float("nan")
    bench.add("network", name, *texts, f"{speed:.1f}× faster, {space:.1f}× less memory")


def time_networks(bench: Bench) -> None:
    """Time the published networks."""
    if bench.tiny:
        small = ModelConfig.published("resgcn", 3, width=8, k=4, fusion_channels=16)
        for work in ("forward", "step", "knn"):
            compare(bench, small, work, 1, 64)
        return
    res, dense = (ModelConfig.published(arch, 28) for arch in ("resgcn", "densegcn"))
    for config, work, batch in (
        (res, "step", 16),
        (res, "forward", 16),
        (res, "knn", 16),
        (dense, "step", 16),
        (dense, "step", 4),
        (ModelConfig.published("resgcn", 152, k=3), "step", 16),
        (ModelConfig.published("resgcn", 28, layout="torch"), "step", 16),
        (ModelConfig.published("resgcn", 28, conv="mr"), "step", 16),
    ):
        if not bench.late():
            compare(bench, config, work, batch, 4096)


def time_scaling(bench: Bench) -> None:
    """Time a forward pass and a search as blocks grow."""
    config = ModelConfig.published("resgcn", 28)
    sizes: tuple[int, ...] = (1024, 4096, 16384, 65536)
    if bench.tiny:
        config = ModelConfig.published("resgcn", 3, width=8, k=4, fusion_channels=16)
        sizes = (32, 64)
    for points in sizes:
        for work in ("forward", "knn"):
            if not bench.late():
                compare(bench, config, work, 1, points)


def time_cuda_graphs(bench: Bench) -> None:
    """Time steps and forward passes, captured and not, with the memory that PyTorch reserves."""
    config = ModelConfig.published("resgcn", 28)
    cases = [(work, *shape) for shape in ((16, 4096), (4, 1024)) for work in ("step", "forward")]
    if bench.tiny:
        config = ModelConfig.published("resgcn", 3, width=8, k=4, fusion_channels=16)
        cases = [("step", 1, 64), ("forward", 1, 64)]
    for work, batch, points in cases:
        texts = []
        for captured in (False, True):
            size = work, batch, points
            case = Case(config, *size, bench.device, None, bench.repeats, captured=captured)
            if bench.device == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            spent = measure(case, DeepGCN, own_search).median
            reserved = torch.cuda.max_memory_reserved() if bench.device == "cuda" else 0
            name = "captured" if captured else "launched"
            texts.append(f"{name} {ms(spent)}, {reserved / 2**30:.2f} GiB")
        bench.add("CUDA graphs", f"resgcn-{config.depth} {work}, B {batch}, N {points:,}", *texts)


def profile(bench: Bench) -> None:
    """Tell where a ResGCN-28's training step spends the GPU's time."""
    config = ModelConfig.published("resgcn", 3 if bench.tiny else 28)
    batch, points = (1, 64) if bench.tiny else (16, 4096)
    model = DeepGCN(config).to(bench.device).train()
    features = bench.random(batch, points, config.in_channels)

    def step() -> None:
        model(features).square().mean().backward()

    step()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device == "cuda":
        activities = [torch.profiler.ProfilerActivity.CUDA]
    bench.wait()
    with torch.profiler.profile(activities=activities) as found:
        step()
        bench.wait()
    events = found.key_averages()
    spent = {
        e.key: (e.self_device_time_total if bench.device == "cuda" else e.self_cpu_time_total)
        for e in events
    }
    counts = {e.key: e.count for e in events}
    for name in sorted(spent, key=lambda key: -spent[key])[:20]:
        bench.add("profile", name[:90], f"{spent[name] / 1e3:.2f} ms in {counts[name]} calls")
    bench.add("profile", "all", f"{sum(spent.values()) / 1e3:.2f} ms")


@contextlib.contextmanager
def watched(answers: list[Tensor], replay: bool = False) -> Iterator[list[Tensor]]:
    """Keep what every `kernels.knn` finds, or let it find `answers` instead."""
    search = kernels.knn
    kept: list[Tensor] = []

    def knn(x: Tensor, ranks: Any, bound: int | None = None) -> Tensor:
        kept.append(search(x, ranks, bound))
        return answers[len(kept) - 1] if replay else kept[-1]

    kernels.knn = knn
    try:
        yield kept
    finally:
        kernels.knn = search


def precision(bench: Bench) -> None:
    """Measure what TF32 and bf16 do to neighbours and logits of a ResGCN-28 (random weights)."""
    config = ModelConfig.published("resgcn", 3 if bench.tiny else 28)
    batch, points = (1, 100) if bench.tiny else (4, 4096)
    torch.manual_seed(0)
    model = DeepGCN(config).to(bench.device)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            module.momentum = 1.0  # one pass gives running statistics that fit
    features = bench.random(batch, points, config.in_channels).sigmoid()
    with torch.no_grad():
        model.train()(features)
        model.eval()
        with watched([]) as expected:
            wanted = model(features)
        for name, forced, matmul, half in (
            ("float32 again", None, "highest", False),
            ("float32, reference kernels", "reference", "highest", False),
            ("TF32, k-NN in float32", None, "high", False),
            ("TF32 everywhere", "reference", "high", False),
            ("bf16 autocast, k-NN in float32", None, "highest", True),
            ("bf16 autocast everywhere", "reference", "highest", True),
        ):
            for replay in (False, True):
                cast = torch.autocast(bench.device, dtype=torch.bfloat16, enabled=half)
                record = watched(expected, replay)
                with kernels.use(forced), matmul_precision(matmul), cast, record as found:
                    logits = model(features).float()
                pairs = zip(found, expected, strict=True)
                shares = [shared_neighbors(a, b) for a, b in pairs]
                off = float((logits - wanted).abs().mean() / wanted.std())
                same = float((logits.argmax(-1) == wanted.argmax(-1)).float().mean())
                bench.add(
                    "precision",
                    name + (", given the float32 graph" if replay else ""),
                    f"equal neighbours {statistics.mean(shares):.4f} (layer 2 {shares[1]:.4f}, "
                    f"last {shares[-1]:.4f}); logits off {off:.1e} σ; equal labels {same:.4f}",
                )


PARTS: dict[str, tuple[Callable[[Bench], None], int]] = {  # with seconds; most wanted first
    "environment": (environment, 20),
    "knn": (gpu_checks.check_knn, 40),
    "edges": (gpu_checks.check_edges, 40),
    "points": (gpu_checks.check_points, 20),
    "golden": (gpu_checks.check_golden, 30),
    "networks": (time_networks, 150),
    "cuda-graphs": (time_cuda_graphs, 60),
    "knn-speed": (knn_figures.figures, 60),
    "matmul": (matmul_figures.figures, 40),
    "operations": (time_operations, 40),
    "profile": (profile, 30),
    "precision": (precision, 60),
    "scaling": (time_scaling, 90),
}


def use_small_constants() -> None:
    """Let Triton's interpreter search among few points as a GPU does among many."""
    from pipelines.kernels.knn_search import cuda as search

    small = {"SAMPLE": 16, "SAMPLE_ROWS": 64, "TILE": (64, 32), "SHORTEST": 16, "COUNTED": 5}
    for name, value in {**small, "UNCOUNTED_ROOM": 32, "SORTED_AT_ONCE": 1024}.items():
        setattr(search, name, value)


def main() -> int:
    """Run the parts one after another; return how many failed."""
    parser = argparse.ArgumentParser(description="Check and time the GPU kernels.")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--golden", type=Path, help="a folder of golden tensors")
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", ".")))
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=540, help="start no part after this")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    bench = Bench(options.device, options.golden, options.repeats)
    if bench.tiny and not kernels.why_not_triton(torch.device("cpu")):
        use_small_constants()
    options.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    failed = 0
    for name in options.parts.split(","):
        began = time.monotonic()
        if began - start > options.seconds:
            bench.add(name, "not run", "no time left")
            continue
        run, allowed = PARTS[name]
        bench.deadline = min(began + allowed, start + options.seconds)
        try:
            with kernels.use("cuda"):  # in Triton's interpreter where there is no GPU
                run(bench)
        except Exception as error:  # the other parts' figures are worth having
            failed += 1
            traceback.print_exc()
            bench.add(name, "failed", f"{type(error).__name__}: {str(error).splitlines()[:1]}")
        bench.add("time", name, f"{time.monotonic() - began:.1f} s")
        (options.out / "gpu.json").write_text(json.dumps([asdict(r) for r in bench.rows], indent=1))
        (options.out / "gpu.md").write_text(table(bench.rows))
    print("\n" + table(bench.rows))
    return failed


if __name__ == "__main__":
    sys.exit(main())
