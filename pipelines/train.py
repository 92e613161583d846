"""The train stage: a store becomes a run directory with trained weights.

    train            starts several worker processes, if they are asked for; in each:
    _decide            rank 0 checks the configuration and fills in what it leaves open
    _train_rank        every rank prepares the same training, and runs it

The epochs are in `pipelines.training.loop`, the steps in `pipelines.training.steps`.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pipelines.data.blocks import MIN_POINTS, Block, overlapping
from pipelines.data.sampler import NO_VALIDATION, BlockSampler, Cut, Sampler, cut_room, split_rooms
from pipelines.data.store import RoomInfo, Store
from pipelines.data.synthetic.stream import open_stream, open_validation, synthetic_store
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs import directory
from pipelines.runs.directory import Run
from pipelines.runs.lock import lock_run
from pipelines.runs.resume import check_same, open_data, room_checksums
from pipelines.runtime.compiling import compile_beside
from pipelines.runtime.device import cpu_threads, describe_environment, pick_device
from pipelines.runtime.precision import Precision
from pipelines.runtime.process import available_cores, watch_for_interruption, worker_pool
from pipelines.runtime.waiting import sleep_if_crowded
from pipelines.training import distributed, memory
from pipelines.training.distributed import Processes
from pipelines.training.loggers import check_loggers
from pipelines.training.loop import Training
from pipelines.training.start import check_halfway, describe_start, open_start, resolve_start
from pipelines.training.steps import TRIALS
from pipelines.training.summary import describe_training
from pipelines.training.workers import launch
from pipelines.weights.provenance import STARTED_FROM

from . import kernels
from .config import TrainConfig
from .errors import ConfigError, DatasetError, ProcessLostError, TakenError
from .files import atomic_json, check_place
from .progress import SILENT, Progress


@dataclass(frozen=True)
class TrainResult:
    """A finished training."""

    run: Path  # the run directory
    test_area: int  # held out; 0: none
    steps: int  # optimizer steps, over all starts of the run
    epochs: int  # whole epochs, over all starts
    # The best on validation, 0–1: that of `checkpoints/best.safetensors`; None without validation.
    best_miou: float | None
    seconds: float  # training time, over all starts
    blocks_per_second: float  # of this process's training steps; 0 if it took none
    data_wait: float  # the fraction of those steps' time spent waiting for data


def train(
    config: TrainConfig,
    *,
    resume: Path | None = None,
    plan: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> TrainResult:
    """Train a network on the rooms outside the test area, or on synthetic rooms without end.

    Validation rooms among them choose the best checkpoint, or validation blocks of an only room, or
    nothing (a `val_fraction` of 0); the test area, if there is one, is never read. A run that was
    stopped by a signal, `max_steps` or kill -9 resumes from its last checkpoint; on the CPU, with
    the same number of threads, its steps are bit for bit those of a run that never stopped.

    Several processes train together if `config.devices` asks for them, or if torchrun or srun
    started this one as a rank: then all ranks call this function, and rank 0's arguments apply.
    Each takes its part of every batch, so `batch_size` means the same on any number of them.
    Several `devices` and `synth` spawn processes: call it under `if __name__ == "__main__":`.

    Args:
        config: what to train; a `test_area` of None is the store's. With `weights`, a `model` left
            at the default is their network.
        resume: the directory of a run to resume. `config` must be the run's own (`Run.config`),
            except for epochs, max_steps, device, workers, threads and loggers, and for devices
            with synchronised batch norm.
        plan: what the configuration follows from, as JSON-ready values; a new run keeps it as
            `plan.json`. Nothing reads it again.
        progress: shows what happens in rank 0. With several `devices` it has to be picklable.

    Raises:
        ConfigError: the configuration does not fit the data or the machine, or the package of a
            logger is missing.
        DatasetError: the store is missing, broken or too small.
        WeightsError: the weights to start from cannot be found or read.
        RunError: the run cannot be created or resumed, another process holds it, the loss is not
            finite, a process of the training was lost, or memory or disk space ran out.
        KeyboardInterrupt: SIGINT or SIGTERM came; the run is saved, and `progress` has shown how
            to resume it.

    >>> from pipelines.config import ModelConfig
    >>> small = ModelConfig(depth=2, width=8, k=4)
    >>> train(TrainConfig(model=small, num_points=64, max_steps=3)).steps
    3
    """
    processes = distributed.read_ranks()
    if processes.size == 1 and config.devices > 1:
        return _start_workers(config, resume, plan, progress)
    with distributed.connected(processes):
        progress = progress if processes.main else SILENT
        decided = processes.broadcast(lambda: _decide(config, resume, plan, processes, progress))
        return _train_rank(decided, processes, progress)


def _start_workers(
    config: TrainConfig, resume: Path | None, plan: Mapping[str, Any] | None, progress: Progress
) -> TrainResult:
    """Run `train` in `config.devices` processes of this machine."""
    check_loggers(config.loggers)
    if resume:
        run = directory.open_run(resume)
    else:
        store = _open_store(config, progress=progress)
        config = resolve(config, store)
        _check_rooms(config, store)
        check_place(config.runs, "--runs", folder=True)
        run = Run(directory.make_directory(config))
        config = dataclasses.replace(config, name=run.name)
    threads = config.threads or max(1, torch.get_num_threads() // config.devices)
    progress.say(f"Starting {config.devices} processes.")
    try:
        with _explain_lost_process(run):
            work = partial(train, config, resume=resume, plan=plan, progress=progress)
            return launch(config.devices, threads, work)
    except ProcessLostError as error:
        run.update_status(state="failed", error=str(error))
        raise
    except KeyboardInterrupt:
        # The command line looks for the run that was locked here; a second signal does not wait.
        with suppress(TakenError), lock_run(run.path):
            pass
        raise
    finally:
        if not resume and not (run.path / directory.CONFIG).is_file():  # it has not begun
            shutil.rmtree(run.path, ignore_errors=True)


@dataclass(frozen=True)
class _Decisions:
    """What rank 0 decides at the start of a training, for all ranks."""

    config: TrainConfig  # resolved
    resume: Path | None  # the run to resume; None: a new one
    fingerprint: str  # of the store
    kernel: str | None  # the forced implementation of the kernels; None: the device's
    trials: int  # first steps that are repeated in smaller micro-batches if memory runs out
    started_from: dict[str, Any] | None = None  # the provenance of a new run's first weights
    plan: Mapping[str, Any] | None = None  # of a new run


def _decide(
    config: TrainConfig,
    resume: Path | None,
    plan: Mapping[str, Any] | None,
    processes: Processes,
    progress: Progress,
) -> _Decisions:
    """Check the configuration and fill in what it leaves open; the errors are those of `train`."""
    check_loggers(config.loggers)
    check_place(config.runs, "--runs", folder=True)
    if resume is None:
        distributed.check_devices(config.devices, processes)
    config = dataclasses.replace(config, devices=processes.size)
    device = distributed.device_of(processes, pick_device(config.device, progress))
    Precision(config.precision, device)
    run = directory.open_run(resume) if resume else None
    store = _open_store(config, run, progress)
    config = resolve(config, store, progress)
    if run:
        check_same(run, config, store)
    weights = None if run else open_start(config)
    if weights:
        describe_start(weights, config, store, progress)
    with cpu_threads(config.threads):
        # Two layers show whether the graph convolution exists and fits.
        DeepGCN(config.model.of_depth(min(config.model.depth, 2)))
        compile_beside(config.model, device, training=True)
        if run is None:
            _check_rooms(config, store)  # its errors come before memory is measured
            config = memory.settle_memory(config, device.type, processes, progress)
    trials = 0 if run or (config.sync_bn and processes.size > 1) else TRIALS
    started = weights.provenance if weights else None
    return _Decisions(config, resume, store.fingerprint, kernels.forced(), trials, started, plan)


def _train_rank(decided: _Decisions, processes: Processes, progress: Progress) -> TrainResult:
    """Train as one of the processes; the errors are those of `train`."""
    config = decided.config
    with ExitStack() as stack:
        stack.enter_context(kernels.use(decided.kernel))
        stack.enter_context(cpu_threads(config.threads))
        store = _open_same_store(config, decided.fingerprint, processes)
        device = distributed.device_of(processes, pick_device(config.device))
        memory.arrange_memory(config, device.type, processes)
        samplers: tuple[Sampler, BlockSampler | None]
        # Validation rooms take a while to make; there is perhaps nothing left to validate.
        ended = config.synth and decided.resume and Run(decided.resume).state == "finished"
        if config.synth:
            free = (len(available_cores()) - 1) // processes.local_size
            workers = config.synth_workers or max(1, free)
            pool = stack.enter_context(worker_pool(workers))
            stream = open_stream(config, pool, processes.slots(config.batch_size))
            samplers = stream, None if ended else open_validation(config, pool, stream, progress)
        else:
            samplers = open_samplers(config, store, progress, processes.local_size)
        environment = {**describe_environment(device), **describe_store(config, store)}
        interruption = stack.enter_context(watch_for_interruption())
        run = stack.enter_context(_opened_run(decided, store, environment, processes))
        stack.enter_context(memory.explain_out_of_memory(config))
        training = Training(
            *(config, run, samplers, store, device, interruption, progress, processes),
            trials=decided.trials,
        )
        training.check_start()
        if training.finished:
            if processes.main and run.state != "finished":
                training.update_status()  # a kill after the last checkpoint left an older one
                run.update_status(state="finished")
            progress.say(f"{run.path}: already finished, {training.position}; nothing to do.")
        else:
            if ended:
                training.val_sampler = open_validation(config, pool, stream, progress)
            if decided.resume is not None and processes.main:
                directory.reopen(run, config, environment)
            sharing = memory.sharing_memory(processes, device.type)
            summary = describe_training(
                config, training.state.model, samplers[0], training.val_sampler, device, sharing
            )
            progress.say(f"{run.path}: {summary}")
            with sleep_if_crowded():
                training.run_to_end()
    counters, pace = training.counters, training.pace
    return TrainResult(
        run=run.path,
        test_area=run.config.test_area or 0,
        steps=counters.step,
        epochs=counters.epoch,
        best_miou=counters.best_miou,
        seconds=counters.seconds,
        blocks_per_second=pace.blocks_per_second,
        data_wait=pace.data_wait,
    )


@contextmanager
def _opened_run(
    decided: _Decisions, store: Store, environment: dict[str, Any], processes: Processes
) -> Iterator[Run]:
    """Create or open the run directory; in rank 0, lock it and record a failure in it."""
    with ExitStack() as stack:

        def begin() -> Run:
            begun = {**environment, "rooms": room_checksums(store)}
            if decided.started_from:
                begun[STARTED_FROM] = decided.started_from
            if decided.resume is not None:
                run = Run(decided.resume)
            else:
                run = directory.create_run(decided.config, environment=begun)
                if decided.plan is not None:
                    atomic_json(run.path / directory.PLAN, dict(decided.plan))
            stack.enter_context(lock_run(run.path))
            stack.enter_context(directory.record_failure(run))
            return run

        run = processes.broadcast(begin)
        stack.enter_context(_explain_lost_process(run))
        yield run


@contextmanager
def _explain_lost_process(run: Run) -> Iterator[None]:
    """Add the last checkpoint and the command that resumes to a ProcessLostError."""
    try:
        yield
    except ProcessLostError as error:
        left, how = directory.last_checkpoint(run), directory.resume_command(run.path)
        raise ProcessLostError(f"{run.path}: {error} {left}\nResume it: {how}") from error


def resolve(config: TrainConfig, store: Store, progress: Progress = SILENT) -> TrainConfig:
    """Return `config` with test area, classes, learning rate, network and blocks to start from.

    >>> resolve(TrainConfig(), Store.open(Path("data"))).test_area  # that of runs/tiny
    3
    """
    area = store.test_area if config.test_area is None else config.test_area
    if area and area not in store.areas:
        raise ConfigError(
            f"--area: found {area}, expected an area of {config.data}: "
            f"{', '.join(map(str, store.areas))}.\nTo train on all of them: --area 0"
        )
    model = dataclasses.replace(config.model, num_classes=len(store.classes))
    config = dataclasses.replace(config, model=model, test_area=area, lr=config.first_lr)
    resolved = resolve_start(config, progress)
    if "wise-ft" in config.parts and config.weights_sha256 is None:  # else a run's own
        check_halfway(resolved, store)
    return resolved


def _open_store(config: TrainConfig, run: Run | None = None, progress: Progress = SILENT) -> Store:
    """Open what is trained on; `run` is the one to resume."""
    if config.synth:
        return synthetic_store(config, progress)
    return open_data(run, config.data) if run else Store.open(config.data)


def _open_same_store(config: TrainConfig, fingerprint: str, processes: Processes) -> Store:
    """Open the store, and check that it is the same as rank 0's."""
    store = _open_store(config)
    if store.fingerprint != fingerprint:
        flag = "--furniture" if config.synth else "--data"
        raise DatasetError(
            f"{config.furniture or config.data}: process {processes.rank} found other data there "
            f"than process 0.\nWith {flag}, give a folder that all machines can read."
        )
    return store


def _check_rooms(config: TrainConfig, store: Store) -> None:
    """Raise DatasetError if there are no rooms to train on."""
    if not config.synth:
        _split_store(config, store)


def _split_store(
    config: TrainConfig, store: Store
) -> tuple[list[RoomInfo], list[RoomInfo], Cut | None]:
    """Return the training rooms, the validation rooms, and the cut of a room that is both."""
    assert config.test_area is not None
    train_rooms, val_rooms = split_rooms(
        store.rooms(),
        test_area=config.test_area,
        val_fraction=config.val_fraction,
        seed=config.seed,
        fold=config.fold,
    )
    only = train_rooms == val_rooms
    if not only:
        return train_rooms, val_rooms, None
    room, fraction = store.read(train_rooms[0]), config.val_fraction
    return train_rooms, val_rooms, cut_room(room, fraction, config.block_side)


def open_samplers(
    config: TrainConfig, store: Store, progress: Progress = SILENT, sharing: int = 1
) -> tuple[BlockSampler, BlockSampler | None]:
    """Return the samplers of the training blocks, and of the disjoint validation blocks if any.

    `sharing` processes of this machine share its memory. DatasetError: there are no blocks.

    >>> store = Store.open(Path("data"))
    >>> [len(sampler) for sampler in open_samplers(resolve(TrainConfig(), store), store)]
    [44, 4]
    """
    train_rooms, val_rooms, cut = _split_store(config, store)
    size = config.block_side
    if cut is not None:
        progress.say(
            f"Area_{train_rooms[0].area}/{train_rooms[0].name} is the only room to train on: its "
            f"blocks beyond {'xy'[cut.axis]} = {cut.at:g} m from its edge validate, which have "
            f"{100 * cut.fraction:.0f} % of its points."
        )
    elif not val_rooms:
        progress.say(NO_VALIDATION)

    def open_sampler(
        rooms: list[RoomInfo],
        stride: float,
        parts: tuple[str, ...],
        keep: Callable[[Block], bool] | None,
    ) -> BlockSampler:
        sampler = BlockSampler(
            *(store, rooms, config.num_points, config.seed, stride, config.model.layout),
            parts=parts,
            size=size,
            voxel=config.voxel_side,
            sharing=sharing,
            keep=keep,
            progress=progress,
        )
        if not len(sampler):
            names = ", ".join(f"Area_{room.area}/{room.name}" for room in rooms[:3])
            raise DatasetError(
                f"{config.data}: found no block of {size:g} × {size:g} m with at least "
                f"{MIN_POINTS} points in {names}{', …' if len(rooms) > 3 else ''}."
            )
        return sampler

    stride = overlapping(size)
    trained = open_sampler(train_rooms, stride, config.parts, cut.trains if cut else None)
    if not val_rooms:
        return trained, None
    return trained, open_sampler(val_rooms, size, (), cut.validates if cut else None)


def describe_store(config: TrainConfig, store: Store) -> dict[str, Any]:
    """Return the seed and the identity of the data of a run, as JSON-ready values.

    >>> sorted(describe_store(TrainConfig(), Store.open(Path("data")))["store"])
    ['classes', 'fingerprint', 'path']
    """
    identity = {"path": str(store.path), "fingerprint": store.fingerprint}
    about = {"synthetic": store.manifest["synthetic"]} if config.synth else {}
    return {"seed": config.seed, "store": {**identity, "classes": list(store.classes), **about}}
