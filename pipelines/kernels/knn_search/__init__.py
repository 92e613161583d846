"""k-nearest-neighbour search: `cpu` with Numba, `cuda` with Triton; and the ranks to search for.

Ranks in a `RankTable` are read on the device, so that each replay of a CUDA graph can use others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

LONGEST = 4096  # elements of a table: the most candidates of a row that a GPU sorts


@dataclass(frozen=True)
class RankTable:
    """Some ranks, as a GPU's kernels look them up."""

    column: Tensor  # (LONGEST,) int32: each rank's column in the result; −1: not searched for
    k: int  # how many ranks there are
    bound: int  # above all ranks that the table will ever hold; it sizes the candidate buffers

    def __len__(self) -> int:
        return self.k


Ranks = tuple[int, ...] | RankTable


def ranks_of(ranks: Ranks) -> tuple[int, ...]:
    """Return ranks for an implementation without tables; waits for the device of a table."""
    if isinstance(ranks, RankTable):
        return tuple((ranks.column >= 0).nonzero().flatten().tolist())
    return ranks


class RankTables:
    """The tables of a network's layers, each of k ranks below its bound (at most LONGEST)."""

    def __init__(self, bounds: Sequence[int], k: int, device: torch.device) -> None:
        self._host = torch.full((len(bounds), LONGEST), -1, dtype=torch.int32)
        self._columns = self._host.clone().to(device)
        self._known: list[tuple[int, ...] | None] = [None] * len(bounds)
        self.tables = [
            RankTable(column, k, bound) for column, bound in zip(self._columns, bounds, strict=True)
        ]

    def set(self, ranks: Sequence[tuple[int, ...]]) -> None:
        """Put the ranks of every layer into its table, in one copy."""
        rows = self._host.numpy()
        changed = [number for number, some in enumerate(ranks) if some != self._known[number]]
        for number in changed:
            rows[number] = -1
            rows[number, list(ranks[number])] = range(len(ranks[number]))
            self._known[number] = ranks[number]
        if changed:
            # PyTorch reuses pinned memory only after the copies from it, so a copy that is still
            # under way keeps its values.
            pinned = self._columns.device.type == "cuda"
            source = self._host.pin_memory() if pinned else self._host
            self._columns.copy_(source, non_blocking=True)
