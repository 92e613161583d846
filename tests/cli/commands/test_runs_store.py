"""`deepgcn runs list`, `export`, `tag`, `note`, `rm` and `restore`, right and wrong."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from deepgcn_cli.__main__ import run
from pipelines.config import ModelConfig, TrainConfig
from pipelines.runs.directory import create_run
from pipelines.runs.lock import lock_run


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with three runs, of which two are scored."""
    monkeypatch.chdir(tmp_path)
    networks = {
        "mine": ("resgcn", 7, 0.5),
        "other": ("densegcn", 14, 0.3),
        "third": ("dgcnn", 3, 0),
    }
    for name, (arch, depth, miou) in networks.items():
        model = ModelConfig.published(arch, depth)
        made = create_run(TrainConfig(model=model, name=name, test_area=5), environment={})
        made.update_status(state="finished", step=1200)
        if miou:
            folder = made.path / "eval" / "room"
            folder.mkdir(parents=True)
            scores = {"oa": 0.9, "macc": 0.6, "miou": miou, "classes": ["wall"], "iou": [miou]}
            scores["rooms"] = {"Area_5/office_1": [[9]]}
            (folder / "scores.json").write_text(json.dumps(scores))


def succeed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return what stdout says."""
    code = run(["runs", *arguments])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    return shown.out


def fail(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """Return what stderr says, at most three lines."""
    assert run(["runs", *arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert 1 <= len(shown.err.splitlines()) <= 3
    return shown.err


def test_list_says_which_layers_share_a_graph(capsys: pytest.CaptureFixture[str]) -> None:
    model = ModelConfig(depth=7, knn_every=2, knn_until=4)
    create_run(TrainConfig(model=model, name="shared"), environment={})
    (line,) = succeed(capsys, "list", "--where", "knn_every=2 and knn_until=4").splitlines()[1:2]
    assert "resgcn-7 edge C64 k16, k-NN every 2 until 4" in line
    in_space = ModelConfig(depth=7, spatial="4,8")
    create_run(TrainConfig(model=in_space, name="in-space"), environment={})
    (line,) = succeed(capsys, "list", "--where", "spatial='4,8'").splitlines()[1:2]
    assert "resgcn-7 edge C64 k16, 2 layers in space" in line


def names(text: str) -> list[str]:
    return [
        line.split()[0] for line in text.splitlines() if line[:5] in ("mine ", "other", "third")
    ]


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert succeed(capsys, "list").splitlines() == [
        "run    state     network                  area  epoch   step  val mIoU     OA   mIoU",
        "mine   finished  resgcn-7 edge C64 k16       5      0  1,200         –  90.00  50.00",
        "other  finished  densegcn-14 edge C32 k8     5      0  1,200         –  90.00  30.00",
        "third  finished  dgcnn-3 edge C64 k20        5      0  1,200         –      –      –",
        "Scores in percent; OA and mIoU under protocol room.",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rooms": None}, "found no rooms"),
        ({"rooms": [1]}, "found rooms [1], expected a JSON object"),
        ({"rooms": {"a": [[1, 2]]}}, "scores that do not fit 1 classes"),
        ({"iou": [0.5, 0.5]}, "scores that do not fit 1 classes"),
        ({"classes": "wall"}, "found classes 'wall', expected a list"),
    ],
)
def test_damaged_scores(
    capsys: pytest.CaptureFixture[str], changes: dict[str, object], message: str
) -> None:
    file = Path("runs/mine/eval/room/scores.json")
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({name: each for name, each in values.items() if each is not None}))
    for arguments in (("show", "mine"), ("compare", "other", "mine")):
        found = fail(capsys, *arguments)
        assert message in found
        assert "Score it again: deepgcn eval runs/mine --protocol room" in found


def test_list_some_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert names(succeed(capsys, "list", "--sort", "-miou")) == ["mine", "other", "third"]
    assert names(succeed(capsys, "list", "--sort", "miou", "--limit", "2")) == ["other", "mine"]
    assert succeed(capsys, "list", "--limit", str(10**20)) == succeed(capsys, "list")
    where = ("--where", "arch=resgcn and miou>40%")
    assert names(succeed(capsys, "list", *where)) == ["mine"]
    assert succeed(capsys, "list", "--where", "depth>99") == "runs: no runs fulfil 'depth>99'.\n"
    assert succeed(capsys, "list", "--runs", "none").startswith("none: no runs yet. Start one")


def test_list_columns(capsys: pytest.CaptureFixture[str]) -> None:
    assert succeed(capsys, "list", "--columns", "name,lr,seed,miou").splitlines() == [
        "name      lr  seed  room_miou",
        "mine   0.001     0      50.00",
        "other  0.001     0      30.00",
        "third  0.001     0          –",
    ]
    lines = json.loads(succeed(capsys, "list", "--columns", "run,miou", "--json"))
    assert lines[0] == {"name": "mine", "room_miou": 0.5}
    lines = json.loads(succeed(capsys, "list", "--json"))
    assert [line["preset"] for line in lines] == ["resgcn-7", None, "dgcnn"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "--where", "mio>0.4"), "unknown column 'mio'. Did you mean 'miou'?"),
        (("list", "--where", "miou>"), "expected a value after miou >"),
        (("list", "--where", "miou>40"), "scores are from 0 to 1.\nIn percent: 40%"),
        (("list", "--where", "name='; DROP TABLE runs"), "an unclosed quote"),
        (("list", "--sort", "score"), "--sort: found the unknown column 'score'"),
        (("list", "--columns", "name,,k"), "--columns: found the unknown column ''"),
        (("list", "--limit", "0"), "--limit: found 0, expected at least 1"),
        (("export", "runs.xls"), "found '.xls', expected a file in .csv or .parquet"),
        (("export", "runs.csv", "--where", "k"), "after k"),
        (("tag", "mine", "two words"), "TAG: found 'two words', expected one word"),
        (("tag", "mine", "x", "--remove"), "found no tag 'x'.\nIts tags: none."),
        (("tag", "mini", "x"), "runs/mini: found no run there. Did you mean 'mine'?"),
        (("note", "mini", "x"), "Did you mean 'mine'?"),
        (("rm", "mini"), "Did you mean 'mine'?"),
        (("rm", "mine", "mini"), "Did you mean 'mine'?"),
        (("rm", "--where", "state>"), "expected a value"),
        (("restore", "mine"), "runs/.trash: found no run 'mine'.\nThere: nothing."),
    ],
)
def test_what_a_person_can_mend(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in fail(capsys, *arguments)
    assert sorted(path.name for path in Path("runs").glob("[a-z]*[a-z]") if path.is_dir()) == [
        "mine",
        "other",
        "third",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ("tag", "paper"),
        ("rm",),
        ("rm", "--where", "k=1", "--empty-trash"),
        ("rm", "--where", "k>0"),
        ("list", "--limit", "x"),
        ("export",),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    assert "--help" in fail(capsys, *arguments, code=2)
    assert len(names(succeed(capsys, "list"))) == 3


def test_tags_and_notes_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = succeed(capsys, "tag", "mine", "runs/other", "paper")
    assert shown == "runs/mine: tags paper\nruns/other: tags paper\n"
    assert succeed(capsys, "tag", "other", "paper", "--remove") == "runs/other: no tags\n"
    assert succeed(capsys, "note", "mine", "the first\nof all") == "runs/mine: the first\nof all\n"
    assert succeed(capsys, "note", "mine") == "runs/mine: the first\nof all\n"
    (header, line, *_) = succeed(capsys, "list", "--where", "tag=paper").splitlines()
    assert header.endswith("  tags")
    assert line.endswith("  paper")
    assert "tags" not in succeed(capsys, "list", "--where", "tag!=paper")
    assert [line.split()[-1] for line in succeed(capsys, "list").splitlines()[1:4]] == [
        *("paper", "–", "–")
    ]
    assert "the first of all" in succeed(capsys, "list", "--columns", "name,note")
    described = succeed(capsys, "show", "mine")
    assert "the first of all" in described
    assert "paper" in described
    answer = json.loads(succeed(capsys, "show", "mine", "--json"))
    assert (answer["tags"], answer["note"]) == (["paper"], "the first\nof all")
    assert succeed(capsys, "note", "mine", "") == "runs/mine: no note\n"


def test_export(capsys: pytest.CaptureFixture[str]) -> None:
    for file in ("best.csv", "best.parquet"):
        shown = succeed(capsys, "export", file, "--where", "miou>0.1", "--sort", "miou")
        assert shown == f"{file}: 2 runs\n"
    for frame in (pd.read_csv("best.csv"), pd.read_parquet("best.parquet")):
        assert frame["name"].tolist() == ["other", "mine"]


def test_trash(capsys: pytest.CaptureFixture[str]) -> None:
    assert succeed(capsys, "rm", "mine", "runs/mine") == "runs/mine → runs/.trash/mine\n"
    assert names(succeed(capsys, "list")) == ["other", "third"]
    assert run(["runs", "rm", "--where", "depth<10"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("deepgcn runs rm: runs: move 1 to the trash: third? There is no term")
    moved = json.loads(succeed(capsys, "rm", "--where", "depth<10", "--yes", "--json"))
    assert moved == {"runs/third": "runs/.trash/third"}
    assert "no runs fulfil" in succeed(capsys, "rm", "--where", "depth<10", "--yes")
    assert succeed(capsys, "restore", "mine") == "runs/mine: back, finished\n"
    succeed(capsys, "rm", "mine")
    (Path("runs") / ".trash" / "mine" / "status.json").write_text("damaged")
    assert succeed(capsys, "restore", "mine") == "runs/mine: back, broken\n"
    assert succeed(capsys, "rm", "--empty-trash", "--yes") == "runs/.trash: deleted 1\n"
    assert succeed(capsys, "rm", "--empty-trash") == "runs/.trash: empty\n"
    assert names(succeed(capsys, "list")) == ["mine", "other"]


def test_rm_that_was_stopped_half_way_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    succeed(capsys, "rm", "mine")
    shown = succeed(capsys, "rm", "mine", "other")
    assert shown == "mine: was in the trash\nruns/other → runs/.trash/other\n"
    assert "runs/mine: found no run there" in fail(capsys, "rm", "mine", "other")


def test_a_run_in_training_is_not_discarded(capsys: pytest.CaptureFixture[str]) -> None:
    with lock_run(Path("runs/other")):
        assert "runs/other: a process is training this run" in fail(capsys, "rm", "mine", "other")
    assert len(names(succeed(capsys, "list"))) == 3


class Terminal(io.StringIO):
    """A person at a keyboard."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("\n", 3), ("n\n", 3), ("", 3), ("y\n", 2)])
def test_a_person_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(answer))
    assert run(["runs", "rm", "--where", "arch=resgcn"]) == (0 if left == 2 else 1)
    assert "move 1 to the trash: mine? [y/N]" in capsys.readouterr().err
    assert len(names(succeed(capsys, "list"))) == left
