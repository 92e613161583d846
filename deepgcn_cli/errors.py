"""The one place that turns errors, signals and closed streams into a message and an exit code.

Exit codes: 0 done, 1 an error that the user can fix (or a bug, with its traceback), 2 wrong usage,
130 interrupted.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import metadata
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import deepgcn_cli
import pipelines
from pipelines.errors import DeepGCNError
from pipelines.files import DISK_FULL

from .streams import discard, flush, make_streams_usable, show

# How the file system refuses a path that the user gave; any other error is a bug.
REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR),
    *(errno.ENAMETOOLONG, errno.ELOOP),
)
# How it loses one: the folder was moved or deleted, its disk is gone or broken.
LOST = (errno.ENOENT, errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN)
PACKAGES = tuple(Path(package.__path__[0]) for package in (deepgcn_cli, pipelines))
POSTPONED = 0.02  # seconds until a signal that Python swallowed is raised again
EXECUTOR = os.path.join("concurrent", "futures", "process.py")  # its `submit` starts processes
READER = os.path.join("pipelines", "weights", "safetensors.py")  # its `read_safetensors`


class Interrupted(Exception):
    """The user stopped a command; the text says how to continue."""


def exit_code(run: Callable[[], int]) -> int:
    """Return the exit code of `run`; show the error or signal that ends it."""
    make_streams_usable()
    code = 130
    with suppress(KeyboardInterrupt), signals_interrupt():
        code = _show_errors(run)
    return code  # also if a signal comes after the last message


def _show_errors(run: Callable[[], int]) -> int:
    try:
        code = run()
        flush()
    except DeepGCNError as error:
        return _say(f"Error: {error}")
    except Interrupted as interruption:
        return _say(f"interrupted; {interruption}", 130)
    except KeyboardInterrupt:
        return _say("interrupted", 130)
    except BrokenPipeError:
        discard(sys.stdout)  # whose reader has gone
        return 1
    except OSError as error:
        try:
            flush()
        except OSError:
            discard(sys.stdout)
        return _file_system_error(error)
    except Exception as error:
        return _out_of_memory(error) if _ran_out_of_memory(error) else _bug(error)
    return code


def _ran_out_of_memory(error: Exception) -> bool:
    """Return whether NumPy or PyTorch, which is not imported for this, got no memory."""
    of_torch = type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(error)
    return isinstance(error, MemoryError) or of_torch


def _out_of_memory(error: Exception) -> int:
    reason = next(iter(str(error).splitlines()), "") or type(error).__name__
    return _say(
        f"Error: memory ran out: {reason}\n"
        "Give it more (a limit may be that of ulimit -v, a container or a job), or less to do at a "
        "time:\na smaller --batch-size, fewer --workers, or the scan in parts."
    )


def _file_system_error(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    if error.errno != errno.ELOOP and (link := _broken_link(error.filename)):
        return _say(
            f"Error: {link}: found a link to {os.readlink(link)}, which does not exist.\n"
            "Create it (is its disk mounted?), or give another path."
        )
    if error.errno in DISK_FULL or "No space left on device" in str(error):
        return _say(f"Error: {where}the disk is full.\nFree some space, then run it again.")
    made = traceback.extract_tb(error.__traceback__)[-1].name == "mkdir"
    if made or error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        what = "this folder cannot be created: " if made else ""
        return _say(f"Error: {where}{what}{error.strerror}.\nGive another path.")
    if error.errno in REFUSED:
        return _say(f"Error: {where}{error.strerror}.")
    if error.errno in LOST:
        return _say(
            f"Error: {where}{error.strerror}.\n"
            "Was it moved or deleted, or is its disk no longer there? Then run it again."
        )
    return _bug(error)


def _broken_link(name: object) -> Path | None:
    """Return the link that leads nowhere on the way to the file `name`, or None."""
    if not isinstance(name, str):
        return None
    places = (Path(name), *Path(name).parents)
    # Of `os.path`, as a name that is too long is an error for `Path.is_symlink`.
    return next((one for one in places if os.path.islink(one) and not os.path.exists(one)), None)


def _bug(error: BaseException) -> int:
    _say("".join(traceback.format_exception(error)).rstrip("\n"))
    if own := _own_place(error):
        return _say(f"The error comes from {own}, which is not part of deepgcn. Fix it there.")
    version = metadata.version("deepgcn")
    system = f"deepgcn {version}, Python {sys.version.split()[0]}, {sys.platform}"
    return _say(f"This is a bug in deepgcn. Please report it with the lines above ({system}).")


def _own_place(error: BaseException) -> str | None:
    """Return the file and line of the user's own code, in the current folder, that raised it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        installed = "site-packages" in file.parts or any(file.is_relative_to(p) for p in PACKAGES)
        if file.is_relative_to(Path.cwd()) and not installed:
            return f"{file}, line {frame.lineno}"
    return None


def _say(message: str, code: int = 1) -> int:
    """Print a message to stderr, unless it is closed, and return the exit code."""
    try:
        show(message, error=True)
    except (BrokenPipeError, ValueError):
        discard(sys.stderr)
    return code


@contextmanager
def interruptible(how: str | Callable[[], str]) -> Iterator[None]:
    """Turn Ctrl-C in a `with` block into `Interrupted`, with a text or what `how` then returns."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(how() if callable(how) else how) from None


@contextmanager
def signals_interrupt() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM raise KeyboardInterrupt within a `with` block, and lose none.

    Python swallows the exception in destructors and while it imports a module (the import lock
    ignores it; NumPy takes it for a broken installation); PyTorch does as safetensors reads weights
    (it then says that a tensor has no shape). A signal that comes then is raised again a little
    later. So is one that comes while a process is started, which would show a traceback without its
    task, and a SIGTERM that comes while an error propagates: torchrun and SLURM send it
    to all processes as soon as one fails, just when the others have to report the same error.

    A signal that the process ignores or handles in another way is left alone. Without timers
    (Windows), and in other threads, signals keep their usual effect.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not (in_main_thread and hasattr(signal, "setitimer")):
        yield
        return
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: does for number, does in usual.items() if signal.getsignal(number) == does}
    hook, alarm = sys.unraisablehook, signal.getsignal(signal.SIGALRM)
    for number in before:
        signal.signal(number, _interrupt)
    sys.unraisablehook = partial(_swallowed, hook)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        signal.signal(signal.SIGALRM, alarm)
        for number, does in before.items():
            signal.signal(number, does)


def _interrupt(number: int, frame: FrameType | None) -> None:
    failing = number == signal.SIGTERM and sys.exc_info()[0] is not None
    callers = (caller.f_code for caller, _ in traceback.walk_stack(frame))
    if failing or any(_holds_signals(code) for code in callers):
        _postpone(number)
    else:
        raise KeyboardInterrupt(number)


def _holds_signals(code: CodeType) -> bool:
    """Return whether a function of Python must not be left by an exception of a signal."""
    importing = code.co_filename.startswith("<frozen importlib")
    starting = code.co_name == "submit" and code.co_filename.endswith(EXECUTOR)
    reading = code.co_name == "read_safetensors" and code.co_filename.endswith(READER)
    return importing or starting or reading


def _swallowed(otherwise: Callable[[Any], Any], unraisable: Any) -> None:
    """Raise again a KeyboardInterrupt that Python swallowed; leave others to `otherwise`."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        ours = getattr(unraisable.exc_value, "args", ()) == (signal.SIGTERM,)
        _postpone(signal.SIGTERM if ours else signal.SIGINT)
    else:
        otherwise(unraisable)


def _postpone(number: int) -> None:
    """Raise a signal again a little later, for the handler that is set then."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, POSTPONED)
