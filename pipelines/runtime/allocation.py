"""What glibc's malloc does with freed memory: keep it for the next step, or hand it back."""

from __future__ import annotations

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
LARGEST_KEPT = 256 << 20  # bytes; larger pieces go back to the system as soon as they are freed
KEPT = (1 << 31) - 1  # bytes of freed memory at most; mallopt takes an int
GROWTH = 64 << 20  # bytes that the heap grows by
LARGE_ARRAY = 4 << 20  # bytes that go back where memory is short
CHECKPOINTED_ARRAY = 512 << 10  # a step takes 5 to 15 % longer, and half the memory at depth 56


def keep_freed_memory() -> bool:
    """Ask glibc's malloc to reuse freed memory instead of handing it back; say if it will.

    By default every tensor of more than a few MB is mapped anew from the system, which clears its
    pages one by one: 5 to 9 % of a training step's time (ResGCN-28, N 4096). The peak memory stays
    as it is. Other systems and C libraries are left alone.
    """
    return _set({_MMAP_THRESHOLD: LARGEST_KEPT, _TRIM_THRESHOLD: KEPT, _TOP_PAD: GROWTH})


def return_freed_memory(least: int) -> bool:
    """Ask glibc's malloc to hand freed arrays of `least` bytes or more back; say if it will.

    Arrays that lie among small ones leave holes that nothing fits into: with hundreds of them a
    step, a quarter to a half of the peak.
    """
    return _set({_MMAP_THRESHOLD: least})


def _set(settings: dict[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl has none
        return False
    return all(mallopt(name, ctypes.c_int(value)) == 1 for name, value in settings.items())
