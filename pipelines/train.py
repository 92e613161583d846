"""The train stage: a store becomes a run directory with trained weights.

    train          starts the workers of several processes, if there are to be some; in each:
    decide           rank 0 checks what was asked for and settles what was left open
    train_rank       every rank prepares the same training, and runs it

The course of a training is `pipelines.training.loop`, a step is `pipelines.training.steps`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.data.blocks import MIN_POINTS
from pipelines.data.sampler import BlockSampler, split_rooms
from pipelines.data.store import RoomInfo, Store
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import (
    CONFIG,
    Run,
    create_run,
    last_checkpoint,
    make_directory,
    open_run,
    record_failure,
    reopen,
    resume_command,
)
from pipelines.runs.lock import lock_run
from pipelines.runs.resume import check_same, open_data, room_checksums
from pipelines.runtime.device import cpu_threads, describe_environment, pick_device
from pipelines.runtime.interruption import watch_for_interruption
from pipelines.runtime.precision import Precision
from pipelines.training.accumulation import TRIALS, explain_out_of_memory
from pipelines.training.distributed import ALONE, Processes, Ranks, connected, device_of, read_ranks
from pipelines.training.loggers import check_loggers
from pipelines.training.loop import Training
from pipelines.training.memory import arrange_memory, settle_memory, sharing_memory
from pipelines.training.summary import describe_training
from pipelines.training.workers import launch

from . import kernels
from .config import ModelConfig, TrainConfig
from .errors import ConfigError, DatasetError, ProcessLostError
from .progress import SILENT, Progress


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        run: the run directory.
        steps: optimizer steps in all.
        epochs: whole epochs in all.
        best_miou: the best validation mIoU, 0–1; `checkpoints/best.safetensors` reached it.
        seconds: time spent, over all processes that worked on the run one after another.
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

    Several processes train together if `config.devices` asks for them, or if torchrun or srun
    started this one as a rank: then all ranks call this function, and rank 0's arguments count.
    Each takes its part of every batch, so `batch_size` means the same on any number of them.

    Args:
        config: what to train; a `test_area` of None is the store's.
        resume: the directory of a run to go on with. `config` has to be the run's own
            (`Run.config`), except for epochs, max_steps, device, workers, threads and loggers, and
            devices with synchronised batch norm.
        progress: shows what happens in rank 0. With several `devices` it has to be picklable.

    Raises:
        ConfigError: the configuration does not fit the data or the machine, or the package of a
            logger is missing.
        DatasetError: the store is missing, broken or too small.
        RunError: the run cannot be made or gone on with, another process has it, the loss is not
            finite, a process of the training was lost, or memory or disk space ran out.
        KeyboardInterrupt: SIGINT or SIGTERM came; the run is saved, and `progress` has shown how
            to go on.
    """
    ranks = read_ranks()
    if ranks.world_size == 1 and config.devices > 1:
        return train_with_workers(config, resume, progress)
    with connected(ranks) as processes:
        progress = progress if processes.main else SILENT
        start = processes.broadcast(lambda: decide(config, resume, ranks, progress))
        return train_rank(start, processes, progress)


def train_with_workers(config: TrainConfig, resume: Path | None, progress: Progress) -> TrainResult:
    """Run `train` in `config.devices` processes of this machine.

    Raises:
        RunError: a worker ended on its own or was killed; says what is left and how to go on.
    """
    check_loggers(config.loggers)
    if resume:
        run = open_run(resume)
    else:
        config = resolve(config, Store.open(config.data))
        run = Run(make_directory(config))
        config = dataclasses.replace(config, name=run.name)
    threads = config.threads or max(1, torch.get_num_threads() // config.devices)
    progress.say(f"Starting {config.devices} processes.")
    try:
        with explain_lost_process(run):
            work = partial(train, config, resume=resume, progress=progress)
            return launch(config.devices, threads, work)
    except ProcessLostError as error:
        run.update_status(state="failed", error=str(error))
        raise
    except KeyboardInterrupt:
        with lock_run(run.path):  # the command line looks for the run that was locked here
            raise
    finally:
        if not resume and not (run.path / CONFIG).is_file():  # it has not begun
            shutil.rmtree(run.path)


@dataclass(frozen=True)
class Start:
    """What rank 0 decides at the start of a training, for all ranks.

    Attributes:
        config: resolved.
        resume: the run to go on with; None: a new one.
        fingerprint: of the store.
        kernel: the implementation of the kernels that is forced; None: the device's own.
        trials: steps that may find out that memory is short.
    """

    config: TrainConfig
    resume: Path | None
    fingerprint: str
    kernel: str | None
    trials: int


def decide(config: TrainConfig, resume: Path | None, ranks: Ranks, progress: Progress) -> Start:
    """Check what was asked for, and settle what was left open.

    Raises:
        ConfigError, DatasetError, RunError: as for `train`.
    """
    check_loggers(config.loggers)
    config = settle_devices(config, ranks, resuming=resume is not None)
    device = device_of(ranks, pick_device(config.device, progress))
    Precision(config.precision, device)
    run = open_run(resume) if resume else None
    store = open_data(run, config.data) if run else Store.open(config.data)
    config = resolve(config, store)
    trials = 0
    if run:
        check_same(run, config, store)
    with cpu_threads(config.threads):
        check_network(config.model)
        if run is None:
            config = settle_memory(config, device.type, ranks, progress)
            trials = 0 if config.sync_bn and ranks.world_size > 1 else TRIALS
    return Start(config, resume, store.fingerprint, kernels.forced(), trials)


def train_rank(start: Start, processes: Processes, progress: Progress) -> TrainResult:
    """Train as one of the processes.

    Raises:
        DatasetError, RunError, KeyboardInterrupt: as for `train`.
    """
    config, ranks = start.config, processes.ranks
    with ExitStack() as stack:
        stack.enter_context(kernels.use(start.kernel))
        stack.enter_context(cpu_threads(config.threads))
        store = open_same_store(config, start.fingerprint, ranks)
        device = device_of(ranks, pick_device(config.device))
        arrange_memory(config, device.type, ranks)
        samplers = open_samplers(config, store, progress, ranks)
        environment = {**describe_environment(device), **describe_store(config, store)}
        interruption = stack.enter_context(watch_for_interruption())
        run = stack.enter_context(opened_run(start, store, environment, processes))
        stack.enter_context(explain_out_of_memory(config))
        training = Training(
            *(config, run, samplers, store, device, interruption, progress, processes),
            trials=start.trials,
        )
        training.check_start()
        if training.finished:
            if processes.main:
                run.update_status(state="finished")
            progress.say(f"{run.path}: already finished, {training.position}; nothing to do.")
            return result_of(training)
        if start.resume is not None and processes.main:
            reopen(run, config, environment)
        sharing = sharing_memory(ranks, device.type)
        summary = describe_training(config, training.state.model, *samplers, device, sharing)
        progress.say(f"{run.path}: {summary}")
        training.run_to_end()
        return result_of(training)


@contextmanager
def opened_run(
    start: Start, store: Store, environment: dict[str, Any], processes: Processes
) -> Iterator[Run]:
    """Create or open the run directory; in rank 0, lock it and record how the work in it fails.

    Raises:
        RunError: it cannot be made, another process has it, or a process was lost.
    """
    with ExitStack() as stack:

        def begin() -> Run:
            begun = {**environment, "rooms": room_checksums(store)}
            run = Run(start.resume) if start.resume else create_run(start.config, environment=begun)
            stack.enter_context(lock_run(run.path))
            stack.enter_context(record_failure(run))
            return run

        run = processes.broadcast(begin)
        stack.enter_context(explain_lost_process(run))
        yield run


@contextmanager
def explain_lost_process(run: Run) -> Iterator[None]:
    """Let the loss of another process say what is left, and how to go on.

    Raises:
        ProcessLostError: a process was lost.
    """
    try:
        yield
    except ProcessLostError as error:
        raise ProcessLostError(
            f"{run.path}: {error} {last_checkpoint(run)}\nGo on with it: {resume_command(run.path)}"
        ) from error


def settle_devices(config: TrainConfig, ranks: Ranks, *, resuming: bool) -> TrainConfig:
    """Return `config` with the number of processes that the launcher started.

    Raises:
        ConfigError: another number was asked for.
    """
    if ranks.world_size == 1:
        return config
    if config.devices not in (1, ranks.world_size) and not resuming:
        raise ConfigError(
            f"--devices: found {config.devices}, but {ranks.launcher} started "
            f"{ranks.world_size} processes.\n"
            "Leave --devices out: under a launcher it is their number."
        )
    return dataclasses.replace(config, devices=ranks.world_size)


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


def check_network(config: ModelConfig) -> None:
    """Build two layers of the network before anything is written.

    Raises:
        ConfigError: the graph convolution does not exist or does not fit.
    """
    DeepGCN(dataclasses.replace(config, depth=min(config.depth, 2)))


def open_same_store(config: TrainConfig, fingerprint: str, ranks: Ranks) -> Store:
    """Open the store that rank 0 has.

    Raises:
        DatasetError: it is another one.
    """
    store = Store.open(config.data)
    if store.fingerprint != fingerprint:
        raise DatasetError(
            f"{config.data}: process {ranks.rank} found other data there than process 0.\n"
            "Give a folder that all machines see with --data."
        )
    return store


def open_samplers(
    config: TrainConfig, store: Store, progress: Progress = SILENT, ranks: Ranks = ALONE.ranks
) -> tuple[BlockSampler, BlockSampler]:
    """Return the samplers of the training blocks and of the disjoint validation blocks.

    Raises:
        DatasetError: there are no rooms, or no blocks in them, to train on or to validate with.
    """
    assert config.test_area is not None
    rooms = split_rooms(
        store.rooms(),
        test_area=config.test_area,
        val_fraction=config.val_fraction,
        seed=config.seed,
    )

    def open_sampler(rooms: list[RoomInfo], stride: float, parts: tuple[str, ...]) -> BlockSampler:
        sampler = BlockSampler(
            *(store, rooms, config.num_points, config.seed, stride, config.model.layout),
            parts=parts,
            sharing=ranks.local_world_size,
            progress=progress,
        )
        if not len(sampler):
            names = ", ".join(f"Area_{room.area}/{room.name}" for room in rooms[:3])
            raise DatasetError(
                f"{config.data}: found no block of at least {MIN_POINTS} points per square metre "
                f"in {names}{', …' if len(rooms) > 3 else ''}."
            )
        return sampler

    train_rooms, val_rooms = rooms
    return open_sampler(train_rooms, 0.5, config.parts), open_sampler(val_rooms, 1.0, ())


def describe_store(config: TrainConfig, store: Store) -> dict[str, Any]:
    """Return the seed and the identity of the data of a run, as JSON-ready values."""
    identity = {"path": str(config.data), "fingerprint": store.fingerprint}
    return {"seed": config.seed, "store": {**identity, "classes": list(store.classes)}}


def result_of(training: Training) -> TrainResult:
    """Return the result of a training."""
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
