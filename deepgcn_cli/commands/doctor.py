"""`deepgcn doctor` and `deepgcn presets`: what the machine offers, and what the toolkit knows."""

from __future__ import annotations

import os
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepgcn_cli.display import Answer, Table
from deepgcn_cli.options import subcommand

if TYPE_CHECKING:
    from packaging.requirements import Requirement

GIB = 2**30


@subcommand("deepgcn presets")
def presets() -> Answer:
    """List the published networks and variants of them, for train --preset."""
    from pipelines.model.deepgcn import DeepGCN
    from pipelines.model.presets import PRESETS
    from pipelines.serialization import to_plain
    from pipelines.training.summary import count_parameters

    values, rows = [], []
    for name, preset in PRESETS.items():
        parameters, config = count_parameters(DeepGCN(preset.config)), preset.config
        own = {"published": preset.published, "cited": preset.cited, "note": preset.note}
        values.append({"preset": name, "parameters": parameters, **to_plain(config), **own})
        sizes = (str(size) for size in (config.depth, config.width, config.k, config.conv))
        score = "–" if preset.published is None else f"{preset.published:.2f}"
        score += "" if preset.cited or preset.published is None else "†"
        rows.append((name, f"{parameters / 1e6:.3f} M", *sizes, score, preset.note))
    columns = ("preset", "parameters", "layers", "width", "k", "conv", "area 5 mIoU %", "from")
    note = "† quoted from memory of the paper, not checked against it"
    return Answer(values, [Table(columns, rows), note])


@subcommand("deepgcn doctor", "deepgcn doctor --json")
def doctor() -> Answer:
    """Show what this machine offers: versions, processor, GPU, memory, disk, missing parts."""
    machine = describe_machine()
    rows = [(name, _shown(value)) for name, value in machine.items() if name != "extras"]
    for extra, missing in machine["extras"].items():
        how = f"missing {', '.join(missing)}: pip install 'deepgcn[{extra}]'"
        rows.append((f"extra {extra}", how if missing else "installed"))
    return Answer(machine, [Table(("what", "found"), rows)])


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:.1f} GiB"
    return "none" if value is None else str(value)


def describe_machine() -> dict[str, Any]:
    """Return what the machine offers by name, ready for JSON; sizes in GiB as floats."""
    import torch

    from pipelines.kernels import why_not_triton
    from pipelines.runtime.device import processor_name
    from pipelines.runtime.memory import available_memory
    from pipelines.runtime.process import available_cores

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpu = torch.cuda.get_device_properties(0) if count else None
    missing = missing_packages("deepgcn")
    required = [each.name for each in requirements("deepgcn") if each.name not in missing]
    extras = metadata.metadata("deepgcn").get_all("Provides-Extra") or []
    return {
        "deepgcn": metadata.version("deepgcn"),
        "Python": sys.version.split()[0],
        "PyTorch": torch.__version__,
        "CUDA": torch.version.cuda,
        "GPUs": count,
        "GPU": gpu.name if gpu else None,
        "GPU memory": gpu.total_memory / GIB if gpu else None,
        "GPU kernels": (why_not_triton(torch.device("cuda", 0)) or "Triton") if gpu else None,
        "processor": processor_name(),
        "cores": len(available_cores()),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB,
        "available memory": available_memory("cpu") / GIB,
        "free disk here": shutil.disk_usage(Path.cwd()).free / GIB,
        "packages": [f"{name} {metadata.version(name)}" for name in required],
        "missing packages": missing,
        "extras": {name: missing_packages("deepgcn", name) for name in extras},
    }


def missing_packages(package: str, extra: str = "") -> list[str]:
    """Return what `package`, or one of its extras, requires and is not installed.

    What an extra asks for with extras of its own, such as laspy[lazrs], counts as well.
    """
    missing: list[str] = []
    for required in requirements(package, extra):
        try:
            metadata.version(required.name)
        except metadata.PackageNotFoundError:
            missing.append(required.name)
        else:
            for inner in sorted(required.extras):
                missing += missing_packages(required.name, inner)
    return list(dict.fromkeys(missing))


def requirements(package: str, extra: str = "") -> list[Requirement]:
    """Return the packages that `package` itself requires here, or those of one of its extras."""
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in metadata.requires(package) or []]
    asked = [each for each in asked if ("extra" in str(each.marker)) == bool(extra)]
    return [each for each in asked if each.marker is None or each.marker.evaluate({"extra": extra})]
