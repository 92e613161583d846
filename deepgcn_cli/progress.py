"""What a person sees while a stage works: bars on a terminal, lines in a log, or nothing.

All of it goes to stderr; stdout is for results.
"""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, ProgressColumn, SpinnerColumn, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from pipelines.progress import Progress, Task

WINDOW = 30.0  # seconds over which the speed is measured
INTERVAL = 10.0  # seconds between two lines of a task in a log


def open_progress(*, quiet: bool) -> Progress:
    """Return the listener that suits stderr."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        return Warnings()
    if console.is_terminal and not console.is_dumb_terminal:
        return Bars(console)
    return Lines()


class Meter:
    """How far a task is, how fast it goes and when it will be done."""

    def __init__(
        self, total: float | None, unit: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.total, self.unit, self.clock = total, unit, clock
        self.done = 0.0
        self.fields: dict[str, float | str] = {}
        self.started = clock()
        self.samples: deque[tuple[float, float]] = deque()

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` more units as done."""
        self.done += amount
        self.fields.update(fields)
        now = self.clock()
        self.samples.append((now, self.done))
        while now - self.samples[0][0] > WINDOW and len(self.samples) > 2:
            self.samples.popleft()

    @property
    def speed(self) -> float:
        """Units a second of late; 0 while unknown.

        It is measured from the end of the first step, which warms up, and in a resumed task
        stands for everything that was done before.
        """
        if len(self.samples) < 2:
            return 0.0
        (first, before), (last, now) = self.samples[0], self.samples[-1]
        return (now - before) / (last - first) if last > first else 0.0

    def describe(self) -> str:
        """Return "120/400 blocks, 4.1 blocks/s, 1:08 left, loss 1.234"."""
        parts = [f"{self.amount} {self.unit}".strip()]
        own = "left" in self.fields  # the stage knows better
        if self.speed and not own and not any(name.endswith("/s") for name in self.fields):
            parts.append(f"{self.speed:,.{1 if self.speed < 100 else 0}f} {self.unit}/s")
        if self.speed and not own and self.total is not None and self.done < self.total:
            parts.append(f"{clock_time((self.total - self.done) / self.speed)} left")
        return ", ".join([*parts, *(f"{name} {value}" for name, value in self.fields.items())])

    @property
    def amount(self) -> str:
        """What is done, of what."""
        whole = math.floor(self.done + 1e-6)
        return f"{whole:,}" + ("" if self.total is None else f"/{self.total:,.0f}")


class Warnings(Progress):
    """The listener that passes on warnings alone."""

    def warn(self, message: str) -> None:
        """Print a warning."""
        print_line(f"Warning: {message}")


class Lines(Progress):
    """The listener for a log: a line when a task begins, now and then, and when it ends."""

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Open a task of `total` units."""
        meter = LineMeter(name, Meter(total, unit))
        print_line(f"{name} …")
        yield meter
        meter.finish()

    def say(self, message: str) -> None:
        """Print a fact."""
        print_line(message)

    def warn(self, message: str) -> None:
        """Print a warning."""
        print_line(f"Warning: {message}")


class LineMeter(Task):
    """A task that prints a line every INTERVAL seconds at most."""

    def __init__(self, name: str, meter: Meter) -> None:
        self.name, self.meter = name, meter
        self.printed = meter.started

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` more units as done."""
        self.meter.advance(amount, **fields)
        now = self.meter.clock()
        if now - self.printed >= INTERVAL:
            self.printed = now
            print_line(f"{self.name}: {self.meter.describe()}")

    def finish(self) -> None:
        """Print how much was done in how long."""
        seconds = self.meter.clock() - self.meter.started
        amount = f"{self.meter.amount} {self.meter.unit} in ".replace("  ", " ")
        print_line(f"{self.name}: {amount if self.meter.done else ''}{seconds:.1f} s")


class Bars(Progress):
    """The listener for a terminal: a bar for each open task, facts above the bars."""

    def __init__(self, console: Console) -> None:
        self.console = console
        columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(24), MeterColumn())
        self.bars = RichProgress(*columns, console=console, transient=True)

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:
        """Show a bar of `total` units for the length of a `with` block."""
        if not self.bars.tasks:
            self.bars.start()
        meter = Meter(total, unit)
        bar = self.bars.add_task(name, total=total, meter=meter)
        try:
            yield BarMeter(self.bars, bar, meter)
        finally:
            self.bars.remove_task(bar)
            if not self.bars.tasks:
                self.bars.stop()

    def say(self, message: str) -> None:
        """Print a fact above the bars."""
        self.console.print(Text(message), soft_wrap=True)

    def warn(self, message: str) -> None:
        """Print a warning above the bars."""
        self.console.print(Text("Warning: ", style="yellow") + Text(message), soft_wrap=True)


class BarMeter(Task):
    """A task that moves a bar."""

    def __init__(self, bars: RichProgress, bar: TaskID, meter: Meter) -> None:
        self.bars, self.bar, self.meter = bars, bar, meter

    def advance(self, amount: float = 1, **fields: float | str) -> None:
        """Count `amount` more units as done."""
        self.meter.advance(amount, **fields)
        self.bars.update(self.bar, completed=self.meter.done)


class MeterColumn(ProgressColumn):
    """The figures beside a bar."""

    def render(self, task: RichTask) -> Text:
        """Return the figures of a task."""
        return Text(task.fields["meter"].describe())


def clock_time(seconds: float) -> str:
    """Return "1:08" or "2:03:04"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def print_line(message: str) -> None:
    """Print a line on stderr at once."""
    print(message, file=sys.stderr, flush=True)  # noqa: T201
