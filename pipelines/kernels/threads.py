# ruff: noqa: ARG001 - Numba dictates the arguments of intrinsics and their generators
"""Run compiled loops on PyTorch's own thread pool.

PyTorch's OpenMP threads spin for some milliseconds after each operation, ready to begin the next
one. A second pool has to share the cores with them (measured: two threads on two cores were then no
faster than one), and threads that need Python's lock block one another. So compiled code calls
`GOMP_parallel` of the OpenMP library that PyTorch itself has loaded. Where the library has no such
function (macOS, Windows), Python threads do the same work.

Numba takes a compiled function from its cache as long as the function's own file is unchanged; but
ours are inlined into one another across files, so an edit in one would leave stale machine code in
its callers. So each state of all the sources has its own cache folder.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import os
import sys
import types as python_types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types

from .simd import intrinsic

_names = itertools.count()
settings: Any = numba.config


def parallel(loop: Callable[..., None]) -> Any:
    """Compile `loop(*shared, task)` so that `run` can share its tasks among the threads.

    Tasks must write to different places and not raise.
    """
    compiled = numba.njit(nogil=True, error_model="numpy")(loop)
    # Numba caches functions with globals of their own, but not closures.
    names = {"fork": fork, "kernel": compiled, "__name__": loop.__module__}
    entry = python_types.FunctionType(_entry.__code__, names, loop.__name__)
    entry.__qualname__ = f"{loop.__module__}.{loop.__qualname__}"
    before = settings.CACHE_DIR
    settings.CACHE_DIR = _cache_folder(before)
    try:
        return numba.njit(nogil=True, cache=True)(entry)
    finally:
        settings.CACHE_DIR = before


@lru_cache
def _cache_folder(chosen: str) -> str:
    """Return the sources' own folder below the `chosen` one (NUMBA_CACHE_DIR), or beside them.

    If it can't be written to, leave the choice to Numba, which falls back to one of the user's.
    """
    sources = Path(__file__).parent
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(sources.rglob("*.py")):
        digest.update(path.read_bytes())
    folder = Path(chosen or sources / "__pycache__") / f"compiled-{digest.hexdigest()[:16]}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return chosen
    return str(folder)


def _entry(shared, tasks, counter, openmp, workers):
    fork(kernel, shared, tasks, counter, openmp, workers)  # type: ignore[name-defined]  # noqa: F821


_calls: list[tuple[Any, tuple[Any, ...]]] | None = None  # noted by `dry_run`
before_first_run: dict[Any, Callable[[Any], None]] = {}  # of a loop; called with it, once


def run(entry: Callable[..., None], shared: tuple[Any, ...], tasks: int) -> None:
    """Run tasks 0 … tasks − 1 of a `parallel` loop with the arguments `shared`, and wait."""
    if _calls is not None:
        _calls.append((entry, shared))
        _clear(shared)
        return
    if before_first_run and entry in before_first_run:
        before_first_run.pop(entry)(entry)
    counter = np.zeros(1, np.int64)
    workers = max(1, min(torch.get_num_threads(), tasks))
    openmp = gomp_parallel() if workers > 1 else 0
    if workers == 1 or openmp:
        entry(shared, tasks, counter, openmp, workers)
        return
    pool = _pool(os.getpid(), workers)  # a forked process has none of its parent's threads
    for future in [pool.submit(entry, shared, tasks, counter, 0, 1) for _ in range(workers)]:
        future.result()


def dry_run(work: Callable[[], object]) -> dict[Any, tuple[Any, ...]]:
    """Return the `parallel` loops that `work` calls, the last first, with the types of the call.

    No loop is compiled or run; all arrays that they are called with are set to 0 instead. No other
    thread may run loops meanwhile.
    """
    global _calls
    _calls = []
    try:
        work()
        return {
            entry: (numba.typeof(shared), types.int64, types.int64[::1], types.int64, types.int64)
            for entry, shared in reversed(_calls)
        }
    finally:
        _calls = None


def _clear(shared: Any) -> None:
    for each in shared:
        if isinstance(each, tuple):
            _clear(each)
        elif isinstance(each, np.ndarray):
            each.fill(0)


def is_cached(entry: Any) -> bool:
    """Return whether a `parallel` loop has been compiled on this computer, for whatever types."""
    return any(Path(entry.stats.cache_path).glob(f"*.{entry.py_func.__qualname__}-*.nbi"))


@lru_cache(maxsize=1)
def gomp_parallel() -> int:
    """Return the address of `GOMP_parallel` in PyTorch's OpenMP library, 0 if it has none."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"
    if sys.platform != "linux" or not library.exists():
        return 0
    function = getattr(ctypes.CDLL(str(library)), "GOMP_parallel", None)
    return ctypes.cast(function, ctypes.c_void_p).value or 0 if function is not None else 0


@lru_cache(maxsize=4)
def _pool(_process: int, size: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(size, thread_name_prefix="deepgcn-kernels")


@intrinsic
def fork(
    typing: Any, kernel: Any, shared: Any, tasks: Any, counter: Any, openmp: Any, workers: Any
) -> Any:
    """Call the compiled function `kernel(*shared, task)` for each task in 0 … tasks − 1.

    Each thread takes the next number from `counter` (one int64, zero at first) until none is left.
    With `openmp` 0 the calling thread runs them, except those that other threads with the same
    counter have taken.
    """
    arguments = (*shared.types, types.int64)
    typing.resolve_function_type(kernel, arguments, {})  # compiles it
    compiled = kernel.dispatcher.overloads[arguments]

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _, values, number, array, address, size = args
        next_task = context.make_array(signature.args[3])(context, builder, array).data
        state = cgutils.pack_struct(builder, [values, number, next_task])
        place = cgutils.alloca_once_value(builder, state)
        body = _body(context, builder.module, compiled, state.type, len(shared.types))
        context.add_linking_libs([compiled.library])
        data = builder.bitcast(place, _BYTES)
        with builder.if_else(cgutils.is_null(builder, address)) as (alone, together):
            with alone:
                builder.call(body, [data])
            with together:
                forking = ir.FunctionType(ir.VoidType(), [body.type, _BYTES, _INT, _INT])
                function = builder.inttoptr(address, forking.as_pointer())
                builder.call(function, [body, data, builder.trunc(size, _INT), _INT(0)])
        return context.get_dummy_value()

    return types.void(kernel, shared, types.int64, counter, types.int64, types.int64), generate


_BYTES = ir.IntType(8).as_pointer()
_INT = ir.IntType(32)


def _body(context: Any, module: Any, compiled: Any, state: Any, length: int) -> Any:
    """Build `void body(void *state)`: take tasks and call the kernel until none is left."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES])
    name = f"{compiled.fndesc.mangled_name}.tasks{next(_names)}"
    function = ir.Function(module, kind, name)
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    held = builder.load(builder.bitcast(function.args[0], state.as_pointer()))
    shared, number, next_task = (builder.extract_value(held, n) for n in range(3))
    loop, work, done = (function.append_basic_block(name) for name in ("loop", "work", "done"))
    builder.branch(loop)
    builder.position_at_end(loop)
    task = builder.atomic_rmw("add", next_task, ir.Constant(number.type, 1), "monotonic")
    builder.cbranch(builder.icmp_signed("<", task, number), work, done)
    builder.position_at_end(work)
    values = [builder.extract_value(shared, n) for n in range(length)]
    context.call_internal_no_propagate(
        builder, compiled.fndesc, compiled.signature, [*values, task]
    )
    builder.branch(loop)
    builder.position_at_end(done)
    builder.ret_void()
    return function
