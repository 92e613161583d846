"""A short fuzz of every reader, of a fixed seed; `make fuzz` goes on for longer."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .engine import mutated
from .parsers import PARSERS

INPUTS = 40  # for each parser


@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux tells it")
def test_every_reader_reads_or_refuses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fuzz", "--random", "--inputs", str(INPUTS)]
    command += ["--minutes", "30", "--seed", "7", "--finds", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    finds = {path.name: path.read_text() for path in tmp_path.glob("*.txt")}
    assert not finds
    assert done.returncode == 0, done.stderr
    assert f"{INPUTS * len(PARSERS):,} inputs, 0 finds" in done.stdout


def test_inputs_follow_from_the_seed() -> None:
    first, again, other = (mutated([b"abc" * 9], random.Random(seed)) for seed in (1, 1, 2))
    made = [next(first) for _ in range(100)]
    assert made == [next(again) for _ in range(100)]
    assert made != [next(other) for _ in range(100)]
    assert len(set(made)) > 90


def test_what_is_found_is_kept(tmp_path: Path) -> None:
    code = (
        "import dataclasses, tests.fuzz.engine as engine\n"
        "def read(path):\n"
        "    content = path.read_bytes()\n"
        "    if b'b' not in content: raise KeyError('no b')\n"
        "    if len(content) > 40: open('/tmp/../outside', 'w')\n"
        "parser = dataclasses.replace(engine.PARSERS['tensorflow-log'], name='bad', read=read,"
        " seeds=lambda folder: [b'abc'])\n"
        "engine.PARSERS['bad'] = parser\n"
        "from pathlib import Path\n"
        f"engine.fuzz('bad', Path({str(tmp_path)!r}), 1, 60, 2000, Path({str(tmp_path)!r}) / 'f')\n"
    )
    begin = "import sys; sys.modules['atheris'] = None\n"
    subprocess.run([sys.executable, "-c", begin + code], check=True)
    kept = {path.name for path in (tmp_path / "f").iterdir() if path.suffix != ".txt"}
    assert len(kept) == 2, kept
    assert any(re.match("bad-KeyError-", name) for name in kept)
    assert any(re.match("bad-AssertionError-", name) for name in kept)
    assert not Path("/outside").exists()
