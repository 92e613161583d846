"""What a person sees after a mistake: where, what was found, what to do; never a traceback."""

from __future__ import annotations

import errno
import json
import os
import signal
from pathlib import Path

import pytest

from deepgcn_cli import errors
from deepgcn_cli.__main__ import main, run
from deepgcn_cli.commands.train import _how_to_resume as how_to_resume
from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import RunError
from pipelines.runs.directory import create_run, resume_command
from pipelines.runs.lock import LOCK, lock_run
from pipelines.runtime.process import watch_for_interruption
from tests.tiny_store import write_tiny_store

TERM = signal.SIGTERM


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(arguments: str, capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """Return what stderr says; stdout has to be empty, and nothing may look like a bug."""
    assert run(arguments.split()) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert 1 <= len(shown.err.strip().splitlines()) <= 3, shown.err
    return shown.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("prepare", "found no raw S3DIS, expected Area_<1-6>/<room>/Annotations"),
        ("prepare nothing", "nothing: found nothing there"),
        ("prepare --area 7", "--area: found 7, expected an area, or 0 for none, from 0 to 6"),
        ("prepare --export h5", "Expected one of: pointnet-h5"),
        ("train", "data: found no prepared data (no manifest.json).\nPrepare it first: deepgcn"),
        ("train --arch resgn", "unknown architecture 'resgn'. Did you mean 'resgcn'?"),
        ("train --preset resgcn28", "Did you mean 'resgcn-28'?"),
        ("train --num-points 256", "k·d: layer 27 takes neighbours from the 432 nearest points"),
        ("train --resume", "runs: found no unfinished run to resume"),
        ("train --resume foo", "runs/foo: found no run there"),
        ("eval", "runs: found no runs there.\nTrain one first: deepgcn train"),
        ("eval --protocol rooms", "Expected one of: room, block-s1, block-s05, all."),
        ("eval --report pdf", "--report: found the unknown report 'pdf'"),
        ("predict scan.ply", "scan.ply: found no file there, expected a scan."),
        ("predict scan.plyy", "Did you mean '.ply'?"),
        ("predict a.ply --run r --weights w", "--run and --weights: found both"),
        ("runs show foo", "runs/foo: found no run there"),
        ("synth out --areas 9", "--areas: found 9, expected a number from 1 to 6"),
        (
            "synth out --density inf",
            "expected points per m² from 1 to 1,000,000",
        ),
        (
            "synth out --density 1e-300",
            "--density: found 1e-300, expected",
        ),
        (
            "synth out --rooms 99999999999999",
            "found 99,999,999,999,999, expected",
        ),
        ("demo . --steps 0", "--steps: found 0, expected at least 1"),
    ],
)
def test_mistakes(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in fails(arguments, capsys)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "No such command 'trian'. Did you mean 'train'?"),
        ("train --epochs many", "--epochs"),
        ("train foo", "to resume a run, add --resume"),
        ("train --resume --name mine", "a run keeps its name"),
        ("predict", "Missing argument"),
        ("doctor now", "unexpected extra argument"),
    ],
)
def test_wrong_usage(arguments: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    shown = fails(arguments, capsys, code=2)
    assert message in shown
    assert "--help" in shown


def test_an_unknown_layer_is_named_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_store(tmp_path / "data")
    assert "Did you mean" in fails_late("train --conv GATCon --num-points 512", capsys)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def fails_late(arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error that comes after some progress."""
    assert run(arguments.split()) == 1
    error = capsys.readouterr().err.partition("Error: ")[2]
    assert error
    assert "Traceback" not in error
    return error


def test_a_damaged_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_tiny_store(tmp_path / "data")
    area = tmp_path / "data" / "area_1.h5"
    area.write_bytes(area.read_bytes()[:5000])
    shown = fails_late("train --depth 2 -k 4 --num-points 64", capsys)
    assert "area_1.h5: found a damaged or truncated file" in shown
    manifest = tmp_path / "data" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"version": 1', '"version": 2'))
    assert "version 2, expected 'deepgcn-store' version 1" in fails("train", capsys)


@pytest.mark.parametrize("change", [{"arch": "hypergcn"}, {"heads": 4}])
def test_a_run_of_another_version(
    change: dict[str, object], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = TrainConfig(model=ModelConfig(depth=2), runs=tmp_path / "runs", name="mine")
    create_run(config, environment={})
    file = tmp_path / "runs" / "mine" / "config.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "model": {**values["model"], **change}}))
    shown = fails("runs show mine", capsys)
    assert "config.json: found settings of another version of deepgcn" in shown
    assert "environment.json names" in shown


def test_a_run_that_is_not_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = TrainConfig(model=ModelConfig(depth=2), runs=tmp_path / "runs", name="mine")
    create_run(config, environment={})
    shown = fails("eval", capsys)
    assert "found 1 run, none finished; the last, mine, is interrupted" in shown
    assert "Resume it: deepgcn train --resume runs/mine" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("synth file.ply/x", "OUT file.ply/x: found the file file.ply, expected a folder."),
        ("synth /proc/x", "/proc/x: this folder cannot be created: "),
        ("prepare . --data file.ply", "--data file.ply: found a file, expected a folder."),
        ("bench --out file.ply/x.json", "--out file.ply/x.json: found the file file.ply, expected"),
        ("bench --out .", "--out .: found a folder, expected a file."),
        ("train --runs file.ply/x --device cpu", "--runs file.ply/x: found the file file.ply"),
        ("ablate --preset smoke --runs file.ply/x", "--runs file.ply/x: found the file file.ply"),
        ("predict file.ply --out file.ply/x", "found the file file.ply, expected a folder."),
        ("weights import w.pth --out file.ply/w.safetensors", "found the file file.ply, expected"),
    ],
)
def test_places_that_cannot_be_written(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tiny_store(tmp_path / "data")
    (tmp_path / "file.ply").touch()
    assert message in fails(arguments, capsys)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.synth.synth", _raising(OSError(number, "full", "out/room.txt")))
    shown = fails("synth out", capsys)
    assert shown.startswith("Error: out/room.txt: the disk is full.\n")


def test_a_folder_that_may_not_be_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = PermissionError(errno.EACCES, "Permission denied", "out")
    monkeypatch.setattr("pipelines.synth.synth", _raising(error))
    assert fails("synth out", capsys) == "Error: out: Permission denied.\n"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ESTALE])
def test_a_disk_that_is_lost(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = OSError(number, os.strerror(number), "raw/Area_1")
    monkeypatch.setattr("pipelines.synth.synth", _raising(lost))
    first, second = fails("synth out", capsys).splitlines()
    assert first == f"Error: raw/Area_1: {os.strerror(number)}."
    assert "is its disk no longer there?" in second


def test_a_bug_shows_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.synth.synth", _raising(RuntimeError("unforeseen")))
    assert run(["synth", "out"]) == 1
    shown = capsys.readouterr().err
    assert "RuntimeError: unforeseen" in shown
    assert "This is a bug in deepgcn. Please report it" in shown


def test_an_error_in_an_own_class_is_no_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = "def synth(*arguments, **options):\n    raise RuntimeError('too many points')\n"
    own: dict[str, object] = {}
    exec(compile(source, str(tmp_path / "own.py"), "exec"), own)
    monkeypatch.setattr("pipelines.synth.synth", own["synth"])
    assert run(["synth", "out"]) == 1
    shown = capsys.readouterr().err
    assert "RuntimeError: too many points" in shown
    assert f"from {tmp_path / 'own.py'}, line 2, which is not part of deepgcn" in shown
    assert "bug" not in shown


def test_ctrl_c_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.prepare.prepare", _raising(KeyboardInterrupt()))
    assert run(["prepare", str(tmp_path)]) == 130
    shown = capsys.readouterr().err
    assert shown == "interrupted; the same command continues where it stopped\n"


def test_sigterm_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipelines.prepare.prepare", lambda *_a, **_o: signal.raise_signal(TERM))
    assert run(["prepare", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "interrupted; the same command continues where it stopped\n"
    assert signal.getsignal(TERM) == signal.SIG_DFL


def test_an_error_on_its_way_out_is_reported_although_sigterm_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torchrun sends SIGTERM to a process that has just found out that another one is gone."""

    def lose(*_arguments: object, **_options: object) -> None:
        with watch_for_interruption():
            try:
                raise RunError("another process ended.")
            finally:
                signal.raise_signal(TERM)

    def stage(*_arguments: object, **_options: object) -> None:
        try:
            lose()
        finally:
            signal.raise_signal(TERM)

    say = errors._say
    monkeypatch.setattr(errors, "_say", lambda text: (signal.raise_signal(TERM), say(text))[1])
    monkeypatch.setattr("pipelines.prepare.prepare", stage)
    assert fails(f"prepare {tmp_path}", capsys) == "Error: another process ended.\n"


def _raising(error: BaseException):
    def raise_it(*_arguments: object, **_options: object) -> None:
        raise error

    return raise_it


def test_the_exit_code_reaches_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["deepgcn", "trian"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2


def test_errors_as_json_are_errors_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["eval", "--json"]) == 1
    assert capsys.readouterr().out == ""


def test_no_runs_is_no_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list"]) == 0
    assert capsys.readouterr().out == "runs: no runs yet. Start one: deepgcn train\n"
    assert run(["runs", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_stopped_training_names_its_own_run(tmp_path: Path) -> None:
    """Others may have begun in the same folder; which of them comes first is chance."""
    begun = {tmp_path / name for name in ("a", "b", "mine", "not-yet-locked", "c", "d")}
    for path in begun:
        path.mkdir()
        if path.name != "not-yet-locked":
            (path / LOCK).write_text("process 1 on elsewhere\n", encoding="utf-8")
    assert how_to_resume(None, begun, folds=1) == "no run had begun"
    with lock_run(tmp_path / "mine"):
        pass
    command = f"resume with: deepgcn train --resume {tmp_path / 'mine'}"
    assert how_to_resume(None, begun, folds=1) == command
    assert how_to_resume(tmp_path / "mine", set(), folds=1) == command
    assert how_to_resume(None, begun, folds=3) == f"{command} --folds 3"


def test_commands_can_be_typed_as_they_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """With spaces in names, and with the folders that the next command has to be told."""
    assert run(["synth", "my raw", "--areas", "1", "--rooms", "1", "--density", "50"]) == 0
    assert "Next: deepgcn prepare 'my raw'\n" in capsys.readouterr().err
    assert run(["prepare", "my raw", "--data", "my data", "--workers", "1"]) == 0
    assert "Next: deepgcn train --data 'my data'\n" in capsys.readouterr().err
    assert run(["train", "--data", "no data"]) == 1
    assert "first: deepgcn prepare --data 'no data'\n" in capsys.readouterr().err
    assert resume_command(Path("runs/mine")) == "deepgcn train --resume runs/mine"
    assert resume_command(Path("my runs/a b")) == "deepgcn train --resume 'my runs/a b'"


@pytest.mark.parametrize("arguments", ["runs list", "runs sync", "runs export o.csv", "eval"])
def test_a_file_in_the_place_of_the_runs(
    arguments: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("notes").write_text("")
    said = fails(f"{arguments} --runs notes", capsys)
    assert "notes: found a file, expected the folder of the runs (--runs)" in said


@pytest.mark.parametrize("command", ["plan --data", "train --data", "eval --runs", "predict"])
def test_a_path_that_is_too_long(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = f"{'a' * 300}.ply"
    said = fails(f"{command} {path}", capsys)
    assert said.startswith(f"Error: {path}")
    assert said.endswith(": File name too long.\n")


@pytest.mark.parametrize("target", ["not/mounted", "data"])
def test_a_link_that_leads_nowhere(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["synth", "raw", "--areas", "1", "--rooms", "1", "--density", "50", "-q"]) == 0
    capsys.readouterr()
    Path("data").symlink_to(target)
    said = fails("prepare raw --data data -q", capsys)
    assert f"data: found a link to {target}, which does not exist" in said
