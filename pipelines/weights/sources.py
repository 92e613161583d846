"""The import and inspect stages: any file with weights, and the network that its tensors form.

bytes → tensors    one module a form: `safetensors`, `pytorch`, `tensorflow`
→ our names, axes  `published`
→ network          checked: `safetensors.build_network`
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from pipelines.config import ModelConfig
from pipelines.config.model import Hints, unnamed_class
from pipelines.data.s3dis import CLASSES
from pipelines.data.statistics import SUMMARY
from pipelines.errors import ConfigError, DeepGCNError, WeightsError, command, did_you_mean
from pipelines.files import check_place, sha256_of
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, counted

from .published import (
    OWN,
    RELEASES,
    assumed,
    build_exported,
    build_released,
    check_hints,
    recognise,
)
from .pytorch import read_torch
from .safetensors import (
    EXPORTED_CONFIG,
    FORMAT,
    blocks_metadata,
    dtype_name,
    exported_settings,
    load_weights,
    read_safetensors,
    save_weights,
)
from .tensorflow import LOG, bundle_prefix, index_file, open_bundle, read_log

CLASS_KEYS = ("classes", "class_colors")
# Metadata kept when an export comes back.
KEPT_KEYS = (
    *(*CLASS_KEYS, "trained_on", "test_area", "fingerprint", "license", "started_from"),
    SUMMARY,
)


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's shape and dtype, such as (64, 18) and float32."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class WeightsFile:
    """A file with weights."""

    path: Path  # the file; the common prefix of a TensorFlow checkpoint's files
    form: str  # "safetensors", "PyTorch" or "TensorFlow"
    files: tuple[Path, ...]  # that it consists of
    tensors: Mapping[str, TensorInfo]  # by name, in the file's order
    metadata: Mapping[str, str]  # what stands beside the tensors, as text
    read: Callable[[], dict[str, Tensor]]  # reads the network's tensors, not an optimizer's
    log: Path | None = None  # the release's, beside a TensorFlow checkpoint

    def sha256(self) -> str:
        """Return the SHA-256 of its files, one after the other."""
        return sha256_of(*self.files)

    def settings(self) -> tuple[ModelConfig | None, Hints]:
        """Return the network of an export of ours, and what else is recorded in or beside it."""
        if self.log:
            return None, read_log(self.log)
        try:
            return exported_settings(self.metadata)
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {error}") from error


def open_weights(path: Path) -> WeightsFile:
    """Open a file with weights, of this toolkit or any other."""
    if prefix := bundle_prefix(path):
        return _open_tensorflow(prefix)
    if not path.is_file():
        raise WeightsError(
            f"{path}: found {'a folder' if path.is_dir() else 'no file'}, expected weights: a "
            "safetensors or PyTorch file, or a TensorFlow checkpoint (PREFIX or PREFIX.index)."
        )
    with path.open("rb") as opened:
        is_safetensors = opened.read(9)[8:] == b"{"
    form, reader = ("safetensors", read_safetensors) if is_safetensors else ("PyTorch", read_torch)
    state, metadata = reader(path)
    tensors = {name: TensorInfo(tuple(v.shape), dtype_name(v)) for name, v in state.items()}
    return WeightsFile(path, form, (path,), tensors, metadata, lambda: state)


def _open_tensorflow(prefix: Path) -> WeightsFile:
    bundle = open_bundle(prefix)
    tensors = {
        name: TensorInfo(entry.shape, np.dtype(entry.dtype).name if entry.dtype else "not numbers")
        for name, entry in bundle.entries.items()
    }

    def read() -> dict[str, Tensor]:
        return {name: torch.from_numpy(v) for name, v in bundle.read_network().items()}

    data = (bundle.data_file(shard) for shard in range(bundle.shards))
    files = (index_file(prefix), *(path for path in data if path.is_file()))
    log = prefix.with_name(LOG)
    return WeightsFile(
        prefix, "TensorFlow", files, tensors, {}, read, log if log.is_file() else None
    )


@dataclass(frozen=True)
class ImportResult:
    """Imported weights."""

    source: Path
    out: Path
    release: str  # whose names the tensors had: "deepgcn" for ours
    network: str  # in short
    config: ModelConfig
    parameters: int  # learned values
    assumed: Mapping[str, object]  # unknown settings, and their published values


def import_weights(
    source: Path,
    out: Path | None,
    hints: Hints | None = None,
    *,
    about: Mapping[str, str] = MappingProxyType({}),
    classes: Collection[str] = (),
    progress: Progress = SILENT,
) -> ImportResult:
    """Turn a release's checkpoint into weights of this toolkit; `out` None: beside it, of its name.

    An export of ours is the network that it records. Of others, settings that are neither clear
    from the tensors nor in `hints` are those of the log beside a TensorFlow checkpoint, else as
    published. `about` is recorded as metadata; `classes` are as for `load_weights`.

    Raises:
        ConfigError: an option or the output is invalid, or a hint is not what an export records.
        WeightsError: the file is broken, holds code, or its tensors are of no known network.
    """
    if out is None:
        name = re.sub(r"(\.(pth?|t7|tar|ckpt|index|safetensors))+$", "", source.name)
        out = source.with_name(f"{name}.safetensors")
        if out.exists():
            raise ConfigError(f"{out}: found a file of this name already; give another with --out.")
    check_out(out, (".safetensors",), source)
    opened = open_weights(source)
    release, model, guessed = _build(opened, hints, classes, progress)
    save_weights(out, model, metadata={**_metadata(opened, release, model), **about})
    parameters = sum(value.numel() for value in model.parameters())
    config = model.config
    return ImportResult(opened.path, out, release, model.label, config, parameters, guessed)


def _build(
    opened: WeightsFile, hints: Hints | None, classes: Collection[str], progress: Progress
) -> tuple[str, DeepGCN, Mapping[str, object]]:
    """Return the release of a file, its network, and the settings that were assumed."""
    release = _release_of(opened)
    if opened.log:
        progress.say(f"{opened.log}: the network's settings are taken from here")
    config, recorded = opened.settings()
    if config and (refusal := unnamed_class(config.own_classes, classes)):
        raise WeightsError(f"{opened.path}: {refusal}")
    hints = (hints or Hints()).or_else(recorded)
    with progress.task(f"Reading {opened.path.name}", unit="files"):
        state = opened.read()
        try:
            if config is None:
                model = build_released(release, state, hints)
            else:
                check_hints(hints, config, release)
                model = build_exported(release, state, config)
        except (ConfigError, WeightsError) as error:
            raise type(error)(f"{opened.path}: {error}") from error
    model.num_points = hints.num_points or model.num_points
    model.block_size = hints.block_size or model.block_size
    model.voxel = hints.voxel or model.voxel
    return release, model, {} if config else assumed(release, hints, model.config)


def _metadata(opened: WeightsFile, release: str, model: DeepGCN) -> dict[str, str]:
    origin = {
        "source": opened.path.name,
        "source_sha256": opened.sha256(),
        "release": release,
        **blocks_metadata(model.num_points, model.block_size, model.voxel),
    }
    found = {key: opened.metadata[key] for key in KEPT_KEYS if key in opened.metadata}
    if len(found.get("classes", "").split()) != model.config.num_classes:
        found = {key: value for key, value in found.items() if key not in CLASS_KEYS}
        # All three releases number S3DIS's classes as we do; of other data sets nothing is known.
        if model.config.num_classes == len(CLASSES):
            found["classes"] = " ".join(CLASSES)
    return {**origin, **found}


def _release_of(opened: WeightsFile) -> str:
    """Return the release whose names the tensors have; refuse unknown names and our own files."""
    if opened.metadata.get("format") == FORMAT:
        raise WeightsError(
            f"{opened.path}: found weights of this toolkit, which need no import.\n"
            f"Use them: {command('predict', 'SCAN.ply', '--weights', opened.path)}"
        )
    release = _names(opened)
    if release is None:
        see = f"See what is inside: {command('weights', 'inspect', opened.path)}"
        raise WeightsError(f"{_unknown(opened)} {see}")
    return release


def _unknown(opened: WeightsFile) -> str:
    shown = ", ".join(list(opened.tensors)[:3])
    return (
        f"{opened.path}: found {counted(len(opened.tensors), 'tensor')} of no known network "
        f"({shown}, …).\n"
        f"Expected the names of one of {', '.join(RELEASES)}."
    )


def _names(opened: WeightsFile) -> str | None:
    """Return the release whose names the tensors have, OWN for an export under ours, or None."""
    return recognise(opened.tensors) or (OWN if EXPORTED_CONFIG in opened.metadata else None)


def check_out(out: Path, suffixes: tuple[str, ...], source: Path) -> None:
    """Raise ConfigError if `out` cannot be written, or is the source itself."""
    if out.suffix not in suffixes:
        raise ConfigError(
            f"--out {out}: found the suffix {out.suffix!r}.{did_you_mean(out.suffix, suffixes)}\n"
            f"Expected {' or '.join(suffixes)}: the suffix says what is written."
        )
    check_place(out, "--out")
    if out.resolve() == source.resolve():
        raise ConfigError(f"--out {out}: would overwrite its source; expected another file.")


@dataclass(frozen=True)
class Inspected:
    """What is inside a file with weights."""

    path: Path
    form: str  # "safetensors", "PyTorch" or "TensorFlow"
    release: str | None  # whose names the tensors have: "deepgcn" for ours, None if unknown
    network: str | None  # that the tensors form, in short; None if they form none
    assumed: Mapping[str, object]  # unknown settings, and their published values
    problem: str | None  # why the tensors form no network
    config: ModelConfig | None
    numbers: int  # values in all tensors
    bytes: int  # of all its files
    facts: Mapping[str, str]  # the file's metadata
    tensors: Mapping[str, TensorInfo]


def inspect_weights(
    path: Path, hints: Hints | None = None, *, classes: Collection[str] = ()
) -> Inspected:
    """Return what is inside a file with weights, and the network that its tensors form, if any.

    `classes` are as for `load_weights`.

    Raises:
        WeightsError: the file is missing, broken or holds code.
    """
    opened = open_weights(path)
    own = opened.metadata.get("format") == FORMAT
    release = OWN if own else _names(opened)
    model, problem = None, None
    guessed: Mapping[str, object] = {}
    try:
        if own:
            loaded = load_weights(opened.path, classes=classes)
            check_hints(hints or Hints(), loaded.config, OWN)
            model = loaded
        elif release is None:
            problem = _unknown(opened)
        else:
            _, model, guessed = _build(opened, hints, classes, SILENT)
    except DeepGCNError as error:
        problem = str(error)
    return Inspected(
        path=opened.path,
        form=opened.form,
        release=release,
        network=model.label if model else None,
        assumed=guessed,
        problem=problem,
        config=model.config if model else None,
        numbers=sum(math.prod(info.shape) for info in opened.tensors.values()),
        bytes=sum(file.stat().st_size for file in opened.files),
        facts=opened.metadata,
        tensors=opened.tensors,
    )
