"""The train stage: what a run is made of and what it leaves."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import jaccard_score

from pipelines.config import TrainConfig
from pipelines.data.sampler import Batch, BlockSampler
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError
from pipelines.runs.directory import Run, latest_finished, open_run
from pipelines.train import open_samplers, train
from pipelines.training.loop import figures
from pipelines.training.recipe import cosine_schedule
from pipelines.training.steps import Pace, Step
from pipelines.weights.safetensors import load_weights, read_metadata
from tests.tiny_training import BATCHES, MODEL, AtStep, assert_same, run_as, training_state


def miou_of(run: Run, validation: BlockSampler) -> float:
    """Return the mIoU of the last weights, computed apart from the stage."""
    model = load_weights(run.weights("last"))
    label, guess = [], []
    for block in range(len(validation)):
        features, its_label = validation.sample(0, block)
        with torch.no_grad():
            guess.append(model(torch.from_numpy(features)[None])[0].argmax(-1).numpy())
        label.append(its_label)
    return float(jaccard_score(np.concatenate(label), np.concatenate(guess), average="macro"))


def test_a_run_says_its_length_from_the_first_step_on(config: TrainConfig) -> None:
    """So that a study's bar knows how far its runs are before their first checkpoint."""
    found: list[dict[str, Any]] = []
    runs = config.runs
    look = AtStep(1, lambda: found.append(json.loads(next(runs.glob("*/status.json")).read_text())))
    train(config, progress=look)
    assert (found[0]["state"], found[0]["steps_total"]) == ("running", 2 * BATCHES)


def test_a_run_leaves_what_it_promises(config: TrainConfig, store: Store) -> None:
    result = train(config)
    run = open_run(result.run)
    assert run == latest_finished(config.runs)
    # The store's fold, Adam's rate, the published blocks.
    resolved = dataclasses.replace(config, test_area=3, lr=1e-3, block_size=1.0, voxel=0.0)
    assert run.config == resolved
    assert run.environment["store"]["fingerprint"] == store.fingerprint
    assert run.environment["packages"]["torch"] == torch.__version__
    assert run.environment["threads"] == 1
    assert (result.steps, result.epochs) == (2 * BATCHES, 2)
    assert result.blocks_per_second > 0
    assert 0 <= result.data_wait < 1
    status = run.status
    assert (status["state"], status["step"], status["steps_total"]) == ("finished", 24, 24)
    events = [record["event"] for record in run.metrics()]
    assert events == (["step"] * BATCHES + ["epoch"]) * 2
    assert [r["step"] for r in run.metrics() if r["event"] == "step"] == list(range(1, 25))
    assert {r["lr"] for r in run.metrics() if r["event"] == "step"} == {1e-3}
    assert load_weights(run.weights("best")).config == MODEL
    facts = read_metadata(run.weights("last"))
    assert (facts["num_points"], facts["step"], facts["test_area"]) == ("64", "24", "3")
    assert facts["classes"].split() == list(store.classes)


def test_batch_norm_follows_the_recipe(config: TrainConfig) -> None:
    run = run_as(config, "one", max_steps=1)
    tracked = load_file(run.weights("last"))
    mean = tracked["fusion.norm.running_mean"]
    other = load_file(
        run_as(
            config, "torch", max_steps=1, model=dataclasses.replace(MODEL, layout="torch")
        ).weights("last")
    )["fusion.norm.running_var"]
    # One step from (0, 1): momentum 0.5 halves the 1 of the variance, momentum 0.1 keeps 0.9.
    assert mean.abs().max() > 0
    assert (tracked["fusion.norm.running_var"] >= 0.5).all()
    assert tracked["fusion.norm.running_var"].min() < 0.9
    assert (other >= 0.9).all()


def test_the_loss_goes_down_and_the_classes_are_learned(config: TrainConfig) -> None:
    run = run_as(config, "longer", epochs=6, num_points=128)
    losses = [record["loss"] for record in run.metrics() if record["event"] == "step"]
    assert np.mean(losses[-BATCHES:]) < 0.25 * np.mean(losses[:3])
    assert run.status["best_miou"] > 0.7


@pytest.mark.parametrize("steps", [3, 7])
def test_cosine_falls_to_nothing_over_the_blocks_that_are_trained_on(
    config: TrainConfig, steps: int
) -> None:
    """An epoch's last batch has 10 blocks here, and `max_steps` ends the training."""
    lengths = {"batch_size": 25, "epochs": 100, "max_steps": steps}
    run = run_as(config, "run", **lengths, extra=("cosine",), val_fraction=0.0)
    taken = [record for record in run.metrics() if record["event"] == "step"]
    blocks = [record["blocks"] for record in taken]
    assert (blocks[:3], len(blocks)) == ([25, 25, 10], steps)
    for number, record in enumerate(taken):
        rates = cosine_schedule(1e-3, sum(blocks), sum(blocks[:number]), 0)
        assert record["lr"] == rates.lr
    assert run.status["steps_total"] == steps


def test_the_test_area_is_never_looked_at(config: TrainConfig, store: Store) -> None:
    for area in store.areas:
        held_out = dataclasses.replace(config, test_area=area)
        for sampler in open_samplers(held_out, store):
            assert area not in {room.area for room in sampler.rooms}


def test_best_is_the_first_of_the_highest(config: TrainConfig) -> None:
    run = run_as(config, "rough", epochs=5, lr=0.003)
    scores = [record["val_miou"] for record in run.metrics() if record["event"] == "epoch"]
    assert any(later < earlier for earlier, later in pairwise(scores))  # or this tests nothing
    best = int(np.argmax(scores)) + 1
    assert run.status["best_epoch"] == best
    assert run.status["best_miou"] == max(scores)
    until_then = run_as(config, "until", epochs=best, lr=0.003)
    weights = load_file(run.weights("best"))
    assert_same(weights, load_file(until_then.weights("last")))
    assert int(read_metadata(run.weights("best"))["step"]) == best * BATCHES


def test_validation_scores_are_those_of_the_saved_weights(
    config: TrainConfig, store: Store
) -> None:
    run = run_as(config, "one", epochs=1)
    _, validation = open_samplers(run.config, store)
    assert run.metrics()[-1]["val_miou"] == pytest.approx(miou_of(run, validation), abs=1e-12)


def test_the_average_is_what_is_validated_and_saved(config: TrainConfig, store: Store) -> None:
    config = dataclasses.replace(config, extra=("ema",))
    run = run_as(config, "run", epochs=1)
    state = training_state(run)
    for checkpoint in ("last", "best"):
        weights = load_file(run.weights(checkpoint))
        assert_same(weights, {name: state["average"][name] for name in weights})
        assert len(weights) == len(state["average"])
    assert not torch.equal(
        state["model"]["classifier.weight"], state["average"]["classifier.weight"]
    )
    assert read_metadata(run.weights("best"))["weights"] == "average"
    _, validation = open_samplers(run.config, store)
    assert run.metrics()[-1]["val_miou"] == pytest.approx(miou_of(run, validation), abs=1e-12)
    # The steps are those of a run without it: the average looks on.
    plain = run_as(config, "plain", epochs=1, extra=())
    for part in ("model", "optimizer", "rng"):
        assert_same(state[part], training_state(plain)[part])
    assert training_state(plain)["average"] is None
    assert read_metadata(plain.weights("best"))["weights"] == "as trained"


def test_parts_of_the_sampling_reach_the_training_blocks_alone(
    config: TrainConfig, store: Store
) -> None:
    def epochs(*extra: str) -> list[list[np.ndarray]]:
        changed = dataclasses.replace(config, test_area=3, extra=extra)
        return [[s.sample(e, 0)[0] for e in (0, 1)] for s in open_samplers(changed, store)]

    for extra, differ in (((), False), (("resample",), True), (("jitter",), True)):
        training, validation = epochs(*extra)
        assert np.array_equal(*training) != differ
        assert np.array_equal(*validation)
    balanced, validation = open_samplers(
        dataclasses.replace(config, test_area=3, extra=("balance",)), store
    )
    assert max(balanced.order(0)) >= len(balanced)
    assert max(validation.order(0)) == len(validation) - 1


def test_gpu_memory_is_shown_where_there_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 5 * 2**29)  # noqa: ARG005
    batch = Batch(np.zeros((1, 1, 9)), np.zeros((1, 1)), (0,))
    shown = figures(Step(0.5, 1e-3, batch, 1.0, 0.0), Pace(), torch.device("cuda"))
    assert shown["GPU memory"] == "2.5 GiB"


def test_what_cannot_work_leaves_no_run(config: TrainConfig) -> None:
    with pytest.raises(ConfigError, match=r"--area: found 5, expected an area .*: 1, 2, 3\."):
        train(dataclasses.replace(config, test_area=5))
    with pytest.raises(RunError, match="found no run there"):
        train(config, resume=config.runs / "nothing")
    assert not config.runs.exists()


def test_progress_receives_notes_and_figures(config: TrainConfig) -> None:
    listener = AtStep()
    train(config, progress=listener)
    assert "resgcn-3 (edge, C 8, k 4)" in listener.said[0]
    assert "test area 3; 4 training rooms (48 blocks); 1 validation room;" in listener.said[0]
    assert "cpu, 1 thread" in listener.said[0]
    assert [line.split(":")[0] for line in listener.said[1:]] == ["Epoch 1/2", "Epoch 2/2"]
    epochs = [task for task in listener.tasks if task[0].startswith("Epoch")]
    assert epochs == [("Epoch 1/2", 48), ("Epoch 2/2", 48)]
    assert sum(float(fields["amount"]) for fields in listener.fields) == 96
    assert set(listener.fields[0]) == {"amount", "loss", "lr", "blocks/s", "data wait"}
    assert "lr 0.001, seed 0" in listener.said[0]


def test_an_epoch_that_max_steps_ends_is_that_much_shorter(config: TrainConfig) -> None:
    """4 blocks a step, 12 steps an epoch: one step of the first, and then two of the second."""
    first, second = AtStep(), AtStep()
    run = run_as(config, "run", first, max_steps=1)
    train(dataclasses.replace(run.config, max_steps=14), resume=run.path, progress=second)
    tasks = [task for task in first.tasks + second.tasks if task[0].startswith("Epoch")]
    assert tasks == [("Epoch 1/1", 4), ("Epoch 1/2", 48), ("Epoch 2/2", 8)]


def test_tensorboard_shows_the_metrics(config: TrainConfig) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = run_as(config, "run", epochs=1)
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    steps = [record for record in run.metrics() if record["event"] == "step"]
    shown = events.Scalars("train/loss")
    assert [event.step for event in shown] == [record["step"] for record in steps]
    assert [e.value for e in shown] == pytest.approx([record["loss"] for record in steps])
    assert [e.value for e in events.Scalars("validation/miou")] == pytest.approx(
        [run.status["best_miou"]]
    )


def test_threads_are_given_back(config: TrainConfig) -> None:
    before = torch.get_num_threads()
    train(dataclasses.replace(config, max_steps=1))
    assert torch.get_num_threads() == before


def test_layers_with_neighbours_in_space(config: TrainConfig) -> None:
    in_space = dataclasses.replace(config.model, depth=4, spatial="2,2,5")
    run = run_as(config, "in-space", model=in_space)
    assert (run.state, load_weights(run.weights("last")).config.spatial) == ("finished", "2,2,5")
