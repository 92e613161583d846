"""Choose the device and the CPU threads of a stage, and describe the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from pipelines.errors import ConfigError
from pipelines.kernels import why_not_triton
from pipelines.progress import SILENT, Progress, counted

from .memory import keep_freed_memory

PACKAGES = ("deepgcn", "torch", "torch-geometric", "numpy", "h5py", "numba", "safetensors")


def pick_device(name: str, progress: Progress = SILENT) -> torch.device:
    """Return the device that `name` stands for: "auto", "cpu" or "cuda".

    On the CPU, freed memory stays with the process from now on. A GPU without fast kernels gives
    a warning.

    Raises:
        ConfigError: "cuda" was asked for and PyTorch sees no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device: found no GPU that PyTorch {torch.__version__} can use, expected one.\n"
            "Use --device cpu, or install a PyTorch build with CUDA."
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cpu":
        keep_freed_memory()
    elif reason := why_not_triton(device):
        progress.warn(f"{reason}: plain PyTorch does the graph operations, much slower.")
    return device


def gpu_names() -> tuple[str, ...]:
    """Return the GPUs that PyTorch sees, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


def describe_device(device: torch.device) -> str:
    """Return the device's name for people: "cpu, 8 threads" or "cuda, NVIDIA H100"."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    return f"{device.type}, {counted(torch.get_num_threads(), 'thread')}"


def processor_name() -> str:
    """Return the CPU's model name, or its architecture if the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch and the CPU kernels use `count` threads in a `with` block; None: no change.

    The number belongs to the process, so it is restored at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the versions, machine and commit that a run is made with, as JSON-ready values."""
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "host": platform.node(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "device": device.type,
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda,
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "commit": git_commit(Path(__file__).resolve().parents[2]),
        "command": sys.argv,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit(folder: Path) -> str | None:
    """Return the commit checked out in `folder`, "+changes" if files differ; None: no checkout."""
    if not (folder / ".git").exists():
        return None
    describe = ["describe", "--always", "--exclude=*", "--abbrev=40", "--dirty=+changes"]
    command = ["git", "-C", str(folder), *describe]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None  # git is missing, or may not read this checkout
    return done.stdout.strip()
