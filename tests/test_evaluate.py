"""The evaluate stage on a small trained run: figures by another route, files, errors."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, confusion_matrix, jaccard_score

from pipelines import kernels, load_model, segment
from pipelines.config import EvalConfig
from pipelines.data.sampler import BlockSampler
from pipelines.data.store import Store
from pipelines.errors import DatasetError, NothingScoredError, RunError, WeightsError
from pipelines.evaluate import EvalResult, evaluate
from pipelines.files import atomic_write
from pipelines.metrics import scores
from pipelines.reports.scores import Counts, votes_note
from pipelines.reports.viewer import SAFE_COLORS
from pipelines.runs.directory import Run
from pipelines.serialization import to_plain
from pipelines.weights.safetensors import load_weights, read_metadata, save_weights
from tests.ears import Ears
from tests.tiny_run import train_tiny_run
from tests.tiny_store import write_tiny_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data")


@pytest.fixture(scope="module")
def trained(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny_run(store.path, tmp_path_factory.mktemp("trained"))


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture
def run(trained: Run, tmp_path: Path) -> Run:
    """A copy of the trained run, to write into."""
    return Run(Path(shutil.copytree(trained.path, tmp_path / "runs" / "tiny")))


def score(run: Run, **options: Any) -> EvalResult:
    values = {"run_dirs": (run.path,), "pictures": False, "device": "cpu", **options}
    return evaluate(EvalConfig(**values))


def test_room_scores_by_another_route(run: Run, store: Store) -> None:
    """`segment` labels each room on its own; scikit-learn makes the figures."""
    (found,) = score(run).results
    model = load_model(run.path)
    label, predicted = [], []
    for info in store.rooms(3):
        room = store.read(info)
        label.append(room.label)
        predicted.append(segment(model, room.pos, room.color, num_points=128)[0])
    truth, answer = np.concatenate(label), np.concatenate(predicted)
    iou = jaccard_score(truth, answer, labels=np.unique(truth), average=None, zero_division=0)
    assert found.scores.points == sum(info.points for info in store.rooms(3))
    assert found.scores.oa == pytest.approx(accuracy_score(truth, answer))
    assert found.scores.miou == pytest.approx(iou.mean())
    saved = run.scores("room")
    assert saved is not None
    expected = confusion_matrix(truth, answer, labels=range(13))
    np.testing.assert_array_equal(np.array(saved["confusion"]), expected)
    rooms = sum(np.array(matrix) for matrix in saved["rooms"].values())
    np.testing.assert_array_equal(rooms, expected)


def test_the_network_has_learned_more_than_heights(run: Run) -> None:
    (found,) = score(run).results
    # Points, not the mean over classes: one point of 4,800 in a class that is nowhere takes a
    # quarter of that mean, and the rounding of a training decides over such a point.
    wrong, wrong_by_height = 1 - found.scores.oa, 1 - found.baseline.oa
    assert wrong < wrong_by_height / 2


@pytest.mark.parametrize(("protocol", "stride"), [("block-s1", 1.0), ("block-s05", 0.5)])
def test_block_scores_by_another_route(
    run: Run, store: Store, protocol: str, stride: float
) -> None:
    (found,) = score(run, protocols=(protocol,)).results
    assert found.report.rows[1].name == "height bands (protocol room), no network"
    config, model = run.config, load_model(run.path)
    truth, answer = [], []
    for info in store.rooms(3):
        sampler = BlockSampler(store, [info], config.num_points, 0, stride, "torch")
        for blocks in sampler.in_order(1):
            batch = sampler.batch(0, blocks)
            truth.append(batch.label.ravel())
            with torch.no_grad():
                answer.append(model(torch.from_numpy(batch.features)).argmax(dim=-1).ravel())
    expected = confusion_matrix(np.concatenate(truth), np.concatenate(answer), labels=range(13))
    saved = run.scores(protocol)
    assert saved is not None
    np.testing.assert_array_equal(np.array(saved["confusion"]), expected)
    assert found.blocks * config.num_points == found.scores.points == expected.sum()


@pytest.mark.parametrize("protocol", ["room", "block-s1"])
def test_outputs_that_are_no_numbers_are_no_scores(run: Run, protocol: str) -> None:
    path = run.checkpoint_path("best")
    model = load_weights(path)
    model.classifier.weight.data.fill_(3e38)  # a sum of some is infinite in float32
    save_weights(path, model, metadata=read_metadata(path))
    with pytest.raises(WeightsError, match="found NaN or infinite outputs"):
        score(run, protocols=(protocol,))


def test_the_same_again_gives_the_same_counts(run: Run) -> None:
    matrices = []
    for batch_size in (8, 3):
        score(run, batch_size=batch_size)
        saved = run.scores("room")
        assert saved is not None
        matrices.append(saved["confusion"])
    assert matrices[0] == matrices[1]


def test_everything_is_written(run: Run) -> None:
    formats = ("md", "csv", "json", "html", "tex")
    (found,) = score(run, reports=formats, pictures=True, view=True).results
    folder = run.path / "eval" / "room"
    names = sorted(path.name for path in folder.iterdir())
    assert names == sorted(
        [
            *("scores.json", "confusion.csv", *(f"report.{kind}" for kind in formats)),
            *("confusion.png", "iou.png", "failures.png", "training.png"),
            *(f"{kind}_office_{n}.{end}" for kind, end in KINDS for n in (1, 2)),
        ]
    )
    assert sorted(path.name for path in found.files) == names
    rows = list(csv.reader((folder / "confusion.csv").read_text().splitlines()))
    assert rows[0][1:] == list(run.environment["store"]["classes"])
    assert sum(int(cell) for row in rows[1:] for cell in row[1:]) == found.scores.points
    assert json.loads((folder / "report.json").read_text()) == run.scores("room")
    assert "training" in (folder / "report.html").read_text().lower()


KINDS = (("room", "png"), ("view", "html"))


def test_no_picture_of_other_predictions_stays(run: Run) -> None:
    """Scored with other draws, so with other counts; without pictures of their own."""
    folder = run.path / "eval" / "room"
    (first,) = score(run, pictures=True, view=True).results
    shown = [path for path in first.files if path.suffix == ".png" or "view" in path.name]
    (same,) = score(run, reports=("html",)).results
    assert all(path.is_file() for path in shown)
    assert {path for path in shown if "office" in path.name} < set(same.files)
    (other,) = score(run, reports=("html",), seed=1).results
    assert other.scores != first.scores
    left = {path.name for path in folder.iterdir()}
    assert left == {"scores.json", "confusion.csv", "report.html"}
    assert "image/png" not in (folder / "report.html").read_text(encoding="utf-8")
    (drawn,) = score(run, pictures=True).results
    assert folder / "room_office_1.png" in drawn.files


def test_no_report_of_other_figures_stays(run: Run) -> None:
    folder = run.path / "eval" / "room"
    formats = {f"report.{kind}" for kind in ("md", "csv", "json", "html", "tex")}
    every = tuple(name.partition(".")[2] for name in formats)
    score(run, reports=every, protocols=("room", "block-s1"), pictures=True, view=True)
    (folder / "report.pdf").write_bytes(b"made of report.tex")
    drawn = {"confusion.png", "failures.png", "room_office_1.png", "view_office_1.html"}
    score(run)
    assert formats < {path.name for path in folder.iterdir()}, "the same figures"
    score(run, absent="one")  # the same counts, other means
    left = {path.name for path in folder.iterdir()}
    assert formats & left == {"report.md"}
    assert drawn | {"report.pdf"} < left, "what is drawn of the same predictions is as it was"
    assert "iou.png" not in left
    assert not (run.path / "eval" / "protocols.md").exists()
    assert (run.path / "eval" / "block-s1" / "report.tex").exists()


def test_what_another_evaluation_is_writing_stays(run: Run) -> None:
    """Both may write the same run's scores at once; the test's own process stands for the other."""
    folder = run.path / "eval" / "room"
    with atomic_write(folder / "room_office_1.png") as temporary:
        temporary.write_bytes(b"half of a picture")
        score(run)
        assert temporary.exists()


def test_a_stop_before_the_last_file_leaves_no_scores(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the next evaluation would take them for whole, and not write the rest."""
    folder = run.path / "eval" / "room"

    def stopped(*_: Any) -> tuple[Path, ...]:
        write_half = (
            "import os\nfrom pathlib import Path\nfrom pipelines.files import atomic_write\n"
            f"with atomic_write(Path({str(folder)!r}, 'report.md')) as path:\n"
            "    path.write_text('half'); os._exit(9)"
        )
        subprocess.run([sys.executable, "-c", write_half], check=False)
        assert [*folder.glob(".report.md.*.part")]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.reports.tables.write_formats", stopped)
        with pytest.raises(KeyboardInterrupt):
            score(run)
    assert not (folder / "scores.json").exists()
    score(run)
    assert {"scores.json", "report.md"} <= {path.name for path in folder.iterdir()}
    assert not [*folder.glob("*.part"), *folder.glob(".*.part")]


def test_the_markdown_report(run: Run) -> None:
    (found,) = score(run).results
    text = (run.path / "eval" / "room" / "report.md").read_text()
    assert f"| {100 * found.scores.miou:.1f} |" in text
    assert "height bands, no network" in text
    assert "Absent classes, left out of the means: beam, column, window" in text
    assert "This is not the whole of S3DIS: 7 rooms of 272" in text
    assert "stand beside" not in text  # none does: this network was never published
    assert "## Errors by distance to an object boundary" in text
    assert "| ground truth | taken for | points | % of it |" in text


def test_failures_add_up(run: Run) -> None:
    (found,) = score(run).results
    saved = run.scores("room")
    assert saved is not None
    wrong = round((1 - found.scores.oa) * found.scores.points)
    for values in saved["failures"].values():
        counts = np.array(values["counts"])
        assert counts.sum(axis=0).tolist() == [found.scores.points, wrong]
        assert len(counts) == len(values["edges"]) + 1


def test_votes_are_reported_beside_the_first_one(run: Run) -> None:
    (once,) = score(run).results
    (found,) = score(run, votes=2).results
    saved = run.scores("room")
    assert saved is not None
    assert saved["votes"] == 2
    assert saved["first_vote"]["miou"] == once.scores.miou
    assert found.report.rows[1].name == "without votes"
    assert found.report.rows[1].miou == once.scores.miou
    assert any("2 votes changed mIoU by" in note for note in found.report.notes)
    assert found.blocks > once.blocks


def test_votes_that_a_block_protocol_does_not_take_are_said(run: Run) -> None:
    ears = Ears()
    config = {"run_dirs": (run.path,), "pictures": False, "device": "cpu", "votes": 2}
    evaluate(EvalConfig(protocols=("block-s1", "block-s05"), **config), progress=ears)
    said = "--votes 2: block-s1 and block-s05 scored once; votes are for protocol room."
    assert ears.warned == [said]


def test_a_palette_of_fewer_colours_than_classes_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.evaluate.SAFE_COLORS", SAFE_COLORS[:12])
    for palette, warned in (
        ("safe", ["--palette safe: found 13 classes, and colours for 12"]),
        ("s3dis", []),
    ):
        ears = Ears()
        evaluate(EvalConfig(run_dirs=(run.path,), palette=palette, device="cpu"), progress=ears)
        assert [said.partition(" that")[0] for said in ears.warned] == warned


def test_absent_classes_as_others_count_them(run: Run) -> None:
    (found,) = score(run, absent="one").results
    (plain,) = score(run).results
    iou = [1.0 if value is None else value for value in plain.scores.iou]
    counted = sum(iou) - len(plain.scores.only_predicted)  # whose IoU is 0 / n
    assert found.scores.miou == pytest.approx(counted / 13)
    assert any("count as one in the means" in note for note in found.report.notes)


def test_votes_change_what_they_change_also_if_absent_classes_count() -> None:
    """By hand: the votes put right 1 of 10 points, and put another into c, which is nowhere.

    Means over a and b: before (9 / 10 + 10 / 11) / 2, then (9 / 10 + 10 / 10) / 2.
    """
    once, voted = np.diag([9, 10, 0]), np.diag([9, 10, 0])
    once[0, 1] = voted[0, 2] = 1
    counts = Counts({"room": voted}, blocks=1, seconds=1.0, first=once)
    found, first = (scores(each, "abc", absent_as="one") for each in (voted, once))
    note = votes_note(counts, 4, found, asdict(first))
    assert note.startswith(f"4 votes changed mIoU by {100 * (1 - 10 / 11) / 2:+.2f} points")
    assert f"the rows differ by {100 * ((1 - 10 / 11) / 3 - 1 / 3):+.2f}" in note
    assert note.endswith("of which the votes predict 1 and the first one 0.")
    plain = [scores(each, "abc") for each in (voted, once)]
    assert "rows differ" not in votes_note(counts, 4, plain[0], asdict(plain[1]))


def test_absent_classes_that_nothing_predicts_are_not_counted_out() -> None:
    once, voted = np.diag([9, 10, 0]), np.diag([10, 10, 0])
    once[0, 1] = 1
    counts = Counts({"room": voted}, blocks=1, seconds=1.0, first=once)
    found, first = (scores(each, "abc", absent_as="one") for each in (voted, once))
    note = votes_note(counts, 4, found, asdict(first))
    assert note.endswith(", as they count absent classes.")


def test_several_protocols_stand_side_by_side(run: Run) -> None:
    found = score(run, protocols=("room", "block-s1", "block-s05")).results
    text = (run.path / "eval" / "protocols.md").read_text()
    for each in found:
        line = next(line for line in text.splitlines() if line.startswith(f"| {each.protocol} "))
        assert f"| {each.scores.points:,} |" in line
        assert line.endswith(f"| {100 * each.scores.miou:.1f} |")


def test_scores_say_how_they_were_made(run: Run, store: Store) -> None:
    score(run, seed=3, checkpoint="last")
    saved = run.scores("room")
    assert saved is not None
    assert (saved["seed"], saved["checkpoint"], saved["protocol"]) == (3, "last", "room")
    assert saved["store"]["fingerprint"] == store.fingerprint
    assert saved["environment"]["packages"]["torch"]
    assert saved["training"]["store"]["fingerprint"] == store.fingerprint


def test_the_latest_finished_run_is_taken_and_named(run: Run) -> None:
    ears = Ears()
    result = evaluate(EvalConfig(runs=run.path.parent, pictures=False), progress=ears)
    assert result.results[0].run == run.path
    assert f"{run.path}: the latest finished run" in ears.heard


def test_a_run_by_name(run: Run) -> None:
    config = EvalConfig(run_dirs=(Path("tiny"),), runs=run.path.parent, pictures=False)
    assert evaluate(config).results[0].run == run.path


def test_a_damaged_log_costs_the_curves_and_no_score(run: Run) -> None:
    with (run.path / "metrics.jsonl").open("a") as log:
        log.write('{"event": "epo\n{}\n')
    ears = Ears()
    options = EvalConfig(run_dirs=(run.path,), device="cpu")
    (found,) = evaluate(options, progress=ears).results
    assert any("Its training curves are left out" in text for text in ears.heard)
    assert {path.name for path in found.files} >= {"scores.json", "iou.png"}
    assert "training.png" not in {path.name for path in found.files}


def test_an_unfinished_run_and_other_data_are_reported(run: Run, tmp_path: Path) -> None:
    run.update_status(state="interrupted")
    other = write_tiny_store(tmp_path / "other", points=500)
    ears = Ears()
    config = EvalConfig(run_dirs=(run.path,), data=other.path, pictures=False)
    evaluate(config, progress=ears)
    assert any("the run is interrupted; its scores are not final" in said for said in ears.heard)
    assert any("trained on other data" in said for said in ears.heard)


def test_no_rooms_of_the_test_area(run: Run) -> None:
    config = dataclasses.replace(run.config, test_area=6)
    (run.path / "config.json").write_text(json.dumps(to_plain(config)))
    with pytest.raises(DatasetError, match=r"no rooms of tiny's test area 6; its areas are 1, 2"):
        score(run)


def test_an_area_without_labels_has_no_scores(run: Run, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "bare", bare=[3])
    with pytest.raises(NothingScoredError, match=r"no labelled point in area 3 \(4,800 points\)"):
        score(run, data=store.path, protocols=("room", "block-s1"))
    assert not (run.path / "eval").exists()


def test_rooms_without_a_block_have_no_scores(run: Run, tmp_path: Path) -> None:
    store = write_tiny_store(tmp_path / "sparse", points=12)
    with pytest.raises(NothingScoredError, match="found no block of area 3 to score"):
        score(run, data=store.path, protocols=("block-s1",))
    assert score(run, data=store.path).results[0].scores.points == 2 * 3 * 12


def test_no_run_and_no_weights(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"found no runs there\.\nTrain one first: deepgcn train"):
        evaluate(EvalConfig(runs=tmp_path / "empty"))
    with pytest.raises(RunError, match=r"tinny: found no run there\. Did you mean 'tiny'\?"):
        evaluate(EvalConfig(run_dirs=(run.path.parent / "tinny",)))
    run.checkpoint_path("best").unlink()
    with pytest.raises(RunError, match="found no best weights"):
        score(run)
