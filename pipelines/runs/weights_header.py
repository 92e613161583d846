"""What the header of a safetensors file tells, without its tensors and without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path

LONGEST = 100_000_000  # bytes of a header, as safetensors itself limits it
# A batch norm's running statistics are saved with the weights but not learned.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def count_parameters(path: Path) -> int | None:
    """Return the number of trainable values in a weights file; None without a readable one."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= LONGEST else {}
        shapes = {name: each["shape"] for name, each in header.items() if name != "__metadata__"}
        learned = [s for name, s in shapes.items() if name.rpartition(".")[2] not in STATISTICS]
        return sum(math.prod(shape) for shape in learned) or None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None  # the column stays empty; the weights' own reader says what is wrong
