"""The plan stage: prepared data, a machine and a budget → the options of a training.

The rules are in `pipelines.planning.rules`. This stage looks at the training rooms' statistics and
at the machine, times a few steps, and asks them. The test area is never looked at, except for how
many points there are to score.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pipelines.data import statistics
from pipelines.data.blocks import Grid, trained_blocks
from pipelines.data.sampler import cut_room, cuts, split_rooms
from pipelines.data.statistics import Statistics
from pipelines.data.store import RoomInfo, Store
from pipelines.planning import rules
from pipelines.planning.blocks import count_blocks, count_positions
from pipelines.planning.candidates import best_of
from pipelines.planning.choices import NOTHING, Choices
from pipelines.planning.file import Estimate, Plan, about_data
from pipelines.planning.machine import estimated_seconds, other_machine, this_machine
from pipelines.planning.pace import seconds_of_steps
from pipelines.planning.rules import Pace, Size, Start
from pipelines.planning.settings import training
from pipelines.runs.directory import CONFIG
from pipelines.runs.weights import NamedWeights, find_weights, weights_in_package
from pipelines.runtime.device import cpu_threads, pick_device
from pipelines.runtime.memory import release_memory
from pipelines.train import resolve
from pipelines.training.distributed import read_ranks
from pipelines.training.memory import estimate_memory, fit_memory
from pipelines.training.start import named_classes

from .config import PlanConfig, TrainConfig
from .config.budget import duration_text, seconds_of
from .config.recipes import FROM_WEIGHTS
from .errors import ConfigError, DatasetError, command
from .progress import SILENT, Progress, counted

START_UP = 3.0  # s, and as much again for each 10 million points that are read
TIMING = 0.02  # of the budget, for the steps that are timed
HOPELESS = 3.0  # times too slow by its arithmetic: not timed
FEW_STEPS = 100
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
    check_alone(config.candidates)

    def plan_for(seconds: float, changes: Mapping[str, Any], since: float | None) -> Plan:
        own = dataclasses.replace(config, base={**config.base, **changes})
        return _Planning(own, True, since, progress, seconds).run()

    return best_of(config, plan_for, partial(_alternatives, config), began, progress)


def check_alone(candidates: int) -> None:
    """Raise ConfigError in each of several processes that torchrun or srun has started.

    Candidates are trained one after another by the one process that plans.
    """
    if (size := read_ranks().size) > 1:
        first = command("plan", "--candidates", candidates)
        raise ConfigError(
            f"--candidates: found {size} processes of torchrun or srun, expected one.\n"
            f"Plan first, by itself ({first}), then train --plan."
        )


def _alternatives(config: PlanConfig, made: Plan) -> list[tuple[str, dict[str, Any]]]:
    """Return what else could be better than a plan: names, and options to give."""
    found = _statistics(Store.open(config.data), made.data.test_area, SILENT)[1]
    packaged = _packaged(Path(config.base.get("runs", config.runs)))
    starts = [_start_of(weights, name, config.base) for weights, name in packaged]
    return rules.alternatives(made.settings, found, config.base, starts)


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


def _packaged(runs: Path) -> Iterator[tuple[NamedWeights, str]]:
    """Yield the weights in the package, and what names them even beside a run of their name."""
    for weights in weights_in_package():
        is_run = (runs / weights.name / CONFIG).is_file()
        yield weights, str(weights.file) if is_run else weights.name


def _start_of(weights: NamedWeights, name: str, given: Mapping[str, Any]) -> Start:
    """Return weights as the rules know them."""
    network = weights.load(named_classes(given))
    points = network.num_points or TrainConfig.num_points
    drawn = points, network.block_size, network.voxel
    return Start(name, network.config, *drawn, weights.named_classes)


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
        with cpu_threads(given.get("threads")):
            if config.elsewhere:  # whatever devices are here
                self.measure, self.machine = False, other_machine(config)
            else:
                device = str(given.get("device", TrainConfig.device))
                self.device = pick_device(device, self.progress)
                self.machine = this_machine(self.device)

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

    @cached_property
    def grid(self) -> Grid:
        """The cells of the only room."""
        (room,) = self.rooms
        return self.store.read(room).grid

    def start(self) -> tuple[Start | None, str]:
        """Return the weights to start from, or why there are none."""
        named = self.given.get("weights")
        if named == NOTHING:
            return None, "given"
        if named is not None:
            runs = Path(self.given.get("runs", self.config.runs))
            return _start_of(find_weights(named, runs), named, self.given), ""
        reasons = []
        for weights, name in _packaged(Path(self.given.get("runs", self.config.runs))):
            start = _start_of(weights, name, self.given)
            why = rules.why_no_start(self.found, start, self.given)
            if not why:
                return start, ""
            reasons.append(why)
        return None, reasons[0] if reasons else "there are none in the package"

    def is_large(self, start: Start, size: Size) -> bool:
        """Whether weights are of a network of this size at least, or were asked for."""
        large = start.model.depth * start.model.width >= size.depth * size.width
        kept = {"weights", "freeze"} & {*self.given}
        kept |= {*FROM_WEIGHTS} & {*self.given.get("extra", ())}
        return large or bool(kept)


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
        side, points = choices.get("block_size"), choices.get("num_points")
        divided = len(planning.rooms) > 1 or bool(cuts(planning.grid, side))
        if not divided and (fraction := planning.given.get("val_fraction")):
            cut_room(store.read(planning.rooms[0]), fraction, side)  # refuses, as `train` would
        held_out = rules.choose_validation(choices, len(planning.rooms), divided=divided)
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
        limit = self.planning.given.get("val_blocks")
        blocks, _ = rules.affordable(self.pace, self.planning.left, limit)
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
        blocks = trained_blocks(steps, pace.epoch, batch)
        notes = []
        if steps < FEW_STEPS:
            time = duration_text(planning.budget)
            notes.append(f"There is time for {counted(steps, 'step')} in {time}: expect little.")
        validated = min(choices.get("val_blocks") or pace.validation, pace.validation)
        estimate = Estimate(
            block=pace.block,
            source=self.source,
            steps=steps,
            epochs=blocks / pace.epoch,
            training=blocks * rules.seconds_of_block(pace, validated),
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
