"""Whether Triton can run on a device, and the device that it launches kernels on."""

from __future__ import annotations

import functools
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

OLDEST = (7, 0)  # compute capability that Triton compiles for


def why_not(device: torch.device) -> str | None:
    """Return why Triton can't be used on `device`, in one line; None if it can."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    return _why_not(device, interpreted)


@functools.cache
def _why_not(device: torch.device, interpreted: bool) -> str | None:
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (PyTorch's CUDA builds for Linux bring it)"
    if interpreted:
        return None
    if device.type != "cuda":
        return f"Triton needs an NVIDIA GPU, found the device {device.type}"
    if torch.version.cuda is None:
        return "Triton's kernels are tested on NVIDIA GPUs only, found a PyTorch without CUDA"
    found = torch.cuda.get_device_capability(device)
    if found < OLDEST:
        return (
            f"Triton needs compute capability {OLDEST[0]}.{OLDEST[1]}, found {found[0]}.{found[1]}"
        )
    return None


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Make `device` the current GPU, on which Triton launches kernels; nothing for the CPU."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield
