"""Fuzz the readers of outside data: `python -m tests.fuzz --parser all --minutes 60 --seed 1`.

Each parser has a process, which is made again if an input ends it. With atheris (`pip install
atheris`) inputs are chosen by the code that they reach; without it they are random changes of small
valid files. Each kind of failure is written once to `--finds`: the input, and the traceback beside
it. `--again FILE --parser NAME` gives that input once more.
"""

# ruff: noqa: E402, T201
from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

for name in ("MALLOC_ARENA_MAX", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    if os.environ.get(name) != "1":  # read when a process begins: memory is counted by addresses
        os.environ[name] = "1"
        os.execv(sys.executable, [sys.executable, "-m", "tests.fuzz", *sys.argv[1:]])

if "--random" in sys.argv:
    sys.modules["atheris"] = None  # type: ignore[assignment]

from . import engine  # imports all readers, instrumented if atheris is there

MOST_ENDS = 20  # processes that inputs may end, for each parser


def main() -> int:
    """Run the command."""
    parse = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parse.add_argument("--parser", default="all", help="names, with commas; all")
    parse.add_argument("--minutes", type=float, default=1.0, help="for all parsers together")
    parse.add_argument("--inputs", type=int, default=1 << 40, help="at most, for each parser")
    parse.add_argument("--seed", type=int, default=1)
    parse.add_argument("--finds", type=Path, default=Path("fuzz-finds"))
    parse.add_argument("--random", action="store_true", help="without atheris")
    parse.add_argument("--again", type=Path, help="a single input")
    options = parse.parse_args()
    options.finds = options.finds.resolve()
    if options.again:
        engine.again(options.parser, options.again)
        return 0
    names = list(engine.PARSERS) if options.parser == "all" else options.parser.split(",")
    print(f"{'guided' if engine.atheris else 'random'} inputs, seed {options.seed}")
    print("parser              inputs  seconds  slowest  finds", flush=True)
    totals = [_fuzz(name, options, 60 * options.minutes / len(names)) for name in names]
    print(f"{sum(inputs for inputs, _ in totals):,} inputs, {sum(f for _, f in totals)} finds")
    return int(any(finds for _, finds in totals))


def _fuzz(name: str, options: argparse.Namespace, seconds: float) -> tuple[int, int]:
    """Fuzz one parser in processes; return how many inputs it got, and the finds."""
    inputs = ends = 0
    slowest, left = 0.0, seconds
    before = set(options.finds.glob(f"{name}-*"))
    place = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="deepgcn-fuzz-", dir=place) as text:
        scratch = Path(text)
        while left > 0 and inputs < options.inputs and ends < MOST_ENDS:
            most = options.inputs - inputs
            code = _in_child(name, scratch, options.seed + ends, left, most, options.finds)
            said = (scratch / "log").read_text(errors="replace")[-6000:]
            if not (scratch / "counts").exists():
                raise RuntimeError(f"{name}: cannot begin:\n{said}")
            found = json.loads((scratch / "counts").read_text())
            inputs, slowest = inputs + found["inputs"], max(slowest, found["slowest"])
            left -= found["seconds"]
            if code:
                ends += 1
                kept = options.finds / f"{name}-ended-{code}-{ends}"
                shutil.copy(engine.PARSERS[name].path(scratch / "work"), kept)
                kept.with_name(f"{kept.name}.txt").write_text(said)
            (scratch / "counts").unlink()
            shutil.rmtree(scratch / "work", ignore_errors=True)
    finds = sum(path.suffix != ".txt" for path in {*options.finds.glob(f"{name}-*")} - before)
    print(f"{name:17} {inputs:>8,} {seconds - left:>8.0f} {slowest:>8.2f} {finds:>6}", flush=True)
    return inputs, finds


def _in_child(name: str, scratch: Path, seed: int, seconds: float, most: int, finds: Path) -> int:
    """Fuzz in a process of its own; return its exit code."""
    child = os.fork()
    if not child:
        log = os.open(scratch / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            engine.fuzz(name, scratch, seed, seconds, most, finds)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(70)
    begun = time.monotonic()
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() > begun + seconds + 120:
            os.kill(child, 9)
        time.sleep(0.05)
    return os.waitstatus_to_exitcode(done[1])


if __name__ == "__main__":
    sys.exit(main())
