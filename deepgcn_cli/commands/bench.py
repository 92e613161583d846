"""`deepgcn bench`: times and memory on this machine, against the released algorithm."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from deepgcn_cli.display import Answer, Table
from deepgcn_cli.options import PRESET, Flags, ModelFlags, chosen_model, subcommand
from pipelines.config import BenchConfig
from pipelines.progress import Progress, counted

if TYPE_CHECKING:
    from pipelines.bench import Figures, Row

COLUMNS = (
    *("work", "layers", "k", "points", "time", "range", "naive", "ratio"),
    *("memory", "naive", "ratio", "GFLOP/s", "of GEMM"),
)


@subcommand(
    "deepgcn bench",
    "deepgcn bench --arch densegcn --depth 28 --work step --threads 2",
    "deepgcn bench --preset resgcn-56 --scaling --repeats 3",
    "deepgcn bench --depth 1001 -k 3 --checkpoint-layers 32 --work step --no-naive",
)
def bench(
    *,
    preset: str | None = PRESET,
    model: ModelFlags,
    own: Annotated[Flags, BenchConfig],
    progress: Progress,
) -> Answer:
    """Measure forward pass, training step and k-NN, beside the released algorithm."""
    config = BenchConfig(model=chosen_model(preset, model), **own)

    from pipelines.bench import bench as stage

    result = stage(config, progress=progress)
    speed, found = result.gemm_speed, result.environment
    where = found["gpu"] or f"{found['cpu']}, {counted(found['threads'], 'thread')}"
    texts = (
        f"medians; memory beyond the process's start; GEMM {speed / 1e9:,.0f} GFLOP/s",
        f"{where}, torch {found['packages']['torch']}",
        str(result.out),
    )
    return Answer(result, [Table(COLUMNS, [_cells(row, speed) for row in result.rows]), *texts])


def _cells(row: Row, gemm_speed: float) -> tuple[str, ...]:
    ours, naive = row.ours, row.naive
    first = (row.work, f"{row.depth}", f"{row.k}", f"{row.num_points:,}")
    if ours is None:
        return (*first, *("–",) * 9)
    times = (_seconds(ours.median), f"{_seconds(min(ours.times))} – {_seconds(max(ours.times))}")
    their_time = their_memory = speed = ("–", "–")
    if naive is not None:
        their_time = (_seconds(naive.median), f"{naive.median / ours.median:.1f}×")
        their_memory = (_memory(naive), f"{naive.memory / max(ours.memory, 1):.1f}×")
    if row.flop:
        flops = row.flop / ours.median
        speed = (f"{flops / 1e9:,.0f}", f"{100 * flops / gemm_speed:.0f} %")
    return (*first, *times, *their_time, _memory(ours), *their_memory, *speed)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def _memory(figures: Figures) -> str:
    return f"{figures.memory / 2**20:,.0f} MiB"
