"""Disturb commands in every way, run them again, and compare the result with an undisturbed one.

    python -m tests.soak --minutes 60 --seed 0 --out soak.jsonl
    python -m tests.soak --only train --fault KILL:main:17:before

A fault is one of

    SIGNAL:WHOM:WHEN       KILL, TERM, INT or STOP (and CONT, half a second later); of the main
                           process, a child of it, or the group; after seconds ("0.75") or at a
                           point ("17:before", "17:after"; see points.py)
    ERROR:CALL:NUMBER      the disk gives ENOSPC, EIO, EROFS or EDQUOT from the NUMBER-th write,
                           fsync, create or rename on, or at the NUMBER-th read (see disk.c)
    FSIZE:BYTES            no file may be larger
    TMPFS:KIB              a real disk, with so much left (needs root)
    READONLY               a real disk that is mounted to be read only (needs root)
    VANISH:SECONDS         the target folder is moved away

After it the same command has to finish, with the same result bit for bit but for recorded times,
and no process, lock or unfinished file may be left. Needs Linux.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENV = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "TZ": "UTC", "NO_PROXY": "127.0.0.1"}
KINDS = ("write", "fsync", "read", "create", "rename")
SIGNALS = ("KILL", "KILL", "KILL", "TERM", "INT", "STOP")
PROMPT = 30.0  # seconds from a signal to the end
BAD = ("Traceback", "This is a bug", "Segmentation", "core dumped", "Exception ignored")
UNFINISHED = re.compile(r"\.part|\.tmp|\.changing|^\.parts|-journal$")


@dataclass
class Whole:
    """A command that nothing has disturbed."""

    template: Path
    expected: dict[str, str]
    before: dict[str, str]
    seconds: float
    points: Counter[str]  # of "main" and "child"
    calls: list[int]  # of each of KINDS
    used: int  # bytes that it adds to the disk

    @property
    def longest(self) -> float:
        """The seconds after which a command that was disturbed hangs; neighbours come and go."""
        return max(300.0, 20 * self.seconds)


@dataclass
class Outcome:
    """What a fault did."""

    work: str
    fault: str
    code: int | None = None
    disturbed: bool = False  # the command did not end as if nothing had been
    said: str = ""
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class CannotDisturb(Exception):
    """A fault that this machine does not allow."""


class Soak:
    """Works in a folder, each with its undisturbed result."""

    def __init__(self, folder: Path, library: Any) -> None:
        from . import processes, works

        self.processes, self.works = processes, works
        for module in works.LAZY:
            importlib.import_module(module)
        self.folder, self.library = folder, library
        self.wholes: dict[str, Whole] = {}
        self.count = 0
        processes.keep_orphans()

    def start(self, name: str, arguments: tuple[str, ...], place: Path, **more: Any) -> Any:
        """Start a command of a work."""
        own = {n: v.format(place=place) for n, v in self.works.WORKS[name].env.items()}
        env = {"SOAK_POINTS": "/dev/null", **own}
        env.update(more.pop("env", {}))
        return self.processes.Command([*arguments], place, tune=self.works.tune, env=env, **more)

    def whole(self, name: str) -> Whole:
        """Return the undisturbed result of a work, which is made when it is first asked for."""
        if name in self.wholes:
            return self.wholes[name]
        work = self.works.WORKS[name]
        template, place = self.folder / f"{name}.template", self.folder / f"{name}.whole"
        template.mkdir()
        work.make(template)
        shutil.copytree(template, place)
        log = self.folder / "points"
        log.write_text("")
        calls = [0] * len(KINDS)
        env = {"SOAK_POINTS": str(log)}
        if self.library:
            env["FAIL_DISK"] = f"none 0 0 {place}"
            env["COUNT_DISK"] = str(self.folder / "calls")
        ended = self.start(name, work.arguments, place, env=env).end(self.works.UNDISTURBED)
        assert ended is not None, name
        assert ended.code == 0, (name, ended.code, ended.said)
        if self.library:
            calls = json.loads((self.folder / "calls").read_text())
        points = Counter(line.split()[0] for line in log.read_text().splitlines())
        used = sum(p.stat().st_size for p in place.rglob("*") if p.is_file())
        used -= sum(p.stat().st_size for p in template.rglob("*") if p.is_file())
        expected, before = self.works.result(place), self.works.result(template)
        shutil.rmtree(place)
        self.wholes[name] = Whole(template, expected, before, ended.seconds, points, calls, used)
        return self.wholes[name]

    def choose(self, rng: random.Random, name: str, kinds: str) -> str:
        """Return a fault for a work; `kinds` is kill, disk or all."""
        whole, work = self.whole(name), self.works.WORKS[name]
        root = os.geteuid() == 0
        if kinds == "kill" or (kinds == "all" and rng.random() < 0.7):
            number = rng.choice(SIGNALS)
            whom = "main" if work.alone else rng.choice(("main", "child", "group"))
            counted = whole.points["child" if whom == "child" else "main"]
            if counted and whom != "group" and rng.random() < 0.6:
                side = rng.choice(("before", "after"))
                return f"{number}:{whom}:{rng.randint(1, counted)}:{side}"
            return f"{number}:{whom}:{rng.uniform(0, whole.seconds):.3f}"
        kind = rng.choice(("call", "call", "FSIZE", "TMPFS", "READONLY", "VANISH"))
        if kind == "call" and self.library:
            call = rng.choice(
                [each for each, n in zip(KINDS, whole.calls, strict=True) if n] or [*KINDS]
            )
            error = "EIO" if call in ("read", "fsync") else rng.choice(("ENOSPC", "EIO", "EDQUOT"))
            return f"{error}:{call}:{rng.randint(1, max(1, whole.calls[KINDS.index(call)]))}"
        if kind == "TMPFS" and root:
            return f"TMPFS:{rng.randint(0, whole.used // 1024 + 16)}"
        if kind == "READONLY" and root:
            return "READONLY"
        if kind == "VANISH":
            return f"VANISH:{rng.uniform(0, whole.seconds):.3f}"
        return f"FSIZE:{int(10 ** rng.uniform(0, 6))}"

    def run(self, name: str, fault: str) -> Outcome:
        """Disturb a work once, run it again, and compare."""
        began, outcome = time.monotonic(), Outcome(name, fault)
        whole, work = self.whole(name), self.works.WORKS[name]
        self.count += 1
        place = self.folder / f"{name}.{self.count}"
        place.mkdir()
        mounted = fault.startswith(("TMPFS", "READONLY"))
        try:
            if mounted:
                mount(place, "size=200m")
            shutil.copytree(whole.template, place, dirs_exist_ok=True)
            if mounted:
                used = os.statvfs(place)
                taken = (used.f_blocks - used.f_bfree) * used.f_frsize // 1024
                size = max(4, taken + int(fault.partition(":")[2] or 0))  # of 0, there is no limit
                mount(place, f"remount,size={size}k" if "TMPFS" in fault else "remount,ro")
            ended = self.disturb(name, fault, place, outcome)
            if mounted:
                mount(place, "remount,rw,size=200m")
            if ended is not None:
                self.check(work, whole, place, outcome)
        finally:
            self.processes.left_behind(0)
            if mounted:
                subprocess.run(["umount", "-l", str(place)], check=False)
            if not outcome.problems:
                shutil.rmtree(place, ignore_errors=True)
        outcome.seconds = time.monotonic() - began
        return outcome

    def disturb(self, name: str, fault: str, place: Path, outcome: Outcome) -> Any:
        """Run the command with its fault; note what is wrong with how it ended."""
        work = self.works.WORKS[name]
        kind, *rest = fault.split(":")
        env, largest = {}, None
        if kind in ("KILL", "TERM", "INT", "STOP") and len(rest) == 3:
            env["SOAK_KILL"] = f"{rest[0]} {rest[1]} {rest[2]} {int(signal.Signals[f'SIG{kind}'])}"
        elif kind == "FSIZE":
            largest = int(rest[0])
        elif kind.startswith("E"):
            env["FAIL_DISK"] = f"{rest[0]} {rest[1]} {getattr(errno, kind)} {place}"
        command = self.start(name, work.arguments, place, env=env, largest=largest)
        sent = self.send(command, kind, rest, place / work.target)
        longest = self.whole(name).longest
        ended = command.end(longest)
        gone = place.with_name(f"{place.name}.gone")
        if ended is None:
            outcome.problems.append(f"hangs: no end within {longest:.0f} s of {fault}")
            return None
        if left := self.processes.left_behind(work.grace):
            outcome.problems.append(f"processes are left: {left}")
            command.kill_all()
        if gone.exists():  # the folder comes back, in place of what was written meanwhile
            if ended.code:
                shutil.rmtree(place / work.target, ignore_errors=True)
            if not (place / work.target).exists():
                gone.rename(place / work.target)
            shutil.rmtree(gone, ignore_errors=True)
        outcome.code, outcome.said = ended.code, ended.said[-1500:]
        if not ended.begun:  # it was the harness's own process still; nothing may have changed
            if self.works.result(place) != self.whole(name).before:
                outcome.problems.append("something was written before the command began")
            return ended
        outcome.disturbed = ended.code != 0 or kind == "STOP"
        killed = kind == "KILL" and "child" not in rest
        usual = {0, 130} if kind in ("TERM", "INT") else {0} if kind == "STOP" else {0, 1}
        usual |= {1} if "child" in rest else set()
        if kind in ("TERM", "INT") and not ended.said:  # before the command's first line
            usual.add(-getattr(signal, f"SIG{kind}"))
        if not killed and ended.code not in usual:
            outcome.problems.append(f"exit code {ended.code}, expected {sorted(usual)}")
        if not killed and any(word in ended.said for word in BAD):
            outcome.problems.append("a traceback or a report of a bug")
        if not killed and kind not in ("TERM", "INT", "STOP") and ended.code == 1:
            message = ended.said.rpartition("Error:")[2]
            if not message or not re.search(r"[\w.-]*(/|\.\w|run|raw|data|kept|out)", message):
                outcome.problems.append("the error names no path")
        if (
            sent is not None
            and kind in ("TERM", "INT")
            and time.monotonic() - sent > PROMPT + work.grace
        ):
            outcome.problems.append(f"{time.monotonic() - sent:.0f} s from the signal to the end")
        return ended

    def send(self, command: Any, kind: str, rest: list[str], target: Path) -> float | None:
        """Send a timed signal and return when; let a folder vanish; continue what was stopped."""
        timed = (kind in ("KILL", "TERM", "INT", "STOP") and len(rest) == 2) or kind == "VANISH"
        if timed:
            wait = command.began + float(rest[-1])
            while time.monotonic() < wait and command.running():
                time.sleep(0.002)
        if not command.running():
            return None
        if kind == "VANISH":
            with suppress(OSError):
                place = target.parent
                target.rename(place.with_name(f"{place.name}.gone"))
            return None
        if not timed:
            while kind == "STOP" and command.running():
                self.proceed(command)
            return None
        number = signal.Signals[f"SIG{kind}"]
        with suppress(ProcessLookupError):
            if rest[0] == "group":
                os.killpg(command.pid, number)
            elif rest[0] == "child":
                below = self.processes.descendants(command.pid)
                if below:
                    os.kill(random.Random(str(rest)).choice(sorted(below)), number)
            else:
                os.kill(command.pid, number)
        sent = time.monotonic()
        if kind == "STOP":
            self.proceed(command)
        return sent

    def proceed(self, command: Any) -> None:
        """Let what was stopped go on after half a second."""
        time.sleep(0.5)
        for pid in (command.pid, *self.processes.descendants(command.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def check(self, work: Any, whole: Whole, place: Path, outcome: Outcome) -> None:
        """Note what the fault has lost, run the command again, and compare its result."""
        now = self.works.result(place) if not outcome.code else {}
        inputs = {n for n, v in whole.before.items() if whole.expected.get(n) == v}
        try:
            kept = self.works.result(place)
            lost = [n for n in inputs if n in whole.before and kept.get(n) != whole.before[n]]
            if lost and "VANISH" not in outcome.fault and "runs rm" not in " ".join(work.arguments):
                outcome.problems.append(f"lost before it ran again: {lost[:5]}")
        except (ValueError, OSError, RuntimeError) as error:
            outcome.problems.append(f"unreadable before it ran again: {error!r:.200}")
        if outcome.code or now != whole.expected:
            self.finish(work, place, outcome)
        found = self.works.result(place)
        if found != whole.expected:
            names = sorted({*found, *whole.expected})
            wrong = [name for name in names if found.get(name) != whole.expected.get(name)]
            wrong = [f"{name}{'' if name in found else ' (missing)'}" for name in wrong]
            outcome.problems.append(f"another result: {wrong[:6]}")
        left = [p for p in place.rglob("*") if UNFINISHED.search(p.name)]
        if left:
            outcome.problems.append(f"left over: {[str(p.relative_to(place)) for p in left[:5]]}")

    def finish(self, work: Any, place: Path, outcome: Outcome) -> None:
        """Run the command again, or the one that continues it."""
        name = outcome.work
        began = work.again and (place / "runs/run/config.json").is_file()
        command = self.start(name, work.again if began else work.arguments, place)
        ended = command.end(self.whole(name).longest)
        if ended is None or self.processes.left_behind(work.grace):
            outcome.problems.append("the second command hangs or leaves processes")
        elif ended.code and not (
            work.once and self.works.result(place) == self.whole(name).expected
        ):
            outcome.problems.append(f"the second command fails: {ended.said[-600:]}")
        elif any(word in ended.said for word in BAD):
            outcome.problems.append(f"the second command: {ended.said[-600:]}")


def mount(place: Path, options: str) -> None:
    """Mount a disk in memory; CannotDisturb: this machine does not allow it."""
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotDisturb(f"{' '.join(command)}: {done.stderr.strip()}")


def _preloaded(arguments: list[str]) -> Any:
    """Return the library of disk.c, with which this process starts anew; None: no compiler."""
    if path := os.environ.get("SOAK_DISK"):
        return ctypes.CDLL(path)
    compiler = shutil.which("cc")
    if compiler and "SOAK_PLAIN" not in os.environ:
        path = str(Path(tempfile.mkdtemp(prefix="soak-disk-")) / "disk.so")
        source = str(HERE / "disk.c")
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", path, source, "-ldl"], check=True
        )
        env = {**os.environ, **ENV, "LD_PRELOAD": path, "SOAK_DISK": path}
        os.execve(sys.executable, [sys.executable, "-m", "tests.soak", *arguments], env)
    os.environ.update(ENV)
    return None


def options(arguments: list[str]) -> argparse.Namespace:
    """Return the options of the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="at most")
    parser.add_argument(
        "--until",
        type=int,
        nargs=2,
        metavar=("SIGNALS", "FAULTS"),
        default=(1 << 40, 1 << 40),
        help="end when so many signals and disk faults have met a running command",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="a work, repeatable")
    parser.add_argument("--fault", help="this one, once")
    parser.add_argument("--kinds", choices=("kill", "disk", "all"), default="all")
    parser.add_argument("--list", type=Path, help="a file of works and faults, one a line")
    parser.add_argument("--out", type=Path, default=Path("soak.jsonl"))
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> int:
    """Run the harness and return 1 if something was lost."""
    chosen = options(arguments)
    library = _preloaded(arguments)
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="soak-", ignore_cleanup_errors=True) as folder:
        soak = Soak(Path(folder).resolve(), library)
        return cases(soak, chosen)


def _chosen(
    soak: Any, options: argparse.Namespace, done: Counter[str]
) -> Iterator[tuple[str, str]]:
    """Yield works and faults: those that are listed, else random ones until enough are done."""
    if options.list:
        for line in options.list.read_text().splitlines():
            name, _, fault = line.partition(" ")
            yield name, fault
        return
    rng, end = random.Random(options.seed), time.monotonic() + 60 * options.minutes
    names = options.only or [
        name for name, work in soak.works.WORKS.items() for _ in range(work.weight)
    ]
    if options.fault:
        yield names[0], options.fault
        return
    while time.monotonic() < end:
        lack = [
            kind for kind, n in zip(("kill", "disk"), options.until, strict=True) if n > done[kind]
        ]
        if not lack:
            return
        name = rng.choice(names)
        yield name, soak.choose(rng, name, options.kinds if len(lack) > 1 else lack[0])


def cases(soak: Any, options: argparse.Namespace) -> int:
    """Try all cases, tell of each that failed, and return 1 if one did."""
    done, failed = Counter[str](), 0
    with options.out.open("a", encoding="utf-8") as log:
        for name, fault in _chosen(soak, options, done):
            try:
                outcome = soak.run(name, fault)
            except CannotDisturb as reason:
                done["not tried"] += 1
                print(f"not tried: {name} {fault}: {reason}", flush=True)
                continue
            log.write(json.dumps(vars(outcome)) + "\n")
            log.flush()
            kind = "kill" if fault.partition(":")[0] in SIGNALS else "disk"
            done[kind if outcome.disturbed else f"{kind}, too late or early"] += 1
            if outcome.problems:
                failed += 1
                print(f"FAILED python -m tests.soak --only {name} --fault {fault}", flush=True)
                print(*(f"    {each}" for each in outcome.problems), sep="\n", flush=True)
                print("    | " + outcome.said.strip()[-700:].replace("\n", "\n    | "), flush=True)
    print(f"seed {options.seed}: {dict(done)}, {failed} failed; all in {options.out}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
