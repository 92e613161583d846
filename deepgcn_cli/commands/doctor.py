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
    columns = ("preset", "parameters", "layers", "width", "k", "conv", "area 5 mIoU %", "from")
    cells = []
    for row in rows:
        sizes = (str(row[name]) for name in ("depth", "width", "k", "conv"))
        score, sign = row["published"], "" if row["cited"] else "†"
        shown = "–" if score is None else f"{score:.2f}{sign}"
        millions = f"{row['parameters'] / 1e6:.3f} M"
        cells.append((row["preset"], millions, *sizes, shown, row["note"]))
    print_table(columns, cells)
    print_text("† quoted from memory of the paper, not checked against it")


def preset_rows() -> list[dict[str, Any]]:
    """Return name, sizes and published score of every preset."""
    from pipelines.model.deepgcn import DeepGCN
    from pipelines.model.presets import PRESETS
    from pipelines.serialization import to_plain
    from pipelines.training.summary import count_parameters

    rows = []
    for name, preset in PRESETS.items():
        parameters = count_parameters(DeepGCN(preset.config))
        score = {"published": preset.published, "cited": preset.cited, "note": preset.note}
        rows.append({"preset": name, "parameters": parameters, **to_plain(preset.config), **score})
    return rows


@subcommand("deepgcn doctor", "deepgcn doctor --json")
def doctor(as_json: Json = False) -> None:
    """Show what this machine offers: versions, processor, GPU, memory, disk, missing parts."""
    machine = describe_machine()
    if as_json:
        return print_json(machine)
    parts = {
        f"extra {name}": _part(name, missing) for name, missing in machine.pop("extras").items()
    }
    rows = [(name, _shown(value)) for name, value in {**machine, **parts}.items()]
    print_table(("what", "found"), rows)


def _part(extra: str, missing: list[str]) -> str:
    """Return whether an optional part is installed, or how to install it."""
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
    """Return what the machine offers by name, ready for JSON; sizes in GiB as floats."""
    import torch

    from pipelines.kernels import cuda
    from pipelines.launch.local import available_cores
    from pipelines.runtime.device import processor_name
    from pipelines.runtime.memory import available_memory

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = torch.cuda.get_device_properties(0) if count else None
    installed, missing = packages()
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
        "cores": len(available_cores()),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        "available memory": available_memory("cpu") / GIB,
        "free disk here": shutil.disk_usage(Path.cwd()).free / GIB,
        "packages": installed,
        "missing packages": missing,
        "extras": extras(),
    }


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
