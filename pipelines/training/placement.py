"""Which of a training's processes this is, as torchrun or srun tells it (standard library only).

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT; so does `followers` for
the processes that `--devices` starts. srun sets SLURM_PROCID and its like, and the first node of
the job is where the processes meet.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.errors import ConfigError

LOWEST_PORT, PORTS = 20_000, 20_000  # SLURM gives no port: one that follows from the job


@dataclass(frozen=True)
class Place:
    """A process's place among those of its training.

    Attributes:
        rank: its number among all, from 0; rank 0 directs and writes.
        size: how many there are on all nodes.
        local_rank: its number among those of its node.
        local_size: how many there are on its node.
        address: the host where they meet; "" for a process that is alone.
        port: of that host.
        launcher: who started them, for messages.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    port: int = 0
    launcher: str = ""


def find_place(environment: Mapping[str, str] = os.environ) -> Place:
    """Return the place that a launcher gave this process; the only one without a launcher.

    Raises:
        ConfigError: the launcher's variables are incomplete or make no sense.
    """
    if int_of(environment, "WORLD_SIZE", 1) > 1:
        return _torchrun_place(environment)
    # SLURM_NTASKS is also there within an allocation where srun has not started anything.
    tasks = int_of(environment, "SLURM_STEP_NUM_TASKS", int_of(environment, "SLURM_NTASKS", 1))
    if tasks > 1 and "SLURM_PROCID" in environment:
        return _slurm_place(environment, tasks)
    return Place()


def _torchrun_place(environment: Mapping[str, str]) -> Place:
    size = int_of(environment, "WORLD_SIZE")
    rank = int_of(environment, "RANK")
    return _checked(
        Place(
            rank=rank,
            size=size,
            local_rank=int_of(environment, "LOCAL_RANK", rank),
            local_size=int_of(environment, "LOCAL_WORLD_SIZE", size),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=int_of(environment, "MASTER_PORT"),
            launcher="torchrun",
        )
    )


def _slurm_place(environment: Mapping[str, str], tasks: int) -> Place:
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST")
    nodes = nodes or environment.get("SLURM_NODELIST", "127.0.0.1")
    port = LOWEST_PORT + int_of(environment, "SLURM_JOB_ID", 0) % PORTS
    local_size = environment.get("SLURM_STEP_TASKS_PER_NODE", str(tasks))
    return _checked(
        Place(
            rank=int_of(environment, "SLURM_PROCID"),
            size=tasks,
            local_rank=int_of(environment, "SLURM_LOCALID", 0),
            local_size=int(re.split(r"\D", local_size)[0] or tasks),  # "4(x2),3" has 4 a node
            address=environment.get("MASTER_ADDR", first_node(nodes)),
            port=int_of(environment, "MASTER_PORT", port),
            launcher="srun",
        )
    )


def _checked(place: Place) -> Place:
    if not 0 <= place.rank < place.size:
        raise ConfigError(
            f"{place.launcher}: found process number {place.rank} of {place.size}, "
            f"expected 0 to {place.size - 1}."
        )
    return place


def first_node(nodes: str) -> str:
    """Return the first host of SLURM's short form of a list: "gpu[07-09,12],login" → "gpu07"."""
    found = re.match(r"([^,\[]+)(?:\[(\d+)[^\]]*\]([^,\[]*))?", nodes)
    if found is None:
        raise ConfigError(f"srun: found the list of nodes {nodes!r}, expected names of hosts.")
    return "".join(part or "" for part in found.groups())


def int_of(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return an environment variable as a number.

    Raises:
        ConfigError: it is not one, or it is not there and has no default.
    """
    text = environment.get(name)
    if text is None and default is not None:
        return default
    try:
        return int(text or "")
    except ValueError:
        raise ConfigError(
            f"{name}: found {text!r} in the environment, expected a number.\n"
            "Start several processes with --devices, torchrun or srun, which set it."
        ) from None
