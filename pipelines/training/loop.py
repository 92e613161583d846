"""Train and validate in turn until the end, with checkpoints on the way.

Begin with `Training.run_to_end`. The progress of a training is in its `TrainingState`, which every
checkpoint holds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

import numpy as np
import torch

from pipelines.config import TrainConfig
from pipelines.data.blocks import trained_blocks
from pipelines.data.s3dis import color_text
from pipelines.data.sampler import Batch, BlockSampler, Sampler
from pipelines.data.store import Store
from pipelines.errors import EverywhereError, ProcessLostError, RunError
from pipelines.metrics import Scores, confusion, scores
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Progress, counted
from pipelines.runs.directory import Run, last_checkpoint, resume_command, save_config
from pipelines.runtime.cuda_graphs import GraphedModel, graphed_evaluation
from pipelines.runtime.memory import peak_memory
from pipelines.runtime.precision import Precision
from pipelines.runtime.process import Interruption
from pipelines.runtime.seeding import seed_step
from pipelines.weights.provenance import STARTED_FROM, as_metadata
from pipelines.weights.safetensors import blocks_metadata, save_weights

from .checkpoint import TrainingState, first_not_finite
from .distributed import ALONE, Processes
from .loggers import RunLog, open_log
from .recipe import Halfway, average_weights, build_optimizer, choose_recipe
from .start import open_start, start_from, trained_on
from .steps import Accumulation, Pace, Step, Stepper, pinned, predict_batches, prefetch

SAVE_SECONDS = 300.0  # between two checkpoints within an epoch
AT_ONCE = "; Ctrl-C now stops at once, without saving"  # a process alone


class Training:
    """One process's work on a run."""

    log: RunLog  # in rank 0 only

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        samplers: tuple[Sampler, BlockSampler | None],
        store: Store,
        device: torch.device,
        interruption: Interruption,
        progress: Progress,
        processes: Processes = ALONE,
        trials: int = 0,
    ) -> None:
        self.config, self.run, self.processes = config, run, processes
        self.classes, self.class_colors = store.classes, store.class_colors
        self.store = store
        self.sampler, self.val_sampler = samplers
        self.device, self.interruption, self.progress = device, interruption, progress
        self.epoch_batches = math.ceil(len(self.sampler) / config.batch_size)
        steps = config.epochs * self.epoch_batches
        self.total_steps = min(steps, config.max_steps or steps)
        self.epochs = math.ceil(self.total_steps / self.epoch_batches)  # begun in so many steps
        self.state = self.build_state()
        self.counters = self.state.counters  # how far the training is
        self.graphed = GraphedModel(self.state.model, training=True, say=progress.warn)
        self.stepper = self.build_stepper(trials)
        self.pace = Pace()
        self.started = time.monotonic() - self.counters.seconds
        self.saved = time.monotonic()

    def build_state(self) -> TrainingState:
        """Return the state of the first step, or of the run's checkpoint."""
        config = self.config
        torch.manual_seed(config.seed)
        model = DeepGCN(config.model)
        begun = self.run.training_state.is_file()
        if not begun and (weights := open_start(config)):
            start_from(model, weights, self.classes)
        model.freeze(config.freeze)
        if "frozen-norm" in config.parts:
            model.freeze_norm()
        model.to(self.device)
        model.checkpoint_layers = config.checkpoint_layers or 0
        state = TrainingState(
            model,
            build_optimizer(model, config.parts, config.first_lr),
            average_weights(model) if "ema" in config.parts else None,
            Halfway(model) if "wise-ft" in config.parts else None,
            Precision(config.precision, self.device),
        )
        if begun:
            state.load(self.run.training_state)
        return state

    def build_stepper(self, trials: int) -> Stepper:
        """Return what takes the steps; the first `trials` of them may halve the micro-batch."""
        config, processes = self.config, self.processes
        largest = math.ceil(len(self.sampler) / processes.size)  # of a short epoch's only batch
        accumulation = Accumulation(
            min(config.micro_batch or config.local_batch, largest),
            trials,
            on_smaller=self.note_smaller,
            anywhere=processes.any,
            forward=self.graphed,
        )
        total = trained_blocks(self.total_steps, len(self.sampler), config.batch_size)
        return Stepper(
            self.state.model,
            self.state.optimizer,
            choose_recipe(config, int(total)),
            accumulation,
            self.state.precision,
            processes,
            sync_bn=config.sync_bn,
        )

    @property
    def finished(self) -> bool:
        """Whether all steps are done and their result is validated."""
        step = self.counters.step
        return step >= self.total_steps and step == self.counters.validated

    @property
    def position(self) -> str:
        """How far the run is, for people."""
        if self.counters.step > self.total_steps:
            return f"step {self.counters.step:,}, beyond the {self.total_steps:,} asked for"
        return f"step {self.counters.step:,} of {self.total_steps:,}"

    def check_start(self) -> None:
        """Check that all processes start from the same step and weights: from one directory."""
        values = self.state.model.state_dict().values()
        own = sum(value.double().sum().item() for value in values) + self.counters.step
        if self.processes.any(self.processes.broadcast(lambda: own) != own):
            raise EverywhereError(
                f"{self.run.path}: found another checkpoint on each machine.\n"
                "Keep the runs in a folder that all machines can read (--runs)."
            )

    def run_to_end(self) -> None:
        """Train and validate in turn until every step is done."""
        with ExitStack() as stack:
            if self.processes.main:
                where = self.config, self.run, self.progress
                records, step = self.counters.records, self.counters.step + 1
                self.log = stack.enter_context(open_log(*where, records=records, step=step))
                # A study's bar needs the run's length before the first checkpoint.
                self.run.update_status(steps_total=self.total_steps)
            try:
                while not self.finished:
                    self.train_epoch()
                    self.end_epoch()
            except ProcessLostError:
                # SLURM sends SIGTERM to all processes of a job: to those that make rooms as well.
                if self.processes.size == 1:
                    if self.interruption.requested:
                        self.stop()
                    self.save()
                raise
        if self.processes.main:
            self.run.update_status(state="finished")

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch, then save."""
        config, counters = self.config, self.counters
        left = max(0, self.total_steps - counters.step)
        batches = self.sampler.batches(counters.epoch, config.batch_size, start=counters.batch)
        batches = batches[:left]
        total = counters.loss_blocks + sum(map(len, batches))  # fewer if `max_steps` ends it
        title = f"Epoch {counters.epoch + 1}/{self.epochs}"
        with (
            self.progress.task(title, total=total, unit="blocks") as task,
            self.prepared(self.sampler, counters.epoch, batches) as prepared,
        ):
            task.advance(counters.loss_blocks)
            pace = Pace()
            for step in self.steps(prepared):
                pace.add(step)
                task.advance(len(step.batch.blocks), **figures(step, pace, self.device))
                if time.monotonic() - self.saved > SAVE_SECONDS:
                    self.save()
                self.stop_if_asked()
        self.save()

    def prepared(self, sampler: Sampler, epoch: int, batches: list[np.ndarray]) -> closing[Any]:
        """Return this process's parts of some batches, prefetched by other threads."""

        def make(blocks: np.ndarray) -> Batch:
            batch = self.processes.local_batch(sampler, epoch, blocks)
            return pinned(batch) if self.device.type == "cuda" else batch

        return closing(prefetch(make, batches, threads=max(1, self.config.workers)))

    def steps(self, batches: Iterator[Batch]) -> Iterator[Step]:
        """Take a step for each batch, check it, count it and record it."""
        counters, seed, rank = self.counters, self.config.seed, self.processes.rank

        def seeded() -> Iterator[Batch]:
            for batch in batches:
                seed_step(self.state.model, seed, counters.step, rank)
                yield batch

        for step in self.stepper.steps(seeded(), counters.samples, counters.epoch):
            self.interruption.notify = None
            self.check_loss(step)
            counters.count_step(step.loss, len(step.batch.blocks))
            if self.state.average is not None:
                self.state.average.update_parameters(self.state.model)
            self.pace.add(step)
            self.record(
                event="step",
                epoch=counters.epoch + 1,
                loss=step.loss,
                lr=step.lr,
                blocks=len(step.batch.blocks),
                seconds=step.seconds,
                data_wait=step.wait,
                blocks_per_second=len(step.batch.blocks) / step.seconds,
            )
            yield step
            # Until the next step is done, this thread does not use `progress`: a signal may.
            self.interruption.notify = partial(self.say_stopping, "step")

    def say_stopping(self, unit: str) -> None:
        """Say when the training stops, as a signal has asked for."""
        self.progress.say(f"Stopping after this {unit}{AT_ONCE * (self.processes.size == 1)}.")

    def end_epoch(self) -> None:
        """Score the network if blocks validate, keep it if it is the best, record and save."""
        counters = self.counters
        found = None if self.val_sampler is None else self.validation_scores(self.val_sampler)
        epoch, whole = counters.epoch + 1, counters.batch == self.epoch_batches
        loss = counters.loss_sum / max(1, counters.loss_blocks)
        values = found and {
            "val_miou": found.miou,
            "val_oa": found.oa,
            "val_macc": found.macc,
            "val_iou": list(found.iou),
        }
        self.record(event="epoch", epoch=epoch, whole=whole, loss=loss, **(values or {}))
        shown = f", {self.keep_best(found, epoch)}" if found else ""
        self.progress.say(f"Epoch {epoch}/{self.epochs}: loss {loss:.3f}{shown}")
        counters.validated = counters.step
        if whole:
            counters.epoch += 1
            counters.batch = counters.loss_blocks = 0
            counters.loss_sum = 0.0
        self.save()

    def keep_best(self, found: Scores, epoch: int) -> str:
        """Keep the network as "best" if no epoch had a higher mIoU; return its mIoU for people."""
        counters = self.counters
        better = counters.best_miou is None or found.miou > counters.best_miou
        if better:
            counters.best_miou, counters.best_epoch = found.miou, epoch
            self.save_model("best")
        best = "the best so far" if better else f"best {100 * (counters.best_miou or 0):.1f} %"
        return f"validation mIoU {100 * found.miou:.1f} % ({best})"

    def validation_scores(self, sampler: BlockSampler) -> Scores:
        """Return the scores over the disjoint blocks that validate, or over `val_blocks` of them.

        Each block's points are drawn once, the same in every epoch, so that epochs compare. A batch
        is one pass through the network, after which a signal stops.
        """
        model = self.state.scored_model
        matrix = np.zeros((len(self.classes), len(self.classes)), dtype=np.int64)
        # A CPU is as fast with one block at a time, and then answers a signal sooner.
        size = 1 if self.device.type == "cpu" else self.stepper.accumulation.size
        size *= self.processes.size
        batches = sampler.in_order(size, most=self.config.val_blocks)
        total = sum(map(len, batches))
        with (
            self.progress.task("Validating", total=total, unit="blocks") as task,
            self.prepared(sampler, 0, batches) as prepared,
        ):
            # Validation comes between steps, so its graphs may use the memory of the steps'.
            graphed_evaluation(model, self.graphed.memory)
            predictions = predict_batches(model, prepared, self.stepper.accumulation.size)
            for blocks in batches:
                # Until the pass is done, this thread does not use `progress`: a signal may.
                self.interruption.notify = partial(self.say_stopping, "pass")
                label, predicted = next(predictions)
                self.interruption.notify = None
                matrix += confusion(label, predicted, len(self.classes))
                task.advance(len(blocks))
                self.stop_if_asked()
        matrix = self.processes.sum(torch.from_numpy(matrix)).numpy()
        return scores(matrix, self.classes)

    def record(self, event: str, **record: Any) -> None:
        """Write a record to the log."""
        if self.processes.main:
            self.log.write({"event": event, "step": self.counters.step, **record})

    def save(self) -> None:
        """Save the state, and the weights as "last"; if one is not finite, raise RunError."""
        name = first_not_finite(self.state.model)
        if name is not None:
            raise self.not_finite(f"the weight {name} is not finite after step")
        self.saved = time.monotonic()
        if not self.processes.main:
            return
        counters = self.counters
        self.log.metrics.sync()
        counters.records = self.log.metrics.records
        counters.seconds = time.monotonic() - self.started
        self.save_model("last")
        self.state.save(self.run.training_state)
        self.update_status()

    def update_status(self) -> None:
        """Write how far the training is."""
        counters = self.counters
        self.run.update_status(
            step=counters.step,
            epoch=counters.epoch,
            best_miou=counters.best_miou,
            best_epoch=counters.best_epoch,
            steps_total=self.total_steps,
            epochs_total=self.epochs,
            seconds=counters.seconds,
            blocks_per_second=self.pace.blocks_per_second,
            data_wait=self.pace.data_wait,
            peak_memory=peak_memory(self.device.type),  # bytes, of this process
        )

    def save_model(self, checkpoint: str) -> None:
        """Save the weights as "last" or "best"."""
        if not self.processes.main:
            return
        metadata = trained_on(self.config, self.store, self.sampler, self.counters.samples)
        if started := self.run.environment.get(STARTED_FROM):
            metadata |= as_metadata({STARTED_FROM: started})
        metadata |= {
            "run": self.run.name,
            "checkpoint": checkpoint,
            "step": str(self.counters.step),
            "weights": ("average" if self.state.average else "as trained")
            + (", halfway from the start" if self.state.halfway else ""),
            **blocks_metadata(
                self.config.num_points, self.config.block_side, self.config.voxel_side
            ),
            "classes": " ".join(self.classes),
            "class_colors": color_text(self.class_colors),
        }
        path = self.run.checkpoint_path(checkpoint)
        save_weights(path, self.state.scored_model, metadata=metadata)

    def check_loss(self, step: Step) -> None:
        """Raise RunError if the loss of a step is not finite."""
        if math.isfinite(step.loss):
            return
        epoch = self.counters.epoch
        names = sorted({self.sampler.name_of(epoch, block) for block in step.batch.blocks})
        some = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        where = f"batch {self.counters.batch + 1:,} of epoch {epoch + 1} (blocks of {some})"
        raise self.not_finite(f"the loss is {step.loss} on {where} after step")

    def not_finite(self, what: str) -> RunError:
        """Return the error for a loss or weight that is not finite."""
        return EverywhereError(
            f"{self.run.path}: {what} {self.counters.step}.\n{last_checkpoint(self.run)}\n"
            "Start a new run with a smaller --lr or another --seed."
        )

    def note_smaller(self, size: int) -> None:
        """Save and say that memory ran out and the step is taken in smaller micro-batches."""
        if not self.processes.main:
            return
        self.config = dataclasses.replace(self.config, micro_batch=size)
        save_config(self.run, self.config)
        self.interruption.notify = None
        self.progress.say(
            f"Out of memory in step {self.counters.step + 1}: it is repeated, and the others are "
            f"taken, with {counted(size, 'block')} at once (--micro-batch {size})."
        )

    def stop_if_asked(self) -> None:
        """Save and raise KeyboardInterrupt if a signal has come to any of the processes."""
        if self.processes.any(self.interruption.requested is not None):
            self.stop()

    def stop(self) -> None:
        """Save, say how to go on, and raise KeyboardInterrupt."""
        self.save()
        how = resume_command(self.run.path)
        self.progress.say(f"Stopped at {self.position}; all is saved. Resume with: {how}")
        self.processes.any(False)  # wait: a worker's end would stop rank 0 before it has saved
        raise KeyboardInterrupt


def figures(step: Step, pace: Pace, device: torch.device) -> dict[str, float | str]:
    """Return the figures beside an epoch's bar."""
    shown: dict[str, float | str] = {
        "loss": f"{step.loss:.3f}",
        "lr": f"{step.lr:.1e}",
        "blocks/s": f"{pace.blocks_per_second:.1f}",
        "data wait": f"{100 * pace.data_wait:.0f} %",
    }
    if device.type == "cuda":
        shown["GPU memory"] = f"{torch.cuda.max_memory_reserved(device) / 2**30:.1f} GiB"
    return shown
