"""Weights are scored as a run is, alone and averaged."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix

from pipelines import load_model, segment
from pipelines.config import EvalConfig, ModelConfig
from pipelines.data.s3dis import CLASSES
from pipelines.data.store import Store
from pipelines.errors import ConfigError, DatasetError, WeightsError
from pipelines.evaluate import evaluate
from pipelines.model.deepgcn import DeepGCN
from pipelines.runs.directory import Run
from pipelines.runs.weights import distinctly_named, find_weights
from pipelines.train import train
from pipelines.weights.export import export_weights
from pipelines.weights.safetensors import load_weights, read_metadata, save_weights
from pipelines.weights.sources import import_weights
from tests.from_weights.helpers import config, logarithm, named, score, two_classes
from tests.tiny_store import write_tiny_store
from tests.tiny_training import AtStep


def test_scores_of_weights_by_another_route(store: Store, start: Path, tmp_path: Path) -> None:
    """`segment` labels each room on its own, scikit-learn counts."""
    (found,) = score(store, tmp_path, start, test_area=1)
    model = load_model(start)
    rooms = [store.read(info) for info in store.rooms(1)]
    answer = [segment(model, room.pos, room.color)[0] for room in rooms]
    truth = np.concatenate([room.label for room in rooms])
    record = json.loads(next(tmp_path.glob("weights/*/*/room/scores.json")).read_text())
    expected = confusion_matrix(truth, np.concatenate(answer), labels=range(13))
    np.testing.assert_array_equal(np.array(record["confusion"]), expected)
    assert (record["protocol"], record["test_area"]) == ("room", 1)
    assert record["weights"][0]["sha256"] == find_weights(start).sha256
    assert record["weights"][0]["trained_on"].startswith("data, areas 1, 2")
    assert found.files[0].parent.parent.name == f"data-{store.fingerprint[:8]}-area1"


def test_without_an_area_unseen_rooms_are_scored(
    store: Store, start: Path, trained: Run, tmp_path: Path
) -> None:
    (found,) = score(store, tmp_path, start)
    assert found.area == 3, "the area that its training left out"
    other = write_tiny_store(tmp_path / "other", points=300)
    (found,) = score(other, tmp_path, trained.path)
    assert found.area is None
    assert found.scores.points == sum(info.points for info in other.rooms())
    assert found.baseline is not None
    rooms = json.loads(found.files[0].read_text())["rooms"]
    assert set(rooms) == {f"Area_{info.area}_{info.name}" for info in other.rooms()}


def test_what_was_seen_before_counts_as_seen(store: Store, start: Path, tmp_path: Path) -> None:
    """Trained without area 3, then without area 1: nothing is left that it has not seen."""
    said = AtStep()
    said.warn = said.say  # type: ignore[method-assign]
    tuned = Run(train(config(store, tmp_path, start, test_area=1), progress=said).run)
    assert any("was trained on area 1 of this data" in text for text in said.said)
    with pytest.raises(ConfigError, match="no area that tuned was not trained on"):
        score(store, tmp_path, tuned.path)
    heard = AtStep()
    heard.warn = heard.say  # type: ignore[method-assign]
    options = EvalConfig(run_dirs=(tuned.path,), pictures=False, device="cpu")
    (found,) = evaluate(options, progress=heard).results
    assert any("trained on its test area, 1; its rooms are not unseen" in t for t in heard.said)
    assert any(note.startswith("Not unseen: area 1 of this data") for note in found.report.notes)
    assert json.loads(found.files[0].read_text())["seen"] == [1]


def test_scores_of_unseen_rooms_say_nothing_of_it(trained: Run) -> None:
    options = EvalConfig(run_dirs=(trained.path,), pictures=False, device="cpu")
    (found,) = evaluate(options).results
    assert not any("unseen" in note for note in found.report.notes)
    assert json.loads(found.files[0].read_text())["seen"] == []


def test_rooms_of_a_run_are_known_in_data_that_has_changed(store: Store, trained: Run) -> None:
    """One room less is other data; the rooms that are left were trained on all the same."""
    rooms = store.manifest["rooms"]
    fewer = Store(store.path, {**store.manifest, "rooms": rooms[1:], "fingerprint": "0" * 64})
    assert len(fewer.rooms()) == len(store.rooms()) - 1
    assert fewer.fingerprint != store.fingerprint
    weights = find_weights(trained.path)
    assert weights.unseen_areas(fewer) == weights.unseen_areas(store) == {3}


def test_what_was_seen_is_known_after_an_export_and_an_import(
    store: Store, start: Path, tmp_path: Path
) -> None:
    """Also of weights that name no classes."""
    facts = {**read_metadata(start), "license": "MIT"}
    for own in ("classes", "class_colors", "format", "version", "config"):
        del facts[own]
    save_weights(tmp_path / "unnamed.safetensors", load_weights(start), metadata=facts)
    export_weights(tmp_path / "unnamed.safetensors", tmp_path / "w.pth")
    again = import_weights(tmp_path / "w.pth", None).out
    found = read_metadata(again)
    kept = ("license", "trained_on", "test_area", "fingerprint")
    assert [found[key] for key in kept] == [facts[key] for key in kept]
    assert "class_colors" not in found
    (scored,) = score(store, tmp_path, again)
    assert scored.area == 3, "the area that its training left out"
    said = AtStep()
    said.warn = said.say  # type: ignore[method-assign]
    train(config(store, tmp_path, again, test_area=1), progress=said)
    assert any("was trained on area 1 of this data" in text for text in said.said)


def test_averaged_scores_are_of_summed_logits(store: Store, start: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    model = DeepGCN(load_weights(start).config).eval()
    save_weights(other, model, metadata=named(start))
    one, two, both = score(store, tmp_path, start, other, average=True, test_area=3)
    assert both.name == f"average of 2: {start.stem} + other"
    assert both.report.title.startswith(f"{both.name} on Area 3")
    assert both.report.rows[0].name == both.name, "not of the first network alone"
    assert both.run.parent.name.startswith(f"{start.stem}+other-")
    logits = []
    for weights in (start, other):
        single = load_model(weights)
        rooms = [store.read(info) for info in store.rooms(3)]
        logits.append([logarithm(segment(single, room.pos, room.color)[1]) for room in rooms])
    answer = np.concatenate([(a + b).argmax(1) for a, b in zip(*logits, strict=True)])
    truth = np.concatenate([room.label for room in rooms])
    assert both.scores.oa == pytest.approx((answer == truth).mean(), abs=2e-3)
    assert len({one.scores.oa, two.scores.oa, both.scores.oa}) > 1


def test_a_network_knows_its_classes(start: Path, tmp_path: Path) -> None:
    """Those that its file names; else S3DIS's, or numbers."""
    config = load_weights(start).config
    for count, named_as, expected in (
        (2, {"classes": "floor rest"}, ("floor", "rest")),
        (2, {}, ("class_0", "class_1")),
        (13, {}, CLASSES),
    ):
        file = tmp_path / "w.safetensors"
        save_weights(
            file, DeepGCN(dataclasses.replace(config, num_classes=count)), metadata=named_as
        )
        assert load_model(file).classes == expected


@pytest.mark.parametrize("classes", ["a b c d e", " ".join(["wall"] * 13)], ids=["few", "equal"])
def test_names_that_are_not_those_of_the_outputs_are_refused(tmp_path: Path, classes: str) -> None:
    file = tmp_path / "w.safetensors"
    save_weights(file, DeepGCN(ModelConfig(depth=2, width=8, k=4)), metadata={"classes": classes})
    with pytest.raises(WeightsError, match=r"found .* different\) of classes, expected 13"):
        load_model(file)


def test_weights_of_other_classes_are_not_scored(trained: Run, start: Path, tmp_path: Path) -> None:
    two = two_classes(tmp_path / "two")
    with pytest.raises(DatasetError, match=r"found the classes floor, rest"):
        score(two, tmp_path, start)
    shutil.copytree(trained.path, tmp_path / "others" / "tiny")
    for given, typed in (
        (start, start),
        ("tiny", tmp_path / "others" / "tiny"),
        ("indoor", "indoor"),
    ):
        with pytest.raises(DatasetError, match=f"deepgcn train --weights {typed} --data"):
            score(two, tmp_path / "others", given)


def test_weights_of_one_name_are_distinctly_named(
    store: Store, trained: Run, start: Path, tmp_path: Path
) -> None:
    """All runs call their files alike, and their folders may have one name, too."""
    first, last = (
        trained.path / "checkpoints" / f"{each}.safetensors" for each in ("best", "last")
    )
    assert [find_weights(file).name for file in (first, last)] == ["tiny/best", "tiny/last"]
    (found,) = score(store, tmp_path, last, test_area=3)
    assert found.run.parts[-2].startswith("last-")
    other = tmp_path / "other" / start.name
    other.parent.mkdir()
    network = load_weights(start).config
    save_weights(other, DeepGCN(network), metadata=named(start))
    one, two, both = score(store, tmp_path, start, other, test_area=3, average=True)
    assert {each.run.parts[-2].partition("-")[0] for each in (one, two)} == {"start"}
    assert (one.name, two.name) == (str(start), str(other))
    assert both.name == f"average of 2: {start} + {other}"
    again, _ = score(store, tmp_path, start, start, test_area=3)
    assert again.name == "start"
    copied = shutil.copytree(trained.path, tmp_path / "copied" / "tiny")
    runs = [find_weights(each) for each in (trained.path, copied)]
    assert [each.name for each in distinctly_named(runs)] == [str(trained.path), str(copied)]
