"""The weights stages: published weights in, our weights out, and what is inside a file.

import_weights    a release's checkpoint → weights of this toolkit (safetensors)
export_weights    a run or weights → safetensors, PyTorch, torch.export or ONNX, and a README
inspect_weights   names, shapes, the network they make, what the file says of itself
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.s3dis import CLASSES
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import open_run
from pipelines.weights.export import write_onnx, write_program, write_state
from pipelines.weights.published import RELEASES, Untold, assumed, build_released, recognise
from pipelines.weights.readme import FORMS, readme_text
from pipelines.weights.safetensors import (
    FORMAT,
    describe,
    load_weights,
    read_metadata,
    save_weights,
)
from pipelines.weights.settings import LOG, read_facts, read_log
from pipelines.weights.sources import TensorInfo, WeightsFile, open_weights

from .config import POINTS, ModelConfig
from .errors import ConfigError, DeepGCNError, WeightsError, command, did_you_mean
from .files import atomic_text
from .progress import SILENT, Progress

NAMES = ("own", "published")
CLASS_FACTS = ("classes", "class_colors")  # kept when an export comes back
OWN_FACTS = ("format", "version", "config")  # of our own weights format alone


@dataclass(frozen=True)
class ImportResult:
    """Imported weights.

    Attributes:
        source: the file read.
        out: the file written.
        release: whose names the tensors had.
        network: what they make, for people.
        config: the same in full.
        parameters: how many numbers are learned.
        assumed: options that neither the tensors nor the file nor the caller told, and their
            values: as published.
    """

    source: Path
    out: Path
    release: str
    network: str
    config: ModelConfig
    parameters: int
    assumed: Mapping[str, object]


def import_weights(
    source: Path, out: Path, untold: Untold | None = None, *, progress: Progress = SILENT
) -> ImportResult:
    """Turn a release's checkpoint into weights of this toolkit.

    Args:
        source: a PyTorch or safetensors file, or a TensorFlow checkpoint (prefix or any file).
        out: the file to write, *.safetensors.
        untold: what the tensors don't tell; where None, the file's own record of it is taken (the
            log beside a TensorFlow checkpoint, the configuration in an export), else the published
            value.
        progress: hears what is assumed.

    Raises:
        ConfigError: an option or the output cannot be.
        WeightsError: the file is broken, holds code, or its tensors are of no known network.
    """
    _check_out(out, (".safetensors",), source)
    opened = open_weights(source)
    release = release_of(opened)
    told = (untold or Untold()).or_else(recorded(opened, progress))
    with progress.task(f"Reading {opened.path.name}", unit="files"):
        model = _build(opened, release, told)
    model.num_points = told.num_points or model.num_points
    save_weights(out, model, metadata=_facts(opened, release, model))
    parameters = sum(value.numel() for value in model.parameters())
    guessed = assumed(release, told, model.config)
    network = describe(model.config)
    return ImportResult(opened.path, out, release, network, model.config, parameters, guessed)


def _build(opened: WeightsFile, release: str, told: Untold) -> DeepGCN:
    """Build the network of a release's file; errors name the file."""
    state = opened.read()
    try:
        return build_released(release, state, told)
    except (ConfigError, WeightsError) as error:
        raise type(error)(f"{opened.path}: {error}") from error


def _facts(opened: WeightsFile, release: str, model: DeepGCN) -> dict[str, str]:
    """Return what imported weights say of themselves."""
    facts = {
        "source": opened.path.name,
        "source_sha256": opened.sha256(),
        "release": release,
        "num_points": str(model.num_points),
    }
    if len(opened.facts.get("classes", "").split()) == model.config.num_classes:
        # An export of ours, of whatever data set, tells them.
        told = {name: opened.facts[name] for name in CLASS_FACTS if name in opened.facts}
        return {**facts, **told}
    # All three releases number S3DIS' classes as we do; of other data sets nothing is known.
    named = model.config.num_classes == len(CLASSES)
    return {**facts, "classes": " ".join(CLASSES)} if named else facts


def release_of(opened: WeightsFile) -> str:
    """Return whose names the tensors have.

    Raises:
        WeightsError: they are ours already, or nobody's.
    """
    if opened.facts.get("format") == FORMAT:
        raise WeightsError(
            f"{opened.path}: found weights of this toolkit, which need no import.\n"
            f"Use them: {command('predict', 'SCAN.ply', '--weights', opened.path)}"
        )
    release = recognise(opened.tensors)
    if release is None:
        shown = ", ".join(list(opened.tensors)[:3])
        raise WeightsError(
            f"{opened.path}: found {len(opened.tensors)} tensors of no known network "
            f"({shown}, …).\n"
            f"Expected the names of one of {', '.join(RELEASES)}. "
            f"See what is inside: {command('weights', 'inspect', opened.path)}"
        )
    return release


def recorded(opened: WeightsFile, progress: Progress = SILENT) -> Untold:
    """Return what is written in or beside a file of the things that its tensors don't tell."""
    log = opened.path.with_name(LOG)
    if opened.form == "TensorFlow" and log.is_file():
        progress.say(f"{log}: the network's settings are taken from here")
        return read_log(log)
    try:
        return read_facts(opened.facts)
    except WeightsError as error:
        raise WeightsError(f"{opened.path}: {error}") from error


def _check_out(out: Path, suffixes: tuple[str, ...], source: Path) -> None:
    if out.suffix not in suffixes:
        raise ConfigError(
            f"--out {out}: found the suffix {out.suffix!r}.{did_you_mean(out.suffix, suffixes)}\n"
            f"Expected {' or '.join(suffixes)}: the suffix says what is written."
        )
    if out.resolve() == source.resolve():
        raise ConfigError(f"--out {out}: would overwrite its source; expected another file.")


@dataclass(frozen=True)
class ExportResult:
    """Exported weights.

    Attributes:
        source: the weights read.
        out: the file written.
        readme: the note on where it comes from and how to use it.
        network: what it is, for people.
        agreement: for a computation, the share of a random block's points with the network's own
            labels, 0 to 1; None for tensors.
    """

    source: Path
    out: Path
    readme: Path
    network: str
    agreement: float | None


def export_weights(
    source: Path,
    out: Path,
    *,
    names: str | None = None,
    num_points: int | None = None,
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a trained network for other programs, with a README of where it comes from.

    Args:
        source: a run folder, or a weights file of this toolkit.
        out: the file; its suffix, one of FORMS, says what is written.
        names: for tensors, "own" or "published"; None: published for *.pth, own otherwise.
        num_points: for a computation, points of its block; None: as in training.
        progress: hears how far it is.

    Raises:
        ConfigError: an option cannot be, or a package is missing.
        RunError: the run has no weights.
        WeightsError: the weights cannot be read, or the network cannot be traced.
    """
    run = open_run(source) if source.is_dir() else None
    weights = run.weights() if run else source
    _check_out(out, tuple(FORMS), weights)
    _check_options(out, names, num_points)
    names = names or ("published" if out.suffix == ".pth" else "own")
    model = load_weights(weights, classes=run.config.model.own_classes if run else ())
    model.num_points = num_points or model.num_points
    facts = {n: v for n, v in read_metadata(weights).items() if n not in OWN_FACTS}
    facts |= {"num_points": str(model.num_points), "exported_from": weights.name}
    with progress.task(f"Writing {out.name}"):
        share = _write(out, model, names, facts)
    readme = out.with_name(f"{out.name}.README.md")
    facts["sha256"] = open_weights(weights).sha256()
    atomic_text(readme, readme_text(out, model, facts, names, share))
    return ExportResult(weights, out, readme, describe(model.config), share)


def _write(out: Path, model: DeepGCN, names: str, facts: Mapping[str, str]) -> float | None:
    """Write the form that the suffix says; return a computation's agreement."""
    if out.suffix == ".pt2":
        return write_program(out, model, model.num_points)
    if out.suffix == ".onnx":
        return write_onnx(out, model, model.num_points, facts)
    write_state(out, model, published=names == "published", facts=facts)
    return None


def _check_options(out: Path, names: str | None, num_points: int | None) -> None:
    program = out.suffix in (".pt2", ".onnx")
    if names is not None and names not in NAMES:
        raise ConfigError(
            f"--names: found {names!r}.{did_you_mean(names, NAMES)}\n"
            f"Expected one of {', '.join(NAMES)}."
        )
    if names is not None and program:
        raise ConfigError(
            f"--names: found it for {out.suffix}, expected only for .safetensors, .pth."
        )
    if num_points is not None and not program:
        raise ConfigError(
            f"--num-points: found it for {out.suffix}, expected only for .pt2, .onnx."
        )
    if num_points is not None:
        POINTS.check("--num-points", num_points)


@dataclass(frozen=True)
class Inspected:
    """What is inside a file with weights.

    Attributes:
        path: the file.
        form: "safetensors", "PyTorch" or "TensorFlow".
        release: whose names the tensors have: "deepgcn" for ours, None for nobody known.
        network: what they make, for people; None if nothing.
        assumed: options that nothing told, and their published values.
        problem: why they make nothing; None if they do.
        config: the network in full.
        numbers: how many numbers the tensors hold.
        bytes: the size of all its files.
        facts: what the file says of itself.
        tensors: shape and dtype of each, by name.
    """

    path: Path
    form: str
    release: str | None
    network: str | None
    assumed: Mapping[str, object]
    problem: str | None
    config: ModelConfig | None
    numbers: int
    bytes: int
    facts: Mapping[str, str]
    tensors: Mapping[str, TensorInfo]


def inspect_weights(path: Path, untold: Untold | None = None) -> Inspected:
    """Return what is inside a file with weights, and the network that it makes, if any.

    Raises:
        WeightsError: the file is missing, broken or holds code.
    """
    opened = open_weights(path)
    own = opened.facts.get("format") == FORMAT
    told = untold or Untold()
    model, problem = _try_network(opened, own, told)
    release = "deepgcn" if own else recognise(opened.tensors)
    guessed: Mapping[str, object] = {}
    if model is not None and release is not None and not own:
        guessed = assumed(release, told.or_else(recorded(opened)), model.config)
    return Inspected(
        path=opened.path,
        form=opened.form,
        release=release,
        network=describe(model.config) if model else None,
        assumed=guessed,
        problem=problem,
        config=model.config if model else None,
        numbers=sum(math.prod(info.shape) for info in opened.tensors.values()),
        bytes=sum(file.stat().st_size for file in opened.files),
        facts=dict(opened.facts),
        tensors=dict(opened.tensors),
    )


def _try_network(
    opened: WeightsFile, own: bool, untold: Untold
) -> tuple[DeepGCN | None, str | None]:
    """Return the network of the tensors, or why there is none."""
    try:
        if own:
            return load_weights(opened.path), None
        return _build(opened, release_of(opened), untold.or_else(recorded(opened))), None
    except DeepGCNError as error:
        return None, str(error)
