"""The plan stage: prepared data, a machine and a budget → the options of a training.

The rules are in `pipelines.planning.rules`. This stage looks at the training rooms' statistics and
at the machine, times a few steps, and asks them. The test area is never looked at, except for how
many points there are to score.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.data import statistics
from pipelines.data.sampler import split_rooms
from pipelines.data.statistics import Statistics
from pipelines.data.store import RoomInfo, Store
from pipelines.planning import rules
from pipelines.planning.blocks import count_blocks, count_positions
from pipelines.planning.choices import GIVEN, MODEL, NAMES, NOTHING, PARTS, Choice, Choices
from pipelines.planning.file import Estimate, Plan, about_data
from pipelines.planning.machine import estimated_seconds, other_machine, this_machine
from pipelines.planning.pace import seconds_of_steps
from pipelines.planning.rules import Pace, Size, Start
from pipelines.runs.weights import NamedWeights, find_weights, weights_in_package
from pipelines.runtime.device import cpu_threads, pick_device
from pipelines.runtime.memory import release_memory
from pipelines.train import resolve, train
from pipelines.training.memory import estimate_memory, fit_memory
from pipelines.training.start import named_classes, start_config

from .config import ModelConfig, PlanConfig, TrainConfig
from .config.budget import duration_text, seconds_of
from .config.model import BLOCK_SIZE
from .config.recipes import parts_of
from .errors import ConfigError, DatasetError, DeepGCNError, RunError
from .progress import SILENT, Progress, counted
from .serialization import to_plain

START_UP = 3.0  # s, and as much again for each 10 million points that are read
TIMING = 0.02  # of the budget, for the steps that are timed
HOPELESS = 3.0  # times too slow by its arithmetic: not timed
FEW_STEPS = 100
TRIAL = 0.1  # of the budget, for each candidate
CANDIDATES = "candidates"  # in the folder of the runs
# What a candidate's short training has of its plan; the length and what follows from it is its own.
TRIED = (
    *("depth", "width", "k", "fusion_channels", "dilation"),
    *("block_size", "num_points", "voxel", "weights", "recipe"),
)
# Options that change what a step takes.
SPEED_SHAPES = ("arch", "depth", "conv", "width", "k", "num_points", "batch_size", "weights")
LARGER = "there is time for a larger network"


def plan(
    config: PlanConfig,
    *,
    measure: bool = True,
    began: float | None = None,
    progress: Progress = SILENT,
) -> Plan:
    """Choose the options of a training.

    Args:
        config: the data, the time and, with `base`, the options that are not to be chosen.
        measure: time a few steps of networks that come into question; otherwise, and for another
            machine, their time is estimated from their arithmetic.
        began: when the time began to run, by `time.monotonic`; None: it begins with the training.

    Raises:
        ConfigError: a given option does not fit the data or another one.
        DatasetError: the store is missing or broken, or has no room or block to train on.
        RunError, WeightsError: the weights that are given cannot be found.

    >>> made = plan(PlanConfig(time="30m"), measure=False)
    >>> made.settings["block_size"], made.settings["num_points"]
    (1.0, 256)
    """
    if config.candidates == 1:
        return _Planning(config, measure, began, progress, seconds_of(config.time)).run()
    if not measure or config.elsewhere:
        raise ConfigError(
            "--candidates: found it with --dry-run or for another machine, where nothing is "
            "trained; leave one of them out."
        )
    return _best(config, began, progress)


def _best(config: PlanConfig, began: float | None, progress: Progress) -> Plan:
    """Train variants of a plan for a short time each, and plan for what validates best."""
    whole, tenth = seconds_of(config.time), TRIAL * seconds_of(config.time)
    rest = whole - config.candidates * tenth

    def planned(seconds: float, changes: Mapping[str, Any], since: float | None = None) -> Plan:
        own = dataclasses.replace(config, base={**config.base, **changes})
        return _Planning(own, True, since, progress, seconds).run()

    first = planned(rest, {})
    if not first.settings.get("val_fraction", 1):
        raise ConfigError("--candidates: found no validation rooms, which would choose among them.")
    found = _statistics(Store.open(config.data), first.data.test_area, SILENT)[1]
    others = rules.alternatives(first.settings, found, config.base)
    trials: dict[str, tuple[float, Mapping[str, Any]]] = {}
    failures: dict[str, DeepGCNError] = {}
    for name, changes in [("as planned", {}), *others][: config.candidates]:
        number = len(trials) + len(failures) + 1
        progress.say(f"Candidate {number} of {config.candidates}: {name}")
        full = planned(rest, changes) if changes else first
        kept = {name: full.settings[name] for name in TRIED if name in full.settings}
        short = planned(tenth, {**changes, **kept, "weights": kept.get("weights") or NOTHING})
        tried = planned_config(short, config.base)
        runs = Path(config.base.get("runs", config.runs)) / CANDIDATES
        tried = dataclasses.replace(tried, runs=runs, name=None)
        try:
            scored = train(tried, plan=to_plain(short), progress=progress).best_miou or 0.0
        except (DatasetError, RunError) as error:  # a loss of NaN, memory, blocks too large
            failures[name] = error
            progress.warn(f"Candidate {name!r} failed and is left out. {error}")
        else:
            trials[name] = scored, changes
    if not trials:
        raise failures["as planned"]
    best = max(trials, key=lambda name: trials[name][0])
    chosen = trials[best][1]
    made = planned(rest if began is None else whole, chosen, began)
    results = [f"{name} {100 * miou:.1f} %" for name, (miou, _) in trials.items()]
    scores = ", ".join([*results, *(f"{name} failed" for name in failures)])
    note = f"After {duration_text(tenth)} each, the validation rooms prefer {best}: mIoU {scores}."
    preferred = [
        dataclasses.replace(choice, reason="the validation rooms prefer it")
        if choice.field in chosen
        else choice
        for choice in made.choices
    ]
    return dataclasses.replace(made, choices=tuple(preferred), notes=(*made.notes, note))


def check_validation(config: TrainConfig) -> None:
    """Raise DatasetError if the rooms that are to validate have no block, as was measured.

    Blocks of sides that were not measured, and of voxels, are left to the training.
    """
    store = Store.open(config.data)
    area = store.test_area if config.test_area is None else config.test_area
    _, rooms = split_rooms(
        store.rooms(),
        test_area=area,
        val_fraction=config.val_fraction,
        seed=config.seed,
        fold=config.fold,
    )
    found = statistics.of_rooms(store, rooms)
    numbers = {each.side: each.number for each in found.blocks} if found else {}
    if not config.voxel_side and numbers.get(config.block_side) == 0:
        names = ", ".join(f"Area_{room.area}/{room.name}" for room in rooms[:3])
        part = f"--val-fold {config.val_fold}: " if config.val_fold else ""
        raise DatasetError(
            f"{config.data}: {part}found no block of {config.block_side:g} m in the rooms that "
            f"validate ({names}{', …' if len(rooms) > 3 else ''})."
        )


def planned_config(made: Plan, given: Mapping[str, Any]) -> TrainConfig:
    """Return the training of a plan; `given` has options by field that a plan has not."""
    own = {"data": Path(made.data.path), "test_area": made.data.test_area}
    return training({**own, **given, **made.settings})


def changed_plan(made: Plan, given: Mapping[str, Any], progress: Progress = SILENT) -> Plan:
    """Return a plan with options that are given, by field, in the place of its own.

    What cannot stay beside them follows: epochs that would end the training before its steps, or
    steps before its epochs, and the rate if it starts from weights, or from nothing, instead.
    It warns if the data is another one than the plan was made for.
    """
    settings = with_parts(made.settings, given)
    followed = _following(made, settings, given)
    settings |= {name: value for name, (value, _) in followed.items()}
    if "epochs" in given and "max_steps" not in given:
        settings.pop("max_steps", None)
    known = {choice.field: choice for choice in made.choices}
    choices = [
        known[field]
        if field in known and known[field].value == value
        else Choice(NAMES[field], value, followed[field][1] if field in followed else GIVEN)
        for field, value in settings.items()
        if field in NAMES and (value != () or field in known)
    ]
    data = Path(given.get("data", made.data.path))
    store, about = Store.open(data), dataclasses.replace(made.data, path=str(data))
    if store.fingerprint != about.fingerprint:
        about = dataclasses.replace(about, test_area=store.test_area)
        progress.warn(f"{data}: is other data than {made.data.path} was when it was planned for.")
    area = given.get("test_area", about.test_area)
    if area != about.test_area:
        planned_for, left_out = (f"area {n}" if n else "none" for n in (about.test_area, area))
        progress.say(f"The plan is for the rooms outside {planned_for}; left out is {left_out}.")
        about = dataclasses.replace(about, test_area=area)
    before = made.settings
    others = [field for field in SPEED_SHAPES if settings.get(field) != before.get(field)]
    if others:
        names = ", ".join(NAMES[field] for field in others)
        progress.say(f"The plan's steps are for its own options; given are others: {names}.")
    estimate = _for_length(made, settings)
    return dataclasses.replace(made, choices=tuple(choices), data=about, estimate=estimate)


def _following(
    made: Plan, settings: Mapping[str, Any], given: Mapping[str, Any]
) -> dict[str, tuple[Any, str]]:
    """Return what follows from given options, by field: a value and its reason."""
    found: dict[str, tuple[Any, str]] = {}
    steps = settings.get("max_steps")
    if steps and "epochs" not in given and {"max_steps", "batch_size", "block_size"} & {*given}:
        found["epochs"] = rules.beyond(steps * _batch(settings) / _blocks(made, settings))
    started, parts = _is_started(settings), _parts(settings)
    sgd = "sgd" in parts
    other = started != _is_started(made.settings) or sgd != ("sgd" in _parts(made.settings))
    if settings.get("lr") is not None and "lr" not in given and other:
        rate = rules.rate_of_parts(parts, steps or rules.LR_STEPS, from_weights=started)
        found["lr"] = rate, f"from {'weights' if started else 'nothing'}{', by sgd' if sgd else ''}"
    return found


def _for_length(made: Plan, settings: Mapping[str, Any]) -> Estimate:
    """Return a plan's estimate for the steps of other settings, at the planned pace."""
    before, estimate, blocks = made.settings, made.estimate, _blocks(made, settings)
    batch, planned = _batch(settings), estimate.steps * _batch(before)
    steps = settings.get("max_steps") or estimate.steps
    if (epochs := settings.get("epochs")) is not None:
        ending = max(1, math.ceil(epochs * blocks / batch))
        steps = ending if settings.get("max_steps") is None else min(steps, ending)
    if (steps, batch) == (estimate.steps, _batch(before)) or not planned:
        return estimate
    longer = estimate.training * steps * batch / planned
    return dataclasses.replace(
        estimate, steps=steps, epochs=steps * batch / blocks, training=longer
    )


def _batch(settings: Mapping[str, Any]) -> int:
    return int(settings.get("batch_size", TrainConfig.batch_size))


def _blocks(made: Plan, settings: Mapping[str, Any]) -> float:
    """Return about how many blocks an epoch has: of other sides as many as fill the ground."""
    old, new = (each.get("block_size") or BLOCK_SIZE for each in (made.settings, settings))
    return max(1.0, made.data.blocks * (old / new) ** 2)


def _is_started(settings: Mapping[str, Any]) -> bool:
    return settings.get("weights") not in (None, NOTHING)


def _parts(settings: Mapping[str, Any]) -> tuple[str, ...]:
    recipe = settings.get("recipe", TrainConfig.recipe)
    return parts_of(recipe, settings.get("without", ()), settings.get("extra", ()))


def with_parts(settings: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return planned settings changed by given ones, which bring or take what belongs to them.

    Parts of the recipe that are left out or added are so besides the planned ones; weights bring
    their network and blocks, another recipe its own parts and rate.
    """
    kept = dict(settings)
    named = given.get("weights")
    if named not in (None, NOTHING, kept.get("weights")):
        theirs = (*MODEL, "block_size", "voxel")
        kept = {name: value for name, value in kept.items() if name not in theirs}
    if "val_fold" in given:
        kept.pop("val_fraction", None)
    if given.get("recipe", kept.get("recipe")) != kept.get("recipe"):
        kept = {name: value for name, value in kept.items() if name not in (*PARTS, "lr")}
    merged = {**kept, **given}
    added = dict.fromkeys((*kept.get("extra", ()), *given.get("extra", ())))
    left = dict.fromkeys((*kept.get("without", ()), *given.get("without", ())))
    merged["extra"] = tuple(added)
    merged["without"] = tuple(part for part in left if part not in given.get("extra", ()))
    return merged


def training(settings: Mapping[str, Any]) -> TrainConfig:
    """Return the training of settings by field; weights of "none" are none."""
    model = {name: value for name, value in settings.items() if name in MODEL}
    own = {name: value for name, value in settings.items() if name not in MODEL}
    if (named := own.pop("weights", None)) not in (None, NOTHING):
        return start_config(named, model, own)
    arch = {"arch": ModelConfig.arch}
    return TrainConfig(model=ModelConfig.published(**{**arch, **model}), **own)


def _statistics(
    store: Store, test_area: int, progress: Progress
) -> tuple[list[RoomInfo], Statistics]:
    """Return the rooms outside the test area, and their statistics."""
    rooms, _ = split_rooms(store.rooms(), test_area=test_area, val_fraction=0, seed=0)
    statistics.of_store(store, progress)  # measures rooms that were not
    found = statistics.of_rooms(store, rooms)
    if found is None or not any(each.points for each in found.blocks):
        raise DatasetError(f"{store.path}: found no block with enough points to train on.")
    return rooms, found


@dataclass
class _Planning:
    """The work on a plan, for the rooms outside the test area."""

    config: PlanConfig
    measure: bool
    began: float | None
    progress: Progress
    budget: float  # s

    def __post_init__(self) -> None:
        config, given = self.config, dict(self.config.base)
        self.given = given
        self.store = store = Store.open(config.data)
        area = given.get("test_area")
        self.area = int(store.test_area if area is None else area)
        if self.area and self.area not in store.areas:
            raise ConfigError(
                f"--area: found {self.area}, expected an area of {config.data}: "
                f"{', '.join(map(str, store.areas))}."
            )
        fold = TrainConfig(val_fold=given.get("val_fold")).fold
        split_rooms(store.rooms(), test_area=self.area, val_fraction=0, seed=0, fold=fold)  # raises
        self.rooms, self.found = _statistics(store, self.area, self.progress)
        self.device = pick_device(str(given.get("device", TrainConfig.device)), self.progress)
        with cpu_threads(given.get("threads")):
            self.machine = this_machine(self.device)
        if config.gpu_memory is not None and given.get("device") == "cpu":
            raise ConfigError("--gpu-memory: found it with --device cpu, expected one of them.")
        if config.elsewhere:
            self.machine, self.measure = other_machine(config, self.machine), False

    def run(self) -> Plan:
        """Take the largest network that sees enough blocks in the time there is."""
        offered, why = self.start()
        for size in rules.SIZES:
            start = offered if offered and self.is_large(offered, size) else None
            draft = _Draft(self, size, start, why or LARGER)
            last = start is not None or size is rules.SIZES[-1]
            if not last and draft.points * HOPELESS < size.points:
                continue
            if self.measure:
                draft.time_steps()
            if last or draft.points >= size.points:
                return draft.finish()
        raise AssertionError("the last size is always taken")

    @property
    def left(self) -> float:
        """The seconds of the budget that are left for steps, validation and scores."""
        gone = 0.0 if self.began is None else time.monotonic() - self.began
        reading = START_UP * (1 + sum(room.points for room in self.rooms) / 1e7)
        return max(0.0, self.budget - gone - reading)

    def start(self) -> tuple[Start | None, str]:
        """Return the weights to start from, or why there are none."""
        named = self.given.get("weights")
        if named == NOTHING:
            return None, "given"
        if named is not None:
            runs = Path(self.given.get("runs", self.config.runs))
            return self.start_of(find_weights(named, runs), named), ""
        reasons = []
        for weights in weights_in_package():
            start = self.start_of(weights, weights.name)
            why = rules.why_no_start(self.found, start, self.given)
            if not why:
                return start, ""
            reasons.append(why)
        return None, reasons[0] if reasons else "there are none in the package"

    def start_of(self, weights: NamedWeights, name: str) -> Start:
        """Return weights as the rules know them."""
        network = weights.load(named_classes(self.given))
        points = network.num_points or TrainConfig.num_points
        drawn = points, network.block_size, network.voxel
        return Start(name, network.config, *drawn, weights.named_classes)

    def is_large(self, start: Start, size: Size) -> bool:
        """Whether weights are of a network of this size at least, or were asked for."""
        large = start.model.depth * start.model.width >= size.depth * size.width
        return large or "weights" in self.given


class _Draft:
    """The choices for one size of the network, with the pace that is known so far."""

    def __init__(self, planning: _Planning, size: Size, start: Start | None, why: str) -> None:
        self.planning, self.start = planning, start
        self.choices = choices = Choices(planning.given)
        found, store, area = planning.found, planning.store, planning.area
        rules.choose_start(choices, start, store.classes, why)
        network = rules.choose_network(choices, size, start, duration_text(planning.budget))
        rules.choose_blocks(choices, found, size, start)
        rules.choose_neighbours(choices, found, network)
        held_out = rules.choose_validation(choices, len(planning.rooms))
        side, points = choices.get("block_size"), choices.get("num_points")
        model = choices.network(start.model if start else None)
        model.check_points(points)
        trained, disjoint = count_blocks(planning.rooms, found, side)
        tested = [room for room in store.rooms() if area and room.area == area]
        places = sum(count_positions(room, side, side) for room in tested)
        scored = places + sum(room.points for room in tested) // points
        self.pace = Pace(
            block=estimated_seconds(planning.machine, model, points),
            epoch=max(1, round(trained * (1 - held_out))),
            validation=max(1, round(disjoint * held_out)) if held_out else 0,
            test=scored,
        )
        self.source = "estimated from its arithmetic, not measured"
        self.fill()

    @property
    def points(self) -> int:
        """How many points the training would have, as often as they come."""
        blocks, _ = rules.affordable(self.pace, self.planning.left)
        return int(min(blocks, rules.longest(self.pace)) * self.choices.get("num_points"))

    def fill(self) -> None:
        """Choose what depends on the pace, and what fits into the memory."""
        planning, choices, start = self.planning, self.choices, self.start
        choices.forget("val_blocks", "micro_batch", "checkpoint_layers")  # of another pace
        steps = rules.choose_length(choices, self.pace, planning.left)
        rules.choose_recipe(choices, planning.found, planning.store.classes, steps, start)
        own = {"data": planning.config.data, "runs": planning.config.runs}
        given = {**own, **planning.given, "test_area": planning.area}
        resolved = resolve(training({**given, **choices.settings}), planning.store)
        machine = planning.machine
        kind = machine.device if machine.here else "cpu"  # whose kernels are measured
        self.config = fit_memory(resolved, kind, memory=machine.memory)
        self.memory = estimate_memory(self.config, kind)
        for name in ("micro_batch", "checkpoint_layers"):
            if getattr(self.config, name) != getattr(resolved, name):
                free = f"{machine.memory / 1e9:.3g} GB of memory"
                choices.make(name, getattr(self.config, name), free)

    def time_steps(self) -> None:
        """Time a few steps of the training."""
        planning = self.planning
        block, steps = seconds_of_steps(
            *(self.config, planning.store, planning.rooms, planning.device),
            *(TIMING * planning.left, planning.progress),
        )
        release_memory()
        self.pace = dataclasses.replace(self.pace, block=block)
        self.source = f"{counted(steps, 'step')} timed on this machine"
        self.fill()

    def finish(self) -> Plan:
        """Return the plan."""
        planning, pace, choices = self.planning, self.pace, self.choices
        self.fill()
        steps, batch = choices.get("max_steps"), choices.get("batch_size")
        notes = []
        if steps < FEW_STEPS:
            time = duration_text(planning.budget)
            notes.append(f"There is time for {counted(steps, 'step')} in {time}: expect little.")
        validated = choices.get("val_blocks") or pace.validation
        estimate = Estimate(
            block=pace.block,
            source=self.source,
            steps=steps,
            epochs=steps * batch / pace.epoch,
            training=steps * batch * rules.seconds_of_block(pace, validated),
            scoring=pace.test * rules.FORWARD * pace.block,
            memory=self.memory,
        )
        return Plan(
            choices=choices.made,
            data=about_data(planning.store, planning.area, planning.found, pace.epoch, self.config),
            machine=planning.machine,
            budget=planning.budget,
            estimate=estimate,
            notes=tuple(notes),
        )
