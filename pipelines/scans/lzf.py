"""LZF, the compression inside `binary_compressed` PCD files.

Reference:
    Marc Lehmann, LibLZF: a control byte below 32 begins a run of literals; any other is a copy of
    3 to 264 bytes from up to 8192 bytes back.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

LARGEST_RATIO = 88  # three bytes say a copy of 264


def lzf_decompress(packed: np.ndarray, out: np.ndarray) -> bool:
    """Decompress `packed` (n,) uint8 into `out` (m,) uint8; False unless it fills `out` exactly."""
    return bool(_decompress(packed, out) == len(out))


@njit(cache=True, nogil=True)
def _decompress(packed: Any, out: Any) -> Any:
    """Return how many bytes were written; -1 for damaged input."""
    read = written = 0
    while read < len(packed):
        control = int(packed[read])
        read += 1
        if control < 32:
            length = control + 1
            if read + length > len(packed) or written + length > len(out):
                return -1
            out[written : written + length] = packed[read : read + length]
            read += length
        else:
            length = (control >> 5) + 2
            if length == 9 and read < len(packed):
                length += int(packed[read])
                read += 1
            if read >= len(packed):
                return -1
            start = written - ((control & 31) << 8) - int(packed[read]) - 1
            read += 1
            if start < 0 or written + length > len(out):
                return -1
            for offset in range(length):  # one by one: a copy may overlap itself
                out[written + offset] = out[start + offset]
        written += length
    return written
