"""The other processes of a training that `--devices` starts, on this machine.

The process that a person started is rank 0 and directs. It starts the others as

    python -m pipelines.training.follow

with the variables that torchrun would set, and each holds one end of a pipe from it: when the pipe
closes without a farewell, rank 0 is gone, and they end too.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from torch import distributed

from pipelines.progress import SILENT, Progress
from pipelines.runtime.own_process import python_command

from .distributed import PATIENCE, Processes, ProcessLostError, here, meet
from .placement import Place

HOST = "127.0.0.1"
FAREWELL = b"."
STOPPED = 130  # exit code of a process that was asked to stop
# How long a process gets to end by itself once another one is gone. Between CPUs it notices in no
# time; a GPU that waits for a dead one's would not stop before `processes.PATIENCE`.
GRACE = 10.0


class Followers:
    """The processes of ranks 1 … size − 1."""

    def __init__(self, size: int, port: int, threads: int) -> None:
        self.started = [start(rank, size, port, threads) for rank in range(1, size)]

    def lost(self, within: float = 0.0) -> str | None:
        """Return how one of them ended badly: "process 1 of 2 was killed (SIGKILL).".

        Args:
            within: seconds to wait for such an end.
        """
        until = time.monotonic() + within
        while True:
            for rank, process in enumerate(self.started, start=1):
                if process.poll() not in (None, 0, STOPPED):
                    return (
                        f"process {rank} of {len(self.started) + 1} {ending(process.returncode)}."
                    )
            if time.monotonic() >= until:
                return None
            time.sleep(0.02)

    def dismiss(self) -> None:
        """Let them end by themselves, and kill those that don't."""
        for process in self.started:
            assert process.stdin is not None
            with suppress(OSError):  # it has ended already
                process.stdin.write(FAREWELL)
                process.stdin.flush()
        until = time.monotonic() + GRACE
        for process in self.started:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            with suppress(OSError):
                process.stdin.close()


def start(rank: int, size: int, port: int, threads: int) -> subprocess.Popen[bytes]:
    """Start the process of one rank.

    It is in a session of its own: Ctrl-C reaches rank 0 alone, which lets all stop after the step.
    """
    variables = {
        "RANK": rank,
        "WORLD_SIZE": size,
        "LOCAL_RANK": rank,
        "LOCAL_WORLD_SIZE": size,
        "MASTER_ADDR": HOST,
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": threads,
    }
    return subprocess.Popen(
        python_command("pipelines.training.follow"),
        env={**os.environ, **{name: str(value) for name, value in variables.items()}},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def ending(code: int) -> str:
    """Return how a process with this exit code ended, for people."""
    if code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended with exit code {code}"


@contextmanager
def gather(
    place: Place, devices: int, threads: int, progress: Progress = SILENT
) -> Iterator[tuple[Processes, Followers | None]]:
    """Meet the other processes of a training, or start them, for the length of a `with` block.

    Args:
        place: of this process, as its launcher said.
        devices: how many processes there are to be.
        threads: CPU threads for each that is started here.
        progress: who listens.

    Raises:
        ProcessLostError: they did not all come.
    """
    if place.size > 1 or devices == 1:
        yield meet(place), None
        return
    store = distributed.TCPStore(  # type: ignore[attr-defined]
        HOST, 0, devices, is_master=True, timeout=PATIENCE, wait_for_workers=False
    )
    place = Place(0, devices, 0, devices, HOST, store.port, "--devices")
    followers = Followers(devices, store.port, threads)
    try:
        await_all(followers, store, progress)
        with watched(followers, progress):
            yield meet(place, store), followers
    finally:
        followers.dismiss()


def await_all(followers: Followers, store: Any, progress: Progress) -> None:
    """Wait until every process that was started says that it is there.

    Raises:
        ProcessLostError: one of them ended instead.
    """
    until = time.monotonic() + PATIENCE.seconds
    missing = {here(rank) for rank in range(1, len(followers.started) + 1)}
    with progress.task("Starting processes", total=len(missing), unit="processes") as task:
        while missing:
            how = followers.lost()
            if how or time.monotonic() > until:
                raise ProcessLostError(how or "the processes that were started do not answer.")
            came = {name for name in missing if store.check([name])}
            task.advance(len(came))
            missing -= came
            time.sleep(0.02)


@contextmanager
def watched(followers: Followers, progress: Progress) -> Iterator[None]:
    """End this process soon after one of the others ends within a `with` block.

    That is for a process that waits for a GPU that waits for a dead one's: nothing else would stop
    it. Any other finds its connection closed, and has told what happened before this is due.
    """
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            if (how := followers.lost()) and not over.wait(GRACE):
                progress.warn(f"{how} This one ends too.")
                for process in followers.started:
                    process.kill()
                os._exit(1)

    watcher = threading.Thread(target=watch, name="deepgcn-followers", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


class Leader:
    """The process that started this one, as the pipe from it tells."""

    def __init__(self) -> None:
        self.farewell = b""
        self._reader = threading.Thread(target=self._read, name="deepgcn-leader", daemon=True)
        self._reader.start()

    @property
    def fell_silent(self) -> bool:
        """Whether it is gone and has said nothing, neither to this process nor to the person."""
        self._reader.join(GRACE)
        return not self._reader.is_alive() and not self.farewell

    def _read(self) -> None:
        self.farewell = os.read(sys.stdin.fileno(), 1)
        # This process ends by itself, or it waits for a GPU that waits for a dead one.
        threading.Timer(GRACE, os._exit, (1,)).start()
