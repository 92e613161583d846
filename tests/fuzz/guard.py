"""What a reader may do with any bytes: nothing but read them, or refuse them with an error of ours.

The limits: an exception of ours only, 1 s of processor time, 64 MB and 20 times the file in memory,
no file written outside of the folder, no program started, no connection, no pickle's function.
"""

from __future__ import annotations

import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

from pipelines.errors import DeepGCNError

from .parsers import Parser

SECONDS = 1.0
HANGS = 30  # seconds of processor time, after which the process is ended
MEMORY, TIMES = 64 << 20, 20  # bytes, and how many times the file's
LONGEST_MESSAGE = 2000  # characters
_FORBIDDEN = re.compile(r"os\.(system|exec|posix_spawn|fork)|subprocess\.Popen|socket\.connect")
_SAFE_GLOBALS = re.compile(r"(torch|collections|numpy)\b")
_PAGE = resource.getpagesize()


class Guard:
    """Gives inputs to a parser, one after the other, and keeps each kind of failure once."""

    def __init__(self, parser: Parser, folder: Path, finds: Path) -> None:
        self.parser, self.finds = parser, finds
        self.folder = folder.resolve()  # nothing is written elsewhere
        self.inputs, self.slowest, self.hooked = 0, 0.0, False
        finds.mkdir(parents=True, exist_ok=True)
        (self.folder / "spool").mkdir(parents=True, exist_ok=True)
        tempfile.tempdir = str(self.folder / "spool")
        self.seeds = parser.seeds(self.folder)
        # All is imported and compiled before anything is measured. An instrumented reader is slow.
        for seed in self.seeds:
            self._read(seed)
        self._seen: set[str] = set()
        sys.addaudithook(self._audit)

    def _read(self, data: bytes) -> None:
        self.parser.read(self.parser.place(self.folder, data))

    def __call__(self, data: bytes) -> None:
        """Try one input."""
        self.inputs += 1
        self.parser.place(self.folder, data)
        begun, before = time.process_time(), resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * _PAGE + MEMORY + TIMES * len(data)
        signal.setitimer(signal.ITIMER_PROF, HANGS)
        resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
        failure: BaseException | None = None
        self.hooked = True
        try:
            self.parser.read(self.parser.path(self.folder))
        except DeepGCNError as error:
            if len(str(error)) > LONGEST_MESSAGE:
                failure = AssertionError(f"a message of {len(str(error)):,} characters")
                failure.__traceback__ = error.__traceback__
        except BaseException as error:
            failure = error
        self.hooked = False
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        seconds = time.process_time() - begun
        self.slowest = max(self.slowest, seconds)
        if failure is None and seconds > SECONDS:
            failure = AssertionError(f"{seconds:.1f} s")
        if failure is not None:
            self._keep(failure, data)

    def _keep(self, failure: BaseException, data: bytes) -> None:
        frames = traceback.extract_tb(failure.__traceback__)
        ours = [f for f in frames if "/pipelines/" in f.filename] or frames
        at = f"{Path(ours[-1].filename).stem}-{ours[-1].lineno}" if ours else "time"
        name = f"{self.parser.name}-{type(failure).__name__}-{at}"
        if name not in self._seen and not (self.finds / name).exists():
            (self.finds / name).write_bytes(data)
            text = "".join(traceback.format_exception(failure))[-6000:]
            (self.finds / f"{name}.txt").write_text(text, errors="backslashreplace")
        self._seen.add(name)

    def _audit(self, event: str, details: tuple[Any, ...]) -> None:
        """Refuse what no reader of a file has to do."""
        if not self.hooked:
            return
        if event == "open" and isinstance(details[0], (str, bytes)):
            path, flags = os.fsdecode(details[0]), details[2] or 0
            inside = os.path.realpath(path).startswith((f"{self.folder}/", "/dev/null"))
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not inside:
                raise AssertionError(f"writes {path}")
        elif event == "subprocess.Popen" and list(details[1][1:3]) == ["-I", "-S"]:
            return  # our own check of a pattern, which has a time limit there
        elif _FORBIDDEN.match(event) or (
            event == "pickle.find_class" and not _SAFE_GLOBALS.match(str(details[0]))
        ):
            raise AssertionError(f"{event} {details!r:.200}")
