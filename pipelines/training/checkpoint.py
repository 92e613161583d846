"""Save the state of a training as tensors and plain values, and load it again."""

from __future__ import annotations

import dataclasses
import errno
import io
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_bytes, check_apart
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.precision import FULL, Precision
from pipelines.runtime.seeding import restore_rng_state, rng_state
from pipelines.serialization import from_plain

from .recipe import Halfway, start_average

VERSION = 2
DAMAGED = (  # what a broken file, or one of another network, raises while it is read
    *(ConfigError, RuntimeError, KeyError, TypeError, ValueError, AttributeError),
    *(EOFError, IndexError, zipfile.BadZipFile, pickle.UnpicklingError),
)


@dataclass
class Counters:
    """The progress of a training, and sums over its steps."""

    epoch: int = 0  # epochs finished, validation included
    batch: int = 0  # batches trained on in the epoch that follows
    step: int = 0  # optimizer steps in total
    samples: int = 0  # blocks trained on in total
    loss_sum: float = 0.0  # Σ loss × blocks over this epoch's batches
    loss_blocks: int = 0  # the blocks in that sum
    validated: int = 0  # the step after which the network was last validated
    best_miou: float | None = None  # on validation, 0–1
    best_epoch: int | None = None  # that reached it, from 1
    seconds: float = 0.0  # training, validating and saving, over all processes of the run
    records: int = 0  # lines of metrics.jsonl that belong to the steps so far

    def count_step(self, loss: float, blocks: int) -> None:
        """Count one optimizer step."""
        self.batch += 1
        self.step += 1
        self.samples += blocks
        self.loss_sum += loss * blocks
        self.loss_blocks += blocks


@dataclass
class TrainingState:
    """Everything that the next steps of a training depend on."""

    model: DeepGCN
    optimizer: Optimizer
    average: AveragedModel | None = None  # of the weights, if the recipe has one
    halfway: Halfway | None = None  # to the weights that it started from, likewise
    precision: Precision = FULL  # holds the scale of the loss
    counters: Counters = field(default_factory=Counters)

    @property
    def scored_model(self) -> DeepGCN:
        """The network that is validated and saved: the average, halfway, or as it is trained."""
        found: DeepGCN = self.average.module if self.average else self.model  # type: ignore[assignment]
        return self.halfway.update(found) if self.halfway else found

    def save(self, path: Path) -> None:
        """Write the state and PyTorch's random state to a checkpoint."""
        state = {
            "version": VERSION,
            "model": self.model.state_dict(),
            "average": self.average.module.state_dict() if self.average else None,
            "start": self.halfway.start if self.halfway else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.precision.scaler.state_dict(),  # empty unless gradients have 16 bits
            "rng": rng_state(),
            "counters": dataclasses.asdict(self.counters),
        }
        # torch.save reports a full disk as an unspecific RuntimeError; writing a file does not.
        content = io.BytesIO()
        torch.save(state, content)
        atomic_bytes(path, content.getbuffer())

    def load(self, path: Path) -> None:
        """Read a checkpoint into the state and into PyTorch's random generators.

        RunError: the file is damaged or of another version or network.
        """
        try:
            # `torch.load` ignores the file's checksums: a flipped bit would be trained on.
            with zipfile.ZipFile(path) as archive:
                check_apart(archive)
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"{damaged} is not what was saved")
            self._set(torch.load(path, map_location="cpu", weights_only=True), path)
        except (OSError, *DAMAGED) as error:
            # PyTorch looks for the end of an archive before the file's begin, if much follows it.
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RunError(
                f"{path}: found a damaged checkpoint: {reason}\nStart a new run: deepgcn train"
            ) from error

    def _set(self, state: dict[str, Any], path: Path) -> None:
        if state["version"] != VERSION:
            raise RunError(
                f"{path}: found version {state['version']}, expected {VERSION}.\n"
                "Start a new run: deepgcn train"
            )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if scaler := state.get("scaler"):
            self.precision.scaler.load_state_dict(scaler)
        restore_rng_state(state["rng"])
        self.counters = from_plain(Counters, state["counters"])
        if self.average is not None:
            self.average.module.load_state_dict(state["average"])
            start_average(self.average, self.counters.step)
        if self.halfway is not None:
            for name, value in self.halfway.start.items():
                value.copy_(state["start"][name])


def first_not_finite(model: DeepGCN) -> str | None:
    """Return the name of a weight or running statistic that is not finite, or None."""
    values = model.state_dict().items()
    return next((name for name, value in values if not torch.isfinite(value).all()), None)
