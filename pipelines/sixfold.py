"""The six-fold stage: one training per test area, scored together.

Two figures are published under the name: the scores of the pooled counts, and the mean of the
areas' scores. They are about a point of mIoU apart, so both are reported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.store import Store
from pipelines.metrics import Scores
from pipelines.reports.comparison import SIX_FOLD, pool
from pipelines.reports.scores import known_scores, write_scores
from pipelines.reports.tables import DAGGER, Report, Row, absent_notes, hardware_text, software_text
from pipelines.runs.directory import Run, find_runs
from pipelines.runs.resume import FREE, different_settings, open_data

from .config import AREAS, EvalConfig
from .errors import ConfigError, RunError, command
from .evaluate import chosen_runs, evaluate
from .progress import SILENT, Progress
from .serialization import to_plain
from .train import train


@dataclass(frozen=True)
class SixFoldResult:
    """The scores of all areas under one protocol."""

    protocol: str
    areas: dict[int, Scores]
    pooled: Scores  # of the summed counts
    mean: Row  # OA, mAcc, mIoU and IoUs averaged over the areas that have the class
    report: Report  # the table
    files: tuple[Path, ...]  # what was written


def six_fold(
    config: EvalConfig, *, train_missing: bool = False, progress: Progress = SILENT
) -> tuple[SixFoldResult, ...]:
    """Score one run per area and pool them, under every protocol of `config`.

    Without named runs, those that differ from the latest finished one in nothing but the area are
    taken. What was scored before with the same settings is not scored again.

    Raises:
        ConfigError: the named runs have different settings, or two of them the same area.
        RunError: areas are missing and `train_missing` is not given.
    """
    base, *_ = runs = _find_folds(config, progress)
    store = open_data(base, config.data)
    folds = {_area_of(run): run for run in runs}
    for area in store.areas:
        if area not in folds or folds[area].state != "finished":
            if not train_missing:
                raise _missing(config, base, [a for a in store.areas if a not in folds] or [area])
            folds[area] = _train(base, folds.get(area), area, progress)
    return tuple(_pool(config, protocol, folds, progress) for protocol in config.protocols)


def _area_of(run: Run) -> int:
    area = run.config.test_area
    assert area is not None, "a run's configuration is resolved"
    return area


def _find_folds(config: EvalConfig, progress: Progress) -> list[Run]:
    """Return at most one run per area, all with the settings of the first."""
    base, *others = chosen_runs(config, progress)
    if not others:
        found = {_area_of(run): run for run in _alike(base) if _area_of(run) != _area_of(base)}
        return [base, *found.values()]
    areas = {_area_of(base): base}
    for run in others:
        if differences := _differences(base, run):
            name, (ours, theirs) = next(iter(differences.items()))
            raise ConfigError(
                f"{run.path}: found {name} {theirs}, expected {ours} as in {base.path}.\n"
                "A six-fold score is that of one network: name runs that differ in --area alone."
            )
        if known := areas.get(_area_of(run)):
            raise ConfigError(f"{run.path}: found test area {_area_of(run)} twice: {known.path}.")
        areas[_area_of(run)] = run
    return list(areas.values())


def _differences(first: Run, other: Run) -> dict[str, list[Any]]:
    """Return the settings other than the area that differ; data is compared by fingerprint."""
    settings = []
    for run in (first, other):
        data = str(run.environment.get("store", {}).get("fingerprint"))[:12]
        settings.append({**to_plain(run.config), "data fingerprint": data})
    return different_settings(settings, ignored=(*FREE, "test_area"))


def _alike(base: Run) -> list[Run]:
    """Return the runs beside `base` with its settings, finished ones last, then by age."""
    found = []
    for run in find_runs(base.path.parent):
        with suppress(RunError):  # a broken run is no fold
            if not _differences(base, run):
                found.append(run)
    return sorted(found, key=lambda run: run.state == "finished")


def _missing(config: EvalConfig, base: Run, areas: Sequence[int]) -> RunError:
    shown = ", ".join(map(str, areas))
    how = command("eval", *config.run_dirs, "--six-fold", "--train-missing")
    return RunError(
        f"{base.path.parent}: found no finished run with {base.name}'s settings for area {shown}.\n"
        f"Train what is missing: {how}"
    )


def _train(base: Run, begun: Run | None, area: int, progress: Progress) -> Run:
    """Train the network of `base` without `area`, or resume that training."""
    if begun is not None:
        progress.say(f"Area {area}: going on with {begun.path}")
        return Run(train(begun.config, resume=begun.path, progress=progress).run)
    progress.say(f"Area {area}: training")
    config = dataclasses.replace(
        base.config, test_area=area, runs=base.path.parent, name=f"{base.name}-fold{area}"
    )
    return Run(train(config, progress=progress).run)


def _pool(
    config: EvalConfig, protocol: str, folds: dict[int, Run], progress: Progress
) -> SixFoldResult:
    values = {area: scores_of(config, protocol, folds[area], progress) for area in sorted(folds)}
    first, base = next(iter(values.values())), next(iter(folds.values()))
    areas, pooled, mean = pool(values, absent_as=config.absent)
    store = open_data(base, config.data)
    rows = [Row.of("pooled", pooled), mean]
    rows += [Row.of(f"area {area}", found) for area, found in areas.items()]
    record = {
        "protocol": protocol,
        **{name: first[name] for name in ("seed", "checkpoint", "votes")},
        "store": {"path": str(store.path), "fingerprint": store.fingerprint},
        "environments": {str(area): each["environment"] for area, each in values.items()},
        "classes": first["classes"],
        "pooled": asdict(pooled),
        "mean": asdict(mean),
        "areas": {str(area): asdict(found) for area, found in areas.items()},
        "runs": {str(area): run.name for area, run in sorted(folds.items())},
        "confusion": np.sum([each["confusion"] for each in values.values()], axis=0).tolist(),
    }
    report = Report(
        f"{base.config.model.label}: {len(areas)} folds, protocol {protocol}",
        tuple(first["classes"]),
        (*rows, *(_published() if store.published_rooms else ())),
        _facts(config, base, store, tuple(values.values())),
        tuple(_notes(areas, pooled, of_s3dis=bool(store.published_rooms))),
        record,
    )
    files = write_scores(base.path.parent / "six-fold" / base.name / protocol, report, config)
    return SixFoldResult(protocol, areas, pooled, mean, report, files)


def scores_of(config: EvalConfig, protocol: str, run: Run, progress: Progress) -> dict[str, Any]:
    """Return a run's scores.json, made now unless one with the same settings is there."""
    run.weights(config.checkpoint)  # raises if there are none
    store = open_data(run, config.data)
    known = known_scores(run, config, protocol, store.fingerprint)
    if known is not None:
        progress.say(f"{run.path}: scored before")
        return known
    one = dataclasses.replace(config, run_dirs=(run.path,), protocols=(protocol,))
    evaluate(one, progress=progress)
    made = run.scores(protocol)
    assert made is not None, "evaluate writes them"
    return made


def _published() -> list[Row]:
    return [
        Row(
            f"{row.name}, published" + ("" if row.cited else f" {DAGGER}"),
            miou=row.miou / 100,
            oa=None if row.oa is None else row.oa / 100,
            iou=None if row.iou is None else tuple(value / 100 for value in row.iou),
        )
        for row in SIX_FOLD
    ]


def _notes(areas: Mapping[int, Scores], pooled: Scores, *, of_s3dis: bool) -> list[str]:
    notes = ["Scores in percent. Pooled: all areas' counts summed; mean: of the areas' scores."]
    if set(areas) != set(AREAS):
        shown = ", ".join(map(str, areas))
        notes.append(f"Not six folds: the data has areas {shown} only.")
    notes += absent_notes(pooled)
    if of_s3dis:
        notes.append(
            f"{DAGGER} recalled from the paper, not read again. Published rows are of the whole "
            "of S3DIS under the authors' protocols."
        )
    return notes


def _facts(
    config: EvalConfig, base: Run, store: Store, values: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return what the scores were made with; areas may have been scored on several machines."""
    trained, first = base.config, values[0]
    votes = f", {first['votes']} votes" if first["votes"] > 1 else ""
    points = sum(each["points"] for each in values)
    environments = [each["environment"] for each in values]
    return {
        "network": trained.model.label,
        "protocol": f"{first['protocol']}{votes}, seed {config.seed}, {points:,} points scored",
        "recipe": f"{trained.recipe_text} ({trained.model.layout} layout), seed {trained.seed}",
        "runs": f"{base.name} and the runs with its settings, see scores.json; "
        f"checkpoint {config.checkpoint}",
        "data": f"{store.path}, fingerprint {store.fingerprint[:12]}",
        "hardware": "; ".join(dict.fromkeys(map(hardware_text, environments))),
        "software": "; ".join(dict.fromkeys(map(software_text, environments))),
    }
