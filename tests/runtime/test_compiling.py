"""Loops compiled in a second process."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from pipelines.config import ModelConfig
from pipelines.kernels import threads
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime import compiling
from pipelines.runtime.device import cpu_threads

LOOPS = """
from pipelines.kernels.threads import parallel

@parallel
def first(values, task):
    values[task] += 1

@parallel
def second(values, pair, task):
    values[task] += pair[0] * pair[1]
"""


@pytest.fixture
def loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Two loops that nobody has compiled."""
    (tmp_path / "two_loops.py").write_text(LOOPS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(threads.settings, "CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delitem(sys.modules, "two_loops", raising=False)
    return importlib.import_module("two_loops")


def work(loops: ModuleType) -> np.ndarray:
    values = np.ones(3, np.float32)
    threads.run(loops.first, (values,), 3)
    threads.run(loops.second, (values, (2.0, 3.0)), 3)
    return values


def test_a_dry_run_compiles_and_runs_nothing(loops: ModuleType) -> None:
    results = []
    found = threads.dry_run(lambda: results.append(work(loops)))
    assert list(found) == [loops.second, loops.first]
    assert results[0].tolist() == [0, 0, 0]
    assert not loops.first.signatures
    assert not threads.is_cached(loops.first)
    assert work(loops).tolist() == [8, 8, 8]
    assert loops.second.signatures == [found[loops.second]]
    assert threads.is_cached(loops.first)


def test_the_other_process_compiles_and_this_one_waits(
    loops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "_small_pass", lambda *_: work(loops))
    with cpu_threads(2):
        compiling.compile_beside(ModelConfig(), torch.device("cpu"))
    wait = threads.before_first_run.pop(loops.second)
    compiler = wait.__self__  # type: ignore[attr-defined]
    compiler.thread.join(60)
    wait(loops.second)
    assert threads.is_cached(loops.second)
    assert work(loops).tolist() == [8, 8, 8]
    for loop in (loops.first, loops.second):
        assert sum(loop.stats.cache_hits.values()) == 1
    assert loops.first not in threads.before_first_run


def test_a_process_that_fails_is_not_waited_for(
    loops: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "python_command", lambda *_: ("false",))
    compiler = compiling._Compiler({loops.first: (), loops.second: ()})
    compiler.wait(loops.first)
    assert work(loops).tolist() == [8, 8, 8]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        ModelConfig(depth=5, width=16, k=4),
        ModelConfig(arch="densegcn", depth=4, width=8, k=4, conv="mr"),
        ModelConfig(arch="plaingcn", depth=3, width=8, k=4, conv="sage"),
        ModelConfig(depth=4, width=12, k=300, conv="gin", layout="torch"),
        ModelConfig(arch="dgcnn", depth=3, k=20),
    ],
    ids=lambda config: f"{config.arch}-{config.conv}",
)
def test_a_small_pass_calls_what_the_network_calls(config: ModelConfig, training: bool) -> None:
    def real() -> None:
        logits = DeepGCN(config).train(training)(torch.rand(2, 1500, 9))
        if training:
            logits.square().mean().backward()

    small = threads.dry_run(lambda: compiling._small_pass(config, training))
    assert small == threads.dry_run(real)
    assert len(small) >= 5
