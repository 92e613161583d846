"""A network's weights in the forms that other programs read.

    write_state     named tensors, under our names or those of a published release
    write_program   the whole computation for a block, as torch.export keeps it (.pt2)
    write_onnx      the same as ONNX

Reference:
    github.com/lightaime/deep_gcns_torch and github.com/antao97/dgcnn.pytorch for the names.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from pipelines import kernels
from pipelines.config import CONVS
from pipelines.errors import ConfigError, WeightsError
from pipelines.files import atomic_write
from pipelines.model.deepgcn import DeepGCN

from .published import DGCNN_EDGE_MAPS, DGCNN_UNITS, swap_halves
from .safetensors import describe, save_weights
from .settings import config_facts

OPSET = 18
LEAST_AGREEMENT = 0.99
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def write_state(path: Path, model: DeepGCN, *, published: bool, facts: Mapping[str, str]) -> None:
    """Write the tensors: safetensors for *.safetensors, else as torch.save does.

    Args:
        path: the file.
        model: the network, on the CPU.
        published: under the names of the published release instead of ours.
        facts: what to record beside the tensors.

    Raises:
        ConfigError: no release has a network of this kind.
    """
    if path.suffix == ".safetensors" and not published:
        return save_weights(path, model, metadata=facts)
    state = published_state(model) if published else dict(model.state_dict())
    state = {name: value.detach().contiguous() for name, value in state.items()}
    told = {**facts, **config_facts(model.config)}
    with atomic_write(path) as temporary:
        if path.suffix == ".safetensors":
            from safetensors.torch import save_file

            save_file({name: value.clone() for name, value in state.items()}, temporary, told)
        else:
            torch.save({"state_dict": state, **told}, temporary)


def published_state(model: DeepGCN) -> dict[str, Tensor]:
    """Return the tensors under the names and in the shapes of the published PyTorch code.

    Raises:
        ConfigError: no release has a network of this kind.
    """
    config = model.config
    if config.arch == "dgcnn":
        return dgcnn_state(model)
    if config.conv not in CONVS:
        raise ConfigError(
            f"{describe(config)}: found the vertex layer {config.conv}, which no release has.\n"
            f"Expected one of {', '.join(CONVS)}; export it under our own names."
        )
    return {
        published_name(name, conv=config.conv): _kernel(name, value)
        for name, value in model.state_dict().items()
    }


def published_name(name: str, *, conv: str) -> str:
    """Return what the PyTorch release calls our tensor `name`; the inverse of `own_name`."""
    published = re.sub(r"^layers\.0\.", "head.gconv.", name)
    published = re.sub(
        r"^layers\.(\d+)\.", lambda m: f"backbone.{int(m[1]) - 1}.body.gconv.", published
    )
    last = "nn2" if conv in ("sage", "sage-n") else "nn"
    for pattern, form in (
        (r"\.neighbor_mlp\.", ".nn1."),
        (r"\.mlp\.(0\.)?(?=linear|norm)", f".{last}."),
        (r"^fusion\.", "fusion_block."),
        (r"^classifier\.", "prediction.3.0."),
        (r"\blinear\.", "0."),
        (r"\bnorm\.", "2."),
    ):
        published = re.sub(pattern, form, published)
    return published


def _kernel(name: str, value: Tensor) -> Tensor:
    """Return a matrix (out, in) as the kernel (out, in, 1, 1) of a convolution."""
    matrix = name.endswith("linear.weight") or name == "classifier.weight"
    return value[:, :, None, None] if matrix else value


def dgcnn_state(model: DeepGCN) -> dict[str, Tensor]:
    """Return the tensors as `dgcnn.pytorch` names them, each norm twice.

    Raises:
        ConfigError: the depth is not the published one.
    """
    if model.config.depth != 3:
        raise ConfigError(
            f"{describe(model.config)}: found depth {model.config.depth}, expected the published 3."
        )
    own = model.state_dict()
    state = {}
    for unit, ours in DGCNN_UNITS.items():
        matrix = own[f"{ours}.linear.weight"]
        matrix = swap_halves(matrix) if unit in DGCNN_EDGE_MAPS else matrix
        edges = ours.startswith("layers")  # a convolution over points and neighbours, else points
        state[f"{unit}.0.weight"] = matrix[:, :, None, None] if edges else matrix[:, :, None]
        for name in (name for name in own if name.startswith(f"{ours}.norm.")):
            part = name.rpartition(".")[2]
            state[f"{unit}.1.{part}"] = state[f"bn{unit[4:]}.{part}"] = own[name]
    state["conv9.weight"] = own["classifier.weight"][:, :, None]
    return state


def write_program(path: Path, model: DeepGCN, num_points: int) -> float:
    """Write the computation for one block of `num_points` points with torch.export.

    Returns:
        The share of a random block's points whose labels are the network's own, 0 to 1.

    Raises:
        WeightsError: the network has a foreign layer that cannot be traced, or labels differ.
    """
    features = random_block(model, num_points)
    program = trace(model, features)
    with atomic_write(path) as temporary, _quiet():
        # The suffix says what it is, and torch insists on it.
        named = temporary.with_suffix(".pt2")
        try:
            torch.export.save(program, named)
            found = torch.export.load(named).module()(features)
            share = agreement(path, model, features, found)
            named.replace(temporary)
        finally:
            named.unlink(missing_ok=True)
    return share


def write_onnx(path: Path, model: DeepGCN, num_points: int, facts: Mapping[str, str]) -> float:
    """Write the computation for one block of `num_points` points as ONNX.

    Returns:
        The share of a random block's points whose labels in onnxruntime are the network's own.

    Raises:
        ConfigError: a package for it is missing.
        WeightsError: the network has a foreign layer that cannot be traced, or labels differ.
    """
    check_onnx_packages()
    import onnxruntime

    features = random_block(model, num_points)
    exported = translate(trace(model, features))
    exported.model.metadata_props.update(facts)
    with atomic_write(path) as temporary:
        exported.save(str(temporary))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            str(temporary), options, providers=["CPUExecutionProvider"]
        )
        (found,) = session.run(None, {"features": features.numpy()})
        return agreement(path, model, features, torch.from_numpy(found))


def translate(program: ExportedProgram) -> Any:
    """Return a traced computation as torch's ONNX program, from `features` to `logits`."""
    with _quiet():
        return torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["features"],
            output_names=["logits"],
            custom_translation_table={torch.ops.aten.sort.stable: _sort},
        )


def check_onnx_packages() -> None:
    """Raise ConfigError, with what to install, if a package for ONNX is missing."""
    from importlib.util import find_spec

    missing = [name for name in ONNX_PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"ONNX: found no package {', '.join(missing)}.\nInstall it: pip install 'deepgcn[onnx]'"
        )


def _sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """Translate a stable sort: TopK of all, which ONNX defines to put equal values in order."""
    import onnxscript

    op: Any = onnxscript.opset18  # its types are narrower than what it takes
    size = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)


def trace(model: DeepGCN, features: Tensor) -> ExportedProgram:
    """Return the computation on features of this shape, with the plain operations.

    Raises:
        WeightsError: the network has a foreign layer that cannot be traced.
    """
    try:
        with kernels.use("reference"), torch.no_grad(), _quiet():
            return torch.export.export(model.eval(), (features,))
    except Exception as error:
        if model.config.conv in CONVS:
            raise
        raise WeightsError(
            f"{describe(model.config)}: torch.export cannot follow {model.config.conv}: "
            f"{str(error).splitlines()[0]}\nExport its tensors instead: --out FILE.safetensors"
        ) from error


def random_block(model: DeepGCN, num_points: int) -> Tensor:
    """Return features (1, num_points, in_channels) to try a computation on, always the same."""
    model.config.check_points(num_points)
    dtype = next(model.parameters()).dtype
    shape = (1, num_points, model.config.in_channels)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def agreement(path: Path, model: DeepGCN, features: Tensor, found: Tensor) -> float:
    """Return the share of points to which logits `found` (1, N, C) give the network's own labels.

    Rounding can swap two neighbours of almost equal distance, so a few points may differ.

    Raises:
        WeightsError: more than a few differ.
    """
    with kernels.use("reference"), torch.no_grad():
        expected = model(features)
    share = float((found.argmax(-1) == expected.argmax(-1)).double().mean())
    if share < LEAST_AGREEMENT:
        raise WeightsError(
            f"{path}: what was exported gives {share:.1%} of a block's points the network's own "
            f"labels, expected at least {LEAST_AGREEMENT:.0%}; nothing was written."
        )
    return share


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what PyTorch's exporters say of their own insides from the person."""
    names = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "onnx_ir.passes")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
