"""Capture a network's passes as CUDA graphs, which a GPU replays without Python.

A step of a deep network is about 3,000 kernel launches, which take Python longer than a fast GPU
needs to compute them. A CUDA graph holds the launches with their arguments, so everything that
changes from pass to pass lies in static memory: features, neighbour ranks, weights, and PyTorch's
random state, which its graphs read at every replay. A replayed pass gives the same bits as one
that Python launches.

The first pass of a shape warms up: everything is compiled and looked up as the graph needs it. The
second is captured, and replayed from then on. A pass that cannot be captured, or whose setting has
changed since (`_setting`), is launched as usual. DEEPGCN_CUDA_GRAPHS=0 switches all graphs off.

With several processes each captures its own passes: gradients are exchanged after them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
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

from pipelines import kernels
from pipelines.config import CONVS
from pipelines.kernels import cuda
from pipelines.kernels.knn_search import LONGEST, RankTables
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.layers import Norm

from .memory import is_out_of_memory, release_memory
from .seeding import PassState

SWITCH = "DEEPGCN_CUDA_GRAPHS"  # in the environment; 0: no graphs
MOST_SHAPES = 2  # that are captured: the usual batch, and a smaller one
DEVICE = "cuda"
UNCACHED = "PYTORCH_NO_CUDA_MEMORY_CACHING"  # graphs need PyTorch's own allocator


def why_not(model: DeepGCN, device: torch.device) -> str | None:
    """Return why passes of `model` on `device` are not captured; None if they can be."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if device.type != DEVICE or os.environ.get(UNCACHED):
        return "CUDA graphs need an NVIDIA GPU and PyTorch's allocator"
    if cuda.why_not(device) or kernels.forced() not in (None, "cuda"):
        return "the kernels are not those in Triton"
    if model.checkpoint_layers:
        return "layers are recomputed in the backward pass"
    if model.config.conv not in CONVS or model.config.own_classes:
        return "it is unknown what a foreign convolution does"
    if any(tensor.dtype != torch.float32 for tensor in model.parameters()):
        return "the weights are not float32"
    if any(bound + bound // 8 > LONGEST for bound in model.rank_bounds()):
        return "plain PyTorch does the search for so many neighbours"
    if any(_has_hooks(module) for module in model.modules()):
        return "there are hooks"
    if any(isinstance(module, Norm) and module.reduce for module in model.modules()):
        return "synchronised batch norm communicates within the pass"
    return None


class GraphedModel:
    """A network whose passes in training, or in evaluation, are replayed as CUDA graphs.

    Shapes: features (B, N, 9) float32 → logits (B, N, classes).

    The caller owns the logits. In training, each backward pass comes before the next forward pass.

    Args:
        model: the network; only a weak reference is kept.
        training: capture training passes with their backward passes; otherwise evaluation passes
            without gradients. Python launches all others.
        say: called with one line if a capture failed.
        memory: shared with another network whose passes never interleave with these; None: new.
    """

    def __init__(
        self,
        model: DeepGCN,
        *,
        training: bool,
        say: Callable[[str], None] | None = None,
        memory: GraphMemory | None = None,
    ) -> None:
        self._model, self.training = ref(model), training
        self.say = say or partial(warnings.warn, stacklevel=2)
        self.memory = memory or GraphMemory()
        self.stopped = False
        self._entries: dict[torch.Size, _Entry] = {}
        self._busy = Lock()  # a graph has one set of inputs, for one pass at a time
        self._stream: Any = None  # passes on other streams aren't waited for

    @property
    def captured(self) -> list[torch.Size]:
        """The shapes of features that have a graph."""
        return [shape for shape, entry in self._entries.items() if entry.graph is not None]

    def __call__(self, features: Tensor) -> Tensor:
        model = self._model()
        assert model is not None, "the caller keeps the network"
        logits = None
        if self._busy.acquire(blocking=False):
            try:
                logits = self._pass(model, features)
            finally:
                self._busy.release()
        if logits is None:  # not to be captured, or another thread is using the graph
            logits = model(features)
        return logits

    def _pass(self, model: DeepGCN, features: Tensor) -> Tensor | None:
        """Warm up, capture or replay a pass; return None if it is not to be captured."""
        entry = self._entry(model, features)
        if entry is None:
            return None
        if entry.graph is None and entry.warm:
            self._capture(model, entry)
        if entry.graph is not None:
            entry.inputs.set(features, model.draw_ranks())
            return entry.graph()
        return self._warm_up(model, entry, features)

    def _entry(self, model: DeepGCN, features: Tensor) -> _Entry | None:
        """Return what is known about such passes; None if they aren't captured."""
        if self.stopped or not self._is_ours(model, features):
            return None
        setting = _setting(model, features)
        if features.shape in self._entries:
            if self._entries[features.shape].setting == setting:
                return self._entries[features.shape]
            self._forget(features.shape)
        if why_not(model, features.device) or not self._make_room():
            return None
        entry = self._entries[features.shape] = _Entry(setting, StaticInputs(model, features))
        return entry

    def _is_ours(self, model: DeepGCN, features: Tensor) -> bool:
        if features.device.type != DEVICE or features.dtype != torch.float32:
            return False
        stream = torch.cuda.current_stream(features.device) if features.is_cuda else None
        self._stream = self._stream or stream
        if stream != self._stream:
            return False
        mode = model.training, torch.is_grad_enabled()
        return mode == (self.training, self.training) and not features.requires_grad

    def _make_room(self) -> bool:
        """Drop shapes that came only once; return whether another shape can be captured."""
        while len(self._entries) >= MOST_SHAPES and len(self.captured) < len(self._entries):
            del self._entries[next(s for s, entry in self._entries.items() if entry.graph is None)]
        return len(self._entries) < MOST_SHAPES

    def _forget(self, shape: torch.Size) -> None:
        """Drop a shape, and free the memory of its graph once the GPU is done with it."""
        if self._entries.pop(shape).graph is not None:
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            release_memory()

    def _warm_up(self, model: DeepGCN, entry: _Entry, features: Tensor) -> Tensor:
        entry.inputs.tables.set(model.draw_ranks())
        with entry.inputs.used_by(model):
            logits: Tensor = model(features)
        entry.warm = True
        return logits

    def _capture(self, model: DeepGCN, entry: _Entry) -> None:
        """Capture an entry's passes. If that fails, undo it and never try again."""
        if not self.memory.room_for_two(entry.inputs.features.device):
            self.stopped = True
            return
        before = PassState(model)
        failure = None
        try:
            graph = TrainingGraph if self.training else EvaluationGraph
            entry.graph = graph(model, entry.inputs, self.memory)
        except Exception as error:  # whatever it is, the pass works without a graph
            failure = _reason(error)
        if failure is None:
            return
        # Outside of the handler, whose traceback keeps tensors alive.
        self.stopped = True
        self._entries.clear()
        release_memory()
        before.restore(model)
        self.say(f"CUDA graphs: capture failed ({failure}); Python launches every pass: slower.")


@dataclass
class _Entry:
    """What is known about passes with features of one shape."""

    setting: tuple[Any, ...]
    inputs: StaticInputs
    warm: bool = False
    graph: TrainingGraph | EvaluationGraph | None = None


def _setting(model: DeepGCN, features: Tensor) -> tuple[Any, ...]:
    """Return everything that a capture fixes: with another setting it is another pass."""
    device = features.device
    return (
        (device, features.dtype, model.config, model.checkpoint_layers),
        (kernels.forced(), GraphMemory.renewed),
        (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)),
        _matmul_precision(),
        [_state_of(module) for module in model.modules()],
    )


def _state_of(module: nn.Module) -> tuple[Any, ...]:
    """Return what a capture fixes of a module itself; looked up at every pass, so it is quick."""
    own = module.__dict__
    tensors = (*module._parameters.values(), *module._buffers.values())
    return (
        (module.training, own.get("momentum"), own.get("p"), _has_hooks(module)),
        [(each.data_ptr(), each.requires_grad) for each in tensors if each is not None],
    )


def _matmul_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer switch was used
        return torch.backends.cuda.matmul.fp32_precision


def _has_hooks(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


def _reason(error: BaseException) -> str:
    if is_out_of_memory(error):
        return "out of memory"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


_evaluations: WeakKeyDictionary[DeepGCN, GraphedModel] = WeakKeyDictionary()


def graphed_evaluation(model: DeepGCN, memory: GraphMemory | None = None) -> GraphedModel:
    """Return the network with its passes in evaluation as CUDA graphs, one object per network.

    `memory` matters in the first call.
    """
    found = _evaluations.get(model)
    if found is None:
        found = _evaluations[model] = GraphedModel(model, training=False, memory=memory)
    return found


class StaticInputs:
    """The memory that a graph reads its inputs from: features (B, N, 9) and neighbour ranks."""

    def __init__(self, model: DeepGCN, features: Tensor) -> None:
        with torch.inference_mode(False):  # written to in any mode
            self.features = torch.zeros_like(features, memory_format=torch.contiguous_format)
            self.tables = RankTables(model.rank_bounds(), model.config.k, features.device)

    def set(self, features: Tensor, ranks: list[tuple[int, ...]]) -> None:
        """Write the inputs of the next pass."""
        self.features.copy_(features)
        self.tables.set(ranks)

    @contextmanager
    def used_by(self, model: DeepGCN) -> Iterator[None]:
        """Let a network's searches read the ranks from the tables in a `with` block."""
        model.tables = self.tables.tables
        try:
            yield
        finally:
            model.tables = None

    def forward(self, model: DeepGCN, weights: Mapping[str, Tensor]) -> Tensor:
        """Return a network's logits of the inputs, with other weights under some names."""
        with self.used_by(model):
            logits: Tensor = functional_call(model, dict(weights), (self.features,))
        return logits


class GraphMemory:
    """GPU memory that graphs share: each pass writes over what the one before left there."""

    # How often random generators were replaced: a graph reads those of its capture.
    renewed: ClassVar[int] = 0

    def __init__(self) -> None:
        self.turn = 0  # counts passes: a backward pass's memory is its own until the next one
        self._graphs: WeakSet[Any] = WeakSet()
        self._pool: Any = None
        self._stream: Any = None

    def capture(
        self, work: Callable[[], Tensor], device: torch.device
    ) -> tuple[Callable[[], None], Tensor]:
        """Capture what `work` launches; return a replay and the tensor that it always writes to."""
        self._stream = self._stream or torch.cuda.Stream(device)
        if not self._graphs:  # PyTorch drops a pool with its last graph
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        # Autocast caches shortened weights: no graph may read old ones, no pass those of a graph.
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
            self._recover(device)  # while the graph exists, which the allocator asks
            raise
        finally:
            torch.clear_autocast_cache()
        self._graphs.add(graph)
        return graph.replay, result

    def room_for_two(self, device: torch.device) -> bool:
        """Return whether a GPU can hold what a pass takes twice: a graph never frees its memory."""
        free, _ = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        return 2 * torch.cuda.max_memory_allocated(device) <= free + own

    def _recover(self, device: torch.device) -> None:
        """End a failed capture, which allocator and random generator would still wait for."""
        index = torch.cuda.current_device() if device.index is None else device.index
        # A capture that ended as it should has nothing to end.
        with suppress(RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self._pool)
            torch._C._cuda_releasePool(index, self._pool)
        fresh = torch.Generator(f"cuda:{index}")
        torch.cuda.default_generators[index].graphsafe_set_state(fresh)
        GraphMemory.renewed += 1


class EvaluationGraph:
    """A captured pass in evaluation."""

    def __init__(self, model: DeepGCN, inputs: StaticInputs, memory: GraphMemory) -> None:
        self.memory = memory
        # What PyTorch makes for all graphs with the first one must not be for inference alone.
        with torch.inference_mode(False), torch.no_grad():
            work = partial(inputs.forward, model, {})
            self.replay, self.logits = memory.capture(work, inputs.features.device)

    def __call__(self) -> Tensor:
        """Return the logits of the inputs that were set."""
        self.memory.turn += 1
        self.replay()
        return self.logits.clone()


class TrainingGraph:
    """A captured pass in training, with its backward pass.

    Gradients arrive in new memory: PyTorch may keep what a backward pass returns as `.grad`, and
    the next replay would write over it.
    """

    def __init__(self, model: DeepGCN, inputs: StaticInputs, memory: GraphMemory) -> None:
        self.memory, self.device = memory, inputs.features.device
        named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.parameters = [each for _, each in named]
        # Separate tensors on the same memory: PyTorch notes at a parameter's first use on which
        # stream its gradients are added up, and that must not be the capture's.
        self.weights = {name: each.detach().requires_grad_() for name, each in named}
        self.reached: list[Tensor | None] = []
        self.live: Tensor | None = None
        work = partial(self._forward, model, inputs)
        self.replay_forward, self.logits = memory.capture(work, self.device)
        self.gradient = torch.zeros_like(self.logits)
        self.replay_backward, self.whole = memory.capture(self._backward, self.device)
        # The graph keeps the memory; the Python objects aren't needed any more.
        self.shapes = [None if each is None else each.shape for each in self.reached]
        self.reached, self.live = [], None

    def _forward(self, model: DeepGCN, inputs: StaticInputs) -> Tensor:
        self.live = inputs.forward(model, self.weights)
        return self.live.detach()

    def _backward(self) -> Tensor:
        """Return the gradients of all weights, one after another."""
        assert self.live is not None
        # A training's backward pass runs outside of autocast; this capture must, too.
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

    def backward(self, gradient: Tensor, turn: int) -> list[Tensor | None]:
        """Replay the backward pass of the latest forward pass, `turn`."""
        if turn != self.memory.turn:
            raise RuntimeError(
                "A captured pass was followed by another one before its backward pass; "
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
    """A captured pass and its backward pass, for autograd."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        graph: TrainingGraph = args[0]
        graph.memory.turn += 1
        ctx.graph, ctx.turn = graph, graph.memory.turn
        graph.replay_forward()
        return graph.logits.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, *ctx.graph.backward(grads[0], ctx.turn)
