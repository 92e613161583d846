"""What a CUDA graph of a network's passes is made of: inputs, memory, the recorded passes.

`recorded` tells when there is one. A training's gradients arrive in new memory: PyTorch keeps what
a backward pass hands over as `.grad` where it can, and the next replay would write over it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, ClassVar
from weakref import WeakSet

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from pipelines.kernels.knn_search import RankTables
from pipelines.model.deepgcn import DeepGCN

SWITCH = "DEEPGCN_CUDA_GRAPHS"  # in the environment; 0: none


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


class EvaluationPass:
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


class TrainingPass:
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
        passes: TrainingPass = args[0]
        ctx.passes = passes
        logits = passes.forward()
        ctx.turn = passes.memory.turn
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, *ctx.passes.backward(grads[0], ctx.turn)
