"""Is what the GPU kernels compute right: parts of gpu.py.

Against full sorts, `reference` on the same GPU and golden tensors; a figure for each case.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_table import Bench, shared_neighbors
from pipelines import kernels
from pipelines.kernels import reference
from pipelines.weights.published import from_reference

GOLDEN_ARCHS = {"res": "resgcn", "dense": "densegcn", "plain": "plaingcn"}


def check_knn(bench: Bench) -> None:
    """Compare neighbours with those of a full sort, where distances are exact and where not."""
    points = 60 if bench.tiny else 4096
    cases = {
        "k 16": range(16),
        "k 16, d 27": range(0, 432, 27),
        "drawn": sorted(np.random.default_rng(0).permutation(432)[:16].tolist()),
        "k·d = N": range(0, 4096, 256),
        "all ranks up to 3,000": range(0, 3000, 100),
    }
    for name, wanted in cases.items():
        ranks = tuple(rank for rank in wanted if rank < points)
        half = (2 * bench.random(2, points // 2, 64)).round()
        whole = torch.cat([half, -half], dim=1)
        x = bench.random(2, points, 64)
        exact = shared_neighbors(kernels.knn(whole, ranks), reference.knn(whole, ranks))
        near = shared_neighbors(kernels.knn(x, ranks), reference.knn(x, ranks))
        bench.add(
            "k-NN check", f"{name}: exact distances, rounded ones", f"{exact:.6f}, {near:.6f}"
        )
    for points, channels in ((100, 3),) if bench.tiny else ((1000, 3), (9000, 3), (20000, 9)):
        x = (50 * bench.random(1, points, channels)).round()
        x = torch.cat([x, -x], dim=1)  # a mean of exactly zero
        ranks = tuple(range(0, 80, 5))
        same = shared_neighbors(kernels.knn(x, ranks), reference.knn(x, ranks))
        bench.add("k-NN check", f"N {2 * points:,}, C {channels}, whole numbers", f"{same:.6f}")
    x = torch.ones(2, points, 3, device=bench.device)
    same = shared_neighbors(kernels.knn(x, (0, 3, 50)), reference.knn(x, (0, 3, 50)))
    bench.add("k-NN check", f"N {points:,}, all points equal", f"{same:.6f}")


def edge_case(bench: Bench, dtype: torch.dtype, shape: tuple[int, int, int], k: int) -> Any:
    """Return u, v (B, N, C), index (B, N, k) and sign (C,)."""
    batch, points, channels = shape
    generator = torch.Generator().manual_seed(1)
    index = torch.randint(0, points, (batch, points, k), generator=generator, dtype=torch.int32)
    u, v = (bench.random(*shape, dtype=dtype, seed=seed) for seed in (1, 2))
    return u, v, index.to(bench.device), bench.random(channels, dtype=dtype)


def edge_gradients(module: Any, arrays: Any, flags: dict[str, bool]) -> list[Tensor]:
    """Return values and gradients of `edge_reduce`."""
    u, v = (x.clone().requires_grad_() for x in arrays[:2])
    values = [x for x in module.edge_reduce(u, v, *arrays[2:], **flags) if x is not None]
    loss = values[0].double().sin().sum()
    for x in values[1:]:
        loss = loss + x.sum() / 8
    loss.backward()
    return [x.detach() for x in (*values, u.grad, v.grad)]


def check_edges(bench: Bench) -> None:
    """Compare edge operations and their gradients with eager, on the same device."""
    shape = (2, 24, 6) if bench.tiny else (2, 1000, 70)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for flags in ({"relu": a, "moments": b} for a in (False, True) for b in (False, True)):
            arrays = edge_case(bench, dtype, shape, 9)
            found = edge_gradients(kernels, arrays, flags)
            again = edge_gradients(kernels, arrays, flags)
            expected = edge_gradients(reference, arrays, flags)
            worst = max(
                float((a.double() - b.double()).abs().max() / b.double().abs().max())
                for a, b in zip(found, expected, strict=True)
            )
            bits = all(torch.equal(a, b) for a, b in zip(found, again, strict=True))
            name = (
                f"{str(dtype)[6:]}, {' '.join(key for key, on in flags.items() if on) or 'plain'}"
            )
            bench.add("edge check", name, f"difference {worst:.1e}, same bits {bits}")
    u, v, index, sign = edge_case(bench, torch.float64, (1, 6, 3), 4)
    inputs = u.requires_grad_(), v.requires_grad_()

    def reduced(a: Tensor, b: Tensor) -> Any:
        return kernels.edge_reduce(a, b, index, sign, relu=True, moments=True)

    ok = torch.autograd.gradcheck(reduced, inputs)
    bench.add("edge check", "gradcheck", str(ok))


def check_points(bench: Bench) -> None:
    """Compare the reduction over points and its gradient with eager, on the same device."""
    shape = (2, 24, 6) if bench.tiny else (4, 4096, 1024)
    x, sign = bench.random(*shape, dtype=torch.float64), bench.random(shape[-1])
    for relu in (False, True):
        results = []
        for module in (kernels, reference):
            own = x.clone().requires_grad_()
            found = module.point_reduce(own, sign, relu=relu, moments=True)
            (found[0].sin().sum() + (found[1] + found[2]).sum() / 8).backward()
            assert own.grad is not None
            results.append([each.detach() for each in (*found, own.grad)])
        worst = max(
            float((a - b).abs().max() / b.abs().max()) for a, b in zip(*results, strict=True)
        )
        bench.add("point check", f"float64, relu {relu}", f"difference {worst:.1e}")


def check_golden(bench: Bench) -> None:
    """Compare networks with golden tensors, in float64 and float32."""
    files = sorted(bench.golden.glob("*.npz")) if bench.golden else []
    for path in files:
        tensors = dict(np.load(path))
        config = json.loads(str(tensors["config"]))
        state = {k[6:]: torch.from_numpy(x) for k, x in tensors.items() if k.startswith("state/")}
        for dtype in (torch.float64, torch.float32):
            model = from_reference(
                state,
                k=config["k"],
                conv=config["conv"],
                layout="paper" if config["norm_order"] == "conv-norm-act" else "torch",
                epsilon=config["epsilon"],
                dropout=config["dropout"],
                arch=GOLDEN_ARCHS[config["block"]],
            ).to(bench.device, dtype)
            x = torch.from_numpy(tensors["input"]).to(bench.device, dtype).transpose(1, 2)
            worst = {}
            for kind in ("eval", "train"):
                with torch.no_grad():
                    logits = model.train(kind == "train")(x).transpose(1, 2).cpu().double()
                wanted = torch.from_numpy(tensors[f"{kind}_logits"])
                worst[kind] = float((logits - wanted).abs().max() / wanted.abs().max())
            text = ", ".join(f"{kind} {value:.1e}" for kind, value in worst.items())
            bench.add("golden", f"{path.stem}, {str(dtype)[6:]}", text)
