"""Which device a stage computes on, how many CPU threads it uses, and what to call them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from pipelines.errors import ConfigError
from pipelines.kernels import cuda
from pipelines.progress import SILENT, Progress
from pipelines.training.placement import Place

from .allocation import keep_freed_memory


def pick_device(name: str, progress: Progress = SILENT) -> torch.device:
    """Return the device that `name` stands for: "auto", "cpu" or "cuda".

    Memory that CPU tensors leave stays with the process.
    A GPU that the fast kernels don't know is said once, in one line.

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
    if device.type == "cuda" and (reason := cuda.why_not(device)):
        progress.warn(f"{reason}: plain PyTorch does the graph operations, much slower.")
    return device


def gpu_names() -> tuple[str, ...]:
    """Return the GPUs that PyTorch sees, as CUDA_VISIBLE_DEVICES names them; none on a CPU."""
    count = torch.cuda.device_count()
    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return tuple(named[:count]) if named else tuple(map(str, range(count)))


def device_of(place: Place, device: torch.device) -> torch.device:
    """Return the device of one of several processes: each has a GPU of its own.

    Raises:
        ConfigError: there are fewer GPUs than processes on this machine.
    """
    if device.type != "cuda" or place.size == 1:
        return device
    count = torch.cuda.device_count()
    # With one GPU in sight, a launcher shows each process its own.
    number = place.local_rank if count > 1 else 0
    if number >= count or (count == 1 and place.launcher == "--devices"):
        raise ConfigError(
            f"--devices: found {count} GPU{'s' if count != 1 else ''} on this machine for "
            f"{place.local_size} processes.\n"
            f"Use --devices {count}, or start the processes on more machines with torchrun."
        )
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def describe_device(device: torch.device) -> str:
    """Return the device's name for people: "cpu, 8 threads" or "cuda, NVIDIA H100"."""
    if device.type == "cuda":
        return f"cuda, {torch.cuda.get_device_name(device)}"
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads != 1 else ''}"


def gpu_memory(device: torch.device) -> int | None:
    """Return the most bytes of GPU memory that this process has held; None on other devices."""
    return torch.cuda.max_memory_reserved(device) if device.type == "cuda" else None


def processor_name() -> str:
    """Return the CPU's model name; the architecture where the system does not tell it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


@contextmanager
def cpu_threads(count: int | None) -> Iterator[None]:
    """Let PyTorch and the CPU kernels use `count` threads within a `with` block; None: no change.

    The number belongs to the process, so it is put back at the end.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
