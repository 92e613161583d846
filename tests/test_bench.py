"""The bench stage: figures are taken, flop are right, and the naive network is the same one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.naive import check
from pipelines.bench import Case, Figures, bench, evaluate, measure_case, scaling_cases, work_of
from pipelines.config import BenchConfig, ModelConfig
from pipelines.data.synthetic import room_features
from pipelines.errors import ConfigError, RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.figures import forward_flop, search_flop, step_flop
from tests.ears import Ears

SMALL = ModelConfig(depth=2, width=8, k=4, fusion_channels=32)
ONE_SECOND = Figures((1.0,), 1)


@pytest.mark.parametrize("arch", ["plaingcn", "resgcn", "densegcn"])
@pytest.mark.parametrize("conv", ["edge", "mr"])
def test_the_naive_network_is_the_same_function(arch: str, conv: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig.published(arch, 3, conv=conv, k=5, width=16, layout="torch")
    assert check(config, points=64) < 1e-10


def test_the_forward_pass_is_measured_as_after_training() -> None:
    """A deep residual network whose norms have learnt nothing leaves the range of its training."""
    torch.manual_seed(0)
    config = ModelConfig(depth=60, width=8, k=3, fusion_channels=32, dilation=False)
    model, features = DeepGCN(config), torch.from_numpy(room_features(1, 128))
    with torch.no_grad():
        fresh = model.eval().backbone(features)[-1].abs().max()
    logits = evaluate(model.train(), features)
    assert not model.training
    with torch.no_grad():
        assert model.backbone(features)[-1].abs().max() < fresh / 1000
    assert torch.equal(evaluate(model, features), logits)


def test_a_step_is_computed_as_asked() -> None:
    """In 16 bits its matrix multiplications alone."""
    seen: list[bool] = []

    def network(config: ModelConfig) -> DeepGCN:
        model = DeepGCN(config)
        model.register_forward_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
        return model

    for precision in ("32", "bf16"):
        case = Case(SMALL, "step", 2, 64, "cpu", 1, 1, captured=False, precision=precision)
        work_of(case, network, lambda *_: None)()
    assert seen == [False, True]


@pytest.mark.slow
def test_figures_of_every_work_beside_the_naive_network(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    config = BenchConfig(
        model=SMALL, num_points=128, batch_size=2, repeats=3, device="cpu", threads=1, out=out
    )
    result = bench(config)
    assert [row.work for row in result.rows] == ["forward", "step", "knn"]
    for row in result.rows:
        assert row.ours is not None
        assert row.naive is not None
        for figures in (row.ours, row.naive):
            assert len(figures.times) == 3
            assert min(figures.times) > 0
            assert min(figures.times) <= figures.median <= max(figures.times)
    assert [row.flop for row in result.rows] == [
        2 * forward_flop(SMALL, 128),
        2 * step_flop(SMALL, 128),
        2 * search_flop(8, 128),
    ]
    assert 1e8 < result.gemm_speed < 1e15
    saved = json.loads(out.read_text())
    assert saved["rows"][1]["ours"]["times"] == list(result.rows[1].ours.times)
    assert saved["config"]["model"]["depth"] == 2


@pytest.mark.slow
def test_recomputed_layers_take_less_memory(tmp_path: Path) -> None:
    deep = ModelConfig(depth=32, width=32, k=4, fusion_channels=32)
    memory = []
    for length in (0, 6):
        config = BenchConfig(
            **{"model": deep, "works": ("step",), "num_points": 2048, "batch_size": 2},
            **{"repeats": 1, "device": "cpu", "threads": 1, "naive": False},
            checkpoint_layers=length,
            out=tmp_path / "bench.json",
        )
        (row,) = bench(config).rows
        assert row.ours is not None
        memory.append(row.ours.memory)
    # Without, each layer keeps at least its input and its extremes: 32 values each.
    layers = 32 * 4096 * 4 * 32 * 2
    assert memory[0] - memory[1] > layers


def test_the_input_is_like_a_scan() -> None:
    """Points of walls and floor: other than in noise, most of their spread is in few directions."""
    features = room_features(3, 2000)
    assert features.shape == (3, 2000, 9)
    assert np.array_equal(features, room_features(3, 2000))
    for block in features:
        assert len(np.unique(block, axis=0)) == 2000
        assert np.abs(block[:, :2]).max() <= 0.501
        assert 0 <= block[:, 3:].min() <= block[:, 3:].max() <= 1
        heights = np.histogram(block[:, 2], bins=20)[0]
        # The floor or ceiling, in fuller rooms too; of 2,000 points of noise at most 1.43 times.
        assert heights.max() > 1.7 * np.median(heights)
    assert not np.array_equal(features[0], features[1])


def test_the_input_is_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []

    def measured(_module: str, case: Case) -> Figures:
        path = case.features
        seen.append((case.work, path is not None and np.load(path).shape == (2, 128, 9)))
        return ONE_SECOND

    monkeypatch.setattr("pipelines.bench.measure_case", measured)
    for name in ("scan", "noise"):
        out = tmp_path / f"{name}.json"
        bench(BenchConfig(model=SMALL, num_points=128, batch_size=2, input=name, out=out))
        assert json.loads(out.read_text())["config"]["input"] == name
    scan, noise = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert dict(scan) == {"gemm": False, "forward": True, "step": True, "knn": False}
    assert not any(found for _, found in noise)
    with pytest.raises(ConfigError, match="--input: found the unknown input 'room'"):
        BenchConfig(input="room")


def test_what_was_measured_stays_when_a_later_case_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(module: str, case: Case) -> Figures:
        if case.work == "step" and module == "benchmarks.case":
            raise RunError("bench: benchmarks.case failed.\nMemoryError")
        if case.work == "knn":
            raise KeyboardInterrupt
        return ONE_SECOND

    monkeypatch.setattr("pipelines.bench.measure_case", measured)
    out, small = tmp_path / "bench.json", {"model": SMALL, "num_points": 128, "device": "cpu"}
    with pytest.raises(RunError, match="MemoryError"):
        bench(BenchConfig(**small, works=("forward", "step"), threads=1, out=out))
    saved = json.loads(out.read_text())
    assert [row["work"] for row in saved["rows"]] == ["forward", "step"]
    assert saved["rows"][1]["ours"]["times"] == [1.0]
    assert saved["rows"][1]["failed"] == "MemoryError"
    assert saved["environment"]["threads"] == 1
    with pytest.raises(KeyboardInterrupt):
        bench(BenchConfig(**small, works=("step", "knn"), naive=False, threads=3, out=out))
    saved = json.loads(out.read_text())
    assert [row["work"] for row in saved["rows"]] == ["step"]
    assert saved["environment"]["threads"] == 3


def test_a_scaling_table_says_what_failed_and_which_k(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(_module: str, case: Case) -> Figures:
        if case.num_points == 65_536:
            raise RunError("bench: failed on N 65536.\nMemoryError")
        return ONE_SECOND

    monkeypatch.setattr("pipelines.bench.measure_case", measured)
    warnings, out = Ears(), tmp_path / "bench.json"
    config = BenchConfig(
        **{"scaling": True, "num_points": 2048, "works": ("step",), "naive": False},
        **{"device": "cpu", "out": out},
    )
    rows = bench(config, progress=warnings).rows
    assert warnings.warned == ["bench: failed on N 65536.\nMemoryError"]
    assert [row.num_points for row in rows if row.failed] == [65_536]
    # 151 · 16 neighbours don't fit into 2,048 points: that row has another k, and says so.
    assert {(row.depth, row.k) for row in rows if row.depth > 56} == {(112, 16), (152, 3)}


FAILING = """
import torch
class Conv(torch.nn.Linear):
    def forward(self, x, index):
        if x.shape[1] == 70:
            raise ValueError("not with 70 points")
        return super().forward(x)
"""


def test_a_failed_measurement_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(sys.path))
    model = ModelConfig(depth=2, conv="failing:Conv")
    config = BenchConfig(model=model, works=("step",), device="cpu", num_points=70)
    with pytest.raises(RunError, match=r"failed on resgcn-2 step, N 70, B 1\.\n.*not with 70 poi"):
        bench(config)
    (row,) = json.loads(Path("bench.json").read_text())["rows"]
    assert row["failed"] == "ValueError: not with 70 points"


def test_a_failed_matrix_multiplication_says_why() -> None:
    with pytest.raises(RunError, match=r"failed on a matrix multiplication\.\nRuntimeError: "):
        measure_case("pipelines.bench", Case(SMALL, "gemm", 1, 64, "none", 1, 1))


def test_too_few_points() -> None:
    with pytest.raises(ConfigError, match="k·d"):
        bench(BenchConfig(num_points=256))


def test_the_scaling_table_leaves_out_what_cannot_be() -> None:
    works = [Case(ModelConfig(), work, 1, 4096, "cpu", 1, 1) for work in ("forward", "knn")]
    cases = scaling_cases(works)
    assert max(case.num_points for case in cases) == 65_536
    depths = {case.model.depth for case in cases if case.num_points == 4096}
    assert depths >= {7, 28, 56, 112, 152}
    for case in cases:
        case.model.check_points(case.num_points)
    assert {case.model.k for case in cases if case.model.depth == 152} == {16}


def test_no_comparison_is_reported(tmp_path: Path) -> None:
    warnings = Ears()
    config = BenchConfig(
        model=ModelConfig(depth=2, width=8, k=4, conv="gin"),
        works=("knn",),
        num_points=64,
        repeats=1,
        device="cpu",
        threads=1,
        out=tmp_path / "bench.json",
    )
    result = bench(config, progress=warnings)
    assert result.rows[0].naive is None
    assert "EdgeConv and MRConv only" in warnings.warned[0]
