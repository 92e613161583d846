"""Weights in files: our own safetensors, and the names of the published PyTorch release."""

from __future__ import annotations

import functools
import json
import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.config import POINTS, ModelConfig
from pipelines.errors import ConfigError, WeightsError, command
from pipelines.files import atomic_write
from pipelines.model.deepgcn import DeepGCN
from pipelines.serialization import from_plain, to_plain

FORMAT = "deepgcn-weights"
VERSION = "1"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)  # of counters


def save_weights(path: Path, model: DeepGCN, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's weights and configuration as safetensors, whole or not at all.

    Args:
        path: the file, normally *.safetensors.
        model: on any device, of any floating dtype.
        metadata: more to record, such as `num_points` or the run's name.
    """
    from safetensors.torch import save

    config = json.dumps(to_plain(model.config))
    facts = {**(metadata or {}), "format": FORMAT, "version": VERSION, "config": config}
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()
    }
    # Through memory: save_file makes files that nobody else may read, and reports a full disk as
    # a SafetensorError, a file as an OSError.
    content = save(tensors, metadata=facts)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


def read_metadata(path: Path) -> dict[str, str]:
    """Return what a weights file says of itself, without reading its tensors.

    Raises:
        WeightsError: the file is missing, broken or not written by this toolkit.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"{path}: found no file, expected weights (*.safetensors).")
    try:
        with safe_open(path, framework="pt") as opened:
            facts = dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: cannot be read as safetensors: {error}.\n{_import_hint(path)}"
        ) from error
    if facts.get("format") != FORMAT or facts.get("version") != VERSION:
        raise WeightsError(
            f"{path}: found format {facts.get('format')!r} version {facts.get('version')!r}, "
            f"expected {FORMAT!r} version {VERSION!r}.\n{_import_hint(path)}"
        )
    return facts


def _import_hint(path: Path) -> str:
    """Return what to do with weights that may be another program's."""
    out = f"{path.stem}.imported.safetensors"
    how = command("weights", "import", path, "--out", out)
    return f"Weights of a published release: {how}"


def load_weights(path: Path, *, classes: Collection[str] = ()) -> DeepGCN:
    """Return the network of a weights file, on the CPU and in evaluation mode.

    A file can name a class of somebody's own, and importing it runs code. So only a class that the
    caller names too is imported: no file decides by itself which code runs.

    Args:
        path: the file.
        classes: "package.module:Class" of each own convolution or architecture that may be used.

    Raises:
        WeightsError: the file is missing, broken, names another class, or its tensors are not those
            of its network or not finite.
    """
    from safetensors.torch import load_file

    facts = read_metadata(path)
    try:
        config, num_points = parse_config(facts.get("config", "")), parse_num_points(facts)
    except ConfigError as error:
        raise WeightsError(f"{path}: its configuration is damaged: {error}") from error
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


def parse_config(text: str) -> ModelConfig:
    """Return the configuration that a weights file holds as JSON.

    Raises:
        ConfigError: it is none.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"found no JSON ({error}).") from error
    return from_plain(ModelConfig, values)


def parse_num_points(facts: Mapping[str, str]) -> int | None:
    """Return the points of a block in training that a weights file tells, if it does.

    Raises:
        ConfigError: no block can have as many.
    """
    told = facts.get("num_points")
    if told is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", told):
        raise ConfigError(f"num_points: found {reprlib.repr(told)}, expected a number of points.")
    POINTS.check("num_points", int(told))
    return int(told)


def _dtype(tensors: Mapping[str, Tensor]) -> torch.dtype:
    """Return the dtype that holds all floating tensors exactly; float32 if there is none."""
    floats = [value.dtype for value in tensors.values() if value.is_floating_point()]
    return functools.reduce(torch.promote_types, floats) if floats else torch.float32


def build_network(config: ModelConfig, tensors: Mapping[str, Tensor], *, source: str) -> DeepGCN:
    """Return the network `config` that holds the tensors, in their dtype and evaluation mode.

    A file can claim a network of any size, so memory is taken only for the tensors' own.

    Raises:
        WeightsError: a name, a shape or a dtype differs, a number is not finite, or there is no
            such network.
    """
    try:
        check_tensors(config, tensors, source=source)
        model = DeepGCN(config).to(_dtype(tensors))
    except ConfigError as error:
        raise WeightsError(f"{source}: {error}") from error
    model.load_state_dict(dict(tensors))
    return model.eval()


def check_tensors(config: ModelConfig, tensors: Mapping[str, Tensor], *, source: str) -> None:
    """Compare names, shapes and dtypes with those of the network `config`; numbers are finite.

    Raises:
        ConfigError: there is no such network.
        WeightsError: they differ, or a number is not finite; says which.
    """
    if config.depth > len(tensors):  # every layer has several
        raise WeightsError(
            f"{source}: found {len(tensors)} tensors, expected those of {describe(config)}."
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
            f"{source}: {len(differing)} tensors do not fit {describe(config)}.\n{shown}"
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
    """Return the network's tensors by name, with shapes and dtypes but without numbers.

    Raises:
        ConfigError: there is no such network.
    """
    try:
        with torch.device("meta"):
            return DeepGCN(config).state_dict()
    except (RuntimeError, TypeError) as error:  # a size that no tensor can have
        told = str(error).splitlines()[0]
        raise ConfigError(f"{describe(config)} is no network that can be: {told}") from error


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def describe(config: ModelConfig) -> str:
    """Return a network's name for people: 'resgcn-28 (edge, C 64, k 16)'."""
    return f"{config.arch}-{config.depth} ({config.conv}, C {config.width}, k {config.k})"


def from_reference(
    state_dict: Mapping[str, Tensor],
    *,
    k: int,
    conv: str = "edge",
    layout: str = "torch",
    epsilon: float = 0.2,
    dropout: float = 0.3,
    arch: str | None = None,
) -> DeepGCN:
    """Build the network that holds weights under the published PyTorch names.

    Depth, width, class count and a dense backbone follow from names and shapes. A plain and a
    residual backbone have the same names and shapes: residual is assumed unless `arch` is given.

    Args:
        state_dict: tensors under the names of the release, with or without `module.` in front;
            linear maps as 1 × 1 convolutions (out, in, 1, 1) or matrices (out, in).
        k: neighbours per point, which no tensor tells.
        conv: the vertex layer: edge, mr, sage, sage-n, gin or gin-0.
        layout: "torch" for the PyTorch release, "paper" for the order of the TensorFlow one.
        epsilon: probability of stochastic dilation while training.
        dropout: dropout rate before the classifier.
        arch: "plaingcn", "resgcn" or "densegcn" to say instead of inferring.

    Returns:
        The network in evaluation mode, in the weights' dtype.

    Raises:
        WeightsError: a name is unknown or a shape does not fit.
    """
    plain = {name.removeprefix("module."): value for name, value in state_dict.items()}
    inferred = infer_config(plain, conv=conv, arch=arch)
    published = ModelConfig.published(inferred["arch"])
    config = ModelConfig(
        **inferred,
        k=k,
        conv=conv,
        layout=layout,
        epsilon=epsilon if published.dilation else 0.0,
        dropout=dropout,
        dilation=published.dilation,
    )
    tensors = {}
    for name, value in plain.items():
        own = own_name(name, conv=conv)
        linear = own.endswith("linear.weight") or own == "classifier.weight"
        tensors[own] = as_matrix(name, value) if linear else value
    return build_network(config, tensors, source="reference weights")


def as_matrix(name: str, kernel: Tensor) -> Tensor:
    """Return a 1 × 1 convolution (out, in, 1, …) or a linear map (out, in) as a matrix.

    Raises:
        WeightsError: it is neither.
    """
    if kernel.dim() < 2 or kernel.numel() == 0:
        raise WeightsError(
            f"{name}: found shape {tuple(kernel.shape)}, expected (out, in) or (out, in, 1, 1)."
        )
    return kernel.flatten(1)


def infer_config(
    state: Mapping[str, Tensor], *, conv: str, arch: str | None = None
) -> dict[str, Any]:
    """Return arch, depth, width and channel counts from published names and shapes.

    Raises:
        WeightsError: a tensor that every published network has is missing.
    """
    parts = {"sage": "nn2", "sage-n": "nn2"}.get(conv, "nn")
    sides = 1 if conv in ("gin", "gin-0") else 2  # an MLP over [x_i, …] takes twice the channels
    head = _tensor(state, f"head.gconv.{parts}.0.weight")
    last = _tensor(state, "prediction.3.0.weight")
    fusion = _tensor(state, "fusion_block.0.weight")
    numbers = [int(m[1]) for name in state if (m := re.match(rf"backbone\.{_NUMBER}\.", name))]
    depth, width = max(numbers, default=-1) + 2, head.shape[0]
    inputs = 0
    if depth > 2:
        inputs = _tensor(state, f"backbone.{depth - 2}.body.gconv.{parts}.0.weight").shape[1]
    dense = inputs == sides * width * (depth - 1) or fusion.shape[1] == width * _triangle(depth)
    return {
        "arch": arch or ("densegcn" if dense else "resgcn"),
        "depth": depth,
        "width": width,
        "in_channels": head.shape[1] // sides,
        "num_classes": last.shape[0],
        "fusion_channels": fusion.shape[0],
    }


_NUMBER = r"([0-9]{1,9})"  # of a layer


def _triangle(number: int) -> int:
    return number * (number + 1) // 2


def _tensor(state: Mapping[str, Tensor], name: str) -> Tensor:
    """Return the linear map `name` as a matrix."""
    if name not in state:
        shown = ", ".join(list(state)[:3])
        raise WeightsError(
            f"reference weights: found no tensor {name!r} among {len(state)} ({shown}, …).\n"
            "Expected the PyTorch release's names: head.*, backbone.*, fusion_block.*, …"
        )
    return as_matrix(name, state[name])


_PATTERNS = (
    (r"head\.gconv\.(.+)", "layers.0.{0}"),
    (rf"backbone\.{_NUMBER}\.body\.gconv\.(.+)", "layers.{0}.{1}"),
    (r"fusion_block\.(\d)\.(.+)", "fusion.{0}.{1}"),
    (r"prediction\.([01])\.(\d)\.(.+)", "prediction.{0}.{1}.{2}"),
    (r"prediction\.3\.0\.(.+)", "classifier.{0}"),
)


def own_name(name: str, *, conv: str) -> str:
    """Return our name of a tensor that the PyTorch release calls `name`.

    Raises:
        WeightsError: the release has no such name.
    """
    for pattern, form in _PATTERNS:
        found = re.fullmatch(pattern, name)
        if not found:
            continue
        groups = list(found.groups())
        if name.startswith("backbone"):
            groups[0] = str(int(groups[0]) + 1)
        own = form.format(*groups)
        own = re.sub(r"\bnn1\b", "neighbor_mlp", own)
        own = re.sub(r"\bnn2?\b", "mlp.0" if conv == "edge" else "mlp", own)
        # Within a unit, 0 is the convolution, 1 or 2 the norm: whichever the activation is not.
        return re.sub(
            r"\.([012])\.(weight|bias|running_\w+|num_batches_tracked)$",
            lambda m: f".{'linear' if m[1] == '0' else 'norm'}.{m[2]}",
            own,
        )
    raise WeightsError(f"reference weights: found the unknown tensor {name!r}.")
