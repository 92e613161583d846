"""The points at which a process changes files, counted, so that it can be killed at each of them.

A point is a rename, a removal, a new folder, an fsync, or a commit of SQLite. `SOAK_POINTS` is a
file that gets a line for each; `SOAK_KILL` is "WHO NUMBER before|after SIGNAL": WHO is main, the
command's first process, or child, any that it starts. Needs the standard library alone.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

CALLS = ("replace", "rename", "unlink", "rmdir", "mkdir", "fsync", "link", "symlink")


class _Points:
    """Passes points, and sends the signal at the one that was chosen."""

    def __init__(self, who: str) -> None:
        wanted = os.environ.get("SOAK_KILL", "- 0 - 0").split()
        mine = wanted[0] == who
        self.number = int(wanted[1]) if mine else 0
        self.side, self.signal = wanted[2], int(wanted[3])
        self.who, self.passed = who, 0
        self.log = os.open(os.environ["SOAK_POINTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def around(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return `call` as a point."""

        def point(*args: Any, **options: Any) -> Any:
            self.passed += 1
            chosen = self.passed == self.number
            os.write(self.log, f"{self.who} {name}\n".encode())
            if chosen and self.side == "before":
                os.kill(os.getpid(), self.signal)
            result = call(*args, **options)
            if chosen and self.side == "after":
                os.kill(os.getpid(), self.signal)
            return result

        return point


def install(who: str) -> None:
    """Count the points of this process from now on."""
    points = _Points(who)
    for name in CALLS:
        setattr(os, name, points.around(name, getattr(os, name)))

    class Connection(sqlite3.Connection):
        """A connection whose commits are points."""

    Connection.__exit__ = points.around("commit", sqlite3.Connection.__exit__)  # type: ignore[method-assign]
    connect = sqlite3.connect

    def connected(*args: Any, **options: Any) -> sqlite3.Connection:
        return connect(*args, **{"factory": Connection, **options})

    sqlite3.connect = connected  # type: ignore[assignment]
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
