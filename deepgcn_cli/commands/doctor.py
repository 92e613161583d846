"""`deepgcn doctor` and `deepgcn presets`: what the machine offers, and what the toolkit knows."""

from __future__ import annotations

import os
import re
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from deepgcn_cli.display import print_json, print_table, print_text
from deepgcn_cli.options import Json, subcommand

GIB = 2**30


@subcommand("deepgcn presets")
def presets(as_json: Json = False) -> None:
    """List the published networks, for train --preset."""
    rows = preset_rows()
    if as_json:
        return print_json(rows)
    columns = ("preset", "parameters", "layers", "width", "k", "layer", "area 5 mIoU %", "from")
    cells = [
        (
            row["preset"],
            f"{row['parameters'] / 1e6:.3f} M",
            *(str(row[name]) for name in ("depth", "width", "k", "conv")),
            "–" if row["published"] is None else f"{row['published']:.2f}{_dagger(row)}",
            row["note"],
        )
        for row in rows
    ]
    print_table(columns, cells)
    print_text("† quoted from memory of the paper, not checked against it")


def _dagger(row: dict[str, Any]) -> str:
    return "" if row["cited"] else "†"


def preset_rows() -> list[dict[str, Any]]:
    """Return name, sizes and published score of every preset."""
    from pipelines.model.deepgcn import DeepGCN
    from pipelines.model.presets import PRESETS
    from pipelines.serialization import to_plain
    from pipelines.training.summary import count_parameters

    rows = []
    for name, preset in PRESETS.items():
        parameters = count_parameters(DeepGCN(preset.config))
        facts = {"published": preset.published, "cited": preset.cited, "note": preset.note}
        rows.append({"preset": name, "parameters": parameters, **to_plain(preset.config), **facts})
    return rows


@subcommand("deepgcn doctor", "deepgcn doctor --json")
def doctor(as_json: Json = False) -> None:
    """Show what this machine offers: versions, processor, GPU, memory, disk, missing parts."""
    facts = describe_machine()
    if as_json:
        return print_json(facts)
    parts = {f"extra {name}": _part(name, missing) for name, missing in facts.pop("extras").items()}
    rows = [(name, _shown(value)) for name, value in {**facts, **parts}.items()]
    print_table(("what", "found"), rows)


def _part(extra: str, missing: list[str]) -> str:
    """Return whether an optional part is there, or how to install it."""
    if not missing:
        return "installed"
    return f"missing {', '.join(missing)}: pip install 'deepgcn[{extra}]'"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:.1f} GiB"
    return "none" if value is None else str(value)


def describe_machine() -> dict[str, Any]:
    """Return facts by name, ready for JSON; sizes in GiB as floats."""
    import torch

    from pipelines.kernels import cuda
    from pipelines.runtime.device import processor_name

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = torch.cuda.get_device_properties(0) if count else None
    installed, missing = packages()
    total, available = memory()
    return {
        "deepgcn": metadata.version("deepgcn"),
        "Python": sys.version.split()[0],
        "PyTorch": torch.__version__,
        "CUDA": torch.version.cuda,
        "GPUs": count,
        "GPU": gpu.name if gpu else None,
        "GPU memory": gpu.total_memory / GIB if gpu else None,
        "GPU kernels": (cuda.why_not(torch.device("cuda", 0)) or "Triton") if gpu else None,
        "processor": processor_name(),
        "cores": usable_cores(),
        "memory": total,
        "available memory": available,
        "free disk here": shutil.disk_usage(Path.cwd()).free / GIB,
        "packages": installed,
        "missing packages": missing,
        "extras": extras(),
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


def packages() -> tuple[list[str], list[str]]:
    """Return the required packages that are installed, with versions, and those that are not."""
    missing = missing_packages("deepgcn", None)
    required = [name for name, _ in requirements("deepgcn", None) if name not in missing]
    return [f"{name} {metadata.version(name)}" for name in required], missing


def extras() -> dict[str, list[str]]:
    """Return the missing packages of each optional part of the toolkit, by the part's name."""
    names = metadata.metadata("deepgcn").get_all("Provides-Extra") or []
    return {name: missing_packages("deepgcn", name) for name in names}


def missing_packages(package: str, extra: str | None) -> list[str]:
    """Return what `package`, or one of its extras, requires and is not installed.

    What an extra asks for with extras of its own, such as laspy[lazrs], counts as well.
    """
    missing: list[str] = []
    for name, inner in requirements(package, extra):
        try:
            metadata.version(name)
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        for part in inner:
            missing += missing_packages(name, part)
    return list(dict.fromkeys(missing))


def requirements(package: str, extra: str | None) -> list[tuple[str, list[str]]]:
    """Return the packages that `package` itself, or one of its extras, requires.

    Each comes with the extras that are asked of it: laspy[lazrs]>=2.5 → ("laspy", ["lazrs"]).
    """
    found = []
    for line in metadata.requires(package) or []:
        requirement, _, marker = line.partition(";")
        wanted = re.search(r"extra\s*==\s*['\"]([\w.-]+)", marker)
        if (wanted.group(1) if wanted else None) != extra:
            continue
        parts = re.match(r"\s*([\w.-]+)\s*(?:\[([^]]*)\])?", requirement)
        assert parts is not None, requirement
        inner = [part.strip() for part in (parts.group(2) or "").split(",") if part.strip()]
        found.append((parts.group(1), inner))
    return found
