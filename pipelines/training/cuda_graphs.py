"""Passes through a network recorded as CUDA graphs, which a GPU repeats without Python.

A step of a deep network is some 3,000 launches, and launching them takes Python longer than
computing them takes a fast GPU. A recording has their arguments as they were, so all that changes
from pass to pass lies in memory of its own: features, the ranks of neighbours, the weights, and
PyTorch's random state, which its graphs read at every replay. A repeated pass gives the same bits
as one that Python launches.

The first pass of a shape is a rehearsal: everything is compiled and looked up as the recording
needs it. The second is recorded, and repeated from then on. What a recording cannot be made of, or
what changed since (`_setting`), is computed as ever. DEEPGCN_CUDA_GRAPHS=0 switches it all off.

`recordings` has the recorded passes themselves.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from pipelines import kernels
from pipelines.config import CONVS
from pipelines.kernels import cuda
from pipelines.kernels.knn_search import LONGEST
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.layers import Norm
from pipelines.training.accumulation import PassState, is_out_of_memory, release_memory
from pipelines.training.graph_passes import SWITCH, EvaluationPass, Inputs, Memory, TrainingPass

MOST = 2  # shapes that are recorded: the usual batch, and a smaller one
DEVICE = "cuda"
UNCACHED = "PYTORCH_NO_CUDA_MEMORY_CACHING"  # graphs need PyTorch's own allocator


def why_not(model: DeepGCN, device: torch.device) -> str | None:
    """Return why passes of `model` on `device` are not recorded; None if they can be."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if device.type != DEVICE or os.environ.get(UNCACHED):
        return "CUDA graphs need an NVIDIA GPU and PyTorch's allocator"
    if cuda.why_not(device) or kernels.forced() not in (None, "cuda"):
        return "the kernels are not those in Triton"
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return "several processes train together"
    return _why_not_network(model)


def _why_not_network(model: DeepGCN) -> str | None:
    if model.checkpoint_layers:
        return "layers are computed again in the backward pass"
    if model.config.conv not in CONVS:
        return "it is unknown what a foreign convolution does"
    if any(tensor.dtype != torch.float32 for tensor in model.parameters()):
        return "the weights are not float32"
    if any(bound + bound // 8 > LONGEST for bound in model.rank_bounds()):
        return "plain PyTorch does the search for so many neighbours"
    if any(_has_hooks(module) for module in model.modules()):
        return "there are hooks"
    if any(isinstance(module, Norm) and module.reduce for module in model.modules()):
        return "batch statistics span processes"
    return None


class Recorder:
    """A network's passes in training, or in evaluation.

    Shapes: features (B, N, 9) float32 → logits (B, N, classes).

    Logits are the caller's. In training each pass has its backward pass before the next begins,
    under the same precision.

    Args:
        model: the network; only a weak reference is kept.
        training: whether passes in training are recorded, with their backward passes, or those in
            evaluation, without gradients. All others are the network's own.
        say: told, in one line, that a recording failed.
        memory: another recorder's, where the two networks' passes never interleave; None: new.
    """

    def __init__(
        self,
        model: DeepGCN,
        *,
        training: bool,
        say: Callable[[str], None] | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._model, self.training = ref(model), training
        self.say = say or partial(warnings.warn, stacklevel=2)
        self.memory = memory or Memory()
        self.stopped = False
        self._entries: dict[torch.Size, _Entry] = {}
        self._busy = Lock()  # a recording has one set of inputs, for one pass at a time
        self._stream: Any = None  # the passes of others aren't waited for

    @property
    def recorded(self) -> list[torch.Size]:
        """The shapes of features that there are recordings for."""
        return [shape for shape, entry in self._entries.items() if entry.passes is not None]

    def __call__(self, features: Tensor) -> Tensor:
        model = self._model()
        assert model is not None, "whoever calls has the network"
        found = None
        if self._busy.acquire(blocking=False):
            try:
                found = self._pass(model, features)
            finally:
                self._busy.release()
        if found is None:  # not to be recorded, or another thread is at it
            plain: Tensor = model(features)
            return plain
        return found

    def _pass(self, model: DeepGCN, features: Tensor) -> Tensor | None:
        """Rehearse, record or repeat a pass; None where it is not to be recorded."""
        entry = self._entry(model, features)
        if entry is None:
            return None
        if entry.passes is None and entry.rehearsed:
            self._record(model, entry)
        if entry.passes is not None:
            entry.inputs.set(features, model.draw_ranks())
            return entry.passes()
        return self._rehearse(model, entry, features)

    def _entry(self, model: DeepGCN, features: Tensor) -> _Entry | None:
        """Return what is known about such passes, None where they aren't recorded."""
        if self.stopped or not self._is_ours(model, features):
            return None
        setting = _setting(model, features)
        entry = self._entries.get(features.shape)
        if entry is not None and entry.setting == setting:
            return entry
        if entry is not None:
            entry = None  # or its recording would outlive what follows
            self._forget(features.shape)
        if why_not(model, features.device) or not self._make_room():
            return None
        entry = self._entries[features.shape] = _Entry(setting, Inputs(model, features))
        return entry

    def _is_ours(self, model: DeepGCN, features: Tensor) -> bool:
        if features.device.type != DEVICE or features.dtype != torch.float32:
            return False
        if features.is_cuda:
            stream = torch.cuda.current_stream(features.device)
            self._stream = self._stream or stream
            if stream != self._stream:
                return False
        mode = model.training, torch.is_grad_enabled()
        return mode == (self.training, self.training) and not features.requires_grad

    def _make_room(self) -> bool:
        """Give up shapes that came once; tell whether another one can be recorded."""
        while len(self._entries) >= MOST:
            single = [shape for shape, entry in self._entries.items() if entry.passes is None]
            if not single:
                return False
            del self._entries[single[0]]
        return True

    def _forget(self, shape: torch.Size) -> None:
        """Give up a shape, and the memory of its recording once the GPU is done with it."""
        recorded = self._entries.pop(shape).passes is not None
        if recorded:
            self.memory.wait()
            release_memory()

    def _rehearse(self, model: DeepGCN, entry: _Entry, features: Tensor) -> Tensor:
        entry.inputs.tables.set(model.draw_ranks())
        with entry.inputs.used_by(model):
            logits: Tensor = model(features)
        entry.rehearsed = True
        return logits

    def _record(self, model: DeepGCN, entry: _Entry) -> None:
        """Record an entry's passes. If it fails nothing has happened, and it isn't tried again."""
        device = entry.inputs.features.device
        if not self.memory.room_for_two(device):
            self.stopped = True
            return
        before = PassState(model)
        kind = TrainingPass if self.training else EvaluationPass
        failure = None
        try:
            entry.passes = kind(model, entry.inputs, self.memory)
        except Exception as error:  # whatever it is, the pass can be made without a recording
            failure = _reason(error)
        if failure is None:
            return
        # Outside of the handler, whose traceback holds on to tensors.
        self.stopped = True
        self._entries.clear()
        release_memory()
        before.restore(model)
        self.say(f"CUDA graphs: recording failed ({failure}); Python launches every pass: slower.")


@dataclass
class _Entry:
    """What is known about passes with features of one shape."""

    setting: tuple[Any, ...]
    inputs: Inputs
    rehearsed: bool = False
    passes: TrainingPass | EvaluationPass | None = None


def _setting(model: DeepGCN, features: Tensor) -> tuple[Any, ...]:
    """Return what a recording has taken in for good: with another setting it is another pass."""
    device = features.device
    return (
        (device, features.dtype, model.config, model.checkpoint_layers),
        (kernels.forced(), Memory.renewed),
        (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)),
        _product_precision(),
        [_facts(module) for module in model.modules()],
    )


def _facts(module: nn.Module) -> tuple[Any, ...]:
    """Return what a recording takes in of a module itself; looked up at every pass, so quickly."""
    own = module.__dict__
    tensors = (*module._parameters.values(), *module._buffers.values())
    return (
        (module.training, own.get("momentum"), own.get("p"), _has_hooks(module)),
        [(each.data_ptr(), each.requires_grad) for each in tensors if each is not None],
    )


def _product_precision() -> str:
    """Return how PyTorch may multiply; reading its old switch raises where the new was used."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return torch.backends.cuda.matmul.fp32_precision


def _has_hooks(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


def _reason(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


_evaluations: WeakKeyDictionary[DeepGCN, Recorder] = WeakKeyDictionary()


def in_evaluation(model: DeepGCN, memory: Memory | None = None) -> Recorder:
    """Return the one recorder of a network's passes in evaluation: it is recorded once.

    `memory` is that of the first call.
    """
    found = _evaluations.get(model)
    if found is None:
        found = _evaluations[model] = Recorder(model, training=False, memory=memory)
    return found
