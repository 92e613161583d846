"""What a user sees while a stage works: bars on a terminal, lines in a log, or nothing.

All of it goes to stderr; stdout is for results. `rich` is imported when it is first needed, so that
commands that are done at once stay fast.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipelines.progress import Progress, Task

from .streams import harmless, one_line, show

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

WINDOW = 30.0  # seconds over which the speed is measured
INTERVAL = 10.0  # seconds between two lines of a task in a log


def open_progress(*, quiet: bool = False) -> Progress:
    """Return the progress display that suits stderr; a quiet one shows warnings alone."""
    terminal = sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown")
    return Bars() if terminal and not quiet else Lines(quiet=quiet)


class Meter(Task):
    """How far a task is, how fast it goes and when it will be done; `show` is called each step."""

    def __init__(
        self,
        total: float | None,
        unit: str,
        show: Callable[[Meter], object] = lambda _meter: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.unit, self.show, self.clock = total, unit, show, clock
        self.done = 0.0
        self.fields: dict[str, float | str] = {}
        self.started = clock()
        self.samples: deque[tuple[float, float]] = deque()

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` more units as done; the speed is measured anew after a negative amount."""
        self.done += amount
        if amount < 0:
            self.samples.clear()
        self.fields.update(fields)
        now = self.clock()
        self.samples.append((now, self.done))
        while now - self.samples[0][0] > WINDOW and len(self.samples) > 2:
            self.samples.popleft()
        self.show(self)

    @property
    def speed(self) -> float:
        """Recent units per second; 0 while unknown.

        The first step is left out: it warms up, and in a resumed task it counts everything that
        was done before.
        """
        if len(self.samples) < 2:
            return 0.0
        (first, before), (last, now) = self.samples[0], self.samples[-1]
        return (now - before) / (last - first) if last > first else 0.0

    def describe(self) -> str:
        """Return "120/400 blocks, 4.1 blocks/s, 1:08 left, loss 1.234"."""
        parts, speed = [f"{self.amount} {self.unit}".strip()], self.speed
        if speed and "left" not in self.fields:  # else the stage knows better
            if not any(name.endswith("/s") for name in self.fields):
                parts.append(f"{speed:,.{1 if speed < 100 else 0}f} {self.unit}/s")
            if self.total is not None and self.done < self.total:
                parts.append(f"{clock_time((self.total - self.done) / speed)} left")
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self.fields.items())])

    @property
    def amount(self) -> str:
        """The units that are done, and the total: "120/400"."""
        whole = math.floor(self.done + 1e-6)
        return f"{whole:,}" + ("" if self.total is None else f"/{self.total:,.0f}")


class Lines(Progress):
    """Show, for a log, a line when a task begins, now and then, and when it ends.

    A quiet one shows warnings alone.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a task of `total` units."""
        name = one_line(name)
        shown = time.monotonic()

        def show(meter: Meter) -> None:
            nonlocal shown
            if meter.clock() - shown >= INTERVAL:
                shown = meter.clock()
                self.say(f"{name}: {meter.describe()}")

        self.say(f"{name} …")
        meter = Meter(total, unit, show)
        yield meter
        done = f"{meter.amount} {unit} in ".replace("  ", " ") if meter.done else ""
        self.say(f"{name}: {done}{meter.clock() - meter.started:.1f} s")

    def say(self, message: str) -> None:
        """Print a message on stderr at once."""
        if not self.quiet:
            show(message, error=True)

    def warn(self, message: str) -> None:
        """Print a warning."""
        show(f"Warning: {message}", error=True)


class Bars(Progress):
    """Show a bar for each open task on a terminal, and messages above the bars."""

    @cached_property
    def bars(self) -> RichProgress:
        """The bars of the open tasks, on the terminal that is their `console`."""
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn
        from rich.progress import Progress as RichProgress

        console = Console(stderr=True, highlight=False)
        name = TextColumn("{task.description}", markup=False)
        figures = TextColumn("{task.fields[figures]}", style="none", markup=False)
        columns = (SpinnerColumn(), name, BarColumn(24), figures)
        return RichProgress(*columns, console=console, transient=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return Bars, ()  # a worker process has its own terminal and bars

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Show a bar of `total` units for the length of a `with` block."""
        if not self.bars.tasks:
            self.bars.start()
        bar = self.bars.add_task(one_line(name), total=total, figures="")

        def show(meter: Meter) -> None:
            self.bars.update(bar, completed=meter.done, figures=one_line(meter.describe()))

        meter = Meter(total, unit, show)
        show(meter)
        try:
            yield meter
        finally:
            self.bars.remove_task(bar)
            if not self.bars.tasks:
                self.bars.stop()

    def say(self, message: str) -> None:
        """Print a message above the bars."""
        self.bars.console.print(harmless(message), markup=False, emoji=False, soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning above the bars."""
        from rich.text import Text

        text = Text.assemble(("Warning: ", "yellow"), harmless(message))
        self.bars.console.print(text, soft_wrap=True)


def clock_time(seconds: float) -> str:
    """Return "1:08" or "2:03:04"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
