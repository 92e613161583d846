"""Runs that were copied, renamed, or that a cloud client has brought in part: clear errors only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from deepgcn_cli.__main__ import run as deepgcn
from pipelines import kernels
from pipelines.scans.ply import write_points
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store

BAD = ("Traceback", "This is a bug")
OURS = ("runs", "results.db")  # which reading may write


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, a scan and two finished runs, `a` and its copy `b`."""
    folder = tmp_path_factory.mktemp("origin")
    write_tiny_store(folder / "data", points=250)
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (200, 3), np.uint8)
    write_points(folder / "scan.ply", rng.random((200, 3)), color)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        train_tiny_run(Path("data"), Path("runs"), "a", max_steps=2)
    shutil.copytree(folder / "runs/a", folder / "runs/b")
    return folder


@pytest.fixture(autouse=True)
def _here(origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    shutil.copytree(origin, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with kernels.use("reference"):
        yield


def remove(name: str) -> Callable[[Path], None]:
    return lambda run: (run / name).unlink()


def cut(name: str, part: float = 0.5) -> Callable[[Path], None]:
    """Leave the first part of a file."""

    def change(run: Path) -> None:
        content = (run / name).read_bytes()
        (run / name).write_bytes(content[: int(part * len(content))])

    return change


def conflict(run: Path) -> None:
    for name in ("config", "status"):
        shutil.copy(run / f"{name}.json", run / f"{name} (conflicted copy 2026-11-29).json")
    shutil.copytree(run, run.with_name("b (conflicted copy)"))


def rename(run: Path) -> None:
    run.rename(run.with_name("c d"))
    shutil.copytree(run.with_name("c d"), run)


FILES = ("config.json", "status.json", "environment.json", "metrics.jsonl")
WEIGHTS = ("checkpoints/best.safetensors", "checkpoints/last.safetensors", "checkpoints/last.pt")
CHANGES = {
    **{f"no {name}": remove(name) for name in (*FILES, *WEIGHTS)},
    **{f"half {name}": cut(name) for name in (*FILES, *WEIGHTS)},
    **{f"empty {name}": cut(name, 0) for name in ("status.json", "config.json", WEIGHTS[0])},
    "conflict": conflict,
    "renamed": rename,
}
WHOLE = ("conflict", "renamed", "no metrics.jsonl", "half metrics.jsonl")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "status.json")
    }


@pytest.mark.parametrize("name", CHANGES)
def test_runs_that_came_in_part(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    CHANGES[name](Path("runs/b"))
    mine, theirs = contents(Path("runs/a")), contents(Path("runs/b"))

    def said(*command: str, codes: tuple[int, ...] = (0, 1)) -> str:
        code = deepgcn([*command])
        shown = capsys.readouterr()
        assert code in codes, (command, shown.err)
        assert not any(word in shown.err for word in BAD), (command, shown.err)
        if code:
            message = shown.err.rpartition("Error: ")[2]
            assert "runs/b" in message, (command, message)
            assert len(message.splitlines()) <= 3, (command, message)
        return shown.out

    codes = (0,) if name in WHOLE else (0, 1)
    listed = said("runs", "list", codes=(0,))
    assert ("\na " in listed, "\nb " in listed) == (True, name != "no config.json")
    said("runs", "sync", codes=(0,))
    said("runs", "show", "b", codes=codes)
    said("predict", "scan.ply", "--run", "a", codes=(0,))
    if "checkpoints" not in name and "config" not in name:  # of the latest run, whole or not
        said("predict", "scan.ply", "--out", "c.ply", "--device", "cpu", codes=(0,))
    said("predict", "scan.ply", "--run", "b", "--out", "b.ply", codes=codes)
    said("eval", "b", "--no-pictures", "--device", "cpu", codes=codes)
    said("train", "--resume", "b", codes=codes)
    assert contents(Path("runs/a")) == mine
    assert theirs.keys() <= contents(Path("runs/b")).keys(), "nothing is lost"
