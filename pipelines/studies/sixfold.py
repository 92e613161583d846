"""The scores of one run per area together: six-fold cross-validation.

Two figures are published under that name: the scores of the pooled counts, and the mean of the
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

from pipelines.config import AREAS, EvalConfig
from pipelines.data.store import Store
from pipelines.errors import ConfigError, NothingScoredError, RunError, command
from pipelines.evaluate import area_of, chosen_runs, say_what_votes_do, scores_of
from pipelines.metrics import Scores
from pipelines.progress import SILENT, Progress, counted
from pipelines.reports.comparison import SIX_FOLD, mean_notes, pool
from pipelines.reports.scores import seen_notes, store_notes, write_scores
from pipelines.reports.tables import DAGGER, Report, Row, absent_notes, machines
from pipelines.runs.directory import Run, find_runs
from pipelines.runs.resume import FREE, check_named, different_settings, open_data
from pipelines.serialization import to_plain
from pipelines.train import train


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

    Without named runs, it takes those that differ from the latest finished one only in the area. A
    run that was scored before with the same settings is not scored again.

    Raises:
        ConfigError: the named runs have different settings, or two of them the same area.
        RunError: areas are missing and `train_missing` is not given.
        NothingScoredError: in no area can anything be scored; such areas are left out otherwise.

    >>> config = EvalConfig(run_dirs=(Path("runs/tiny"),), pictures=False)
    >>> (found,) = six_fold(config, train_missing=True)
    >>> list(found.areas), found.pooled.points
    ([1, 2, 3], 8400)
    """
    folds = _find_folds(config, progress)
    base = next(iter(folds.values()))
    config.check_blocks(base.name, base.config.block_side, base.config.voxel_side)
    areas = open_data(base, config.data).areas
    todo = [
        area for area in areas if area not in folds or folds[area].state_or_broken != "finished"
    ]
    if todo and not train_missing:
        how = command("eval", *config.run_dirs, "--six-fold", "--train-missing")
        raise RunError(
            f"{base.path.parent}: found no finished run with {base.name}'s settings for area "
            f"{', '.join(map(str, todo))}.\nTrain what is missing: {how}"
        )
    say_what_votes_do(config, progress)
    if todo:
        check_named(base, config.own_classes)
    for area in todo:
        folds[area] = _train(base, folds.get(area), area, progress)
    return tuple(_pool(config, protocol, folds, progress) for protocol in config.protocols)


def _find_folds(config: EvalConfig, progress: Progress) -> dict[int, Run]:
    """Return at most one run per area, all with the settings of the first."""
    base, *others = chosen_runs(config, progress)
    folds = {area_of(base): base}
    if not others:
        alike = []
        for run in find_runs(base.path.parent):
            with suppress(RunError):  # a broken run is not a fold
                if run.config.test_area and not _differences(base, run):
                    alike.append(run)
        alike.sort(
            key=lambda run: run.state_or_broken == "finished"
        )  # the last one of an area is taken
        return folds | {area_of(run): run for run in alike} | folds
    for run in others:
        if differences := _differences(base, run):
            name, (ours, theirs) = next(iter(differences.items()))
            raise ConfigError(
                f"{run.path}: found {name} {theirs}, expected {ours} as in {base.path}.\n"
                "A six-fold score is that of one network: name runs that differ in --area alone."
            )
        if known := folds.get(area_of(run)):
            raise ConfigError(f"{run.path}: found test area {area_of(run)} twice: {known.path}.")
        folds[area_of(run)] = run
    return folds


def _differences(first: Run, other: Run) -> dict[str, list[Any]]:
    """Return the settings other than the area that differ; data is compared by fingerprint.

    Layers recomputed for want of memory change no result.
    """
    settings = []
    for run in (first, other):
        data = str(run.environment.get("store", {}).get("fingerprint"))[:12]
        settings.append({**to_plain(run.config), "data fingerprint": data})
    return different_settings(settings, ignored=(*FREE, "test_area", "checkpoint_layers"))


def _train(base: Run, begun: Run | None, area: int, progress: Progress) -> Run:
    """Train the network of `base` without `area`, or resume that training."""
    if begun is not None:
        progress.say(f"Area {area}: resuming {begun.path}")
        return Run(train(begun.config, resume=begun.path, progress=progress).run)
    progress.say(f"Area {area}: training")
    config = dataclasses.replace(
        base.config, test_area=area, runs=base.path.parent, name=f"{base.name}-fold{area}"
    )
    return Run(train(config, progress=progress).run)


def _pool(
    config: EvalConfig, protocol: str, folds: dict[int, Run], progress: Progress
) -> SixFoldResult:
    """Score every fold, and write the figures of all of them together."""
    values: dict[int, dict[str, Any]] = {}
    unscored: list[int] = []
    for area in sorted(folds):
        try:
            values[area] = scores_of(config, protocol, folds[area], progress)
        except NothingScoredError as error:
            if len(unscored) == len(folds) - 1:
                raise
            unscored.append(area)
            progress.warn(str(error))
    first, base = next(iter(values.values())), next(iter(folds.values()))
    areas, pooled, mean = pool(values, absent_as=config.absent)
    store = open_data(base, config.data)
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
        "weights": {str(area): each["weights"] for area, each in values.items()},
        "confusion": np.sum([each["confusion"] for each in values.values()], axis=0).tolist(),
    }
    rows = [Row.of("pooled", pooled), mean]
    rows += [Row.of(f"area {area}", found) for area, found in areas.items()]
    notes = ["Scores in percent. Pooled: all areas' counts summed; mean: of the areas' scores."]
    if set(folds) != set(AREAS):
        notes.append(
            f"Not six folds: the data has areas {', '.join(map(str, sorted(folds)))} only."
        )
    if unscored:
        left_out = ", ".join(map(str, unscored))
        notes.append(f"Left out, as nothing in it can be scored: area {left_out}.")
    notes += seen_notes([area for area, each in values.items() if each["seen"]])
    notes += store_notes(store, protocol)
    notes += absent_notes(pooled)
    notes += mean_notes(areas, pooled)
    if store.published_rooms:
        rows += _published()
        notes.append(
            f"{DAGGER} quoted from memory, not checked against the paper. Published rows are of "
            "the whole of S3DIS under the authors' protocols."
        )
    title = f"{base.config.label}: {len(areas)} folds, protocol {protocol}"
    summary = _summary(config, base, store, list(values.values()))
    report = Report(title, tuple(first["classes"]), tuple(rows), summary, tuple(notes), record)
    files = write_scores(base.path.parent / "six-fold" / base.name / protocol, report, config)
    return SixFoldResult(protocol, areas, pooled, mean, report, files)


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


def _summary(
    config: EvalConfig, base: Run, store: Store, values: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return what the scores were made with; areas may have been scored on several machines."""
    trained, first = base.config, values[0]
    votes = f", {first['votes']} votes" if first["votes"] > 1 else ""
    points = sum(each["points"] for each in values)
    return {
        "network": trained.label,
        "protocol": f"{first['protocol']}{votes}, seed {config.seed}, "
        f"{counted(points, 'point')} scored",
        "recipe": f"{trained.recipe_text} ({trained.model.layout} layout), seed {trained.seed}",
        "runs": f"{base.name} and the runs with its settings, see scores.json; "
        f"checkpoint {first['checkpoint']}",
        "data": f"{store.path}, fingerprint {store.fingerprint[:12]}",
        **machines([each["environment"] for each in values]),
    }
