"""Any file with weights, opened: its tensors by name, shape and dtype, and its metadata."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipelines.config.model import Hints
from pipelines.errors import WeightsError

from .pytorch import read_torch
from .safetensors import dtype_name, published_hints, read_safetensors
from .tensorflow import LOG, bundle_prefix, index_file, open_bundle, read_log


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
        digest = hashlib.sha256()
        for path in self.files:
            with path.open("rb") as opened:
                while chunk := opened.read(1 << 20):
                    digest.update(chunk)
        return digest.hexdigest()

    def hints(self) -> Hints:
        """Return the network's settings that are recorded in the file or beside it."""
        if self.log:
            return read_log(self.log)
        try:
            return published_hints(self.metadata)
        except WeightsError as error:
            raise WeightsError(f"{self.path}: {error}") from error


def open_weights(path: Path) -> WeightsFile:
    """Open a file with weights, of this toolkit or any other.

    Raises:
        WeightsError: the file is missing, broken or of no known form.
    """
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
