"""`deepgcn bench`: times and memory on this machine, against the released algorithm."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deepgcn_cli.options import (
    Arch,
    Conv,
    Depth,
    Device,
    FusionChannels,
    Json,
    Neighbors,
    Preset,
    Quiet,
    Threads,
    Width,
    examples,
    given,
    option,
)
from pipelines.config import INPUTS, WORKS, BenchConfig

from .train import chosen_model

if TYPE_CHECKING:
    from pipelines.bench import BenchResult, Figures, Row

COLUMNS = (
    *("work", "layers", "k", "points", "time", "range", "naive", "ratio"),
    *("memory", "naive", "ratio", "GFLOP/s", "of GEMM"),
)


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command(
        epilog=examples(
            "deepgcn bench",
            "deepgcn bench --arch densegcn --depth 28 --work step --threads 2",
            "deepgcn bench --preset resgcn-56 --scaling --repeats 3",
            "deepgcn bench --depth 1001 -k 3 --checkpoint-layers 32 --work step --no-naive",
        )
    )(bench)


def bench(
    arch: Arch = None,
    depth: Depth = None,
    preset: Preset = None,
    conv: Conv = None,
    width: Width = None,
    fusion_channels: FusionChannels = None,
    k: Neighbors = None,
    works: Annotated[
        list[str] | None,
        option(
            f"What is measured: {', '.join(WORKS)}; repeatable.",
            "--work",
            default="all",
            metavar="NAME",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, option("Blocks at a time.", default=BenchConfig.batch_size, metavar="N")
    ] = None,
    num_points: Annotated[
        int | None, option("Points of a block.", default=BenchConfig.num_points, metavar="N")
    ] = None,
    input: Annotated[
        str | None,
        option(
            "The network's input: scan (a synthetic room) or noise, the slowest to search.",
            "--input",
            default=BenchConfig.input,
            metavar="|".join(INPUTS),
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        option("Timed runs, after one that warms up.", default=BenchConfig.repeats, metavar="N"),
    ] = None,
    naive: Annotated[
        bool | None,
        option("Measure the released algorithm too.", "--naive/--no-naive", default="on"),
    ] = None,
    scaling: Annotated[
        bool | None,
        option("Measure N from 1,024 to 65,536 and depth 7 to 152 instead.", "--scaling"),
    ] = None,
    checkpoint_layers: Annotated[
        int | None,
        option(
            "Layers that a step's backward pass computes again at once, for memory; 0: none.",
            "--checkpoint-layers",
            default=BenchConfig.checkpoint_layers,
            metavar="N",
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    out: Annotated[
        Path | None, option("JSON file to write.", default=BenchConfig.out, metavar="FILE")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure forward pass, training step and k-NN, beside the released algorithm."""
    flags = locals()
    config = BenchConfig(model=chosen_model(flags), **given(BenchConfig, flags))

    from deepgcn_cli.display import print_json
    from deepgcn_cli.progress import open_progress
    from pipelines.bench import bench as stage

    progress = open_progress(quiet=quiet)
    result = stage(config, progress=progress)
    if as_json:
        return print_json(result)
    print_result(result)


def print_result(result: BenchResult) -> None:
    """Print the table, the machine and the file."""
    from deepgcn_cli.display import print_table, print_text

    print_table(COLUMNS, [_cells(row, result.gemm_speed) for row in result.rows])
    found = result.environment
    where = found["gpu"] or f"{found['cpu']}, {found['threads']} threads"
    print_text(
        f"medians; memory beyond the process's start; GEMM {result.gemm_speed / 1e9:,.0f} GFLOP/s"
    )
    print_text(f"{where}, torch {found['packages']['torch']}")
    print_text(str(result.out))


def _cells(row: Row, gemm_speed: float) -> tuple[str, ...]:
    ours, naive = row.ours, row.naive
    first = (row.work, f"{row.depth}", f"{row.k}", f"{row.num_points:,}")
    if ours is None:
        return (*first, *("–",) * 9)
    speed = row.flop / ours.median if row.flop else None
    return (
        *first,
        _seconds(ours.median),
        f"{_seconds(min(ours.times))} – {_seconds(max(ours.times))}",
        "–" if naive is None else _seconds(naive.median),
        "–" if naive is None else f"{naive.median / ours.median:.1f}×",
        _memory(ours),
        "–" if naive is None else _memory(naive),
        "–" if naive is None else f"{naive.memory / max(ours.memory, 1):.1f}×",
        "–" if speed is None else f"{speed / 1e9:,.0f}",
        "–" if speed is None else f"{100 * speed / gemm_speed:.0f} %",
    )


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms"


def _memory(figures: Figures) -> str:
    return f"{figures.memory / 2**20:,.0f} MiB"
