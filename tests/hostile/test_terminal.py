"""Names and texts that would steer a terminal are printed as codes, wherever they come from."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import deepgcn_cli
from deepgcn_cli.__main__ import run
from deepgcn_cli.commands import runs as runs_commands
from deepgcn_cli.display import Table, plain_table, print_json, print_part
from deepgcn_cli.progress import Bars, Lines
from deepgcn_cli.streams import harmless, one_line
from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import DatasetError
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import Run, create_run
from pipelines.scans.ply import write_points
from pipelines.weights.safetensors import save_weights

# Clears the screen, sets the title, rings, moves to the line's start, reverses what follows.
EVIL = "a\x1b[2J\x1b]0;t\x07b\r\x9b1mc\u202ed\u2066"
RAW = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
CODES = re.compile(r"\\(u00|x)1b\[2J")  # ours, or Python's in a quoted text


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return all that a command prints, which holds the escape only as its code."""
    run(arguments)
    shown = "".join(capsys.readouterr())
    assert not RAW.findall(shown)
    assert "Traceback" not in shown
    return shown


def test_signs_and_their_codes() -> None:
    assert harmless(EVIL) == (r"a\u001b[2J\u001b]0;t\u0007b\u000d\u009b1mc\u202ed\u2066")
    assert harmless("two\nlines\tof größe 墙 🪑 می‌خواهم") == "two\nlines\tof größe 墙 🪑 می‌خواهم"
    assert one_line("two\nlines\t") == r"two\nlines\t"


def test_tables_keep_their_lines(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table((EVIL, "n"), [("x\nfaked  1", "2"), (EVIL, "3")])
    assert len(plain_table(table).splitlines()) == 3
    assert not RAW.findall(plain_table(table))
    print_part(table)
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_drawn_tables(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_part(Table((EVIL,), [(f"{EVIL}\nx",)]))
    out = capsys.readouterr().out
    assert "───" in out
    assert CODES.search(out)
    assert not RAW.findall(re.sub(r"\x1b\[[0-9;]*m", "", out))  # styles of the table


def test_json_says_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({EVIL: EVIL})
    out = capsys.readouterr().out
    assert not RAW.findall(out)
    assert json.loads(out) == {EVIL: EVIL}


@pytest.mark.parametrize("progress", [Lines(), Bars()], ids=["lines", "bars"])
def test_progress(progress: Lines, capsys: pytest.CaptureFixture[str]) -> None:
    progress.say(EVIL)
    progress.warn(EVIL)
    with progress.task(f"{EVIL}\nx", unit="points") as task:
        task.advance(1, loss=EVIL)
    shown = capsys.readouterr().err
    assert shown.count(r"\u202ed") >= 2
    assert not RAW.findall(shown)


def test_weights(capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(depth=2, width=4, k=2, fusion_channels=4, num_classes=2)
    word = EVIL.replace("\r", "").replace("\x9b", "")
    named = {"classes": f"{word}1 {word}2", "trained_on": EVIL, EVIL: EVIL, "num_points": "8"}
    save_weights(Path("w.safetensors"), DeepGCN(config), metadata=named)
    assert CODES.search(said(["weights", "inspect", "w.safetensors"], capsys))
    pos = np.random.default_rng(0).random((50, 3))
    write_points(Path("s.ply"), pos, np.full((50, 3), 9, np.uint8))
    predict = ["predict", "s.ply", "--weights", "w.safetensors", "--device", "cpu"]
    assert CODES.search(said(predict, capsys))
    exported = ["weights", "export", "w.safetensors", "--out", "w.pth", "--names", "own"]
    said(exported, capsys)
    assert CODES.search(said(["weights", "inspect", "w.pth"], capsys))


def test_tensors_of_foreign_weights(capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"state_dict": {EVIL: torch.zeros(2)}, "note": EVIL}, "w.pth")
    assert CODES.search(said(["weights", "inspect", "w.pth"], capsys))
    assert CODES.search(said(["weights", "import", "w.pth", "--out", "o.safetensors"], capsys))


PLY = "ply\nformat ascii 1.0\nelement vertex 1\nproperty float {0}\nend_header\n1\n"
PCD = "FIELDS x y z\nSIZE 4 4 4\nTYPE F F {0}\nCOUNT 1 1 1\nWIDTH 1\nPOINTS 1\nDATA ascii\n1 2 3\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s.ply", PLY),
        ("s.ply", "ply\nformat ascii 1.0\n{0}\nend_header\n"),
        ("s.pcd", PCD),
        ("s.pcd", PCD.replace("TYPE", "VERSION {0}\nTYPE")),
        ("s.xyz", "{0} {0} {0}\n1 2 3\n"),
        ("s.csv", "{0},a,b\n1,2,3\n"),
        ("s.ptx", "{0}\n1\n"),
        ("s.las", "{0}"),
        ("s.e57", "{0}"),
        ("s.npy", "{0}"),
        (f"{EVIL}.ply", "ply\n"),
        (f"{EVIL}.xyz", "1 2 3 4 5 6\n" * 9),
        (f"s.{EVIL}", ""),
    ],
)
def test_scans(name: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(depth=2, width=4, k=2, fusion_channels=4)
    save_weights(Path("w.safetensors"), DeepGCN(config), metadata={"num_points": "8"})
    hostile = EVIL.replace("\r", "") if "header" in text or "DATA" in text else EVIL
    Path(name).write_text(text.replace("{0}", hostile.replace(" ", "")), encoding="utf-8")
    said(["predict", name, "--weights", "w.safetensors", "--device", "cpu"], capsys)


def test_names_in_arrays(capsys: pytest.CaptureFixture[str]) -> None:
    config = ModelConfig(depth=2, width=4, k=2, fusion_channels=4)
    save_weights(Path("w.safetensors"), DeepGCN(config))
    np.savez("s.npz", **{EVIL: np.zeros(3)})
    assert CODES.search(said(["predict", "s.npz", "--weights", "w.safetensors"], capsys))
    np.save("s.npy", np.zeros(3, [(EVIL, "f4"), ("y", "f4")]))
    assert CODES.search(said(["predict", "s.npy", "--weights", "w.safetensors"], capsys))


def test_runs(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelConfig(depth=2)
    created = create_run(TrainConfig(model=model, name="mine"), environment={"gpu": EVIL})
    made = Run(created.path.rename(created.path.with_name(f"{EVIL}\nx")))  # as others may name it
    made.update_status(state="failed", error=EVIL, created=EVIL)
    said(["runs", "note", made.name, EVIL], capsys)
    Path(made.path, f"{EVIL}.tag").touch()
    for command in (
        ["list"],
        ["list", "--json"],
        ["list", "--columns", "name,error,note,hardware,created"],
        ["show", made.name],
        ["show", made.name, "--json"],
        ["note", made.name],
        ["tag", made.name, EVIL],
        ["show", EVIL],
        ["list", "--where", f"name='{EVIL}'"],
        ["rm", made.name],
        ["restore", made.name],
        ["rm", "--where", "state=failed"],
        ["rm", "--where", "state=failed", "--yes"],
    ):
        assert CODES.search(said(["runs", *command], capsys)), command


def test_a_broken_run(capsys: pytest.CaptureFixture[str]) -> None:
    made = create_run(TrainConfig(model=ModelConfig(depth=2), name="mine"), environment={})
    (made.path / "status.json").write_text(json.dumps({"state": 1, "error": EVIL}))
    said(["runs", "list"], capsys)
    (made.path / "config.json").write_text(json.dumps({EVIL: 1}))
    assert CODES.search(said(["runs", "list"], capsys))
    said(["runs", "show", "mine"], capsys)


def test_bugs_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError(EVIL)

    monkeypatch.setattr(runs_commands.index, "sync", fail)
    assert run(["runs", "sync"]) == 1
    shown = capsys.readouterr().err
    assert "This is a bug" in shown
    assert not RAW.findall(shown)


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert CODES.search(said([EVIL], capsys))
    assert CODES.search(said(["train", f"--{EVIL}"], capsys))


def test_errors(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise DatasetError(EVIL)

    monkeypatch.setattr(runs_commands.index, "sync", fail)
    assert CODES.search(said(["runs", "sync"], capsys))


def test_nothing_is_printed_in_another_way() -> None:
    """Only `streams` writes; bars and drawn tables get texts that it has made harmless."""
    own = Path(deepgcn_cli.__file__).parent
    for path in own.rglob("*.py"):
        calls = [n for n in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(n, ast.Call)]
        used = {ast.unparse(call.func) for call in calls}
        assert path.name == "streams.py" or not used & {
            *("print", "typer.echo", "typer.secho", "sys.stdout.write", "sys.stderr.write"),
        }, path
