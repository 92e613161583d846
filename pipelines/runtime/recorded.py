"""Passes through a network recorded as CUDA graphs, which a GPU repeats without Python.

A step of a deep network is some 3,000 launches, and launching them takes Python longer than
computing them takes a fast GPU. A recording has their arguments as they were, so all that changes
from pass to pass lies in memory of its own: features, the ranks of neighbours, the weights, and
PyTorch's random state, which its graphs read at every replay. A repeated pass gives the same bits
as one that Python launches.

The first pass of a shape is a rehearsal: everything is compiled and looked up as the recording
needs it. The second is recorded, and repeated from then on. What a recording cannot be made of, or
what changed since (`_setting`), is computed as ever. DEEPGCN_CUDA_GRAPHS=0 switches it all off.

A training's gradients arrive in new memory: PyTorch keeps what a backward pass hands over as
`.grad` where it can, and the next replay would write over it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any, ClassVar
from weakref import WeakKeyDictionary, WeakSet, ref

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from .. import kernels
from ..config import CONVS
from ..kernels import cuda
from ..kernels.ranks import LONGEST, RankTables
from ..model.deepgcn import DeepGCN
from ..model.unit import Norm
from .accumulate import PassState, is_out_of_memory, release_memory

SWITCH = "DEEPGCN_CUDA_GRAPHS"
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
        kind = _TrainingPass if self.training else _EvaluationPass
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
    passes: _TrainingPass | _EvaluationPass | None = None


class Inputs:
    """The memory that a recording reads what is new from: features (B, N, 9) and ranks."""

    def __init__(self, model: DeepGCN, features: Tensor) -> None:
        with torch.inference_mode(False):  # written into in whatever mode
            self.features = torch.zeros_like(features, memory_format=torch.contiguous_format)
            self.tables = RankTables(model.rank_bounds(), model.config.k, features.device)

    def set(self, features: Tensor, ranks: list[tuple[int, ...]]) -> None:
        """Put in what the next pass is made of."""
        self.features.copy_(features)
        self.tables.set(ranks)

    @contextmanager
    def used_by(self, model: DeepGCN) -> Iterator[None]:
        """Let a network's searches read the ranks from the tables, in a `with` block."""
        model.tables = self.tables.tables
        try:
            yield
        finally:
            model.tables = None


Work = Callable[[], Tensor]


class Memory:
    """GPU memory that recordings share: what one pass leaves there, the next one writes over.

    Attributes:
        turn: counts the passes, so that a backward pass can tell that its memory is still its own.
        renewed: counts how often random generators were replaced: recordings read those that there
            were.
    """

    renewed: ClassVar[int] = 0

    def __init__(self) -> None:
        self.turn = 0
        self._graphs: WeakSet[Any] = WeakSet()
        self._pool: Any = None
        self._stream: Any = None

    def record(self, work: Work, device: torch.device) -> tuple[Callable[[], None], Tensor]:
        """Record what `work` launches, without computing it.

        Returns:
            A function that computes it, and the tensor with the result, each time the same.
        """
        self._stream = self._stream or torch.cuda.Stream(device)
        if not self._graphs:  # PyTorch gives a pool up with its last recording
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Autocast keeps weights that it has shortened: neither may a recording read older ones, nor
        # another pass those of a recording.
        torch.clear_autocast_cache()
        try:
            # The outer context puts the current stream back even if the inner one fails to. Other
            # threads may pin memory for the next batches meanwhile: "thread_local".
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(graph, self._pool, self._stream, "thread_local"),
            ):
                result = work()
        except BaseException:
            self._recover(device)  # while there is the graph, which the allocator asks
            raise
        finally:
            torch.clear_autocast_cache()
        self._graphs.add(graph)
        return graph.replay, result

    def wait(self) -> None:
        """Wait until nothing is under way on the GPU."""
        torch.cuda.synchronize()

    def room_for_two(self, device: torch.device) -> bool:
        """Tell whether a GPU can hold what a pass takes twice.

        A recording keeps its memory for good; other passes need theirs beside it.
        """
        free, _ = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        return 2 * torch.cuda.max_memory_allocated(device) <= free + own

    def _recover(self, device: torch.device) -> None:
        """Let PyTorch go on after a recording that ended in the middle.

        Its allocator would still be giving out the recording's memory, and its random generator
        would wait for the recording's end.
        """
        index = torch.cuda.current_device() if device.index is None else device.index
        # Where the recording was ended as it should be, there is nothing to end.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)
            torch._C._cuda_releasePool(index, self._pool)
        fresh = torch.Generator(f"cuda:{index}")
        torch.cuda.default_generators[index].graphsafe_set_state(fresh)
        Memory.renewed += 1


class _EvaluationPass:
    """A recorded pass in evaluation."""

    def __init__(self, model: DeepGCN, inputs: Inputs, memory: Memory) -> None:
        self.memory = memory
        work = partial(self._forward, model, inputs)
        # What PyTorch makes for all recordings with the first one must not be for inference alone.
        with torch.inference_mode(False), torch.no_grad():
            self.replay, self.logits = memory.record(work, inputs.features.device)

    @staticmethod
    def _forward(model: DeepGCN, inputs: Inputs) -> Tensor:
        with inputs.used_by(model):
            logits: Tensor = model(inputs.features)
        return logits

    def __call__(self) -> Tensor:
        """Return the logits of the inputs that were set."""
        self.memory.turn += 1
        self.replay()
        return self.logits.clone()


class _TrainingPass:
    """A recorded pass in training, with its backward pass."""

    def __init__(self, model: DeepGCN, inputs: Inputs, memory: Memory) -> None:
        self.memory, self.device = memory, inputs.features.device
        named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.parameters = [each for _, each in named]
        # Others of the same memory: how PyTorch is to add up the real ones' gradients, on which
        # stream, is noted when they are first used, and must not be this recording's.
        self.weights = {name: each.detach().requires_grad_() for name, each in named}
        self.reached: list[Tensor | None] = []
        self.live: Tensor | None = None
        work = partial(self._forward, model, inputs)
        self.replay_forward, self.logits = memory.record(work, self.device)
        self.gradient = torch.zeros_like(self.logits)
        self.replay_backward, self.whole = memory.record(self._backward, self.device)
        # The memory stays the recording's; the Python objects aren't needed any more.
        self.shapes = [None if each is None else each.shape for each in self.reached]
        self.reached, self.live = [], None

    def _forward(self, model: DeepGCN, inputs: Inputs) -> Tensor:
        with inputs.used_by(model):
            live: Tensor = functional_call(model, self.weights, (inputs.features,))
        self.live = live
        return live.detach()

    def _backward(self) -> Tensor:
        """Return the gradients of all weights, one after another."""
        assert self.live is not None
        # A training's backward pass is outside of autocast, the recording of this one is not.
        with torch.autocast(self.device.type, enabled=False):
            self.reached = list(
                torch.autograd.grad(
                    self.live, list(self.weights.values()), self.gradient, allow_unused=True
                )
            )
            return torch.cat([each.reshape(-1) for each in self.reached if each is not None])

    def __call__(self) -> Tensor:
        """Return the logits of the inputs that were set; gradients flow to the weights."""
        logits: Tensor = _Replayed.apply(self, *self.parameters)
        return logits

    def forward(self) -> Tensor:
        """Repeat the forward pass."""
        self.memory.turn += 1
        self.replay_forward()
        return self.logits.clone()

    def backward(self, gradient: Tensor, turn: int) -> list[Tensor | None]:
        """Repeat the backward pass of the latest forward pass, `turn`."""
        if turn != self.memory.turn:
            raise RuntimeError(
                "A recorded pass was followed by another one before its backward pass; "
                f"{SWITCH}=0 allows for that."
            )
        self.gradient.copy_(gradient)
        self.replay_backward()
        sizes = [0 if shape is None else shape.numel() for shape in self.shapes]
        pieces = self.whole.clone().split(sizes)
        return [
            None if shape is None else piece.view(shape)
            for piece, shape in zip(pieces, self.shapes, strict=True)
        ]


class _Replayed(torch.autograd.Function):
    """A recorded pass and its backward pass, for autograd."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        passes: _TrainingPass = args[0]
        ctx.passes = passes
        logits = passes.forward()
        ctx.turn = passes.memory.turn
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, *ctx.passes.backward(grads[0], ctx.turn)


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
