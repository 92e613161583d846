"""The best of a few: variants of a plan are trained for a short time, and validation chooses.

    runs/candidates/<digest>/    of the data, options, weights, machine and version
        as-planned.json          each candidate's plan for the whole training
        as-planned/              the run of its short training, with the plan of that

The same call goes on there after an interruption.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from pipelines.config import PlanConfig, TrainConfig
from pipelines.config.budget import duration_text, seconds_of
from pipelines.data.store import Store
from pipelines.errors import ConfigError, DeepGCNError, DiskFullError, RunError
from pipelines.files import check_place, naming
from pipelines.progress import Progress
from pipelines.runs.directory import CONFIG, Run
from pipelines.runs.lock import LOCK, is_locked
from pipelines.runs.resume import check_named
from pipelines.runs.weights import find_weights
from pipelines.runtime.device import cpu_threads, describe_device, pick_device
from pipelines.runtime.lock import hold_lock, this_process
from pipelines.serialization import to_plain
from pipelines.train import TrainResult, train
from pipelines.training.start import named_classes

from .choices import NOTHING
from .file import Plan, read_plan, write_plan
from .settings import planned_config

TRIAL = 0.1  # of the time, for each candidate
FOLDER = "candidates"  # in the folder of the runs
AS_PLANNED = "as planned"
# What a candidate's short training and the final one have of its plan; the length and what follows
# from that is their own.
TRIED = (
    *("depth", "width", "k", "fusion_channels", "dilation"),
    *("block_size", "num_points", "voxel", "weights", "recipe"),
)
Changes = Mapping[str, Any]  # options that are given, by field


def best_of(
    config: PlanConfig,
    plan_for: Callable[[float, Changes, float | None], Plan],
    alternatives: Callable[[Plan], Sequence[tuple[str, Changes]]],
    began: float | None,
    progress: Progress,
) -> Plan:
    """Train variants of a plan for a short time each, and plan for what validates best.

    Args:
        config: what is planned; it says how many candidates.
        plan_for: plans a training for so many seconds, with options besides those of `config`,
            and perhaps from when on.
        alternatives: what else could be better than a plan: names, and options to give.
        began: when the time began to run, by `time.monotonic`; None: it begins with the training.

    Raises:
        ConfigError: there are no validation rooms, or the options do not fit.
        RunError: another process is at it, the disk is full, or the plan itself cannot be trained.
    """
    whole = seconds_of(config.time)
    tenth, rest = TRIAL * whole, whole - config.candidates * TRIAL * whole
    folder = _folder_of(config, progress)
    if is_locked(folder):
        raise _taken(folder)
    begun = _file_of(folder, AS_PLANNED).is_file()

    def full_plan(name: str, changes: Changes) -> Plan:
        file = _file_of(folder, name)
        return _read(file) if file.is_file() else plan_for(rest, changes, None)

    def trained(name: str, full: Plan, changes: Changes) -> TrainResult:
        run = _run_of(folder, name)
        if (run.path / CONFIG).is_file():
            check_named(run, named_classes(config.base))
            return train(run.config, resume=run.path, progress=progress)
        write_plan(_file_of(folder, name), full)
        short = plan_for(tenth, {**changes, **_tried(full)}, None)
        own = planned_config(short, {"runs": config.runs, **config.base})
        own = _placed(own, folder, run.name)
        return train(own, plan=to_plain(short), progress=progress)

    first = full_plan(AS_PLANNED, {})
    if not first.settings.get("val_fraction", 1):
        raise ConfigError("--candidates: found no validation rooms, which would choose among them.")
    found: dict[str, tuple[float, Changes, Plan]] = {}
    failures: dict[str, DeepGCNError] = {}
    with _alone(folder):
        if begun:
            progress.say(f"{folder}: goes on there; to train all candidates anew, remove it.")
        candidates = [(AS_PLANNED, {}), *alternatives(first)][: config.candidates]
        for number, (name, changes) in enumerate(candidates, start=1):
            progress.say(f"Candidate {number} of {config.candidates}: {name}")
            if is_locked(_run_of(folder, name).path):
                raise _taken(_run_of(folder, name).path)
            try:
                full = full_plan(name, changes) if changes else first
                result = trained(name, full, changes)
            except DiskFullError as error:  # for which the candidate is no worse
                again = "Free some space, then type the same command again, which goes on."
                raise DiskFullError(f"{str(error).splitlines()[0]}\n{again}") from error
            except DeepGCNError as error:  # a loss of NaN, memory, blocks too large, no such part
                if isinstance(error, ConfigError) and not changes:
                    raise
                failures[name] = error
                progress.warn(f"Candidate {name!r} failed and is left out. {error}")
            else:
                found[name] = result.best_miou or 0.0, changes, full
    if not found:
        raise failures[AS_PLANNED]
    best = max(found, key=lambda name: found[name][0])
    _, changes, full = found[best]
    # How long candidates took before an interruption is not known: they had their tenths.
    late = begun or began is None
    made = plan_for(rest if late else whole, {**changes, **_tried(full)}, None if late else began)
    results = [f"{name} {100 * miou:.1f} %" for name, (miou, _, _) in found.items()]
    scores = ", ".join([*results, *(f"{name} failed" for name in failures)])
    note = f"After {duration_text(tenth)} each, the validation rooms prefer {best}: mIoU {scores}."
    return dataclasses.replace(
        _with_reasons(made, full, changes, config.base), notes=(*made.notes, note)
    )


def _with_reasons(made: Plan, full: Plan, changes: Changes, given: Changes) -> Plan:
    """Return a plan that says why its options are those of the best candidate."""
    reasons = {choice.field: choice.reason for choice in full.choices}
    reasons |= dict.fromkeys(changes, "the validation rooms prefer it")
    choices = [
        dataclasses.replace(choice, reason=reasons.get(choice.field, choice.reason))
        if choice.field in {*TRIED, *changes} - {*given}
        else choice
        for choice in made.choices
    ]
    return dataclasses.replace(made, choices=tuple(choices))


def _tried(full: Plan) -> dict[str, Any]:
    """Return what a candidate's training has of its plan, as options that are given."""
    kept = {name: full.settings[name] for name in TRIED if name in full.settings}
    return {**kept, "weights": kept.get("weights") or NOTHING}


def _placed(config: TrainConfig, folder: Path, name: str) -> TrainConfig:
    """Return a training as a run of a folder; weights that are a run elsewhere stay so."""
    weights = config.weights
    if weights is not None and (config.runs / weights / CONFIG).is_file():
        weights = str(config.runs / weights)
    return dataclasses.replace(config, runs=folder, name=name, weights=weights)


def _folder_of(config: PlanConfig, progress: Progress) -> Path:
    """Return the folder of the candidates of this data, options, weights, machine and version."""
    runs = Path(config.base.get("runs", config.runs))
    check_place(runs, "--runs", folder=True)
    base = {name: value for name, value in config.base.items() if name != "name"}
    if (named := base.get("weights")) not in (None, NOTHING):
        base["weights"] = find_weights(named, runs, progress=progress).sha256
    device = pick_device(str(base.get("device", TrainConfig.device)), progress)
    with cpu_threads(base.get("threads")):
        machine = describe_device(device)
    asked = to_plain(dataclasses.replace(config, out=PlanConfig.out, base=base))
    same = [asked, Store.open(config.data).fingerprint, machine, metadata.version("deepgcn")]
    digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
    return runs / FOLDER / digest[:8]


def _run_of(folder: Path, name: str) -> Run:
    return Run(folder / name.replace(" ", "-"))


def _file_of(folder: Path, name: str) -> Path:
    return folder / f"{name.replace(' ', '-')}.json"


def _read(file: Path) -> Plan:
    try:
        return read_plan(file)
    except ConfigError as error:
        raise RunError(
            f"{str(error).splitlines()[0]}\n"
            f"Remove {file.parent}, and the same command trains the candidates anew."
        ) from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the candidates' folder within a `with` block."""
    with naming(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(folder / LOCK, shared=False, seconds=0.5) as held:
        if not held:
            raise _taken(folder)
        with naming(folder / LOCK):
            (folder / LOCK).write_text(f"{this_process()}\n", encoding="utf-8")
        yield


def _taken(path: Path) -> RunError:
    holder = (path / LOCK).read_text(encoding="utf-8").strip()
    return RunError(
        f"{path}: another process is at it ({holder}).\nWait for it, then type the same again."
    )
