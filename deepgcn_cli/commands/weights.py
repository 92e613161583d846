"""`deepgcn weights`: published weights in, our weights out, and what is inside a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

from deepgcn_cli.display import Answer, Table, percent
from deepgcn_cli.options import subcommand
from pipelines.config.model import Hints
from pipelines.config.options import option
from pipelines.errors import command
from pipelines.progress import Progress

EXPORT_FORMS = ".safetensors, .pth, .pt2 (torch.export) or .onnx"


@subcommand(
    "deepgcn weights import resgcn28.pth --out resgcn28.safetensors",
    "deepgcn weights import log5/epoch_best.ckpt --out resgcn28.safetensors -k 16",
    name="import",
)
def import_file(
    *,
    source: Path = option(
        MISSING, "PyTorch or safetensors file, or TensorFlow checkpoint (prefix).", "FILE", flag=""
    ),
    out: Path = option(MISSING, "File to write: NAME.safetensors.", "FILE"),
    hints: Hints,
    progress: Progress,
) -> Answer:
    """Turn published weights into weights of this toolkit.

    Known are deep_gcns_torch, deep_gcns (TensorFlow, read without it) and dgcnn.pytorch. Depth,
    width and channels follow from the tensors; the rest is as published unless given. Files
    that hold code are refused.
    """
    from pipelines.weights.sources import import_weights

    result = import_weights(source, out, hints, progress=progress)
    texts = [
        f"{result.out}: {result.network}, {result.parameters:,} parameters",
        f"from {result.source} ({result.release})",
    ]
    if result.assumed:
        texts.append(f"not in the file, so as published: {_flags(result.assumed)}")
    texts.append(f"Use it: {command('predict', 'SCAN.ply', '--weights', result.out)}")
    return Answer(result, texts)


@subcommand(
    "deepgcn weights export runs/mine --out mine.onnx",
    "deepgcn weights export model.safetensors --out model.pth --names published",
    name="export",
)
def export_file(
    *,
    source: Path = option(MISSING, "Run folder, or weights of this toolkit.", "RUN", flag=""),
    out: Path = option(MISSING, f"File to write; by its suffix {EXPORT_FORMS}.", "FILE"),
    names: str | None = option(
        None, "Names of the tensors: own, published. [default: published for .pth, else own]"
    ),
    num_points: int | None = option(
        None, "Points of the block, for .pt2 and .onnx. [default: as in training]"
    ),
    progress: Progress,
) -> Answer:
    """Write a trained network for other programs, with a README of where it comes from."""
    from pipelines.runs.directory import open_run
    from pipelines.weights.export import export_weights

    run = open_run(source) if source.is_dir() else None
    result = export_weights(
        run.weights() if run else source,
        out,
        names=names,
        num_points=num_points,
        classes=run.config.model.own_classes if run else (),
        progress=progress,
    )
    texts = [f"{result.out}: {result.network}"]
    if result.agreement is not None:
        texts.append(f"labels as the network's own: {percent(result.agreement)} %")
    return Answer(result, [*texts, f"{result.readme}: where it comes from"])


@subcommand(
    "deepgcn weights inspect model.pth",
    "deepgcn weights inspect log5/epoch_best.ckpt --json",
    name="inspect",
)
def inspect_file(
    *,
    path: Path = option(MISSING, "Weights, or a TensorFlow checkpoint (prefix).", "FILE", flag=""),
    hints: Hints,
) -> Answer:
    """Show what is inside a file with weights: tensors, the network they make, its own notes."""
    from pipelines.weights.sources import inspect_weights

    found = inspect_weights(path, hints)
    about: list[tuple[str, Any]] = [
        ("file", found.path),
        ("form", f"{found.form}, {found.bytes:,} bytes"),
        ("names", found.release or "of no known network"),
        ("network", found.network or f"none: {found.problem}"),
        *([("as published", _flags(found.assumed))] if found.assumed else []),
        ("tensors", f"{len(found.tensors):,} with {found.numbers:,} values"),
        *found.facts.items(),
    ]
    rows = [
        (name, " × ".join(str(size) for size in info.shape) or "scalar", info.dtype)
        for name, info in found.tensors.items()
    ]
    lines = [(name, " ".join(str(value).split())) for name, value in about]
    tensors = Table(("tensor", "shape", "dtype"), rows)
    return Answer(found, [Table(("what", "value"), lines), "", tensors])


def _flags(values: Mapping[str, Any]) -> str:
    """Return options as they are typed."""
    shown = []
    for name, value in values.items():
        if isinstance(value, bool):
            shown.append(f"--{name}" if value else f"--no-{name}")
        else:
            shown.append(f"{'-k' if name == 'k' else f'--{name}'} {value}")
    return ", ".join(shown)
