"""The course of a training: steps, validation, checkpoints, in turn until the end.

`Training.run_to_end` is the story. Where it stands is in `Counters`, which every checkpoint holds.
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
from pipelines.data.s3dis import color_text
from pipelines.data.sampler import Batch, BlockSampler
from pipelines.data.store import Store
from pipelines.errors import RunError
from pipelines.metrics import Scores, confusion, scores
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import Progress
from pipelines.runs.directory import (
    METRICS,
    TENSORBOARD,
    Run,
    last_checkpoint,
    resume_command,
    save_config,
)
from pipelines.runs.metrics_log import MetricsLog
from pipelines.runtime.device import gpu_memory
from pipelines.runtime.interruption import Interruption
from pipelines.runtime.memory_limits import peak_memory
from pipelines.runtime.precision import Precision
from pipelines.runtime.seeding import seed_everything, seed_step
from pipelines.training.cuda_graphs import Recorder, in_evaluation
from pipelines.weights.safetensors import save_weights

from .accumulation import Accumulation
from .checkpoint import Counters, first_not_finite, load_checkpoint, save_checkpoint
from .distributed import ALONE, EverywhereError, Processes
from .ema import WeightAverage
from .loggers import Events, open_events
from .prefetch import prefetch
from .schedule import recipe_schedule
from .steps import Pace, Step, build_optimizer, pinned, predict_batches, train_steps

SAVE_SECONDS = 300.0  # between two checkpoints within an epoch


class Training:
    """One process's work on a run: what it works with, and how far it is."""

    journal: MetricsLog
    events: Events

    def __init__(
        self,
        config: TrainConfig,
        run: Run,
        samplers: tuple[BlockSampler, BlockSampler],
        store: Store,
        device: torch.device,
        interruption: Interruption,
        progress: Progress,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.run, self.processes = config, run, processes
        self.classes, self.class_colors = store.classes, store.class_colors
        self.sampler, self.val_sampler = samplers
        self.device, self.interruption, self.progress = device, interruption, progress
        seed_everything(config.seed)
        self.precision = Precision(config.precision, device)
        self.model = DeepGCN(config.model).to(device)
        self.model.checkpoint_layers = config.checkpoint_layers or 0
        self.recorder = Recorder(self.model, training=True, say=progress.warn)
        self.accumulation = Accumulation(
            config.micro_batch or config.local_batch,
            on_smaller=self.note_smaller,
            anywhere=processes.any,
            forward=self.recorder,
        )
        self.optimizer = build_optimizer(self.model, config.parts, config.first_lr)
        self.average = WeightAverage(self.model) if "ema" in config.parts else None
        total = min(config.epochs * len(self.sampler), self.total_steps * config.batch_size)
        self.schedule = recipe_schedule(config.parts, config.model.layout, config.first_lr, total)
        self.counters = Counters()
        if run.training_state.is_file():
            self.counters = load_checkpoint(
                *(run.training_state, self.model, self.optimizer, self.average, self.precision)
            )
        self.pace = Pace()
        self.started = time.monotonic() - self.counters.seconds
        self.saved = time.monotonic()

    def check_start(self) -> None:
        """Check that all processes start from the same step and the same weights.

        Raises:
            EverywhereError: they don't; so they do not see the same run directory.
        """
        weights = sum(value.double().sum().item() for value in self.model.state_dict().values())
        if not self.processes.all_same(weights + self.counters.step):
            raise EverywhereError(
                f"{self.run.path}: found another checkpoint on each machine.\n"
                "Keep the runs in a folder that all machines see (--runs)."
            )

    def run_to_end(self) -> None:
        """Train and validate in turn until every step is done."""
        with ExitStack() as stack:
            if self.processes.main:
                metrics = self.run.path / METRICS
                self.journal = stack.enter_context(
                    closing(MetricsLog(metrics, keep=self.counters.records))
                )
                self.events = stack.enter_context(
                    open_events(
                        self.config,
                        self.run.path,
                        self.run.path / TENSORBOARD,
                        step=self.counters.step + 1,
                        progress=self.progress,
                    )
                )
                # Whoever looks at the run wants to know its length before the first checkpoint.
                self.run.update_status(steps_total=self.total_steps)
            while not self.finished:
                self.train_epoch()
                self.validate()
        if self.processes.main:
            self.run.update_status(state="finished")

    @property
    def judged(self) -> DeepGCN:
        """The network that is validated and saved as weights: the average, if there is one."""
        return self.average.model if self.average else self.model

    @property
    def data_threads(self) -> int:
        """The threads that prepare batches."""
        return max(1, self.config.workers)

    @property
    def epoch_batches(self) -> int:
        """The batches of an epoch; the last one may be smaller."""
        return math.ceil(len(self.sampler) / self.config.batch_size)

    @property
    def total_steps(self) -> int:
        """The step at which the run is done."""
        steps = self.config.epochs * self.epoch_batches
        return min(steps, self.config.max_steps or steps)

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

    def train_epoch(self) -> None:
        """Take the steps that are left of this epoch, then save."""
        config, counters = self.config, self.counters
        left = max(0, self.total_steps - counters.step)
        batches = self.sampler.batches(counters.epoch, config.batch_size, start=counters.batch)
        title = f"Epoch {counters.epoch + 1}/{config.epochs}"
        make = partial(self.batch, self.sampler, counters.epoch)
        with (
            self.progress.task(title, total=len(self.sampler), unit="blocks") as task,
            closing(prefetch(make, batches[:left], threads=self.data_threads)) as prepared,
        ):
            task.advance(counters.loss_blocks)
            pace = Pace()
            for step in self.steps(prepared):
                pace.add(step)
                task.advance(len(step.batch.blocks), **shown(step, pace, self.device))
                if time.monotonic() - self.saved > SAVE_SECONDS:
                    self.save()
                self.stop_if_asked()
        self.save()

    def batch(self, sampler: BlockSampler, epoch: int, blocks: np.ndarray) -> Batch:
        """Return this process's share of a batch."""
        made = self.processes.share(sampler, epoch, blocks)
        return pinned(made) if self.device.type == "cuda" else made

    def seeded(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield each batch with the draws of its step seeded."""
        for batch in batches:
            seed_step(self.model, self.config.seed, self.counters.step, self.processes.rank)
            yield batch

    def steps(self, batches: Iterator[Batch]) -> Iterator[Step]:
        """Take a step for each batch, check it and count it."""
        counters = self.counters
        taken = train_steps(
            self.model,
            self.optimizer,
            self.seeded(batches),
            self.schedule,
            samples=counters.samples,
            epoch=counters.epoch,
            parts=self.config.parts,
            accumulation=self.accumulation,
            precision=self.precision,
            processes=self.processes,
            sync_bn=self.config.sync_bn,
        )
        for step in taken:
            self.interruption.notify = None
            self.check_loss(step)
            counters.count_step(step.loss, len(step.batch.blocks))
            if self.average is not None:
                self.average.update(self.model, counters.step)
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
            # Until the next step is done, a signal finds this thread in no talk with `progress`.
            self.interruption.notify = self.say_stopping

    def validate(self) -> None:
        """Score the network on the validation rooms, keep it if it is the best, save."""
        counters = self.counters
        found = self.validation_scores()
        epoch, whole = counters.epoch + 1, counters.batch == self.epoch_batches
        self.record(
            event="epoch",
            epoch=epoch,
            whole=whole,
            loss=counters.loss_sum / max(1, counters.loss_blocks),
            val_miou=found.miou,
            val_oa=found.oa,
            val_macc=found.macc,
            val_iou=list(found.iou),
        )
        better = counters.best_miou is None or found.miou > counters.best_miou
        if better:
            counters.best_miou, counters.best_epoch = found.miou, epoch
            self.save_model("best")
        self.say_epoch(found, better=better)
        counters.validated = counters.step
        if whole:
            counters.next_epoch()
        self.save()

    def validation_scores(self) -> Scores:
        """Return the scores over the disjoint blocks of the validation rooms.

        Each block's points are drawn once, the same in every epoch, so that epochs compare.
        """
        sampler, classes = self.val_sampler, len(self.classes)
        matrix = np.zeros((classes, classes), dtype=np.int64)
        batches = sampler.in_order(self.config.batch_size)
        make = partial(self.batch, sampler, 0)
        with (
            self.progress.task("Validating", total=len(sampler), unit="blocks") as task,
            closing(prefetch(make, batches, threads=self.data_threads)) as prepared,
        ):
            # Validation comes between steps, so its passes may use the memory of recorded ones.
            in_evaluation(self.judged, self.recorder.memory)
            predictions = predict_batches(self.judged, prepared, self.accumulation.size)
            for blocks, (label, predicted) in zip(batches, predictions, strict=True):
                matrix += confusion(label, predicted, classes)
                task.advance(len(blocks))
                self.stop_if_asked()
        matrix = self.processes.sum(torch.from_numpy(matrix)).numpy()
        return scores(matrix, self.classes)

    def record(self, **record: Any) -> None:
        """Append a record to metrics.jsonl and to every event log."""
        if not self.processes.main:
            return
        record = {"event": record.pop("event"), "step": self.counters.step, **record}
        self.journal.append(record)
        self.events.write(record)

    def save(self) -> None:
        """Save the whole state and the weights as "last".

        Raises:
            RunError: a weight is not finite; the checkpoint that is there stays.
        """
        name = first_not_finite(self.model)
        if name is not None:
            raise self.not_finite(f"the weight {name} is not finite after step")
        self.saved = time.monotonic()
        if not self.processes.main:
            return  # the others have the same
        self.journal.sync()
        self.counters.records = self.journal.records
        self.counters.seconds = time.monotonic() - self.started
        self.save_model("last")
        save_checkpoint(
            *(self.run.training_state, self.model, self.optimizer, self.counters),
            *(self.average, self.precision),
        )
        self.run.update_status(
            step=self.counters.step,
            epoch=self.counters.epoch,
            best_miou=self.counters.best_miou,
            best_epoch=self.counters.best_epoch,
            steps_total=self.total_steps,
            epochs_total=self.config.epochs,
            seconds=self.counters.seconds,
            blocks_per_second=self.pace.blocks_per_second,
            data_wait=self.pace.data_wait,
            peak_memory=peak_memory(self.device.type),  # bytes, of this process
        )

    def save_model(self, checkpoint: str) -> None:
        """Save the weights as "last" or "best"."""
        if not self.processes.main:
            return
        facts = {
            "run": self.run.name,
            "checkpoint": checkpoint,
            "step": str(self.counters.step),
            "weights": "average" if self.average else "as trained",
            "num_points": str(self.config.num_points),
            "test_area": str(self.config.test_area),
            "classes": " ".join(self.classes),
            "class_colors": color_text(self.class_colors),
        }
        save_weights(self.run.checkpoint_path(checkpoint), self.judged, metadata=facts)

    def check_loss(self, step: Step) -> None:
        """Raise RunError if the loss of a step is not finite."""
        if math.isfinite(step.loss):
            return
        raise self.not_finite(
            f"the loss is {step.loss} on {self.batch_text(step.batch)} after step"
        )

    def batch_text(self, batch: Batch) -> str:
        """Return which batch it is, for people."""
        rooms = [self.sampler.room_of(block) for block in batch.blocks]
        names = sorted({f"Area_{room.area}/{room.name}" for room in rooms})
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        number, epoch = self.counters.batch + 1, self.counters.epoch + 1
        return f"batch {number:,} of epoch {epoch} (blocks of {shown})"

    def not_finite(self, what: str) -> RunError:
        """Return the error for a number that is not finite."""
        return EverywhereError(
            f"{self.run.path}: {what} {self.counters.step}.\n{last_checkpoint(self.run)}\n"
            "Start a new run with a smaller --lr or another --seed."
        )

    def note_smaller(self, size: int) -> None:
        """Record and say that memory ran out and the step is taken in smaller micro-batches."""
        if not self.processes.main:
            return
        self.config = dataclasses.replace(self.config, micro_batch=size)
        save_config(self.run, self.config)
        self.interruption.notify = None
        self.progress.say(
            f"Out of memory in step {self.counters.step + 1}: it is repeated, and the others are "
            f"taken, with {size} block{'' if size == 1 else 's'} at once (--micro-batch {size})."
        )

    def stop_if_asked(self) -> None:
        """Save and raise KeyboardInterrupt if a signal has come to any of the processes."""
        if not self.processes.any(self.interruption.requested is not None):
            return
        self.save()
        how = resume_command(self.run.path)
        self.progress.say(f"Stopped at {self.position}; all is saved. Go on with: {how}")
        raise KeyboardInterrupt

    def say_stopping(self) -> None:
        """Say that a signal was heard."""
        self.progress.say("Stopping after this step; Ctrl-C now stops at once, without saving.")

    def say_epoch(self, found: Scores, *, better: bool) -> None:
        """Say how an epoch ended."""
        counters = self.counters
        best = "the best so far" if better else f"best {100 * (counters.best_miou or 0):.1f} %"
        loss = counters.loss_sum / max(1, counters.loss_blocks)
        self.progress.say(
            f"Epoch {counters.epoch + 1}/{self.config.epochs}: loss {loss:.3f}, "
            f"validation mIoU {100 * found.miou:.1f} % ({best})"
        )


def shown(step: Step, pace: Pace, device: torch.device) -> dict[str, float | str]:
    """Return the figures beside an epoch's bar."""
    memory = gpu_memory(device)
    return {
        "loss": f"{step.loss:.3f}",
        "lr": f"{step.lr:.1e}",
        "blocks/s": f"{pace.blocks_per_second:.1f}",
        "data wait": f"{100 * pace.data_wait:.0f} %",
        **({} if memory is None else {"GPU memory": f"{memory / 2**30:.1f} GiB"}),
    }
