"""Set the matmul precision: float32, TF32, or 16 bits under autocast.

Only the matrix multiplications of `model.layers.linear` are affected. Their results, the weights,
batch norm, the graph kernels, the loss and the optimizer stay float32, and neighbours are found
from float32 distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import ConfigError

TYPES = {"bf16": torch.bfloat16, "16": torch.float16}
GPU_ONLY = {
    "tf32": "an NVIDIA GPU, whose tensor cores compute in TF32",
    "16": "a GPU",
}


class Precision:
    """How training steps compute on a device; `name` is one of `config.PRECISIONS`.

    Raises:
        ConfigError: the device does not support it.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        if name in GPU_ONLY and device.type != "cuda":
            raise ConfigError(
                f"--precision {name}: found the device {device.type}, expected {GPU_ONLY[name]}.\n"
                "Use --precision bf16 or 32."
            )
        if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError(
                f"--precision bf16: {torch.cuda.get_device_name(device)} cannot compute with it.\n"
                "Use --precision 16 or 32."
            )
        self._device, self._type, self._tf32 = device.type, TYPES.get(name), name == "tf32"
        # Scales the loss up, so that small gradients are not lost in 16 bits.
        self.scaler = torch.amp.GradScaler(device.type, enabled=name == "16")

    def matmuls(self) -> AbstractContextManager[Any]:
        """Return a context whose matrix multiplications have this precision."""
        if self._type is None:
            return _tensor_cores() if self._tf32 else nullcontext()
        return torch.autocast(self._device, dtype=self._type)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss."""
        # The forward pass records autocast's types, but not the switch for TF32.
        with _tensor_cores() if self._tf32 else nullcontext():
            self.scaler.scale(loss).backward()

    def step(self, optimizer: Optimizer) -> None:
        """Take the optimizer's step, unless a gradient is not finite; then the scale shrinks."""
        self.scaler.step(optimizer)
        self.scaler.update()


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """Let a GPU multiply float32 matrices as TF32 (10 bits of mantissa) in a `with` block."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


FULL = Precision("32", torch.device("cpu"))
