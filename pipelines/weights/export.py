"""The export stage: a trained network in the forms that other software reads, with a README."""

from __future__ import annotations

import json
import logging
import platform
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from pipelines import kernels
from pipelines.config import CONVS, POINTS
from pipelines.config.model import GREY
from pipelines.config.options import check_choice
from pipelines.errors import ConfigError, WeightsError
from pipelines.files import atomic_bytes, atomic_text
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress
from pipelines.serialization import to_plain

from . import provenance
from .published import published_state
from .safetensors import (
    EXPORTED_CONFIG,
    blocks_metadata,
    load_weights,
    read_metadata,
    save_weights,
    write_safetensors,
)
from .sources import check_out, open_weights

OPSET = 18
LEAST_AGREEMENT = 0.99
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
FORMS = {
    ".safetensors": "tensors, as safetensors",
    ".pth": "tensors, as torch.save writes them",
    ".pt2": "the computation for one block, for torch.export.load",
    ".onnx": "the computation for one block, as ONNX",
}
NAMES = ("own", "published")
NOTES = ("trained_on", "license")  # what an export can say of its weights in other words
OWN_KEYS = ("format", "version", "config")  # metadata of our own format alone
COMPUTATIONS = (".pt2", ".onnx")
CHANNELS = {
    "paper": "x, y from the block's centre and z from the floor (m)",
    "torch": "x, y, z from the mean of the block's points, scaled into [-1, 1]",
}
README = """\
# {out}

{network}, {form}.

- from: {exported_from}, SHA-256 {sha256}
{origin}- written by: deepgcn weights export, PyTorch {torch}, Python {python}
- classes, in the order of the outputs: {classes}
- channels: {channels}; r, g, b (0 to 1); x, y, z divided by the room's extent
- network: {config}
{notes}"""
COMPUTATION = """\
- input: features (1, {points}, {inputs}); output: logits (1, {points}, {outputs})
- checked: {agreement:.2%} of a random block's points get the network's own labels
"""
PUBLISHED = "- names: those of the published PyTorch code\n"
LAYOUT_PAPER = (
    "- **layout paper**: this network normalises before the activation and finds its first graph "
    "in channels 6 to 8. The published PyTorch code does neither, so there these weights give "
    "other results; `deepgcn weights import` reads them back exactly.\n"
)
NO_COLORS = (
    "- **no colours**: every point is grey to this network, so other programs have to set r, g, b "
    f"to {GREY}; deepgcn does so itself.\n"
)


@dataclass(frozen=True)
class ExportResult:
    """Exported weights."""

    source: Path
    out: Path
    readme: Path
    network: str  # in short
    agreement: float | None  # of a computation: points with the network's own labels, 0 to 1


def export_weights(
    source: Path,
    out: Path,
    *,
    names: str | None = None,
    num_points: int | None = None,
    half: bool = False,
    notes: Mapping[str, str] = MappingProxyType({}),
    classes: Collection[str] = (),
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a trained network for other programs, with a README of where it comes from.

    Args:
        source: a weights file of this toolkit.
        out: the file; its suffix, one of FORMS, says what is written.
        names: for tensors, "own" or "published"; None: published for *.pth, own otherwise.
        num_points: for a computation, points of its block; None: as in training.
        half: store tensors as float16, in half the space; they are read as float32.
        notes: metadata to record, some of NOTES.
        classes: your own classes, as package.module:Class, that may be imported for the network.
        progress: shows the writing.

    Raises:
        ConfigError: an option is invalid, or a package is missing.
        WeightsError: the weights cannot be read, or the network cannot be traced.
    """
    check_out(out, tuple(FORMS), source)
    _check_options(out, names, num_points, half=half)
    for name in notes:
        check_choice("note", name, NOTES, flag="--note")
    names = names or ("published" if out.suffix == ".pth" else "own")
    model = load_weights(source, classes=classes)
    model.num_points = num_points or model.num_points
    metadata = {key: v for key, v in read_metadata(source).items() if key not in OWN_KEYS}
    metadata |= blocks_metadata(model.num_points, model.block_size, model.voxel)
    # A command line may have bytes that are no UTF-8.
    texts = {n: v.encode(errors="backslashreplace").decode() for n, v in notes.items()}
    metadata |= {"exported_from": source.name, **texts}
    if half:
        to_half(model, out)
    agreement = None
    with progress.task(f"Writing {out.name}"):
        if out.suffix in COMPUTATIONS:
            agreement = write_computation(out, model, metadata)
        else:
            write_state(out, model, published=names == "published", metadata=metadata)
    readme = out.with_name(f"{out.name}.README.md")
    metadata["sha256"] = open_weights(source).sha256()
    atomic_text(readme, readme_text(out, model, metadata, names, agreement))
    return ExportResult(source, out, readme, model.label, agreement)


def _check_options(out: Path, names: str | None, num_points: int | None, *, half: bool) -> None:
    computation = out.suffix in COMPUTATIONS
    if half and computation:
        raise ConfigError(
            f"--half: found it for {out.suffix}, expected only for .safetensors, .pth."
        )
    if names is not None:
        check_choice("name", names, NAMES, flag="--names")
        if computation:
            raise ConfigError(
                f"--names: found it for {out.suffix}, expected only for .safetensors, .pth."
            )
    if num_points is not None:
        if not computation:
            raise ConfigError(
                f"--num-points: found it for {out.suffix}, expected only for .pt2, .onnx."
            )
        POINTS.check("--num-points", num_points)


def to_half(model: DeepGCN, out: Path) -> None:
    """Round a network's tensors to float16; WeightsError: one has values beyond its range."""
    for name, value in model.half().state_dict().items():
        if not value.isfinite().all():
            raise WeightsError(
                f"{out}: {name} has values beyond those of float16; nothing was written.\n"
                "Export it without --half."
            )


def write_state(
    path: Path, model: DeepGCN, *, published: bool, metadata: Mapping[str, str]
) -> None:
    """Write the tensors, under our names or the release's: *.safetensors, else as torch.save."""
    if path.suffix == ".safetensors" and not published:
        return save_weights(path, model, metadata=metadata)
    state = published_state(model) if published else model.state_dict()
    metadata = {**metadata, EXPORTED_CONFIG: json.dumps(to_plain(model.config))}
    if path.suffix == ".safetensors":
        return write_safetensors(path, state, metadata)
    state = {name: value.detach().contiguous() for name, value in state.items()}
    content = BytesIO()
    torch.save({"state_dict": state, **metadata}, content)
    atomic_bytes(path, content.getbuffer())


def write_computation(path: Path, model: DeepGCN, metadata: Mapping[str, str]) -> float:
    """Write the computation for a block of `model.num_points`; return its `agreement`."""
    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if path.suffix == ".onnx" and missing:
        raise ConfigError(
            f"ONNX: found no package {', '.join(missing)}.\nInstall it: pip install 'deepgcn[onnx]'"
        )
    features = random_block(model)
    program = _trace(model, features)
    with _quiet():
        if path.suffix == ".pt2":
            content, found = _program(program, features)
        else:
            content, found = _onnx(program, features, metadata)
    same = agreement(path, model, features, found)
    atomic_bytes(path, content)
    return same


# Both make their files in memory: PyTorch ends the process if it cannot write one.
def _program(program: ExportedProgram, features: Tensor) -> tuple[bytes, Tensor]:
    """Return the file of a computation for torch.export, and the logits of the file's."""
    file = BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    found: Tensor = torch.export.load(file).module()(features)
    return file.getvalue(), found


def _onnx(
    program: ExportedProgram, features: Tensor, metadata: Mapping[str, str]
) -> tuple[bytes, Tensor]:
    """Return the file of a computation as ONNX, and onnxruntime's logits."""
    import onnxruntime

    exported: Any = torch.onnx.export(
        program,
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=["features"],
        output_names=["logits"],
        custom_translation_table={torch.ops.aten.sort.stable: _sort},
    )
    exported.model.metadata_props.update(metadata)
    content: bytes = exported.model_proto.SerializeToString()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"features": features.numpy()})
    return content, torch.from_numpy(found)


def _sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """Translate a stable sort: TopK of all, which ONNX defines to put equal values in order."""
    import onnxscript

    op: Any = onnxscript.opset18  # its types are narrower than what it takes
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def _trace(model: DeepGCN, features: Tensor) -> ExportedProgram:
    """Return the computation on features of this shape, by the reference kernels."""
    try:
        with kernels.use("reference"), torch.no_grad(), _quiet():
            return torch.export.export(model.eval(), (features,))
    except Exception as error:
        if model.config.conv in CONVS:
            raise
        raise WeightsError(
            f"{model.config.label}: torch.export cannot follow {model.config.conv}: "
            f"{str(error).splitlines()[0]}\nExport its tensors instead: --out FILE.safetensors"
        ) from error


def random_block(model: DeepGCN) -> Tensor:
    """Return features (1, N, in_channels) to try a computation on, always the same."""
    model.config.check_points(model.num_points)
    dtype = next(model.parameters()).dtype
    shape = (1, model.num_points, model.config.in_channels)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def agreement(path: Path, model: DeepGCN, features: Tensor, found: Tensor) -> float:
    """Return the fraction of points to which logits `found` (1, N, C) give the network's labels.

    Rounding can swap two neighbours of almost equal distance, so a few points may differ; more
    are refused.
    """
    with kernels.use("reference"), torch.no_grad():
        expected = model(features)
    same = float((found.argmax(-1) == expected.argmax(-1)).double().mean())
    if same < LEAST_AGREEMENT:
        raise WeightsError(
            f"{path}: what was exported gives {same:.1%} of a block's points the network's own "
            f"labels, expected at least {LEAST_AGREEMENT:.0%}; nothing was written."
        )
    return same


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the warnings and logs of PyTorch's exporters."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)


def readme_text(
    out: Path, model: DeepGCN, metadata: Mapping[str, str], names: str, agreement: float | None
) -> str:
    """Return the README of an exported file; `metadata` has `exported_from` and `sha256`."""
    config = model.config
    said = {key: _printable(text) for key, text in metadata.items()}
    if agreement is not None:
        sizes = {"inputs": config.in_channels, "outputs": config.num_classes}
        notes = COMPUTATION.format(points=model.num_points, agreement=agreement, **sizes)
    else:
        notes = PUBLISHED if names == "published" else ""
        if notes and config.arch != "dgcnn" and config.layout != "torch":
            notes += LAYOUT_PAPER
        if not config.rgb:  # a computation does it itself
            notes += NO_COLORS
    if "test_area" in said:
        said["test_area"] = provenance.held_out(said["test_area"])
    origin = [f"- {key.replace('_', ' ')}: {said[key]}\n" for key in provenance.KEYS if key in said]
    # Its JSON can hold what is not printable as escapes, so it is decoded first.
    trainings = [_printable(each) for each in provenance.stages(provenance.provenance(metadata))]
    if len(trainings) > 1:
        origin += [f"- training {number}: {text}\n" for number, text in enumerate(trainings, 1)]
    return README.format(
        out=out.name,
        network=model.label,
        form=FORMS[out.suffix],
        exported_from=said["exported_from"],
        sha256=said["sha256"],
        origin="".join(origin),
        torch=torch.__version__,
        python=platform.python_version(),
        classes=said.get("classes", "").replace(" ", ", ") or "not recorded",
        channels=CHANNELS[config.layout],
        config=config,
        notes=notes,
    )


def _printable(text: str) -> str:
    """Return a text without lines, and codes for a terminal, that the source's author wrote."""
    return "".join(c if c.isprintable() else " " for c in text)
