"""Weights in files of our own: safetensors with the network's configuration in the header.

Every file with weights, of whatever form, becomes a network by `build_network`.
"""

from __future__ import annotations

import functools
import hashlib
import json
import mmap
import re
import reprlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.config import POINTS, ModelConfig
from pipelines.config.model import BLOCK_SIDE, VOXEL, Hints, unnamed_class
from pipelines.errors import ConfigError, WeightsError, command
from pipelines.files import atomic_bytes
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import counted
from pipelines.serialization import from_plain, to_plain

FORMAT = "deepgcn-weights"
VERSION = "1"
EXPORTED_CONFIG = "deepgcn_config"  # metadata of exports in others' forms, as JSON
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# Metadata of the blocks in training: how it is written, what it can be, what it is.
OF_BLOCKS = {
    "num_points": (r"[0-9]{1,18}", POINTS, "a number of points"),
    "block_size": (r"[0-9]{1,2}(\.[0-9])?", BLOCK_SIDE, "metres"),
    "voxel": (r"0(\.[0-9]{1,18})?", VOXEL, "metres"),
}
CHECKSUM = "deepgcn_sha256"  # metadata: the SHA-256 of the file, in which it is NO_SUM
NO_SUM = 64 * "0"
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)  # of counters


def save_weights(path: Path, model: DeepGCN, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write the model's weights and configuration as safetensors, whole or not at all.

    `metadata` is recorded beside them, such as `num_points` or the run's name.
    """
    own = {"format": FORMAT, "version": VERSION, "config": json.dumps(to_plain(model.config))}
    write_safetensors(path, model.state_dict(), {**(metadata or {}), **own})


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> None:
    """Write tensors by name, which may share memory, and metadata beside them."""
    from safetensors.torch import save

    # A folder's name may have bytes that are no UTF-8.
    texts = {n: v.encode(errors="backslashreplace").decode() for n, v in metadata.items()}
    copies = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in tensors.items()
    }
    # Not save_file: its files are readable by the owner alone, and it reports a full disk as a
    # SafetensorError.
    atomic_bytes(path, _sealed(save(copies, metadata=texts)))


def _sealed(content: bytes) -> bytes:
    """Return a safetensors file with its metadata in order, and among it a checksum of the file.

    The library leaves the order to chance; so the same weights have the same SHA-256, wherever they
    were written.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    metadata = {**header.get("__metadata__", {}), CHECKSUM: NO_SUM}
    header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the tensors begin at a multiple of 8
    whole = len(text).to_bytes(8, "little") + text + content[end:]
    before, key, behind = whole.partition(f'"{CHECKSUM}":"'.encode())
    return before + key + hashlib.sha256(whole).hexdigest().encode() + behind[len(NO_SUM) :]


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of any file, mapped from it rather than read, and its metadata.

    WeightsError: it cannot be read, or it is ours and not what was written.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
            metadata = dict(sorted((opened.metadata() or {}).items()))
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: a size beyond 63 bits
        if "not valid UTF-8" in str(error):
            raise WeightsError(
                f"{path}: cannot be opened by the safetensors library: its path is no UTF-8.\n"
                "Rename the folder or file."
            ) from error
        reason = str(error).splitlines()[0]
        raise WeightsError(f"{path}: cannot be read as safetensors: {reason}.") from error
    _check_sum(path, metadata)
    return tensors, metadata


def _check_sum(path: Path, metadata: dict[str, str]) -> None:
    """Take the checksum out of a file's metadata; WeightsError: the file's is another one."""
    expected = metadata.pop(CHECKSUM, None)
    if expected is None and any(map(_is_nearly_the_key, metadata)):
        expected = ""  # a flipped bit in the name of the checksum does not turn it off
    if expected is None:  # another program's file, or from before there were checksums
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        at = content.find(expected.encode())
        digest = hashlib.sha256(content[:at])
        digest.update(NO_SUM.encode())
        digest.update(memoryview(content)[at + len(NO_SUM) :])
    if digest.hexdigest() != expected:
        raise WeightsError(
            f"{path}: found other content than was written: the file is damaged, or another "
            f"program has changed it (its {CHECKSUM} does not fit).\n"
            "Copy or export it again, or use other weights."
        )


def _is_nearly_the_key(name: str) -> bool:
    differing = sum(one != other for one, other in zip(name, CHECKSUM, strict=False))
    return len(name) == len(CHECKSUM) and differing <= 2


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a weights file of this toolkit."""
    return _read_own(path)[1]


def _read_own(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        if not path.is_file():
            raise WeightsError(f"{path}: found no file, expected weights (*.safetensors).")
        path.open("rb").close()  # the library says of every error that the file is not there
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}).") from error
    how = command("weights", "import", path, "--out", f"{path.stem}.imported.safetensors")
    hint = f"Weights of a published release: {how}"
    try:
        tensors, metadata = read_safetensors(path)
    except WeightsError as error:
        raise WeightsError(f"{error}\n{hint}") from error
    found = metadata.get("format"), metadata.get("version")
    if found != (FORMAT, VERSION):
        raise WeightsError(
            f"{path}: found format {found[0]!r} version {found[1]!r}, "
            f"expected {FORMAT!r} version {VERSION!r}.\n{hint}"
        )
    return tensors, metadata


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
    tensors, metadata = _read_own(path)
    try:
        config, of_blocks = parse_config(metadata, "config")
    except ConfigError as error:
        raise WeightsError(
            f"{path}: found settings of another version of deepgcn, or damaged ones: {error}"
        ) from error
    if refusal := unnamed_class(config.own_classes, classes):
        raise WeightsError(f"{path}: {refusal}")
    model = build_network(config, tensors, source=str(path))
    for name, value in of_blocks.items():
        setattr(model, name, value)
    return model


def blocks_metadata(num_points: int, block_size: float, voxel: float) -> dict[str, str]:
    """Return the metadata of the blocks in training."""
    thinned = {"voxel": str(voxel)} if voxel else {}
    return {"num_points": str(num_points), "block_size": f"{block_size:g}", **thinned}


def parse_config(metadata: Mapping[str, str], key: str) -> tuple[ModelConfig, dict[str, Any]]:
    """Return the configuration in metadata, as JSON, and what it tells of OF_BLOCKS."""
    try:
        values = json.loads(metadata.get(key, ""))
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"found no JSON ({error}).") from error
    config: ModelConfig = from_plain(ModelConfig, values)
    found = {}
    for name, (form, bounds, what) in OF_BLOCKS.items():
        if (text := metadata.get(name)) is None:
            continue
        if not re.fullmatch(form, text):
            raise ConfigError(f"{name}: found {reprlib.repr(text)}, expected {what}.")
        found[name] = int(text) if bounds is POINTS else float(text)
        bounds.check(name, found[name])
    return config, found


def exported_settings(metadata: Mapping[str, str]) -> tuple[ModelConfig | None, Hints]:
    """Return the network and blocks in an export of ours; None and no hints in other files."""
    if EXPORTED_CONFIG not in metadata:
        return None, Hints()
    try:
        config, of_blocks = parse_config(metadata, EXPORTED_CONFIG)
    except ConfigError as error:
        raise WeightsError(f"its {EXPORTED_CONFIG} is damaged: {error}") from error
    return config, Hints(**of_blocks)


def build_network(config: ModelConfig, tensors: Mapping[str, Tensor], *, source: str) -> DeepGCN:
    """Return the network `config` that holds the tensors, in evaluation mode.

    Its dtype is the tensors', but float32 where they have 16 bits, which is for storing only. A
    file can claim a network of any size, so memory is taken only for the tensors' own.
    """
    try:
        _check_tensors(config, tensors, source)
        dtypes = (value.dtype for value in tensors.values() if value.is_floating_point())
        model = DeepGCN(config).to(functools.reduce(torch.promote_types, dtypes, torch.float32))
    except ConfigError as error:
        raise WeightsError(f"{source}: {error}") from error
    model.load_state_dict(dict(tensors))
    return model.eval()


def check_depth(config: ModelConfig, tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse a claim of more layers than a file has tensors, before any layer is built."""
    if config.depth > len(tensors):  # every layer has several
        raise WeightsError(
            f"{source}: found {counted(len(tensors), 'tensor')}, expected those of {config.label}."
        )


def _check_tensors(config: ModelConfig, tensors: Mapping[str, Tensor], source: str) -> None:
    check_depth(config, tensors, source)
    wanted = expected_tensors(config)
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    differing = [
        f"{name}: found {found.get(name, 'none')}, expected {shapes.get(name, 'none')}"
        for name in sorted({*shapes, *found})
        if shapes.get(name) != found.get(name)
    ]
    if differing:
        do = "does" if len(differing) == 1 else "do"
        shown = "; ".join(differing[:4]) + ("; …" if len(differing) > 4 else "")
        raise WeightsError(
            f"{source}: {counted(len(differing), 'tensor')} {do} not fit {config.label}.\n{shown}"
        )
    for name, value in tensors.items():
        kinds = FLOATS if wanted[name].is_floating_point() else (*FLOATS, *INTEGERS)
        if value.dtype not in kinds:
            raise WeightsError(
                f"{source}: {name}: found {dtype_name(value)}, "
                "expected one of float16, bfloat16, float32, float64."
            )
        if not value.isfinite().all():
            raise WeightsError(
                f"{source}: {name}: found NaN or infinite numbers, expected finite ones.\n"
                "Its training failed, or the file is damaged: use other weights."
            )
        if name.endswith("running_var") and (value < 0).any():
            raise WeightsError(
                f"{source}: {name}: found a negative variance, expected none below 0.\n"
                "The file is damaged: use other weights."
            )


def expected_tensors(config: ModelConfig) -> dict[str, Tensor]:
    """Return the network's tensors by name on the meta device: shapes and dtypes, no memory."""
    try:
        with torch.device("meta"):
            return DeepGCN(config).state_dict()
    except (RuntimeError, TypeError) as error:  # a size that no tensor can have
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{config.label} is not a possible network: {reason}") from error


def dtype_name(tensor: Tensor) -> str:
    """Return a tensor's dtype without PyTorch's name, such as float32."""
    return str(tensor.dtype).removeprefix("torch.")
