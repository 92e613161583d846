"""The state of a training, and its checkpoint: tensors and plain values, whole or not there."""

from __future__ import annotations

import dataclasses
import io
import pickle
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.optim import Optimizer

from pipelines.errors import ConfigError, RunError
from pipelines.files import atomic_write
from pipelines.model.deepgcn import DeepGCN
from pipelines.runtime.precision import FULL, Precision
from pipelines.runtime.seeding import restore_rng_state, rng_state
from pipelines.serialization import from_plain

from .ema import WeightAverage

VERSION = 2


@dataclass
class Counters:
    """How far a training is and what it has added up; a checkpoint holds all of it.

    Attributes:
        epoch: epochs finished, validation included.
        batch: batches trained on in the epoch that follows.
        step: optimizer steps in all.
        samples: blocks trained on in all.
        loss_sum: Σ loss × blocks over this epoch's batches.
        loss_blocks: the blocks in that sum.
        validated: the step after which the network was last validated.
        best_miou: the best validation mIoU, 0–1.
        best_epoch: the epoch that reached it, from 1.
        seconds: time spent on training, validation and saving, over all processes of the run.
        records: lines of metrics.jsonl that belong to the steps so far.
    """

    epoch: int = 0
    batch: int = 0
    step: int = 0
    samples: int = 0
    loss_sum: float = 0.0
    loss_blocks: int = 0
    validated: int = 0
    best_miou: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0
    records: int = 0

    def count_step(self, loss: float, blocks: int) -> None:
        """Count one optimizer step."""
        self.batch += 1
        self.step += 1
        self.samples += blocks
        self.loss_sum += loss * blocks
        self.loss_blocks += blocks

    def next_epoch(self) -> None:
        """Count the epoch as finished."""
        self.epoch += 1
        self.batch = self.loss_blocks = 0
        self.loss_sum = 0.0


def save_checkpoint(
    path: Path,
    model: DeepGCN,
    optimizer: Optimizer,
    counters: Counters,
    average: WeightAverage | None = None,
    precision: Precision = FULL,
) -> None:
    """Write the whole training state: weights, their average if there is one, random state."""
    state = {
        "version": VERSION,
        "model": model.state_dict(),
        "average": average.model.state_dict() if average else None,
        "optimizer": optimizer.state_dict(),
        "scaler": precision.scaler.state_dict(),  # empty unless gradients have 16 bits
        "rng": rng_state(),
        "counters": dataclasses.asdict(counters),
    }
    # Through memory: torch.save reports a full disk as an unspecific RuntimeError, a file does not.
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_checkpoint(
    path: Path,
    model: DeepGCN,
    optimizer: Optimizer,
    average: WeightAverage | None = None,
    precision: Precision = FULL,
) -> Counters:
    """Put model, average, optimizer, precision and random generators into the saved state.

    Returns:
        The counters.

    Raises:
        RunError: the file is damaged or of another version or network.
    """
    try:
        check_sums(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["version"] != VERSION:
            raise RunError(
                f"{path}: found version {state['version']}, expected {VERSION}.\n"
                "Start a new run: deepgcn train"
            )
        model.load_state_dict(state["model"])
        if average is not None:
            average.model.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        if scaler := state.get("scaler"):
            precision.scaler.load_state_dict(scaler)
        restore_rng_state(state["rng"])
        return from_plain(Counters, state["counters"])
    except (
        ConfigError,
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        EOFError,
        IndexError,
        zipfile.BadZipFile,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RunError(
            f"{path}: found a damaged checkpoint: {reason}\nStart a new run: deepgcn train"
        ) from error


def check_sums(path: Path) -> None:
    """Check the sums that PyTorch writes into its files; `torch.load` does not look at them.

    A flipped bit of a weight would be trained on from then on, and nobody would ever know.

    Raises:
        zipfile.BadZipFile: the file is none of PyTorch's, or something in it is not what was saved.
    """
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise zipfile.BadZipFile(f"{damaged} is not what was saved")


def first_not_finite(model: DeepGCN) -> str | None:
    """Return the name of a weight or running statistic that is not finite, or None."""
    for name, value in model.state_dict().items():
        if not torch.isfinite(value).all():
            return name
    return None
