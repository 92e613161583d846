"""Capture a network's passes as CUDA graphs, which a GPU replays without Python.

A step of a deep network is about 3,000 kernel launches, which take Python longer than a fast GPU
needs to run them. A CUDA graph holds the launches with their arguments, so everything that changes
from pass to pass lies in static memory: features, neighbour ranks, weights, and PyTorch's random
state, which its graphs read at every replay. A replayed pass gives the same bits as one that Python
launches.

The first pass of a shape warms up: it compiles and loads all that the graph needs. The second is
captured, and replayed from then on. A pass that cannot be captured, or whose setting has changed
since (`_setting`), is launched as usual. DEEPGCN_CUDA_GRAPHS=0 switches all graphs off.

With several processes each captures its own passes: gradients are exchanged after them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import suppress
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
from pipelines.errors import ConfigError
from pipelines.kernels.knn_search import LONGEST, RankTables
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.layers import Norm

from .memory import is_out_of_memory, release_memory
from .seeding import PassState

SWITCH = "DEEPGCN_CUDA_GRAPHS"  # in the environment; 0: no graphs
MOST_SHAPES = 2  # to capture: the usual batch, and a smaller one
DEVICE = "cuda"
UNCACHED = "PYTORCH_NO_CUDA_MEMORY_CACHING"  # graphs need PyTorch's own allocator


def why_not(model: DeepGCN, device: torch.device) -> str | None:
    """Return why passes of `model` on `device` are not captured; None if they can be."""
    switch = os.environ.get(SWITCH) or "1"
    if switch not in ("0", "1"):
        raise ConfigError(f"{SWITCH}: found {switch!r:.40}, expected 0 (none) or 1.")
    if switch == "0":
        return f"{SWITCH} is 0"
    if device.type != DEVICE or os.environ.get(UNCACHED):
        return "CUDA graphs need an NVIDIA GPU and PyTorch's allocator"
    if kernels.why_not_triton(device) or kernels.forced() not in (None, "cuda"):
        return "the kernels are not those in Triton"
    if model.checkpoint_layers:
        return "layers are recomputed in the backward pass"
    if model.config.conv not in CONVS or model.config.own_classes:
        return "a convolution that is not ours may do anything"
    if any(tensor.dtype != torch.float32 for tensor in model.parameters()):
        return "the weights are not float32"
    if any(bound + bound // 8 > LONGEST for bound in model.rank_bounds()):
        return "so many neighbours are searched for by plain PyTorch"
    if any(_has_hooks(module) for module in model.modules()):
        return "there are hooks"
    if any(isinstance(module, Norm) and module.reduce for module in model.modules()):
        return "synchronised batch norm communicates within the pass"
    return None


class GraphedModel:
    """A network whose passes in training, or in evaluation, are replayed as CUDA graphs.

    Shapes: features (B, N, 9) float32 → logits (B, N, classes).

    The caller owns the logits. In training, each backward pass must come before the next forward
    pass. Python launches passes of the other mode, and evaluation passes with gradients. Only a
    weak reference to the network is kept. `say` is called with one line if a capture failed;
    `memory` may be shared with another network whose passes never interleave with these.
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
        self._passes: dict[torch.Size, _Pass] = {}
        self._busy = Lock()  # a graph has one set of inputs, for one pass at a time
        self._stream: Any = None  # of the first pass; Python launches those on other streams

    @property
    def captured(self) -> list[torch.Size]:
        """The shapes of features that have a graph."""
        return [shape for shape, one in self._passes.items() if one.graph is not None]

    def __call__(self, features: Tensor) -> Tensor:
        """Warm up, capture or replay a pass, or let Python launch it."""
        model = self._model()
        assert model is not None, "the caller keeps the network"
        if not self._busy.acquire(blocking=False):  # another thread is using the graph
            return model(features)
        try:
            found = self._find(model, features)
            if found is None:
                return model(features)
            if found.graph is None and found.warm:
                self._capture(model, found)
            found.tables.set(model.draw_ranks())
            if found.graph is not None:
                found.features.copy_(features)
                return found.graph()
            found.warm = True
            return found.forward(model, features, {})
        finally:
            self._busy.release()

    def _find(self, model: DeepGCN, features: Tensor) -> _Pass | None:
        """Return the pass with features of this shape; None if Python has to launch it."""
        if self.stopped or not self._is_ours(model, features):
            return None
        setting, shape = _setting(model, features), features.shape
        if shape in self._passes:
            if self._passes[shape].setting == setting:
                return self._passes[shape]
            if self._passes.pop(shape).graph is not None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()  # the GPU may still be using the graph's memory
                release_memory()
        # Shapes that came only once make room for this one.
        while len(self._passes) >= MOST_SHAPES and len(self.captured) < len(self._passes):
            del self._passes[next(s for s, one in self._passes.items() if one.graph is None)]
        if why_not(model, features.device) or len(self._passes) >= MOST_SHAPES:
            return None
        self._passes[shape] = _Pass(model, features, setting)
        return self._passes[shape]

    def _is_ours(self, model: DeepGCN, features: Tensor) -> bool:
        if features.device.type != DEVICE or features.dtype != torch.float32:
            return False
        stream = torch.cuda.current_stream(features.device) if features.is_cuda else None
        self._stream = self._stream or stream
        mode = model.training, torch.is_grad_enabled(), features.requires_grad
        return stream == self._stream and mode == (self.training, self.training, False)

    def _capture(self, model: DeepGCN, found: _Pass) -> None:
        """Capture a pass. If that fails, undo it and never try again."""
        if not self.memory.room_for_two(found.features.device):
            self.stopped = True
            return
        before, failure = PassState(model), None
        try:
            capture = TrainingGraph if self.training else evaluation_graph
            found.graph = capture(model, found, self.memory)
        except Exception as error:  # whatever it is, the pass works without a graph
            lines = (str(error).strip() or type(error).__name__).splitlines()
            failure = "out of memory" if is_out_of_memory(error) else lines[0]
        if failure is None:
            return
        # Outside of the handler, whose traceback keeps tensors alive.
        self.stopped = True
        self._passes.clear()
        release_memory()
        before.restore(model)
        self.say(f"CUDA graphs: capture failed ({failure}); Python launches every pass: slower.")


class _Pass:
    """A pass with features of one shape: the memory of its inputs, and its graph once captured."""

    def __init__(self, model: DeepGCN, features: Tensor, setting: tuple[Any, ...]) -> None:
        self.setting, self.warm = setting, False
        self.graph: Callable[[], Tensor] | None = None
        with torch.inference_mode(False):  # written to in any mode
            self.features = torch.zeros_like(features, memory_format=torch.contiguous_format)
            self.tables = RankTables(model.rank_bounds(), model.config.k, features.device)

    def forward(self, model: DeepGCN, features: Tensor, weights: dict[str, Tensor]) -> Tensor:
        """Return logits, with other weights under some names and the ranks of the tables."""
        model.rank_tables = self.tables.tables
        try:
            logits: Tensor = functional_call(model, weights, (features,))
        finally:
            model.rank_tables = None
        return logits


def _setting(model: DeepGCN, features: Tensor) -> tuple[Any, ...]:
    """Return everything that a capture fixes: a pass with another setting is another pass."""
    device = features.device
    try:
        matmul = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer switch was used
        matmul = torch.backends.cuda.matmul.fp32_precision
    return (
        (device, features.dtype, model.config, model.checkpoint_layers),
        (kernels.forced(), GraphMemory.renewed, matmul),
        (torch.is_autocast_enabled(device.type), torch.get_autocast_dtype(device.type)),
        [_state_of(module) for module in model.modules()],
    )


def _state_of(module: nn.Module) -> tuple[Any, ...]:
    """Return what a capture fixes of a module itself; every pass calls this, so it is quick."""
    own = module.__dict__
    tensors = (*module._parameters.values(), *module._buffers.values())
    fixed = [(each.data_ptr(), each.requires_grad) for each in tensors if each is not None]
    return module.training, own.get("momentum"), own.get("p"), _has_hooks(module), fixed


def _has_hooks(module: nn.Module) -> bool:
    forward = module._forward_hooks or module._forward_pre_hooks
    return bool(forward or module._backward_hooks or module._backward_pre_hooks)


_evaluations: WeakKeyDictionary[DeepGCN, GraphedModel] = WeakKeyDictionary()


def graphed_evaluation(model: DeepGCN, memory: GraphMemory | None = None) -> GraphedModel:
    """Return a network's passes in evaluation as CUDA graphs; `memory` counts at the first call."""
    if model not in _evaluations:
        _evaluations[model] = GraphedModel(model, training=False, memory=memory)
    return _evaluations[model]


class GraphMemory:
    """GPU memory that graphs share: each pass writes over what the one before left there."""

    # How often random generators were replaced: a graph reads those of its capture.
    renewed: ClassVar[int] = 0

    def __init__(self) -> None:
        self.turn = 0  # passes so far: a backward pass needs the memory as its own forward left it
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
        # Autocast caches rounded weights: a graph must not read old ones, nor a pass a graph's.
        torch.clear_autocast_cache()
        try:
            # The outer context restores the current stream even if the inner one fails to. Other
            # threads may pin memory for the next batches meanwhile: "thread_local".
            with (
                torch.cuda.stream(torch.cuda.current_stream(device)),
                torch.cuda.graph(graph, self._pool, self._stream, "thread_local"),
            ):
                result = work()
        except BaseException:
            self._recover(device)  # while the graph exists, because the allocator queries it
            raise
        finally:
            torch.clear_autocast_cache()
        self._graphs.add(graph)
        return graph.replay, result

    def room_for_two(self, device: torch.device) -> bool:
        """Return whether a GPU can hold a pass's memory twice: a graph never frees its own."""
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


def evaluation_graph(model: DeepGCN, inputs: _Pass, memory: GraphMemory) -> Callable[[], Tensor]:
    """Capture a pass in evaluation; return a function that replays it on the current inputs."""
    # With the first graph PyTorch creates tensors for all, which must not be inference tensors.
    with torch.inference_mode(False), torch.no_grad():
        work = partial(inputs.forward, model, inputs.features, {})
        replay, logits = memory.capture(work, inputs.features.device)

    def replayed() -> Tensor:
        memory.turn += 1
        replay()
        return logits.clone()

    return replayed


class TrainingGraph:
    """A captured pass in training, with its backward pass.

    Gradients arrive in new memory: PyTorch may keep what a backward pass returns as `.grad`, and
    the next replay would write over it.
    """

    def __init__(self, model: DeepGCN, inputs: _Pass, memory: GraphMemory) -> None:
        self.memory, device = memory, inputs.features.device
        named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
        self.parameters = [each for _, each in named]
        # Separate tensors on the same memory: at a parameter's first use, PyTorch fixes the stream
        # on which its gradients are accumulated, and that must not be the capture's.
        weights = {name: each.detach().requires_grad_() for name, each in named}
        live: Tensor  # until both passes are captured; then the graph keeps the memory

        def forward() -> Tensor:
            nonlocal live
            live = inputs.forward(model, inputs.features, weights)
            return live.detach()

        def backward() -> Tensor:
            """Return the gradients of all weights, one after another."""
            # A training's backward pass runs outside of autocast; this capture must, too.
            with torch.autocast(device.type, enabled=False):
                found = torch.autograd.grad(
                    live, list(weights.values()), self.gradient, allow_unused=True
                )
                self.shapes = [None if each is None else each.shape for each in found]
                return torch.cat([each.reshape(-1) for each in found if each is not None])

        self.replay_forward, self.logits = memory.capture(forward, device)
        self.gradient = torch.zeros_like(self.logits)
        self.replay_backward, self.flat_gradient = memory.capture(backward, device)

    def __call__(self) -> Tensor:
        """Return the logits of the current inputs; gradients flow to the weights."""
        logits: Tensor = _Replayed.apply(self, *self.parameters)
        return logits


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
        graph: TrainingGraph = ctx.graph
        if ctx.turn != graph.memory.turn:
            raise RuntimeError(
                "A captured pass was followed by another one before its backward pass; "
                f"{SWITCH}=0 allows for that."
            )
        graph.gradient.copy_(grads[0])
        graph.replay_backward()
        sizes = [0 if shape is None else shape.numel() for shape in graph.shapes]
        pieces = zip(graph.flat_gradient.clone().split(sizes), graph.shapes, strict=True)
        return None, *(None if shape is None else piece.view(shape) for piece, shape in pieces)
