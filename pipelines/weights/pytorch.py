"""PyTorch's checkpoints (`torch.save`), read as tensors only: code in them is never run."""

from __future__ import annotations

import math
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.errors import WeightsError
from pipelines.files import ZIP_ERRORS, check_apart, is_zip
from pipelines.progress import counted

SAFE_SINCE = (2, 6)  # before, `weights_only` could be made to run code (CVE-2025-32434)
STATES = ("state_dict", "model_state_dict", "model")  # keys under which trainers save weights
FORMS = "Expected what torch.save writes, a safetensors file or a TensorFlow checkpoint."


def read_torch(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a checkpoint by name, and the plain values beside them as texts."""
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < SAFE_SINCE:
        raise WeightsError(
            f"{path}: PyTorch {torch.__version__} cannot read such a file safely.\n"
            "Expected 2.6 or newer: pip install 'torch>=2.6'"
        )
    _check_sizes(path)
    content = _load(path)
    state, metadata = _find_state(content)
    if not state:
        raise WeightsError(
            f"{path}: found {_kind(content)}, expected tensors by name, "
            f"alone or under one of {', '.join(STATES)}."
        )
    _check_numbers(path, state)
    return state, metadata


def _find_state(content: Any) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the named tensors of a trainer's checkpoint, and its plain values as texts."""
    if not isinstance(content, Mapping):
        return {}, {}
    inner = (content[name] for name in STATES if isinstance(content.get(name), Mapping))
    state = {
        str(name): value.detach()
        for name, value in next(inner, content).items()
        if isinstance(value, Tensor) and value.layout is torch.strided and not value.is_quantized
    }
    plain = {n: v for n, v in content.items() if isinstance(v, str | int | float | np.number)}
    return state, {str(name): str(value) for name, value in plain.items()}


def _check_numbers(path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors whose values are not all in the file: a view can expand one to many."""
    absent = next((name for name, value in state.items() if value.is_meta), None)
    if absent is not None:
        raise WeightsError(f"{path}: found only the shape of {absent!r}, expected its numbers.")
    total = sum(math.prod(value.shape) for value in state.values())
    if total > path.stat().st_size:  # every number takes a byte or more
        raise WeightsError(
            f"{path}: its tensors claim {total:,} numbers, the file has "
            f"{path.stat().st_size:,} bytes.\n"
            "Expected each tensor with numbers of its own: save value.clone() of each."
        )


def _check_sizes(path: Path) -> None:
    """Refuse an archive whose entries are larger than it is: torch.save compresses nothing."""
    if not is_zip(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            check_apart(archive)
            total = sum(entry.file_size for entry in archive.infolist())
    except (OSError, ValueError, *ZIP_ERRORS) as error:
        raise WeightsError(f"{path}: cannot be read as a PyTorch file: {error}.") from error
    if total > path.stat().st_size:
        raise WeightsError(
            f"{path}: its parts claim {total:,} bytes, the file has {path.stat().st_size:,}.\n"
            "Expected a file as torch.save writes it, uncompressed."
        )


def _load(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of unusual pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, KeyError) as error:  # KeyError: a text, read as a pickle
        raise WeightsError(_refusal(path, str(error))) from error
    except Exception as error:  # a broken pickle can fail in any way
        reason = re.split(r"\n|\. ", str(error), maxsplit=1)[0] or type(error).__name__
        raise WeightsError(
            f"{path}: cannot be read as a PyTorch file: {reason}.\n{FORMS}"
        ) from error


def _numpy_scalars() -> list[Any]:
    """Return what unpickling a NumPy scalar needs: the released trainer saves its best score so."""
    scalar = np.float64(0).__reduce__()[0]  # the function that unpickles one
    dtypes = (np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32)))
    modules = ("numpy.core.multiarray", "numpy._core.multiarray")  # old files have the old name
    return [*((scalar, f"{module}.scalar") for module in modules), *dtypes]


def _refusal(path: Path, message: str) -> str:
    """Return why torch refused a file: the name of the function that it calls, if known."""
    if found := re.search(r"GLOBAL ([\w.]+)", message):
        return (
            f"{path}: its pickle calls {found[1]}: code, which could do anything, so it is "
            "refused.\nExpected tensors only: save model.state_dict() alone, with torch.save, "
            "and import that."
        )
    return (
        f"{path}: cannot be read as a PyTorch file: damaged, or not written by torch.save.\n{FORMS}"
    )


def _kind(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    shown = ", ".join(str(name) for name in list(content)[:4])
    shown += ", …" if len(content) > 4 else ""
    return f"a dictionary with {counted(len(content), 'key')} ({shown})"
