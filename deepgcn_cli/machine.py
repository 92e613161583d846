"""What the machine offers, for `deepgcn doctor`."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

GIB = 2**30


def describe_machine() -> dict[str, Any]:
    """Return facts by name, ready for JSON; sizes in GiB as floats."""
    import torch

    from pipelines.runtime.device import processor_name

    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    installed, missing, optional = packages()
    total, available = memory()
    return {
        "deepgcn": metadata.version("deepgcn"),
        "Python": sys.version.split()[0],
        "PyTorch": torch.__version__,
        "CUDA": torch.version.cuda,
        "GPU": gpu.name if gpu else None,
        "GPU memory": gpu.total_memory / GIB if gpu else None,
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory": total,
        "available memory": available,
        "free disk here": shutil.disk_usage(Path.cwd()).free / GIB,
        "packages": installed,
        "missing packages": missing,
        "optional packages not installed": optional,
    }


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory() -> tuple[float | None, float | None]:
    """Return the machine's memory and what is available of it, GiB; None if it won't tell."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None, None
    sizes = {line.partition(":")[0]: line.split()[1] for line in lines if line.endswith("kB")}
    total, available = (int(sizes[name]) * 1024 / GIB for name in ("MemTotal", "MemAvailable"))
    return total, available


def packages() -> tuple[list[str], list[str], list[str]]:
    """Return the required packages with versions, those missing, and optional ones missing."""
    installed: list[str] = []
    missing: list[str] = []
    optional: list[str] = []
    for requirement in metadata.requires("deepgcn") or []:
        name = re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]
        try:
            found = f"{name} {metadata.version(name)}"
        except metadata.PackageNotFoundError:
            (optional if "extra ==" in requirement else missing).append(name)
        else:
            if "extra ==" not in requirement:
                installed.append(found)
    return installed, missing, optional
