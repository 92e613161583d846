"""Points in panels of 16, the form in which k-NN on the CPU multiplies them.

A panel holds 16 points as (channel, 16) numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from pipelines.kernels.threads import fork

PANEL = 16
TILE = PANEL * PANEL
ROWS = 256  # of a task
LINE = 64  # bytes of a line of the cache

ZERO = np.float32(0)
MINUS_ONE, MINUS_TWO = np.float32(-1), np.float32(-2)
INFINITY = np.float32(np.inf)
LARGEST = np.finfo(np.float32).max


def room_for(size: int) -> np.ndarray:
    """Return an array (size,) of float32 that begins where a line of the cache does.

    A vector of sixteen then lies in one line, not in two (measured: 8 % of the time of `pairs`).
    """
    room = np.empty(size + LINE // 4, np.float32)
    start = -room.ctypes.data % LINE // 4
    return room[start : start + size]


@njit(nogil=True, error_model="numpy")
def pack(x, chosen, packed, squares, task):
    """Write the rows `chosen` of x (N, C) in panels, and their squared lengths.

    The last panel is filled up with points at infinity.
    """
    channels = x.shape[1]
    for place in range(task * ROWS, min((task + 1) * ROWS, len(squares))):
        start = place // PANEL * channels * PANEL + place % PANEL
        total = 0.0
        for c in range(channels):
            value = x[chosen[place], c] if place < len(chosen) else ZERO
            packed[start + c * PANEL] = value
            total += np.float64(value) * np.float64(value)
        squares[place] = total if place < len(chosen) else INFINITY


@njit(cache=True, nogil=True)
def pack_all(shared, tasks, counter, team, threads):
    """Do all tasks of `pack` on a team of threads."""
    fork(pack, shared, tasks, counter, team, threads)
