"""Whether a run can be gone on with: its configuration and data must be what they were."""

from __future__ import annotations

from typing import Any

from ..config import TrainConfig, to_plain
from ..errors import RunError
from .runs import Run, resume_command

# How fast and where a run is computed may change from one start to the next, and how long unless
# the rates follow from the length.
FREE = ("device", "workers", "threads")
LENGTH = ("epochs", "max_steps")
# Batch norm counts each process's share of a batch, unless it is synchronised.
PROCESSES = ("devices",)
# The run's directory says its name; the store's fingerprint, not its path, says which data it is.
PLACES = ("name", "runs", "data")


def check_same(run: Run, config: TrainConfig, fingerprint: str) -> None:
    """Check that going on with `run` under `config` continues the same training.

    Args:
        run: the run to go on with.
        config: resolved, as asked for now.
        fingerprint: of the store to train on now.

    Raises:
        RunError: a setting that shapes the result, or the data, is another one; says which.
    """
    changed = differences(to_plain(run.config), to_plain(config))
    free = {*(() if "cosine" in config.parts else LENGTH), *(PROCESSES if config.sync_bn else ())}
    changed = [text for text in changed if text.split()[0] not in free]
    if changed:
        raise RunError(
            f"{run.path}: cannot go on with other settings: {'; '.join(changed)}.\n"
            f"Leave them out ({resume_command(run.path)}), or start a new run without --resume."
        )
    before = run.environment.get("store", {}).get("fingerprint")
    if before != fingerprint:
        raise RunError(
            f"{run.path}: cannot go on with other data: the run began on {_short(before)}, "
            f"{config.data} is {_short(fingerprint)}.\n"
            "Give the store that it began on with --data, or start a new run without --resume."
        )


def differences(before: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """Return "model.k was 16, now 8" for each setting that shapes the result and differs."""
    found = []
    for name in sorted({*before, *now}):
        old, new = before.get(name), now.get(name)
        if not prefix and name in (*FREE, *PLACES):
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            found += differences(old, new, prefix=f"{name}.")
        elif old != new:
            found.append(f"{prefix}{name} was {old}, now {new}")
    return found


def _short(fingerprint: object) -> str:
    return str(fingerprint)[:12]
