"""How much memory this process takes, and may still take, from a GPU or from the computer."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import torch

PROCESS, GROUPS = Path("/proc"), Path("/sys/fs/cgroup")


def available_memory(device: str) -> int:
    """Return the bytes that a training on "cpu" or "cuda" can take.

    On the CPU the least of what the system calls available, of what the control groups that the
    process is in leave (containers, jobs of a cluster), and of its own limit (ulimit -v).
    """
    if device == "cuda":
        free, _ = torch.cuda.mem_get_info()
        return int(free) + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    return max(0, min([_system(), *_of_groups(), *_of_process()]))


def _system() -> int:
    """Return what the system has: without /proc all of its memory, as it doesn't tell more."""
    for name, value in _fields(PROCESS / "meminfo"):
        if name == "MemAvailable":
            return 1024 * int(value.split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _of_groups() -> Iterator[int]:
    """Yield what each control group (version 2) above the process leaves."""
    paths = [path for number, path in _fields(PROCESS / "self" / "cgroup") if number == "0"]
    for path in paths:
        group = GROUPS / path.removeprefix(":").strip("/")
        for folder in (group, *group.parents):
            limit, used = _number(folder / "memory.max"), _number(folder / "memory.current")
            if limit is not None and used is not None:
                yield limit - used + _cached_files(folder)
            if folder == GROUPS:
                break


def _cached_files(folder: Path) -> int:
    """Return what of a group's memory is only a copy of files: it makes room when asked to."""
    for line in _lines(folder / "memory.stat"):
        if line.startswith("inactive_file "):
            return int(line.split()[1])
    return 0


def _of_process() -> Iterator[int]:
    """Yield what the limit of the process's address space leaves, if it has one."""
    if sys.platform == "win32":
        return
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        used = [v for name, v in _fields(PROCESS / "self" / "status") if name == "VmSize"]
        yield limit - (1024 * int(used[0].split()[0]) if used else 0)


def _fields(path: Path) -> list[tuple[str, str]]:
    """Return a system file's "name: value" lines; none where there is no such file."""
    parts = [line.partition(":") for line in _lines(path)]
    return [(name.strip(), value.strip()) for name, _, value in parts]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def _number(path: Path) -> int | None:
    """Return the number in a file; None without one ("max": no limit)."""
    text = "".join(_lines(path)).strip()
    return int(text) if text.isdigit() else None


def memory_in_use(device: str) -> int:
    """Return the bytes in use now, of the process or on the GPU, and reset the peak."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    with suppress(OSError):  # Linux only; elsewhere the preparation of the work counts
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status_of_process("VmRSS")


def peak_memory(device: str) -> int:
    """Return the most bytes that were in use at once."""
    return (
        int(torch.cuda.max_memory_allocated()) if device == "cuda" else _status_of_process("VmHWM")
    )


def _status_of_process(field: str) -> int:
    """Return a size of this process in bytes; without /proc its peak since the start."""
    try:
        with open("/proc/self/status", encoding="ascii") as file:
            line = next(line for line in file if line.startswith(field))
    except (OSError, StopIteration):
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return int(line.split()[1]) * 1024
