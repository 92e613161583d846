"""Run one command and let nothing of it outlive the process that started this one.

    python -I -S guard.py GRACE CORES COMMAND…

GRACE is in seconds; CORES are the CPUs to stay on, "0,1", or "-" for all. The command's output goes
to this program's standard error. When standard input closes, which it also does when the parent is
killed, the command and its children get SIGTERM, and SIGKILL after GRACE seconds. At the end one
line on standard output tells the command's return code, negative for a signal, and why it could not
be started if so.

A program of its own, without anything of this package, so that it starts in some 20 ms.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

LEFTOVERS = 5.0  # seconds for what a command that has ended leaves running
NOT_FOUND = 127  # what a shell returns for a command that cannot be started
PDEATHSIG, SUBREAPER = 1, 36  # of prctl(2)


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process on Linux; nothing where there is no prctl."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


class Guarded:
    """A command in a process group of its own.

    Attributes:
        deadline: when what is left of the group is killed; None while the command may run.
        returncode: the command's, once it has ended.
    """

    def __init__(self, command: list[str]) -> None:
        self.deadline: float | None = None
        self.returncode: int | None = None
        # The command also ends if this guard is killed; its group then has nobody to end it.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            preexec_fn=lambda: prctl(PDEATHSIG, signal.SIGTERM),
        )

    def signal(self, number: int) -> None:
        """Send a signal to the whole group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def stop(self, seconds: float) -> None:
        """Ask the group to end within `seconds`; asking again changes nothing."""
        if self.deadline is None:
            self.deadline = time.monotonic() + seconds
            self.signal(signal.SIGTERM)

    def reap(self) -> bool:
        """Collect what has ended; return whether all has."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.process.pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                self.process.returncode = self.returncode  # Popen need not wait for it
                self.stop(LEFTOVERS)

    def kill_if_late(self) -> bool:
        """Kill the group once its time is over; return whether even that was long ago."""
        late = 0.0 if self.deadline is None else time.monotonic() - self.deadline
        if late > 0:
            self.signal(signal.SIGKILL)
        return late > LEFTOVERS


def watch(guarded: Guarded, grace: float, parent: int, wakeup: int) -> None:
    """Wait until nothing of the command is left.

    Args:
        grace: seconds between SIGTERM and SIGKILL.
        parent: the descriptor that closes with the parent.
        wakeup: the descriptor that signals are written to.
    """
    sources = [parent, wakeup]
    while not guarded.reap():
        timeout = None if guarded.deadline is None else 0.05
        for ready in select.select(sources, [], [], timeout)[0]:
            came = os.read(ready, 4096)
            if ready == parent:
                sources.remove(parent)
            if ready == parent or signal.SIGTERM in came:
                guarded.stop(grace)
        if guarded.kill_if_late():
            break  # it left the group, or hangs in the kernel
    guarded.signal(signal.SIGKILL)


def listen_to_signals() -> int:
    """Return a descriptor that becomes readable when a child ends or SIGTERM comes."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    return reading


def main() -> None:
    """Run the command that the arguments name."""
    grace, cores, command = float(sys.argv[1]), sys.argv[2], sys.argv[3:]
    prctl(SUBREAPER, 1)  # children whose parents have ended come to this process
    if cores != "-" and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    wakeup = listen_to_signals()
    try:
        guarded = Guarded(command)
    except OSError as error:
        reason = f"{command[0]} cannot be started: {error.strerror}"
        sys.stderr.write(f"{reason}\n")
        sys.stdout.write(f"{NOT_FOUND} {reason}\n")
        return
    watch(guarded, grace, sys.stdin.fileno(), wakeup)
    sys.stdout.write(f"{guarded.returncode if guarded.returncode is not None else -9}\n")


if __name__ == "__main__":
    main()
