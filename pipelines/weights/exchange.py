"""The weights stages: published weights in, our weights out, and what is inside a file.

bytes → tensors          one module a form (`safetensors`, `pytorch`, `tensorflow`): `sources`
→ our names              and axes: `published`
→ network                checked: `safetensors.build_network`
→ other programs' files  `export`
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.config import POINTS, ModelConfig
from pipelines.config.model import Hints
from pipelines.config.options import check_choice
from pipelines.data.s3dis import CLASSES
from pipelines.errors import ConfigError, DeepGCNError, WeightsError, command, did_you_mean
from pipelines.files import atomic_text, check_place
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress

from .export import COMPUTATIONS, FORMS, readme_text, write_computation, write_state
from .published import RELEASES, assumed, build_released, recognise
from .safetensors import FORMAT, load_weights, read_metadata, save_weights
from .sources import TensorInfo, WeightsFile, open_weights

NAMES = ("own", "published")
CLASS_KEYS = ("classes", "class_colors")  # metadata kept when an export comes back
OWN_KEYS = ("format", "version", "config")  # metadata of our own format alone


@dataclass(frozen=True)
class ImportResult:
    """Imported weights."""

    source: Path
    out: Path
    release: str  # whose names the tensors had
    network: str  # in short
    config: ModelConfig
    parameters: int  # learned values
    assumed: Mapping[str, object]  # settings that nothing gave, and their published values


def import_weights(
    source: Path, out: Path, hints: Hints | None = None, *, progress: Progress = SILENT
) -> ImportResult:
    """Turn a release's checkpoint into weights of this toolkit.

    Settings that neither the tensors show nor `hints` give are those recorded with the file (the
    log beside a TensorFlow checkpoint, the configuration in an export), else the published ones.

    Raises:
        ConfigError: an option or the output cannot be.
        WeightsError: the file is broken, holds code, or its tensors are of no known network.
    """
    _check_out(out, (".safetensors",), source)
    opened = open_weights(source)
    release, model, guessed = _build(opened, hints, progress)
    save_weights(out, model, metadata=_metadata(opened, release, model))
    parameters = sum(value.numel() for value in model.parameters())
    config = model.config
    return ImportResult(opened.path, out, release, config.label, config, parameters, guessed)


def _build(
    opened: WeightsFile, hints: Hints | None, progress: Progress
) -> tuple[str, DeepGCN, Mapping[str, object]]:
    """Return the release of a file, its network, and the settings that nothing gave."""
    release = _release_of(opened)
    if opened.log:
        progress.say(f"{opened.log}: the network's settings are taken from here")
    hints = (hints or Hints()).or_else(opened.hints())
    with progress.task(f"Reading {opened.path.name}", unit="files"):
        state = opened.read()
        try:
            model = build_released(release, state, hints)
        except (ConfigError, WeightsError) as error:
            raise type(error)(f"{opened.path}: {error}") from error
    model.num_points = hints.num_points or model.num_points
    return release, model, assumed(release, hints, model.config)


def _metadata(opened: WeightsFile, release: str, model: DeepGCN) -> dict[str, str]:
    origin = {
        "source": opened.path.name,
        "source_sha256": opened.sha256(),
        "release": release,
        "num_points": str(model.num_points),
    }
    found = {key: opened.metadata[key] for key in CLASS_KEYS if key in opened.metadata}
    if len(found.get("classes", "").split()) == model.config.num_classes:
        return {**origin, **found}  # an export of ours, of any data set
    # All three releases number S3DIS's classes as we do; of other data sets nothing is known.
    is_s3dis = model.config.num_classes == len(CLASSES)
    return {**origin, "classes": " ".join(CLASSES)} if is_s3dis else origin


def _release_of(opened: WeightsFile) -> str:
    """Return the release whose names the tensors have; refuse our own and unknown names."""
    if opened.metadata.get("format") == FORMAT:
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


def _check_out(out: Path, suffixes: tuple[str, ...], source: Path) -> None:
    if out.suffix not in suffixes:
        raise ConfigError(
            f"--out {out}: found the suffix {out.suffix!r}.{did_you_mean(out.suffix, suffixes)}\n"
            f"Expected {' or '.join(suffixes)}: the suffix says what is written."
        )
    check_place(out, "--out")
    if out.resolve() == source.resolve():
        raise ConfigError(f"--out {out}: would overwrite its source; expected another file.")


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
    classes: Collection[str] = (),
    progress: Progress = SILENT,
) -> ExportResult:
    """Write a trained network for other programs, with a README of where it comes from.

    Args:
        source: a weights file of this toolkit.
        out: the file; its suffix, one of FORMS, says what is written.
        names: for tensors, "own" or "published"; None: published for *.pth, own otherwise.
        num_points: for a computation, points of its block; None: as in training.
        classes: your own classes, as package.module:Class, that may be imported for the network.
        progress: of the writing.

    Raises:
        ConfigError: an option cannot be, or a package is missing.
        WeightsError: the weights cannot be read, or the network cannot be traced.
    """
    _check_out(out, tuple(FORMS), source)
    _check_options(out, names, num_points)
    names = names or ("published" if out.suffix == ".pth" else "own")
    model = load_weights(source, classes=classes)
    model.num_points = num_points or model.num_points
    metadata = {key: v for key, v in read_metadata(source).items() if key not in OWN_KEYS}
    metadata |= {"num_points": str(model.num_points), "exported_from": source.name}
    agreement = None
    with progress.task(f"Writing {out.name}"):
        if out.suffix in COMPUTATIONS:
            agreement = write_computation(out, model, metadata)
        else:
            write_state(out, model, published=names == "published", metadata=metadata)
    readme = out.with_name(f"{out.name}.README.md")
    metadata["sha256"] = open_weights(source).sha256()
    atomic_text(readme, readme_text(out, model, metadata, names, agreement))
    return ExportResult(source, out, readme, model.config.label, agreement)


def _check_options(out: Path, names: str | None, num_points: int | None) -> None:
    computation = out.suffix in COMPUTATIONS
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


@dataclass(frozen=True)
class Inspected:
    """What is inside a file with weights."""

    path: Path
    form: str  # "safetensors", "PyTorch" or "TensorFlow"
    release: str | None  # whose names the tensors have: "deepgcn" for ours, None if unknown
    network: str | None  # that the tensors make, in short; None if they make none
    assumed: Mapping[str, object]  # settings that nothing gave, and their published values
    problem: str | None  # why the tensors make no network
    config: ModelConfig | None
    numbers: int  # values in all tensors
    bytes: int  # of all its files
    facts: Mapping[str, str]  # the file's metadata
    tensors: Mapping[str, TensorInfo]


def inspect_weights(path: Path, hints: Hints | None = None) -> Inspected:
    """Return what is inside a file with weights, and the network that it makes, if any.

    Raises:
        WeightsError: the file is missing, broken or holds code.
    """
    opened = open_weights(path)
    own = opened.metadata.get("format") == FORMAT
    model, problem = None, None
    guessed: Mapping[str, object] = {}
    try:
        if own:
            model = load_weights(opened.path)
        else:
            _, model, guessed = _build(opened, hints, SILENT)
    except DeepGCNError as error:
        problem = str(error)
    return Inspected(
        path=opened.path,
        form=opened.form,
        release="deepgcn" if own else recognise(opened.tensors),
        network=model.config.label if model else None,
        assumed=guessed,
        problem=problem,
        config=model.config if model else None,
        numbers=sum(math.prod(info.shape) for info in opened.tensors.values()),
        bytes=sum(file.stat().st_size for file in opened.files),
        facts=opened.metadata,
        tensors=opened.tensors,
    )
