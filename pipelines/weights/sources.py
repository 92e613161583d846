"""Any file with weights, opened: its tensors by name, shape and dtype, and its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.errors import WeightsError

from .pytorch import read_torch
from .tensorflow import Bundle, bundle_prefix, is_optimizer, open_bundle


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

    def sha256(self) -> str:
        """Return the SHA-256 of its files, one after the other."""
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as opened:
                while chunk := opened.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()


def open_weights(path: Path) -> WeightsFile:
    """Open a file with weights, of this toolkit or any other.

    Raises:
        WeightsError: the file is missing, broken or of no known form.
    """
    prefix = bundle_prefix(path)
    if prefix is not None:
        return _open_tensorflow(open_bundle(prefix))
    if not path.is_file():
        raise WeightsError(
            f"{path}: found {'a folder' if path.is_dir() else 'no file'}, expected weights: a "
            "safetensors or PyTorch file, or a TensorFlow checkpoint (PREFIX or PREFIX.index)."
        )
    with path.open("rb") as opened:
        start = opened.read(9)
    return _open_safetensors(path) if start[8:9] == b"{" else _open_torch(path)


def _open_safetensors(path: Path) -> WeightsFile:
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    try:
        with safe_open(path, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            tensors = {
                name: TensorInfo(tuple(part.get_shape()), _dtype_name(part.get_dtype()))
                for name, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors: {error}.") from error
    return WeightsFile(path, "safetensors", (path,), tensors, metadata, lambda: load_file(path))


def _dtype_name(code: str) -> str:
    """Return PyTorch's name of a safetensors dtype such as F32, BF16 or I64."""
    for letter, name in (("BF", "bfloat"), ("F", "float"), ("I", "int"), ("U", "uint")):
        if code.startswith(letter) and code.removeprefix(letter).isdecimal():
            return name + code.removeprefix(letter)
    return code.lower()


def _open_torch(path: Path) -> WeightsFile:
    state, metadata = read_torch(path)
    tensors = {
        name: TensorInfo(tuple(value.shape), str(value.dtype).removeprefix("torch."))
        for name, value in state.items()
    }
    return WeightsFile(path, "PyTorch", (path,), tensors, metadata, lambda: state)


def _open_tensorflow(bundle: Bundle) -> WeightsFile:
    tensors = {
        name: TensorInfo(entry.shape, np.dtype(entry.dtype).name if entry.dtype else "not numbers")
        for name, entry in bundle.entries.items()
    }

    def read() -> dict[str, Tensor]:
        names = [name for name in tensors if not is_optimizer(name)]
        bundle.check_data(names)
        return {name: torch.from_numpy(bundle.read(name).copy()) for name in names}

    index = bundle.prefix.with_name(f"{bundle.prefix.name}.index")
    data = (bundle.data_file(shard) for shard in range(bundle.shards))
    files = (index, *(path for path in data if path.is_file()))
    return WeightsFile(bundle.prefix, "TensorFlow", files, tensors, {}, read)
