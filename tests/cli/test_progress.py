"""Progress as text: speed, time left, and what goes where."""

from __future__ import annotations

import io

import pytest

from deepgcn_cli.progress import Bars, Lines, Meter, clock_time, open_progress


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_meter_tells_speed_and_time_left() -> None:
    clock = Clock()
    meter = Meter(100, "rooms", clock=clock)
    meter.advance(10)  # warms up, and in a resumed task stands for what was done before
    assert meter.describe() == "10/100 rooms"
    clock.now = 2.0
    meter.advance(10, loss="1.5")
    assert meter.describe() == "20/100 rooms, 5.0 rooms/s, 0:16 left, loss 1.5"
    clock.now = 100.0
    meter.advance(80)
    assert meter.describe().startswith("100/100 rooms, 0.8 rooms/s")
    assert "left" not in meter.describe()


def test_what_is_taken_back_has_no_speed() -> None:
    clock = Clock()
    meter = Meter(100, "bytes", clock=clock)
    for clock.now, amount in ((0.0, 50), (1.0, 50), (2.0, -100)):
        meter.advance(amount)
    assert meter.describe() == "0/100 bytes"
    clock.now = 4.0
    meter.advance(10)
    assert meter.describe() == "10/100 bytes, 5.0 bytes/s, 0:18 left"


def test_clock_time() -> None:
    assert [clock_time(s) for s in (0, 68, 3723.4)] == ["0:00", "1:08", "1:02:03"]


def test_lines_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Lines()
    with progress.task("Reading", total=2, unit="rooms") as task:
        task.advance()
        task.advance()
    progress.say("done")
    progress.warn("careful")
    shown = capsys.readouterr()
    assert shown.out == ""
    lines = shown.err.splitlines()
    assert lines[0] == "Reading …"
    assert lines[1].startswith("Reading: 2/2 rooms in ")
    assert lines[2:] == ["done", "Warning: careful"]


def test_quiet_keeps_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Lines(quiet=True)
    with progress.task("Reading") as task:
        task.advance()
    progress.say("nothing")
    progress.warn("careful")
    assert capsys.readouterr().err == "Warning: careful\n"


def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn over each other by control codes; in the end only messages stay."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    assert isinstance(open_progress(quiet=True), Lines)
    progress = open_progress()
    assert isinstance(progress, Bars)
    with progress.task("Reading [all]", total=2, unit="rooms") as task:
        task.advance(loss="[0.5]")
        progress.bars.refresh()
        progress.say("a [message]")
        task.advance()
    shown = terminal.getvalue()
    assert "a [message]" in shown
    assert "Reading [all]" in shown
    assert "1/2 rooms, loss [0.5]" in shown
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_progress(), Lines)
