"""The synth stage: a synthetic building as files in the raw S3DIS layout.

Writes `OUT/Area_k/<room>/<room>.txt`, `OUT/Area_k/<room>/Annotations/<class>_<n>.txt` and
`OUT/synthetic.json`, which marks the folder as made by this stage, so that it may be replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pipelines.data.synthetic import GENERATOR, RoomPlan, format_points, plan_room, scan_room

from .config import SynthConfig
from .errors import ConfigError, command
from .files import atomic_json, check_place
from .progress import SILENT, Progress

MARKER = "synthetic.json"
UNFINISHED = ".unfinished"  # rooms that are being written


@dataclass(frozen=True)
class SynthResult:
    """What was written: where, how many rooms and points, and the points of each class."""

    out: Path
    rooms: int
    points: int
    points_per_class: dict[str, int]


def demo_building(out: Path, seed: int = 0) -> SynthConfig:
    """Return the building of the demo: four areas of four rooms, thinly scanned.

    >>> demo_building(Path("raw")).areas
    4
    """
    return SynthConfig(out=out, areas=4, rooms=4, seed=seed, density=1000.0)


def synth(config: SynthConfig, *, progress: Progress = SILENT) -> SynthResult:
    """Write a synthetic building; one that is already there is replaced.

    A room appears whole or not at all. The same configuration gives the same bytes.

    >>> synth(SynthConfig(Path("raw"), areas=1, rooms=1, density=50.0)).rooms
    1

    Raises:
        ConfigError: `config.out` holds something other than a synthetic building.
    """
    areas, numbers = range(1, config.areas + 1), range(config.rooms)
    plans = [plan_room(config.seed, area, number) for area in areas for number in numbers]
    _clear(config.out, plans)
    config.out.mkdir(parents=True, exist_ok=True)
    rooms = [f"Area_{plan.area}/{plan.name}" for plan in plans]
    settings = {"seed": config.seed, "density": config.density, "scanner": config.scanner}
    atomic_json(config.out / MARKER, {"generator": GENERATOR, **settings, "rooms": rooms})
    counts: Counter[str] = Counter()
    try:
        with progress.task("Building rooms", total=len(plans), unit="rooms") as task:
            for plan in plans:
                counts += _write_room(config, plan)
                task.advance()
    finally:
        shutil.rmtree(config.out / UNFINISHED, ignore_errors=True)
    return SynthResult(config.out, len(plans), counts.total(), dict(counts))


def _clear(out: Path, plans: list[RoomPlan]) -> None:
    """Remove the rooms of an earlier synthetic building and nothing else."""
    check_place(out, "OUT", folder=True)
    if not out.exists() or not any(out.iterdir()):
        return
    try:
        marker = json.loads((out / MARKER).read_text(encoding="utf-8"))
        rooms = [Path(str(room)) for room in marker["rooms"]]
    except FileNotFoundError:
        raise _not_ours(out, f"{len(list(out.iterdir()))} entries, without {MARKER}") from None
    except (ValueError, KeyError, TypeError):
        raise _not_ours(out, f"a {MARKER} that cannot be read") from None
    for room in rooms:
        # Area_k/name alone, so that nothing outside OUT is ever removed; an interrupted synth has
        # not written all of them.
        ours = len(room.parts) == 2 and room.parts[0].startswith("Area_") and ".." not in room.parts
        if ours and (out / room).is_dir():
            shutil.rmtree(out / room)
    for area in sorted(out.glob("Area_*")):
        if area.is_dir() and not any(area.iterdir()):
            area.rmdir()
    for plan in plans:
        if _folder(out, plan).exists():
            raise _not_ours(out, f"{_folder(out, plan).relative_to(out)}, not made by synth")


def _not_ours(out: Path, found: str) -> ConfigError:
    return ConfigError(
        f"{out}: found {found}; expected an empty folder or an earlier synthetic building.\n"
        f"Nothing was overwritten. Give another folder: {command('synth', f'{out}-synthetic')}"
    )


def _folder(out: Path, plan: RoomPlan) -> Path:
    return out / f"Area_{plan.area}" / plan.name


def _write_room(config: SynthConfig, plan: RoomPlan) -> Counter[str]:
    """Write one room in a temporary folder, move it to its own; return the points of each class."""
    part = config.out / UNFINISHED / plan.name
    shutil.rmtree(part, ignore_errors=True)
    (part / "Annotations").mkdir(parents=True)
    counts: Counter[str] = Counter()
    with (part / f"{plan.name}.txt").open("wb") as whole:
        for item in scan_room(plan, config.density, config.scanner):
            text = format_points(item.pos, item.color)
            (part / "Annotations" / f"{item.name}.txt").write_bytes(text)
            whole.write(text)
            counts[item.name.rpartition("_")[0]] += len(item.pos)
        whole.flush()
        os.fsync(whole.fileno())
    folder = _folder(config.out, plan)
    folder.parent.mkdir(exist_ok=True)
    os.replace(part, folder)
    return counts
