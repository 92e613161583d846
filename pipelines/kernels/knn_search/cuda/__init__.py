"""k-NN in Triton: a slab of distance rows at a time, narrowed, then sorted.

The inner products of a slab are a matrix product in full float32 whatever autocast or TF32 say,
since the ranks of near points hang on the last bits. The slab has at most SLAB numbers (128 MB), so
no N × N matrix is ever in memory. `cuda_select` has the programs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
from torch import Tensor

from pipelines.kernels import reference
from pipelines.kernels.knn_search.cuda import select as cuda_select
from pipelines.kernels.ranks import LONGEST, Ranks, RankTable, bound_of, listed

SLAB = 1 << 25  # numbers; with fewer, launching takes longer than computing
CHUNK = 8192  # the longest piece of a row that one program holds in registers
MOST_ROOM = LONGEST  # at most half of a piece, so that narrowing pieces always shortens a row
TILE = 2048  # numbers of a program that does several short rows
PER_WARP = 512  # numbers that a warp narrows: more need too many registers
REGISTERS = 64  # of a thread that narrows: without a limit too few programs run side by side
SORT_PER_WARP = 256


def knn(x: Tensor, ranks: Ranks, bound: int | None = None) -> Tensor:
    """Select the points of the given ranks; see `pipelines.kernels.knn`.

    float64 features, and ranks beyond some thousands, are left to `reference`.
    """
    batch, points, _ = x.shape
    wanted = bound_of(ranks, bound, points)
    room = room_for(wanted)
    if x.dtype == torch.float64 or room > MOST_ROOM:
        return reference.knn(x, listed(ranks))
    x = x.float()
    x = (x - x.mean(dim=1, keepdim=True)).contiguous()
    squares = (x * x).sum(-1)  # (B, N)
    column = column_of(ranks, room, x.device)
    index = torch.empty(batch, points, len(ranks), dtype=torch.int32, device=x.device)
    rows = max(1, SLAB // (batch * points))
    with on(x.device), full_precision(x.device):
        for start in range(0, points, rows):
            products = torch.bmm(x[:, start : start + rows], x.transpose(1, 2))  # (B, rows, N)
            kept = _narrow(products, squares, wanted, room)
            _pick(kept, column, index, start)
    return index


def room_for(wanted: int) -> int:
    """Return how many numbers of a row are kept."""
    return max(32, triton.next_power_of_2(wanted + wanted // 8))


def column_of(ranks: Ranks, room: int, device: torch.device) -> Tensor:
    """Return (room,) int32, or more: the column of the result that a rank belongs to, −1 none."""
    return ranks.column if isinstance(ranks, RankTable) else columns(ranks, room, device)


@functools.lru_cache(maxsize=256)
def columns(ranks: tuple[int, ...], room: int, device: torch.device) -> Tensor:
    """Return (room,) int32: the column of the result that a rank belongs to, −1 none."""
    column = torch.full((room,), -1, dtype=torch.int32)
    column[list(ranks)] = torch.arange(len(ranks), dtype=torch.int32)
    return column.to(device)


def _narrow(products: Tensor, squares: Tensor, wanted: int, room: int) -> Tensor:
    """Return (B, rows, room) int64: the `wanted` smallest distances of each row, and some more."""
    batch, rows, width = products.shape
    source, packed = products, False
    while True:
        chunk = min(CHUNK, max(16, triton.next_power_of_2(width)))
        pieces = triton.cdiv(width, chunk)
        group = max(1, TILE // chunk)
        total = batch * rows
        kept = torch.empty(batch, rows, pieces * room, dtype=torch.int64, device=source.device)
        cuda_select.narrow[(triton.cdiv(total, group), pieces)](
            source,
            squares,
            kept,
            width,
            total,
            rows,
            wanted,
            ROOM=room,
            CHUNK=chunk,
            ROWS=group,
            PACKED=packed,
            num_warps=min(16, max(2, group * chunk // PER_WARP)),
            maxnreg=REGISTERS,
            enable_fp_fusion=True,
        )
        if pieces == 1:
            return kept
        source, packed, width = kept, True, pieces * room


def _pick(kept: Tensor, column: Tensor, index: Tensor, start: int) -> None:
    """Sort the kept distances and store the wanted ranks into `index` from row `start` on."""
    batch, rows, room = kept.shape
    _, points, k = index.shape
    group = max(1, 2 * SORT_PER_WARP // room)
    total = batch * rows
    cuda_select.pick[(triton.cdiv(total, group),)](
        kept,
        column,
        index,
        total,
        rows,
        points,
        start,
        k,
        LOG=room.bit_length() - 1,
        DIMS=(group * room).bit_length() - 1,
        num_warps=min(8, max(1, group * room // SORT_PER_WARP)),
        enable_fp_fusion=True,
    )


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Make `device` the current GPU, where Triton's launches go; nothing for the CPU."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Multiply float32 matrices in float32 within a `with` block: no autocast, no TF32.

    PyTorch has an old and a new switch for TF32; reading the old one raises where the new was used.
    """
    matmul = torch.backends.cuda.matmul
    try:
        before = torch.get_float32_matmul_precision()
        old = True
    except RuntimeError:
        before, old = matmul.fp32_precision, False
    with torch.autocast(device.type, enabled=False):
        try:
            if old:
                torch.set_float32_matmul_precision("highest")
            else:
                matmul.fp32_precision = "ieee"
            yield
        finally:
            if old:
                torch.set_float32_matmul_precision(before)
            else:
                matmul.fp32_precision = before
