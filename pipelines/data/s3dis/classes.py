"""The classes of the object files of raw S3DIS, which their names tell."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import PurePosixPath

from pipelines.errors import DatasetError, did_you_mean
from pipelines.progress import Progress, counted

from . import CLASSES
from .raw import RawDataset, RawFile

# Two spellings of some rooms' objects are clutter, too.
SPELLINGS = {**{name: name for name in CLASSES}, "stairs": "clutter", "staris": "clutter"}
TAKEN = {"clutter": "taken as clutter", "ignore": "neither trained on nor scored"}


def class_name(file: RawFile) -> str:
    """Return the name before an object's number: chair of chair_2.txt; it may have no number.

    Programs number files of one name, too: chair (2).txt.
    """
    stem = re.sub(r" \(\d+\)$", "", PurePosixPath(file.name).stem)
    return stem.rpartition("_")[0] or stem


def check_classes(dataset: RawDataset, progress: Progress) -> None:
    """Say which objects are of unknown classes, and what they become.

    Raises:
        DatasetError: there are some, and `dataset.unknown` is "error".
    """
    objects = [class_name(file) for room in dataset.rooms for file in room.files]
    unknown = Counter(name for name in objects if name.lower() not in SPELLINGS)
    if not unknown:
        return
    shown = [describe_unknown(name, count) for name, count in unknown.most_common(6)]
    found = f"{dataset.source / dataset.root}: found objects of unknown classes: {', '.join(shown)}"
    found += f" and {len(unknown) - 6} more" if len(unknown) > 6 else ""
    if dataset.unknown == "error":
        raise DatasetError(
            f"{found}.\nExpected: {', '.join(CLASSES)}.\n"
            "Rename their files in a copy, or take them as they are: --unknown clutter or ignore."
        )
    own = "\nMost objects are: describe classes of your own in a file (docs/scans.md), and give it "
    own += "with --dataset."
    most = 2 * unknown.total() > len(objects)
    progress.warn(f"{found}. They are {TAKEN[dataset.unknown]} (--unknown).{own if most else ''}")


def describe_unknown(name: str, objects: int, points: int | None = None) -> str:
    """Return an unknown class with its counts, and the class that may be meant.

    >>> describe_unknown("chiar", 1, 400)
    "chiar (1 object, 400 points. Did you mean 'chair'?)"
    """
    counts = counted(objects, "object")
    counts += "" if points is None else f", {counted(points, 'point')}"
    meant = did_you_mean(name, CLASSES)
    return f"{name} ({counts}{'.' if meant else ''}{meant})"
