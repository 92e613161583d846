"""A handmade raw data set with every published defect, as bytes."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.config import PrepareConfig
from pipelines.prepare import PrepareResult, prepare

ALIGNED = "Stanford3dDataset_v1.2_Aligned_Version"
NON_ALIGNED = "Stanford3dDataset_v1.2"


def box(count: int, seed: int, *, decimals: int = 3, size: tuple = (2.2, 1.7, 2.5)) -> bytes:
    """Make `count` lines of points in a box whose corner is not the origin."""
    rng = np.random.default_rng(seed)
    pos = rng.random((count, 3)) * size + (3, -2, 0.5)
    color = rng.integers(0, 256, (count, 3))
    row = f"%.{decimals}f %.{decimals}f %.{decimals}f " + (
        "%d %d %d" if decimals == 3 else "%.6f %.6f %.6f"
    )
    return "".join(row % (*p, *c) + "\n" for p, c in zip(pos, color, strict=True)).encode()


def damage(text: bytes, line: int, damaged: bytes) -> bytes:
    """Replace the 1-based `line`."""
    rows = text.split(b"\n")
    rows[line - 1] = damaged
    return b"\n".join(rows)


def aligned_files() -> dict[str, bytes]:
    """Return the files of a small aligned release with its defects."""
    hall = damage(box(600, 1), 180, b"22.350 6.692 3.048 185\x00187 182")
    files = {
        "Area_5/hallway_6/Annotations/ceiling_1.txt": hall,
        "Area_5/hallway_6/Annotations/floor_1.txt": box(500, 2),
        "Area_5/hallway_6/hallway_6.txt": box(700, 3),
        "Area_5/office_36/Annotations/wall_3.txt": box(300, 4),
        "Area_5/office_36/Annotations/wall_3 (1).txt": box(300, 4),
        "Area_5/office_36/Annotations/.DS_Store": b"\0\0",
        "Area_3/hallway_2/Annotations/stairs_1.txt": box(200, 5),
        "Area_3/hallway_2/Annotations/chair_2.txt": box(200, 6),
        "Area_3/hallway_2/Annotations/chair_10.txt": box(200, 7),
        "Area_3/hallway_2/hallway_2.txt": damage(
            box(600, 8), 92, b"19.302 -9.1\x160 1.785 10 20 30"
        ),
        "Area_2/auditorium_1/Annotations/lamp_1.txt": box(250, 9),
        "Area_2/auditorium_1/Annotations/staris_1.txt": box(250, 10),
        "Area_2/auditorium_1/auditorium_1.txt": damage(
            box(500, 11), 74, b"1.0 2.0 3.0 167.\x1000000 5 6"
        ),
        "Area_6/copyRoom_1/Annotations/table_1.txt": box(300, 12),
        "Area_6/copyRoom_1/copy_Room_1.txt": box(300, 12),
    }
    files = {f"{ALIGNED}/{name}": text for name, text in files.items()}
    return {**files, f"__MACOSX/{ALIGNED}/Area_1/x/Annotations/wall_1.txt": b"junk"}


def non_aligned_files() -> dict[str, bytes]:
    """Return the files of a small non-aligned release with its defects."""
    files = {
        "Area_5/office_19/Annotations/ceiling_1.txt": damage(
            box(500, 21, decimals=6), 323, b"1.5 2.5 3.5 101.000000 102.000000 103.0\x100000"
        ),
        "Area_1/WC_1/Annotations/door_1.txt": box(300, 22, decimals=6),
        "Area_1/WC_1/WC_1.txt": damage(
            box(300, 22, decimals=6), 42, b"1.5 2.5 3.5 1.000000 56.00\x10000 3.000000"
        ),
        "Area_6/hallway_2/Annotations/sofa_1.txt": box(300, 23, decimals=6),
        "Area_6/hallway_2/hallway_2.txt": damage(
            box(300, 23, decimals=6), 84, b"1.5 2.5 3.5 2\x111.000000 1.000000 2.000000"
        ),
        "Area_1/Area_1_alignmentAngle.txt": b"## Global alignment angle\n## Disjoint\nWC_1 90\n",
    }
    return {f"{NON_ALIGNED}/{name}": text for name, text in files.items()}


def write_tree(folder: Path, files: dict[str, bytes]) -> Path:
    """Write files below a folder; return it."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    return folder


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    """Write files into a zip; return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def run(raw: Path | None, data: Path, **options: Any) -> PrepareResult:
    """Prepare raw rooms in this process."""
    return prepare(PrepareConfig(raw=raw, data=data, **{"workers": 1, **options}))
