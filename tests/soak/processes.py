"""Commands in forked processes, so that imports take their time once; and what they leave behind.

All that a command starts ends up as a child of this process (a "subreaper") if its parent ends, so
none is lost from sight.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from deepgcn_cli.__main__ import run
from pipelines import kernels

from . import points

SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER
SITE = Path(__file__).parent / "site"


@dataclass
class Ended:
    """How a command ended: an exit code, or a signal's negative number; and what it said."""

    code: int
    said: str
    seconds: float
    begun: bool = True  # False: it ended in the harness's preparations, before the command


class Command:
    """A `deepgcn` command that runs in `folder`, in a process group of its own."""

    def __init__(
        self,
        arguments: list[str],
        folder: Path,
        *,
        tune: Callable[[], None],
        env: Mapping[str, str],
        largest: int | None = None,
    ) -> None:
        self.output, says = os.pipe()  # not a file, which could be too large for the disk
        self.begun, begins = os.pipe()
        fcntl.fcntl(says, fcntl.F_SETPIPE_SZ, 1 << 20)
        os.set_blocking(self.output, False)
        self.began = time.monotonic()
        self.pid = os.fork()
        if self.pid:
            os.close(says)
            os.close(begins)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.setpgid(self.pid, self.pid)
            return
        code = 70
        try:
            atexit._clear()  # this process's own temporary folders stay
            os.setpgid(0, 0)
            os.dup2(says, 1)
            os.dup2(says, 2)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.chdir(folder)
            os.environ.update({"PYTHONPATH": str(SITE), **env})
            signal.signal(signal.SIGINT, signal.default_int_handler)
            points.install("main")
            tune()
            if disk := env.get("FAIL_DISK"):
                kind, number, error, below = disk.split()
                ctypes.CDLL(None).fail_disk(
                    kind.encode(), ctypes.c_long(int(number)), int(error), below.encode()
                )
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
            with kernels.use("reference"):
                os.write(begins, b"b")
                os.close(begins)
                code = run(arguments)
            atexit._run_exitfuncs()
        except BaseException:
            traceback.print_exc()
        finally:
            if "COUNT_DISK" in env:
                Path(env["COUNT_DISK"]).write_text(str(_disk_calls()))
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def running(self) -> bool:
        """Return whether the command has not ended yet; the process stays to be waited for."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is None

    def end(self, seconds: float) -> Ended | None:
        """Wait for the command; None: it did not end in time, and was killed."""
        limit = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > limit:
                self.kill_all()
                return None
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        said, seconds = b"", time.monotonic() - self.began
        with contextlib.suppress(BlockingIOError):  # a process that is left holds it open
            while chunk := os.read(self.output, 1 << 16):
                said += chunk
        begun = bool(os.read(self.begun, 1))
        os.close(self.output)
        os.close(self.begun)
        return Ended(code, said.decode(errors="replace"), seconds, begun)

    def kill_all(self) -> None:
        """Kill the command and all that it has started."""
        for pid in (self.pid, *descendants()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        reap()


def _disk_calls() -> list[int]:
    count = ctypes.CDLL(None).disk_calls
    count.restype = ctypes.c_long
    return [count(kind) for kind in range(5)]


def keep_orphans() -> None:
    """Become the parent of processes whose own one ends."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1)


def descendants(of: int | None = None) -> list[int]:
    """Return the processes that descend from `of`, or from this one, and have not ended."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                state, parent, *_ = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(parent), state
    found, look = [], [os.getpid() if of is None else of]
    while look:
        below = [pid for pid, (parent, _) in parents.items() if parent in look]
        found += [pid for pid in below if parents[pid][1] != "Z"]
        look = below
    return found


def reap() -> None:
    """Forget orphans that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def left_behind(seconds: float) -> list[str]:
    """Return the command lines of processes that are still there after so many seconds."""
    limit = time.monotonic() + seconds
    while True:
        reap()
        found = descendants()
        if not found or time.monotonic() > limit:
            return list(_named(found))
        time.sleep(0.02)


def _named(pids: list[int]) -> Iterator[str]:
    for pid in pids:
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            yield f"{pid} {b' '.join(words).decode(errors='replace')[:200]}"
