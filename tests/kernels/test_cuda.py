"""The Triton kernels without a GPU: their tests in processes that interpret Triton.

TRITON_INTERPRET has to be set before Triton is imported, and would change every later use of it, so
without a GPU those tests skip where pytest collects them, and run in processes of their own.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipelines import kernels
from pipelines.kernels import reference

HERE = Path(__file__).parent


# Two processes, as each takes seconds to start; about as long as one another.
@pytest.mark.slow
@pytest.mark.parametrize(
    "modules",
    [
        ("knn_search/test_cuda",),
        ("reductions/test_cuda", "test_split_matmul", "test_activation"),
    ],
    ids=" ".join,
)
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_pass_in_the_interpreter(modules: tuple[str, ...]) -> None:
    files = [HERE / f"{module}.py" for module in modules]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *files],
        env={**os.environ, "TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " skipped" not in done.stdout


def test_without_a_gpu_the_reason_is_reported_and_eager_does_the_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    reason = kernels.why_not_triton(torch.device("cpu"))
    assert reason is not None
    assert "Triton" in reason
    assert "\n" not in reason
    x = torch.randn(2, 40, 3, generator=torch.Generator().manual_seed(0))
    with kernels.use("cuda"):
        assert kernels.implementation(x) == "reference"
        index = kernels.knn(x, (0, 2, 5))
    assert torch.equal(index, reference.knn(x, (0, 2, 5)))
