"""TensorBoard events of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


@contextmanager
def open_events(folder: Path, *, step: int) -> Iterator[SummaryWriter]:
    """Open a new events file in `folder`; earlier events from `step` on no longer count."""
    from torch.utils.tensorboard import SummaryWriter  # half a second to import

    writer = SummaryWriter(str(folder), purge_step=step)
    try:
        yield writer
    finally:
        writer.close()


def write_event(writer: SummaryWriter, record: Mapping[str, Any]) -> None:
    """Write the figures of a record of metrics.jsonl as scalars, grouped by the kind of event."""
    group = {"step": "train", "epoch": "validation"}[record["event"]]
    for name, value in record.items():
        if isinstance(value, float):
            tag = name if name.startswith("val_") else f"{group}/{name}"
            writer.add_scalar(tag.replace("val_", "validation/"), value, record["step"])
