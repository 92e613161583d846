"""Scores of weights on real scans: the tables of docs/results.md and docs/model_card.md.

    python -m benchmarks.real_scans indoor indoor-large runs/mine --data real
    python -m benchmarks.real_scans dgcnn-s3dis-area{1,2,3,4,5,6} --average --data real
    python -m benchmarks.real_scans indoor --votes 4 --data real # four views of each room
    python -m benchmarks.real_scans --data real                  # the tables of all that is scored
    python -m benchmarks.real_scans indoor --data real --record  # for `deepgcn weights list`

DATA is prepared from labelled scans (`deepgcn prepare`), none of which the weights may have seen.
Protocol `room`, as `deepgcn eval` has it: every point once, all classes of the ground truth; and
height bands. The confusion counts of every room are kept in --out as soon as it is scored, so the
same command goes on where it was stopped. On two CPU cores, 15 rooms of 687,000 points take about a
minute for a ResGCN-14 of 32 channels, and ten for a DGCNN with 4,096 points at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deepgcn_cli.progress import open_progress
from pipelines.config import DEVICES, EvalConfig
from pipelines.data.store import RoomInfo, Store
from pipelines.files import atomic_json
from pipelines.inference.protocols import Evaluation, add_vote, count_height_bands
from pipelines.metrics import confusion, scores
from pipelines.progress import SILENT, Progress, Task, counted
from pipelines.reports.tables import Table, percent
from pipelines.runs.weights import NamedWeights, find_weights
from pipelines.runtime.device import pick_device
from pipelines.weights import catalogue

BANDS = "height bands, no network"
Row = dict[str, Any]  # "sha256" of the weights, "rooms": confusion counts (C, C) by room


def title_of(info: RoomInfo) -> str:
    """Return a room's name with its area."""
    return f"Area_{info.area}/{info.name}"


def read_rows(path: Path, store: Store) -> dict[str, Row]:
    """Return what was scored before on the same data."""
    found = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    if found.get("fingerprint", store.fingerprint) != store.fingerprint:
        raise SystemExit(
            f"{path}: found scores on other data than {store.path}; give another --out"
        )
    return dict(found.get("rows", {}))


def save_rows(path: Path, store: Store, rows: Mapping[str, Row]) -> None:
    """Write what is scored so far, whole or not at all."""
    atomic_json(path, {"fingerprint": store.fingerprint, "rows": rows})


def begun_row(rows: dict[str, Row], name: str, sha256: str) -> Row:
    """Return a row to go on with, or a new one if it is missing or of other weights."""
    if rows.get(name, {}).get("sha256") != sha256:
        rows[name] = {"sha256": sha256, "rooms": {}}
    return rows[name]


def score_weights(
    store: Store,
    weights: Sequence[NamedWeights],
    rows: dict[str, Row],
    *,
    average: bool = False,
    votes: int = 1,
    device: str = "cpu",
    progress: Progress = SILENT,
) -> Iterator[None]:
    """Score weights, and what they predict together by summed logits; yield after each room.

    A row of several `votes` is named so: "indoor, 4 votes".
    """
    suffix = f", {votes} votes" if votes > 1 else ""
    models = [each.load().to(pick_device(device)) for each in weights]
    own = [begun_row(rows, each.name + suffix, each.sha256) for each in weights]
    joined = hashlib.sha256(" ".join(each.sha256 for each in weights).encode()).hexdigest()
    together = begun_row(rows, f"average of {len(weights)}{suffix}", joined) if average else None
    wanted = [*own, *([together] if together else [])]
    left = [i for i in store.rooms() if any(title_of(i) not in row["rooms"] for row in wanted)]
    total = votes * len(models) * sum(info.points for info in left)
    with progress.task("Scoring rooms", total=total, unit="points") as task:
        for info in left:
            logits = room_logits(store, info, weights, models, task, votes)
            label, classes = store.read(info).label, len(store.classes)
            for row, found in zip(wanted, [*logits, sum(logits)], strict=False):
                counts = confusion(label, np.argmax(found, axis=1), classes)
                row["rooms"][title_of(info)] = counts.tolist()
            yield


def room_logits(
    store: Store,
    info: RoomInfo,
    weights: Sequence[NamedWeights],
    models: Sequence[Any],
    task: Task,
    votes: int = 1,
) -> list[np.ndarray]:
    """Return the logits (N, C) of each network for every point of a room."""
    room, found, options = store.read(info), [], EvalConfig(votes=votes)
    for named, model in zip(weights, models, strict=True):
        of = Evaluation(named.name, Path(), (named,), (model,), options, store, (info,))
        logits = np.zeros((len(room.pos), len(store.classes)), np.float32)
        for vote in range(votes):
            add_vote(of, model, room, vote, logits, task)
        found.append(logits)
    return found


def height_bands(store: Store, progress: Progress) -> Row:
    """Return the row of the baseline: the most frequent class of each height in other areas."""
    counts, rooms = {}, store.rooms()
    with progress.task(BANDS, total=len(rooms), unit="rooms") as task:
        for info in rooms:
            of = Evaluation(BANDS, Path(), (), (), EvalConfig(), store, (info,))
            if (found := count_height_bands(of)) is not None:
                counts[title_of(info)] = found.tolist()
            task.advance()
    return {"sha256": "", "rooms": counts}


def summed(row: Row, rooms: Collection[str]) -> np.ndarray | None:
    """Return the counts (C, C) of some rooms; None: not all of them are scored."""
    if not set(rooms) <= row["rooms"].keys():
        return None
    return np.sum([row["rooms"][name] for name in rooms], axis=0)


def score_table(store: Store, rows: Mapping[str, Row], apart: int | None) -> Table:
    """Return the scores in percent, of all rooms or of those outside an area."""
    rooms = [title_of(info) for info in store.rooms() if info.area != apart]
    names = sorted(rows, key=lambda name: name == BANDS)  # last
    found = {name: summed(rows[name], rooms) for name in names}
    known = {name: counts for name, counts in found.items() if counts is not None}
    there = np.sum(list(known.values()), axis=(0, 2)) > 0
    lines = []
    for name, counts in known.items():
        values = scores(counts, store.classes)
        per_class = [iou for iou, is_there in zip(values.iou, there, strict=True) if is_there]
        lines.append((name, *map(percent, (values.oa, values.macc, values.miou, *per_class))))
    classes = [name for name, is_there in zip(store.classes, there, strict=True) if is_there]
    title = f"{len(rooms)} rooms" + (f", without area {apart}" if apart else "")
    return Table(title, ("", "OA", "mAcc", "mIoU", *classes), tuple(lines))


def record(store: Store, rows: Mapping[str, Row], apart: int) -> Path:
    """Write the scores of weights of the catalogue to where `deepgcn weights list` finds them."""
    path = catalogue.EMBEDDED / catalogue.SCORES
    known = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    for entry in catalogue.catalogue():
        row = rows.get(entry.name)
        if row is None:
            continue
        if entry.url is None and row["sha256"] != entry.sha256:
            raise SystemExit(f"{entry.name}: the weights have changed; score them again")
        listed = []
        for area in (None, apart):
            rooms = [title_of(info) for info in store.rooms() if info.area != area]
            if (counts := summed(row, rooms)) is None:
                raise SystemExit(f"{entry.name}: not all rooms are scored yet; score it first")
            found = scores(counts, store.classes)
            data = counted(len(rooms), "real RGB-D scan") + (f", not area {area}" if area else "")
            known_as = {"data": data, "protocol": "room", "source": "this project"}
            listed.append(known_as | {"miou": round(found.miou, 4), "oa": round(found.oa, 4)})
        known[entry.name] = {"sha256": entry.sha256, "scores": listed}
    atomic_json(path, known)
    return path


def main() -> None:
    """Score the weights that are named, then print the tables of all that are scored."""
    parser = argparse.ArgumentParser(description="Score weights on real scans.")
    parser.add_argument("weights", nargs="*", help="files, runs or names of the catalogue")
    parser.add_argument("--data", type=Path, default=Path("data"), help="prepared scans")
    parser.add_argument("--out", type=Path, default=Path("real_scans.json"))
    parser.add_argument("--average", action="store_true", help="also all of them together")
    parser.add_argument("--votes", type=int, default=1, help="views of each room, as in `eval`")
    parser.add_argument("--apart", type=int, default=1, help="area whose rooms were looked at")
    parser.add_argument("--record", action="store_true", help="for `deepgcn weights list`")
    parser.add_argument("--device", default="auto", choices=DEVICES)
    options = parser.parse_args()
    progress, store = open_progress(), Store.open(options.data)
    rows = read_rows(options.out, store)
    weights = [find_weights(name, progress=progress) for name in options.weights]
    if weights:
        how = {"average": options.average, "votes": options.votes, "device": options.device}
        for _ in score_weights(store, weights, rows, progress=progress, **how):
            save_rows(options.out, store, rows)
    if BANDS not in rows:
        rows[BANDS] = height_bands(store, progress)
        save_rows(options.out, store, rows)
    for apart in (None, options.apart):
        table = score_table(store, rows, apart)
        sys.stdout.write(f"{table.title}, in percent:\n\n{table.as_markdown()}\n\n")
    if options.record:
        progress.say(f"{record(store, rows, options.apart)}: recorded")


if __name__ == "__main__":
    main()
