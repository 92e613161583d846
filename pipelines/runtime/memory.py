"""Measure available and used memory, and set what happens to freed memory."""

from __future__ import annotations

import ctypes
import gc
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PROCESS, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")
# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
LARGEST_KEPT = 256 << 20  # bytes; larger pieces go back to the system as soon as they are freed
KEPT = (1 << 31) - 1  # bytes of freed memory at most; mallopt takes an int
GROWTH = 64 << 20  # bytes that the heap grows by
LARGE_ARRAY = 4 << 20  # bytes; arrays of this size go back to the system if memory is short
CHECKPOINTED_ARRAY = 512 << 10  # a step takes 5 to 15 % longer, and half the memory at depth 56


def available_memory(device: str) -> int:
    """Return the bytes that a training on "cpu" or "cuda" can take.

    On the CPU this is the least of what the system calls available, what the process's control
    groups leave (containers, jobs of a cluster) and what its own limit leaves (ulimit -v).
    """
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(0, min(_limits()))


def _limits() -> Iterator[int]:
    """Yield what the system, each control group (version 2) and the process's limit leave."""
    available = _kilobytes(PROCESS / "meminfo", "MemAvailable")
    yield available or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if path := _fields(PROCESS / "self" / "cgroup").get("0"):
        group = GROUPS / path.removeprefix(":").strip("/")
        for folder in (group, *group.parents):
            most, used = _text(folder / "memory.max"), _text(folder / "memory.current")
            if most.strip().isdigit() and used:  # "max": no limit
                files = int(_fields(folder / "memory.stat").get("inactive_file", "0"))
                yield int(most) - int(used) + files  # copies of files are freed on demand
            if folder == GROUPS:
                break
    if sys.platform != "win32":
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit != resource.RLIM_INFINITY:
            yield limit - _kilobytes(PROCESS / "self" / "status", "VmSize")


def _kilobytes(path: Path, name: str) -> int:
    """Return a field of a file of the system in bytes; 0 if it is missing."""
    return 1024 * int(_fields(path).get(name, "0").split()[0])


def _fields(path: Path) -> dict[str, str]:
    """Return the lines "name: value" or "name value" of a file of the system; none without it."""
    parts = (re.split(r"[:\s]", line, maxsplit=1) for line in _text(path).splitlines())
    return {part[0]: part[-1].strip() for part in parts}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def memory_in_use(device: str) -> int:
    """Return the bytes in use now, of the process or on the GPU, and start a new peak."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    with suppress(OSError):  # Linux only; elsewhere the peak includes preparing the work
        (PROCESS / "self" / "clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def peak_memory(device: str) -> int:
    """Return the most bytes that were in use at once."""
    return int(torch.cuda.max_memory_allocated()) if device == "cuda" else _status("VmHWM")


def _status(field: str) -> int:
    """Return a size of this process; the peak since its start if the system says no more."""
    if size := _kilobytes(PROCESS / "self" / "status", field):
        return size
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def keep_freed_memory() -> bool:
    """Ask glibc's malloc to reuse freed memory instead of returning it; return whether it will.

    By default every tensor of more than a few MB is mapped by the system, which clears its pages
    one by one: 5 to 9 % of a training step's time (ResGCN-28, N 4096). The peak memory stays as it
    is. Other systems and C libraries are left alone.
    """
    return _set({_MMAP_THRESHOLD: LARGEST_KEPT, _TRIM_THRESHOLD: KEPT, _TOP_PAD: GROWTH})


def return_freed_memory(least: int) -> bool:
    """Ask glibc's malloc to return freed arrays of `least` bytes or more; return whether it will.

    Otherwise arrays between small ones leave holes that nothing fits into: with hundreds of them a
    step, a quarter to a half of the peak.
    """
    return _set({_MMAP_THRESHOLD: least})


def _set(settings: dict[int, int]) -> bool:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:  # musl has none
        return False
    return all(mallopt(name, ctypes.c_int(value)) == 1 for name, value in settings.items())


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception says that the GPU's or the computer's memory ran out."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    signs = ("DefaultCPUAllocator", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)


def release_memory() -> None:
    """Return memory that nothing refers to any more to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
