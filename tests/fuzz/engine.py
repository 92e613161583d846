"""Where inputs come from: libFuzzer, through atheris, or random changes of the seeds."""

# ruff: noqa: E402
from __future__ import annotations

import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

LIBRARIES = ["pipelines", "zipfile", "numpy.lib.format", "laspy", "google_crc32c"]  # guide atheris
INTERESTING = (b"0", b"-1", b"\0", b"\xff", b"4294967296", b"9" * 40, b"nan", b"{", b"[", b'"')
EVERY = 0.2  # seconds between what is written for the parent
DAY = 86_400  # seconds of an input: `Guard` has limits of its own, of processor time


def _compiled() -> list[str]:
    """Return the modules of which Numba compiles functions: it cannot if these are instrumented."""
    root = Path(__file__).parents[2]
    files = [f for f in (root / "pipelines").rglob("*.py") if "njit" in f.read_text("utf-8")]
    names = [".".join(f.relative_to(root).with_suffix("").parts) for f in files]
    return [name.removesuffix(".__init__") for name in names]


try:
    import atheris

    with atheris.instrument_imports(include=LIBRARIES, exclude=_compiled()):
        from .parsers import LONGEST, PARSERS
except ImportError:
    atheris = None
    from .parsers import LONGEST, PARSERS
from .guard import Guard


def mutated(seeds: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Yield seeds with some changes each, without end: bits, bytes, parts moved, cut or repeated.

    >>> next(mutated([b"abc"], random.Random(4))) != b"abc"
    True
    """
    while True:
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            at = rng.randrange(len(data) + 1)
            other = rng.choice(seeds)
            start = rng.randrange(len(other) + 1)
            part = bytes(other[start : start + rng.choice((1, 4, 16, 64))])
            kind = rng.randrange(7)
            if kind == 0 and at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            elif kind == 1 and at < len(data):
                data[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            elif kind == 2:
                del data[at : at + rng.choice((1, 2, 8, 64))]
            elif kind == 3:
                data[at:at] = part
            elif kind == 4:
                data[at : at + len(part)] = part
            elif kind == 5:
                data[at : at + rng.choice((0, 1, 4))] = rng.choice(INTERESTING)
            elif kind == 6 and rng.random() < 0.2:
                del data[at:]
        yield bytes(data)


def again(name: str, file: Path) -> None:
    """Give one input once more, with what it raises."""
    parser = PARSERS[name]
    with tempfile.TemporaryDirectory() as folder:
        parser.seeds(Path(folder))
        parser.read(parser.place(Path(folder), file.read_bytes()))


def fuzz(name: str, scratch: Path, seed: int, seconds: float, most: int, finds: Path) -> None:
    """Fuzz one parser until its time or inputs are over, and end the process."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    guard = Guard(PARSERS[name], scratch / "work", finds)
    os.chdir(guard.folder)
    begun, told = time.monotonic(), 0.0

    def one(data: bytes) -> None:
        nonlocal told
        now = time.monotonic()
        over = now > begun + seconds or guard.inputs >= most
        if over or now > told + EVERY:
            told = now
            values = {"inputs": guard.inputs, "slowest": guard.slowest, "seconds": now - begun}
            (scratch / "counts").write_text(json.dumps(values))
        if over:
            sys.stderr.flush()
            os._exit(0)
        guard(data)

    if atheris is None:
        for data in mutated(guard.seeds, random.Random(seed)):
            one(data)
    corpus = scratch / "corpus"
    corpus.mkdir(exist_ok=True)
    for number, data in enumerate(guard.seeds):
        (corpus / f"seed-{number}").write_bytes(data)
    longest = max(LONGEST, *map(len, guard.seeds))
    flags = [f"-seed={seed}", f"-max_len={longest}", f"-timeout={DAY}", "-rss_limit_mb=0"]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], one)
    atheris.Fuzz()
