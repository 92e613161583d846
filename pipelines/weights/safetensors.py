"""Weights in files of our own: safetensors with the network's configuration in the header."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from pipelines.config import ModelConfig
from pipelines.errors import ConfigError, WeightsError, command
from pipelines.files import atomic_write
from pipelines.model.deepgcn import DeepGCN
from pipelines.serialization import to_plain

from .settings import parse_config

FORMAT = "deepgcn-weights"
VERSION = "1"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)  # of counters


def save_weights(path: Path, model: DeepGCN, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's weights and configuration as safetensors, whole or not at all.

    `metadata` is recorded beside them, such as `num_points` or the run's name.
    """
    from safetensors.torch import save

    config = json.dumps(to_plain(model.config))
    header = {**(metadata or {}), "format": FORMAT, "version": VERSION, "config": config}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    # Not save_file: its files are readable by the owner alone, and it reports a full disk as a
    # SafetensorError.
    content = save(tensors, metadata=header)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a weights file, without reading its tensors.

    Raises:
        WeightsError: the file is missing, broken or not written by this toolkit.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path}: found no file, expected weights (*.safetensors).")
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors: {error}.\n{_import_hint(path)}"
        ) from error
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, VERSION):
        raise WeightsError(
            f"{path}: found format {found[0]!r} version {found[1]!r}, "
            f"expected {FORMAT!r} version {VERSION!r}.\n{_import_hint(path)}"
        )
    return metadata


def _import_hint(path: Path) -> str:
    how = command("weights", "import", path, "--out", f"{path.stem}.imported.safetensors")
    return f"Weights of a published release: {how}"


def load_weights(path: Path, *, classes: Collection[str] = ()) -> DeepGCN:
    """Return the network of a weights file, on the CPU and in evaluation mode.

    A file can name a user's own class, and importing it runs code. So only a class that the caller
    names too is imported: no file decides by itself which code runs.

    Args:
        path: the file.
        classes: "package.module:Class" of each own convolution or architecture that may be used.

    Raises:
        WeightsError: the file is missing, broken, names another class, or its tensors are not those
            of its network or not finite.
    """
    from safetensors.torch import load_file

    metadata = read_metadata(path)
    try:
        config, num_points = parse_config(metadata, "config")
    except ConfigError as error:
        raise WeightsError(
            f"{path}: found settings of another version of deepgcn, or damaged ones: {error}"
        ) from error
    refused = [name for name in config.own_classes if name not in classes]
    if refused:
        raise WeightsError(
            f"{path}: found a network with the class {refused[0]}, which a weights file cannot ask "
            "to import.\nUse the directory of the run that it was trained in, or in Python "
            f"pipelines.load_model(path, classes=[{refused[0]!r}])."
        )
    model = build_network(config, load_file(path), source=str(path))
    model.num_points = num_points or model.num_points
    return model


def _dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype that holds all floating tensors exactly; float32 if there is none."""
    floats = [value.dtype for value in tensors.values() if value.is_floating_point()]
    return functools.reduce(torch.promote_types, floats) if floats else torch.float32


def build_network(config: ModelConfig, tensors: Mapping[str, Tensor], *, source: str) -> DeepGCN:
    """Return the network `config` that holds the tensors, in their dtype and evaluation mode.

    A file can claim a network of any size, so memory is taken only for the tensors' own.
    """
    try:
        check_tensors(config, tensors, source=source)
        model = DeepGCN(config).to(_dtype(tensors))
    except ConfigError as error:
        raise WeightsError(f"{source}: {error}") from error
    model.load_state_dict(dict(tensors))
    return model.eval()


def check_tensors(config: ModelConfig, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Check that names, shapes and dtypes are those of the network `config`, and values finite."""
    if config.depth > len(tensors):  # every layer has several
        raise WeightsError(
            f"{source}: found {len(tensors)} tensors, expected those of {config.label}."
        )
    wanted = expected_tensors(config)
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    differing = [
        f"{name}: found {found.get(name, 'none')}, expected {shapes.get(name, 'none')}"
        for name in sorted({*shapes, *found})
        if shapes.get(name) != found.get(name)
    ]
    if differing:
        shown = "; ".join(differing[:4]) + ("; …" if len(differing) > 4 else "")
        raise WeightsError(
            f"{source}: {len(differing)} tensors do not fit {config.label}.\n{shown}"
        )
    for name, value in tensors.items():
        _check_values(value, wanted[name], where=f"{source}: {name}")


def _check_values(value: Tensor, wanted: Tensor, *, where: str) -> None:
    kinds = FLOATS if wanted.is_floating_point() else (*FLOATS, *INTEGERS)
    if value.dtype not in kinds:
        raise WeightsError(
            f"{where}: found {_dtype_name(value.dtype)}, "
            f"expected one of {', '.join(map(_dtype_name, FLOATS))}."
        )
    if not value.isfinite().all():
        raise WeightsError(
            f"{where}: found NaN or infinite numbers, expected finite ones.\n"
            "Its training failed, or the file is damaged: use other weights."
        )


def expected_tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Return the network's tensors by name on the meta device: shapes and dtypes, no memory."""
    try:
        with torch.device("meta"):
            return DeepGCN(config).state_dict()
    except (RuntimeError, TypeError) as error:  # a size that no tensor can have
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{config.label} is no network that can be: {reason}") from error


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
