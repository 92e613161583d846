"""`deepgcn weights`: the catalogue, published weights in, ours out, what is inside a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict
from pathlib import Path
from typing import Any

import typer

from deepgcn_cli.display import Answer, Table, percent
from deepgcn_cli.options import RUNS, subcommand
from pipelines.config.model import OWN_CLASSES, Hints, as_typed
from pipelines.config.options import option
from pipelines.errors import command
from pipelines.progress import Progress, counted

EXPORT_FORMS = ".safetensors, .pth, .pt2 (torch.export) or .onnx"


@subcommand("deepgcn weights list", "deepgcn weights list --scores", name="list")
def list_weights(
    *, scores: bool = option(False, "All scores, and what each is of, instead of one.")
) -> Answer:
    """List weights by name: inside this package, and published ones to fetch."""
    from pipelines.weights.catalogue import catalogue, kept_file

    values, rows, every, notes = [], [], [], []
    entries = catalogue()
    for entry in entries:
        kept = kept_file(entry)
        state = "embedded" if entry.url is None else "fetched" if kept else "to fetch"
        values.append({**asdict(entry), "state": state, "path": kept})
        found = [
            (
                f"{percent(s.miou)} / {percent(s.oa)}",
                f"{s.data}; protocol: {s.protocol}; {s.source}",
            )
            for s in entry.scores
        ]
        every += [(entry.name, *each) for each in found]
        score, note = found[0] if found else ("", "")
        notes.append(note)
        size = f"{entry.size / 1e6:.1f} MB"
        network = entry.network.partition(" (")[0]  # --json and inspect have the rest
        rows.append((entry.name, network, size, entry.license, state, score))
    use = f"Use one: {command('predict', 'SCAN.ply', '--weights', entries[0].name)}"
    if scores:
        return Answer(values, [Table(("name", "mIoU / OA %", "of what"), every)], use)
    table = Table(("name", "network", "size", "license", "state", "mIoU / OA %"), rows)
    of_what = [f"mIoU / OA: {note}" for note in dict.fromkeys(notes) if note]
    return Answer(values, [table, *of_what], use)


@subcommand("deepgcn weights get dgcnn-s3dis-area5", name="get")
def get_weights(
    *,
    name: str = option(MISSING, "Of the list: deepgcn weights list.", "NAME", flag=""),
    progress: Progress,
) -> Answer:
    """Fetch weights by name into the user's cache.

    They are checked by their hash and imported. A fetch that was cut off goes on where it was. The
    variable DEEPGCN_WEIGHTS names a mirror (URL) or a folder that holds the file. Whatever takes
    --weights fetches by itself, too.
    """
    from pipelines.runs.weights import catalogue_weights
    from pipelines.weights.catalogue import entry_of
    from pipelines.weights.provenance import describe

    found = catalogue_weights(entry_of(name), progress)
    texts = [
        f"{found.file}: {describe(found.provenance)}",
        f"Use it: {command('predict', 'SCAN.ply', '--weights', found.name)}",
    ]
    return Answer({"file": found.file, **found.provenance}, texts)


@subcommand(
    "deepgcn weights import resgcn28.pth",
    "deepgcn weights import log5/epoch_best.ckpt --out resgcn28.safetensors -k 16",
    name="import",
)
def import_file(
    *,
    source: Path = option(
        MISSING, "PyTorch or safetensors file, or TensorFlow checkpoint (prefix).", "FILE", flag=""
    ),
    out: Path | None = option(
        None, "File to write. [default: the source's name with .safetensors]", "FILE"
    ),
    hints: Hints,
    own_classes: tuple[str, ...] = OWN_CLASSES,
    progress: Progress,
) -> Answer:
    """Turn published weights into weights of this toolkit.

    Known are deep_gcns_torch, deep_gcns (TensorFlow, read without it), dgcnn.pytorch, and what
    export wrote. Depth, width and channels follow from the tensors; the rest is as exported, else
    as published unless given. Files that hold code are refused.
    """
    from pipelines.weights.catalogue import of_file
    from pipelines.weights.sources import import_weights

    known = of_file(source)
    about = known.origin if known else {}
    result = import_weights(source, out, hints, about=about, classes=own_classes, progress=progress)
    texts = [
        f"{result.out}: {result.network}, {result.parameters:,} parameters",
        f"from {result.source} ({result.release})",
    ]
    if known:
        texts.append(f"this is {known.name} of the catalogue: {known.trained_on}, {known.license}")
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
    source: str = option(
        MISSING, "Weights: a file, a run or a name of the catalogue.", "WEIGHTS", flag=""
    ),
    out: Path = option(MISSING, f"File to write; by its suffix {EXPORT_FORMS}.", "FILE"),
    names: str | None = option(
        None, "Names of the tensors: own, published. [default: published for .pth, else own]"
    ),
    num_points: int | None = option(
        None, "Points of the block, for .pt2 and .onnx. [default: as in training]"
    ),
    half: bool = option(False, "Store float16, in half the space; it is read as float32."),
    notes: tuple[str, ...] = option(
        (), "Record it in the file, repeatable: trained_on, license.", "NAME=TEXT", flag="--note"
    ),
    runs: Path = RUNS,
    own_classes: tuple[str, ...] = OWN_CLASSES,
    progress: Progress,
) -> Answer:
    """Write a trained network for other programs, with a README of where it comes from."""
    from pipelines.runs.weights import find_weights
    from pipelines.weights.export import export_weights

    found = find_weights(source, runs, progress=progress)
    result = export_weights(
        found.file,
        out,
        names=names,
        num_points=num_points,
        half=half,
        notes=dict(_pair(text) for text in notes),
        classes=own_classes,
        progress=progress,
    )
    texts = [f"{result.out}: {result.network}"]
    if result.agreement is not None:
        texts.append(f"labels as the network's own: {percent(result.agreement)} %")
    return Answer(result, [*texts, f"{result.readme}: where it comes from"])


@subcommand(
    "deepgcn weights inspect model.pth",
    "deepgcn weights inspect indoor",
    "deepgcn weights inspect log5/epoch_best.ckpt --json",
    name="inspect",
)
def inspect_file(
    *,
    source: str = option(
        MISSING,
        "Weights: any file, a TensorFlow checkpoint (prefix), a run or a name of the catalogue.",
        "WEIGHTS",
        flag="",
    ),
    hints: Hints,
    runs: Path = RUNS,
    own_classes: tuple[str, ...] = OWN_CLASSES,
    progress: Progress,
) -> Answer:
    """Show what is inside a file with weights: tensors, the network they make, its own notes."""
    from pipelines.runs.weights import find_weights
    from pipelines.weights.provenance import STARTED_FROM, held_out, provenance, stages
    from pipelines.weights.sources import inspect_weights
    from pipelines.weights.tensorflow import bundle_prefix

    path = Path(source)
    if not bundle_prefix(path):
        path = find_weights(source, runs, progress=progress).file
    found = inspect_weights(path, hints, classes=own_classes)
    about: list[tuple[str, Any]] = [
        ("file", found.path),
        ("form", f"{found.form}, {found.bytes:,} bytes"),
        ("names", found.release or "of no known network"),
        ("network", found.network or f"none: {found.problem}"),
        *([("as published", _flags(found.assumed))] if found.assumed else []),
        ("tensors", f"{len(found.tensors):,} with {counted(found.numbers, 'value')}"),
    ]
    for name, value in found.facts.items():
        if name == "test_area":
            about.append((name, held_out(value)))
        elif name != STARTED_FROM:
            about.append((name, value))
    if len(trainings := stages(provenance(found.facts))) > 1:
        about += [(f"training {number}", text) for number, text in enumerate(trainings, 1)]
    rows = [
        (name, " × ".join(str(size) for size in info.shape) or "scalar", info.dtype)
        for name, info in found.tensors.items()
    ]
    lines = [(name, " ".join(str(value).split())) for name, value in about]
    tensors = Table(("tensor", "shape", "dtype"), rows)
    return Answer(found, [Table(("what", "value"), lines), "", tensors])


def _pair(text: str) -> tuple[str, str]:
    name, is_set, value = text.partition("=")
    if not is_set or not value.strip():
        raise typer.BadParameter(f"--note: found {text!r}, expected NAME=TEXT.")
    return name, value


def _flags(values: Mapping[str, Any]) -> str:
    """Return options as they are typed."""
    return ", ".join(as_typed(name, value) for name, value in values.items())
