"""Compile the loops that a network needs on the CPU in two processes at a time.

Without a cache they take longer than all else before the first pass, and in one process Numba
compiles one at a time. So a second process compiles them from the last to the first, while this one
goes on, and compiles from the first to the last as it comes to them, until they meet.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from threading import Condition, Thread
from typing import Any

import torch

from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN

from .process import end_with_parent, python_command

POINTS = 512  # of a block that calls the same loops as one of any size


def compile_beside(model: ModelConfig, device: torch.device, *, training: bool = False) -> None:
    """Let another process compile what float32 passes of `model` need and the cache lacks.

    Nothing happens on a GPU or with one thread. What the other process fails to compile is compiled
    here, when it is needed.
    """
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return
    from pipelines.kernels import threads  # imports Numba

    loops = threads.dry_run(lambda: _small_pass(model, training))
    missing = {loop: types for loop, types in loops.items() if not threads.is_cached(loop)}
    if len(missing) > 1:
        wait = _Compiler(missing).wait
        threads.before_first_run.update(dict.fromkeys(missing, wait))


def _small_pass(model: ModelConfig, training: bool) -> None:
    with torch.random.fork_rng(devices=()), torch.set_grad_enabled(training):
        logits = DeepGCN(replace(model, depth=2, spatial=None)).train(training)(
            torch.zeros(1, max(POINTS, 8 * model.k), 9)
        )
        if training:
            logits.sum().backward()


class _Compiler:
    """A process that compiles `loops`, given with the types that they are called with."""

    def __init__(self, loops: dict[Any, tuple[Any, ...]]) -> None:
        self._loops = {loop.py_func.__qualname__: loop for loop in loops}
        self._types = list(loops.values())
        self._news = Condition()
        self._at: Any = None  # the loop that it compiles now
        self.thread = Thread(target=self._follow, daemon=True)
        self.thread.start()

    def wait(self, loop: Any) -> None:
        """Return when the process is not, or no longer, at this loop."""
        with self._news:
            self._news.wait_for(lambda: self._at is not loop)

    def _follow(self) -> None:
        pipe = subprocess.PIPE
        with (
            suppress(OSError),  # no process could be started, or it has ended early
            subprocess.Popen(
                python_command(__name__), stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
            ) as process,
        ):
            assert process.stdin is not None
            assert process.stdout is not None
            with process.stdin as stream:
                pickle.dump(list(zip(self._loops, self._types, strict=True)), stream)
            for line in process.stdout:
                self._say(self._loops.get(line.decode().strip()))
        self._say(None)

    def _say(self, loop: Any) -> None:
        with self._news:
            self._at = loop
            self._news.notify_all()


def main() -> None:
    """Compile the loops that stdin lists into Numba's cache; write each one's name before."""
    end_with_parent()
    for name, types in pickle.load(sys.stdin.buffer):  # of the process that has started this one
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
        module, _, loop = name.rpartition(".")
        getattr(import_module(module), loop).compile(types)


if __name__ == "__main__":
    main()
