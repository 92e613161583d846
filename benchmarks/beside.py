"""Commands beside a busy process: how much longer they take (several minutes).

    python -m benchmarks.beside --rooms FOLDER [--only train] [--only predict] …

FOLDER gets a synthetic building first. The other process does nothing but count, at a nice value,
always or half of the time, in a session of its own or this one: Linux shares the CPU between
sessions first (sched_autogroup), so a nice value counts within its session only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from pipelines.runtime.process import python_command

BUSY = """import ctypes, os, sys, time
ctypes.CDLL(None).prctl(1, 9)  # killed with the process that started it
os.nice(int(sys.argv[1]))
while True:
    end = time.perf_counter() + 0.05
    while time.perf_counter() < end: pass
    time.sleep(float(sys.argv[2]))"""
BESIDE: dict[str, tuple[bool, str, str] | None] = {  # own session, nice value, seconds of sleep
    "nothing": None,
    "half a core, nice 0": (True, "0", "0.05"),
    "nice 0": (True, "0", "0"),
    "nice 19": (True, "19", "0"),
    "nice 0, in this session": (False, "0", "0"),
    "nice 19, in this session": (False, "19", "0"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rooms", type=Path, required=True)
    parser.add_argument("--only", action="append")
    arguments = parser.parse_args()
    commands = commands_on(arguments.rooms)
    for name in arguments.only or commands:
        for other in BESIDE:
            print(f"{name}, beside {other}: {seconds(commands[name], other):.1f} s", flush=True)


def commands_on(rooms: Path) -> dict[str, str]:
    """Return what is timed, and make what it reads."""
    raw, data = rooms / "raw", rooms / "data"
    if not data.exists():
        run(f"synth {raw} --areas 6 --rooms 6 --density 6000")
        run(f"prepare {raw} --data {data}")
    scan = raw / "Area_1" / "office_1" / "office_1.txt"
    network = "--depth 14 --width 32 -k 8 --num-points 1024 --batch-size 8"
    length = "--max-steps 24 --val-blocks 1"
    return {
        "train": f"train --data {data} --area 6 --runs OUT {network} {length}",
        "predict": f"predict {scan} --weights indoor --out OUT/labelled.ply",
        "prepare": f"prepare {raw} --data OUT/data",
    }


def seconds(command: str, other: str) -> float:
    """Time a command beside another process."""
    with tempfile.TemporaryDirectory() as out, ExitStack() as stack:
        if (found := BESIDE[other]) is not None:
            own, *how = found
            busy = [sys.executable, "-c", BUSY, *how]
            stack.callback(stack.enter_context(subprocess.Popen(busy, start_new_session=own)).kill)
            time.sleep(0.5)
        begun = time.perf_counter()
        run(command.replace("OUT", out))
        return time.perf_counter() - begun


def run(command: str) -> None:
    """Run a command of ours to its end."""
    subprocess.run(python_command("deepgcn_cli", *command.split()), check=True, capture_output=True)


if __name__ == "__main__":
    main()
