"""The train stage: a store becomes a run directory with trained weights.

Here a training is wired; its course is `pipelines.training.loop`. The parts are in `pipelines.data`
(split, sampler), `pipelines.training` (steps, recipe, checkpoints) and `pipelines.runs` (the run
directory).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.data.blocks import MIN_POINTS
from pipelines.data.sampler import BlockSampler, split_rooms
from pipelines.data.store import RoomInfo, Store
from pipelines.launch.local import trainings_at_once
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import (
    Run,
    create_run,
    last_checkpoint,
    open_run,
    record_failure,
    reopen,
    resume_command,
)
from pipelines.runs.lock import lock_run
from pipelines.runs.resume import check_same, open_data, room_checksums
from pipelines.runtime.allocation import CHECKPOINTED_ARRAY, LARGE_ARRAY, return_freed_memory
from pipelines.runtime.device import cpu_threads, device_of, pick_device
from pipelines.runtime.environment import describe_environment
from pipelines.runtime.interruption import watch_for_interruption
from pipelines.runtime.memory_limits import available_memory
from pipelines.runtime.precision import Precision
from pipelines.training.accumulation import TRIALS
from pipelines.training.distributed import ALONE, Processes, ProcessLostError, connected
from pipelines.training.loop import Training
from pipelines.training.memory import describe_memory, estimate_memory, fit_memory
from pipelines.training.placement import Place, find_place
from pipelines.training.steps import explain_out_of_memory, smaller_options
from pipelines.training.summary import describe_training
from pipelines.training.trackers import check_loggers
from pipelines.training.workers import Followers, gather

from . import kernels
from .config import ModelConfig, TrainConfig
from .errors import ConfigError, DatasetError, RunError
from .progress import SILENT, Progress
from .serialization import to_plain


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        run: the run directory.
        steps: optimizer steps in all.
        epochs: whole epochs in all.
        best_miou: the best validation mIoU, 0–1; `checkpoints/best.safetensors` reached it.
        seconds: time spent, over all processes of the run.
        blocks_per_second: of this process's training steps; 0 if it took none.
        data_wait: the fraction of those steps' time spent waiting for data.
    """

    run: Path
    steps: int
    epochs: int
    best_miou: float
    seconds: float
    blocks_per_second: float
    data_wait: float


def train(
    config: TrainConfig, *, resume: Path | None = None, progress: Progress = SILENT
) -> TrainResult:
    """Train a network on the rooms outside the test area.

    Validation rooms among them choose the best checkpoint; the test area is never looked at. A run
    that was stopped by a signal, by `max_steps` or by kill -9 goes on from its last checkpoint; on
    the CPU, with as many threads, its steps are bit for bit those of a run that never stopped.

    Several processes train together when `config.devices` asks for them, or when torchrun or srun
    has started this one as rank 0 of several (the others call `pipelines.training.follow.follow`).
    Each takes its share of every batch, so `batch_size` means the same on any number of them.

    Args:
        config: what to train; a `test_area` of None is the store's.
        resume: the directory of a run to go on with. `config` has to be the run's own
            (`Run.config`), except for epochs, max_steps, device, workers, threads and loggers, and
            devices where batch norm is synchronised.
        progress: who listens.

    Raises:
        ConfigError: the configuration does not fit the data or the machine, or the package of a
            logger is missing.
        DatasetError: the store is missing, broken or too small.
        RunError: the run cannot be made or gone on with, another process has it, the loss is not
            finite, a process of the training was lost, or memory or disk space ran out.
        KeyboardInterrupt: SIGINT or SIGTERM came; the run is saved, and `progress` was told how to
            go on.
    """
    check_loggers(config.loggers)
    place = find_place()
    config = settle_devices(config, place, resuming=resume is not None)
    device = pick_device(config.device, progress)
    Precision(config.precision, device)
    begun_run = open_run(resume) if resume else None
    store = open_data(begun_run, config.data) if begun_run else Store.open(config.data)
    config = resolve(config, store)
    if begun_run:
        check_same(begun_run, config, store)
    with ExitStack() as stack:
        threads = config.threads or share_of_threads(config, place)
        stack.enter_context(cpu_threads(threads))
        check_network(config.model)
        gathered = gather(place, config.devices, threads, progress)
        processes, followers = stack.enter_context(gathered)
        device = device_of(processes.place, device)
        trials = 0
        if resume is None:
            config = fit(config, device.type, processes, progress)
            trials = 0 if config.sync_bn and processes.size > 1 else TRIALS
        arrange_memory(config, device.type, processes)
        send_orders(processes, config, store, trials=trials)
        samplers = open_samplers(config, store, progress, processes)
        environment = {**describe_environment(device), **describe_store(config, store)}
        begun = {**environment, "rooms": room_checksums(store)}
        run = begun_run or create_run(config, environment=begun)
        stack.enter_context(lock_run(run.path))
        interruption = stack.enter_context(watch_for_interruption())
        stack.enter_context(record_failure(run))
        stack.enter_context(explain_lost_process(run, followers))
        stack.enter_context(explain_out_of_memory(config))
        processes.tell("run", str(run.path))
        stack.enter_context(connected(processes, device))
        training = Training(config, run, samplers, store, device, interruption, progress, processes)
        training.check_start()
        training.accumulation.trials = trials
        if training.finished:
            run.update_status(state="finished")
            progress.say(f"{run.path}: already finished, {training.position}; nothing to do.")
            return result_of(training)
        if resume is not None:
            reopen(run, config, environment)
        sharing = sharing_memory(processes, device.type)
        facts = describe_training(config, training.model, *samplers, device, sharing)
        progress.say(f"{run.path}: {facts}")
        training.run_to_end()
        return result_of(training)


def settle_devices(config: TrainConfig, place: Place, *, resuming: bool) -> TrainConfig:
    """Return `config` with the number of processes that its launcher started.

    Raises:
        ConfigError: another number was asked for.
    """
    if place.size == 1:
        return config
    if config.devices not in (1, place.size) and not resuming:
        raise ConfigError(
            f"--devices: found {config.devices}, but {place.launcher} started {place.size} "
            "processes.\nLeave --devices out: under a launcher it is their number."
        )
    return dataclasses.replace(config, devices=place.size)


def share_of_threads(config: TrainConfig, place: Place) -> int:
    """Return the CPU threads of each process: a launcher's processes have their own number."""
    threads = torch.get_num_threads()
    return threads if place.size > 1 else max(1, threads // config.devices)


def send_orders(processes: Processes, config: TrainConfig, store: Store, *, trials: int) -> None:
    """Tell the other processes what they are to train, on which data, with which kernels."""
    facts = {"config": to_plain(config), "fingerprint": store.fingerprint, "trials": trials}
    processes.tell("orders", {**facts, "kernels": kernels.forced()})


@contextmanager
def explain_lost_process(run: Run, followers: Followers | None) -> Iterator[None]:
    """Turn the loss of another process into a RunError that says what is left.

    Raises:
        RunError: a process was lost.
    """
    try:
        yield
    except ProcessLostError as error:
        # A connection breaks a moment before the system tells how its process ended.
        how = followers.lost(within=2.0) if followers else None
        raise RunError(
            f"{run.path}: {how or error} {last_checkpoint(run)}\n"
            f"Go on with it: {resume_command(run.path)}"
        ) from error


def resolve(config: TrainConfig, store: Store) -> TrainConfig:
    """Return `config` with the store's test area and classes and the learning rate filled in.

    Raises:
        ConfigError: the store does not have the test area.
    """
    area = store.test_area if config.test_area is None else config.test_area
    if area not in store.areas:
        raise ConfigError(
            f"--area: found {area}, expected an area that {config.data} holds: "
            f"{', '.join(map(str, store.areas))}."
        )
    model = dataclasses.replace(config.model, num_classes=len(store.classes))
    return dataclasses.replace(config, model=model, test_area=area, lr=config.first_lr)


def sharing_memory(processes: Processes, device: str) -> int:
    """Return how many processes have a device's memory together.

    Those of this training on the CPU, times the trainings that run beside it (`ablate --workers`).
    """
    return trainings_at_once() * (processes.place.local_size if device == "cpu" else 1)


def fit(config: TrainConfig, device: str, processes: Processes, progress: Progress) -> TrainConfig:
    """Return `config` with micro-batch and checkpointing decided, and warn if it may not fit.

    A resumed run keeps what was decided at its start: another size would be another function.
    """
    sharing = sharing_memory(processes, device)
    with progress.task("Estimating memory"):
        config = fit_memory(config, device, sharing)
    if sharing * estimate_memory(config, device=device).total > available_memory(device):
        progress.warn(
            f"memory may run out: {describe_memory(config, device, sharing)}.\n"
            f"To need less: {', '.join(smaller_options(config))}."
        )
    return config


def arrange_memory(config: TrainConfig, device: str, processes: Processes) -> None:
    """Hand freed memory back where the training needs much of what there is.

    Elsewhere it is kept, which is faster (`runtime.device.pick_device`).
    """
    if config.checkpoint_layers:
        return_freed_memory(CHECKPOINTED_ARRAY)
        return
    needed = sharing_memory(processes, "cpu") * estimate_memory(config, device=device).total
    if device == "cpu" and needed > available_memory(device) / 2:
        return_freed_memory(LARGE_ARRAY)


def check_network(config: ModelConfig) -> None:
    """Build two layers of the network before anything is read or written.

    Raises:
        ConfigError: the vertex layer does not exist or does not fit.
    """
    DeepGCN(dataclasses.replace(config, depth=min(config.depth, 2)))


def open_samplers(
    config: TrainConfig,
    store: Store,
    progress: Progress = SILENT,
    processes: Processes = ALONE,
) -> tuple[BlockSampler, BlockSampler]:
    """Return the samplers of the training blocks and of the disjoint validation blocks.

    Raises:
        DatasetError: there are no rooms, or no blocks in them, to train on or to validate with.
    """
    assert config.test_area is not None
    train_rooms, val_rooms = split_rooms(
        store.rooms(),
        test_area=config.test_area,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )
    return (
        open_sampler(config, store, train_rooms, 0.5, progress, processes, parts=config.parts),
        open_sampler(config, store, val_rooms, 1.0, progress, processes),
    )


def open_sampler(
    config: TrainConfig,
    store: Store,
    rooms: list[RoomInfo],
    stride: float,
    progress: Progress,
    processes: Processes = ALONE,
    parts: tuple[str, ...] = (),
) -> BlockSampler:
    """Return the sampler of some rooms' blocks, with the parts of a recipe that matter to it.

    Raises:
        DatasetError: the rooms are so sparse that they have no block.
    """
    points, seed, layout = config.num_points, config.seed, config.model.layout
    sampler = BlockSampler(
        *(store, rooms, points, seed, stride, layout),
        parts=parts,
        sharing=processes.place.local_size,
        progress=progress,
    )
    if not len(sampler):
        names = ", ".join(f"Area_{room.area}/{room.name}" for room in rooms[:3])
        raise DatasetError(
            f"{config.data}: found no block of at least {MIN_POINTS} points per square metre "
            f"in {names}{', …' if len(rooms) > 3 else ''}."
        )
    return sampler


def describe_store(config: TrainConfig, store: Store) -> dict[str, Any]:
    """Return what tells the data and the randomness of a run, as JSON-ready values."""
    identity = {"path": str(config.data), "fingerprint": store.fingerprint}
    return {"seed": config.seed, "store": {**identity, "classes": list(store.classes)}}


def result_of(training: Training) -> TrainResult:
    """Return what a training has come to."""
    counters, pace = training.counters, training.pace
    return TrainResult(
        run=training.run.path,
        steps=counters.step,
        epochs=counters.epoch,
        best_miou=counters.best_miou or 0.0,
        seconds=counters.seconds,
        blocks_per_second=pace.blocks_per_second,
        data_wait=pace.data_wait,
    )
