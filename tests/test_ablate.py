"""Studies on the tiny building: which runs belong to them, what they come to, stopping anywhere."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines import kernels
from pipelines.ablate import _launched, ablate, ablate_job, dry_run
from pipelines.config import AblateConfig, EvalConfig
from pipelines.data.store import Store
from pipelines.errors import ConfigError, RunError
from pipelines.evaluate import evaluate
from pipelines.launch import Worker
from pipelines.reports.comparison import bootstrap_interval
from pipelines.reports.studies import Line, tables_values
from pipelines.runs.directory import find_runs, open_run
from pipelines.runs.lock import lock_run
from pipelines.studies.plan import Plan, load_plan, make_plan, save_plan, study_file
from pipelines.studies.sixfold import six_fold
from pipelines.studies.state import Cell, gather
from pipelines.studies.tables import summarize
from pipelines.train import train
from tests.tiny_store import write_tiny_store
from tests.tiny_training import AtStep

BASE = (
    "{depth: 3, width: 8, k: 4, fusion-channels: 32, layout: torch, batch-size: 4, "
    "num-points: 64, lr: 0.01, device: cpu, threads: 1, max-steps: %d}"
)
ROWS = "{reference: {}, plain: {arch: plaingcn}, small: {width: 4}}"
GRID = "base: %s\nrows: %s\nreference: reference\nseeds: 2\n"
TIMES = ("seconds", "peak_memory")


@pytest.fixture(autouse=True)
def _readable_kernels() -> Iterator[None]:
    with kernels.use("reference"):
        yield


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_tiny_store(tmp_path_factory.mktemp("tiny") / "data", points=300)


def grid_file(folder: Path, steps: int = 6, rows: str = ROWS) -> Path:
    path = folder / "grid.yaml"
    path.write_text(GRID % (BASE % steps, rows), encoding="utf-8")
    return path


def config(store: Store, folder: Path, **changes: Any) -> AblateConfig:
    values = {"grid": folder / "grid.yaml", "data": store.path, "runs": folder / "runs"}
    return AblateConfig(**{**values, **changes})


def planned(store: Store, folder: Path, **changes: Any) -> Plan:
    plan = make_plan(config(store, folder, **changes), store)
    save_plan(plan)
    return plan


def cells(plan: Plan) -> dict[str, Cell]:
    return {cell.name: cell for cell in gather(plan)}


@pytest.fixture(scope="module")
def done(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study of three rows and two seeds, trained and scored in this process."""
    folder = tmp_path_factory.mktemp("done")
    grid_file(folder)
    plan = planned(store, folder)
    with kernels.use("reference"):
        for row in plan.rows:
            for seed in plan.seeds:
                ablate_job(plan.file, row.name, seed)
    return folder


def test_every_row_is_compared_with_the_reference_seed_by_seed(done: Path) -> None:
    result = summarize(load_plan(study_file(done / "runs", "grid")))
    assert (result.runs, result.finished, result.failed) == (6, 6, 0)
    (table,) = result.tables
    assert [line.name for line in table.lines] == ["reference", "plain", "small"]
    reference, plain, _ = table.lines
    assert reference.delta is None
    assert [sample.run for sample in plain.samples] == ["grid-plain-s0", "grid-plain-s1"]
    runs = {n: open_run(done / "runs" / n) for n in (s.run for s in samples_of(table.lines))}
    scores = {name: run.scores("room") for name, run in runs.items()}
    ours = [scores[f"grid-plain-s{seed}"] for seed in (0, 1)]
    theirs = [scores[f"grid-reference-s{seed}"] for seed in (0, 1)]
    assert plain.delta is not None
    gains = [b["miou"] - a["miou"] for a, b in zip(theirs, ours, strict=True)]
    assert plain.delta.miou == pytest.approx(np.mean(gains))
    assert (plain.delta.rooms, plain.delta.seeds) == (2, 2)
    rooms = [
        [[each["rooms"][n] for n in sorted(each["rooms"])] for each in s] for s in (theirs, ours)
    ]
    interval = bootstrap_interval(np.array(rooms[0]), np.array(rooms[1]))
    assert (plain.delta.low, plain.delta.high) == interval
    assert plain.deviation("miou") == pytest.approx(np.std([s["miou"] for s in ours], ddof=1))
    assert plain.most("peak_memory") > 1e8, "bytes: PyTorch alone has more"
    lines = (runs["grid-plain-s1"].path / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in lines if '"event": "step"' in line]
    tenth = steps[-max(1, len(steps) // 10) :]
    found = np.mean([step["loss"] for step in tenth])
    assert plain.samples[1].loss == pytest.approx(found)


def samples_of(lines: tuple[Line, ...]) -> list[Any]:
    return [sample for line in lines for sample in line.samples]


def test_a_second_time_nothing_is_run(store: Store, done: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (done / "runs").rglob("scores.json")}
    assert len(before) == 6
    result = ablate(config(store, done, pictures=False))
    assert result.finished == 6
    assert before == {path: path.stat().st_mtime_ns for path in before}
    assert [file.name for file in result.files] == ["table.md"]
    assert "| named | plain |" in result.files[0].read_text()


def test_runs_are_found_by_their_settings_whatever_their_names(
    store: Store, done: Path, tmp_path: Path
) -> None:
    """Another study with a row of the same settings takes the runs that are there."""
    shutil.copytree(done / "runs", tmp_path / "runs")
    (tmp_path / "runs" / "grid-plain-s0").rename(tmp_path / "runs" / "by-hand")
    grid_file(tmp_path, rows="{other: {arch: plaingcn}, reference: {}, new: {k: 3}}")
    found = cells(planned(store, tmp_path, name="second"))
    assert {name: cell.run and cell.run.name for name, cell in found.items()} == {
        "other-s0": "by-hand",
        "other-s1": "grid-plain-s1",
        "reference-s0": "grid-reference-s0",
        "reference-s1": "grid-reference-s1",
        "new-s0": None,
        "new-s1": None,
    }
    assert [cell.state for cell in found.values()] == ["scored"] * 4 + ["waiting"] * 2


@pytest.mark.parametrize("changes", ["max-steps: 5", "lr: 0.02", "epochs: 9", "without: []"])
def test_what_shapes_the_result_is_another_run(
    store: Store, done: Path, tmp_path: Path, changes: str
) -> None:
    same = changes == "without: []"  # what it is already
    grid_file(tmp_path, rows=f"{{reference: {{{changes}}}}}")
    found = cells(planned(store, tmp_path, runs=done / "runs", name=f"n{abs(hash(changes))}"))
    assert [cell.state for cell in found.values()] == (["scored"] if same else ["waiting"]) * 2


def test_other_data_is_another_run(done: Path, tmp_path: Path) -> None:
    other = write_tiny_store(tmp_path / "data", points=200)
    grid_file(tmp_path)
    found = cells(planned(other, tmp_path, runs=done / "runs", name="other-data"))
    assert {cell.state for cell in found.values()} == {"waiting"}


def test_another_evaluation_scores_the_same_runs_again(store: Store, done: Path) -> None:
    found = cells(planned(store, done, name="votes", votes=2))
    assert {cell.state for cell in found.values()} == {"trained"}
    found = cells(planned(store, done, name="blocks", protocol="block-s1"))
    assert {cell.state for cell in found.values()} == {"trained"}


def test_scores_that_count_absent_classes_otherwise_are_no_row_of_a_table(
    store: Store, done: Path
) -> None:
    plan = planned(store, done)
    before = cells(plan)["plain-s0"]
    assert before.run is not None
    assert before.scores is not None
    evaluate(dataclasses.replace(plan.evaluation, run_dirs=(before.run.path,), absent="minus-one"))
    assert cells(plan)["plain-s0"].state == "trained"
    evaluate(dataclasses.replace(plan.evaluation, run_dirs=(before.run.path,)))
    after = cells(plan)["plain-s0"].scores
    assert after is not None
    assert after["miou"] == before.scores["miou"]


def test_a_name_that_is_taken_gets_a_number(store: Store, tmp_path: Path) -> None:
    grid_file(tmp_path, steps=2, rows="{reference: {}}")
    taken = tmp_path / "runs" / "grid-reference-s0"
    taken.mkdir(parents=True)
    plan = planned(store, tmp_path)
    made = ablate_job(plan.file, "reference", 0)
    assert made.name == "grid-reference-s0-2"
    assert cells(plan)["reference-s0"].state == "scored"


def test_a_study_with_other_settings_needs_another_name(store: Store, tmp_path: Path) -> None:
    grid_file(tmp_path)
    planned(store, tmp_path)
    grid_file(tmp_path, steps=7)
    with pytest.raises(RunError, match=r"reference's max_steps was 6, now 7\.\nGive .*--name"):
        ablate(config(store, tmp_path))


def test_a_study_on_other_data_or_scored_otherwise_needs_another_name(
    store: Store, tmp_path: Path
) -> None:
    grid_file(tmp_path)
    before = planned(store, tmp_path).file.read_bytes()
    other = write_tiny_store(tmp_path / "data", points=200)
    for changes, found in (
        ({"votes": 2}, "scores: votes was 1, now 2"),
        ({"checkpoint": "last"}, "scores: checkpoint was best, now last"),
        ({"protocol": "block-s1"}, "scores: protocol was room, now block-s1"),
        ({"data": other.path}, f"data: it began on {store.fingerprint[:12]}, .* is "),
    ):
        for stage in (ablate, dry_run):
            with pytest.raises(RunError, match=f"found the study with other {found}(.|\n)*--name"):
                stage(config(store, tmp_path, **changes))
    assert (tmp_path / "runs" / "studies" / "grid" / "study.json").read_bytes() == before


def test_votes_are_of_whole_rooms_and_other_studies_go_on_with_any(
    store: Store, done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done / "runs", tmp_path / "runs")
    grid_file(tmp_path)
    blocks = {"name": "blocks", "protocol": "block-s1"}
    planned(store, tmp_path, **blocks)
    again = config(store, tmp_path, votes=2, **blocks)
    assert dry_run(again).study == "blocks"
    (table,) = summarize(make_plan(again, store)).tables
    assert table.summary["scored"] == "protocol block-s1, best checkpoint"
    rooms = make_plan(config(store, tmp_path, name="rooms", votes=2), store)
    (table,) = summarize(rooms).tables
    assert table.summary["scored"] == "protocol room, 2 votes, best checkpoint"


def test_some_rows_are_run_and_all_are_in_the_table(
    store: Store, done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done / "runs", tmp_path / "runs")
    grid_file(tmp_path)
    shutil.rmtree(tmp_path / "runs" / "grid-plain-s0")  # has to wait
    listener = AtStep()
    result = ablate(config(store, tmp_path, rows=("small",), pictures=False), progress=listener)
    assert (result.runs, result.finished) == (4, 4), "of the rows that were asked for"
    assert [len(line.samples) for line in result.tables[0].lines] == [2, 1, 2]
    assert listener.said == ["grid: 2 rows × 2 seeds; 4 scored; 0 to run"]
    saved = load_plan(study_file(tmp_path / "runs", "grid"))
    assert [row.name for row in saved.rows] == ["reference", "plain", "small"]


def test_the_grid_says_how_the_machine_is_divided(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its base has `device: cpu` and `threads: 1`."""
    divided: list[list[Worker]] = []

    class Launcher:
        def __init__(self, workers: list[Worker]) -> None:
            divided.append(workers)

        def run(self, jobs: object) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:  # noqa: ARG002
            return iter(())

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("pipelines.ablate.gpu_names", lambda: ("0", "1"))
    monkeypatch.setattr("pipelines.ablate.LocalLauncher", Launcher)
    grid_file(tmp_path)
    plan = planned(store, tmp_path)
    _launched(plan, config(store, tmp_path, workers=2), gather(plan))
    (workers,) = divided
    assert [(each.threads, each.device, each.sharing) for each in workers] == [(1, None, 2)] * 2


def test_a_run_that_another_process_has_just_begun_is_taken(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was not there when this process looked for it."""
    grid_file(tmp_path, steps=2, rows="{reference: {}}")
    plan = planned(store, tmp_path)
    calls: list[str] = []

    def faster(training: Any, **options: Any) -> Any:
        calls.append(training.name)
        train(training, **options)  # by the other process
        return train(training, **options)  # by this one, which finds the name taken

    monkeypatch.setattr("pipelines.ablate.train", faster)
    monkeypatch.setattr("pipelines.ablate.time.sleep", lambda _: None)
    assert ablate_job(plan.file, "reference", 0).name == "grid-reference-s0"
    assert calls == ["grid-reference-s0"]
    assert cells(plan)["reference-s0"].state == "scored"


def test_an_interrupted_run_is_gone_on_with(store: Store, tmp_path: Path) -> None:
    grid_file(tmp_path)
    plan = planned(store, tmp_path)
    one = plan.row("plain").seeded(1)
    short = dataclasses.replace(one, max_steps=3, name="begun")
    train(short)  # stops after three steps, as a signal would have made it
    run = open_run(tmp_path / "runs" / "begun")
    values = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps({**values, "max_steps": 6}))
    run.update_status(state="interrupted")
    assert cells(plan)["plain-s1"].state == "interrupted"
    assert "seed 1 interrupted at step 3" in remark(
        summarize(load_plan(study_file(tmp_path / "runs", "grid"))), "plain"
    )
    assert ablate_job(plan.file, "plain", 1) == run.path
    assert run.status["step"] == 6
    assert cells(plan)["plain-s1"].state == "scored"


def remark(result: Any, row: str) -> str:
    return next(line.remark for line in result.tables[0].lines if line.name == row)


def test_a_run_that_another_process_trains_is_waited_for(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid_file(tmp_path, steps=2, rows="{reference: {}}")
    plan = planned(store, tmp_path)
    path = ablate_job(plan.file, "reference", 0)
    waited: list[float] = []
    lock = lock_run(path)

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        lock.__exit__(None, None, None)  # the other process ends

    lock.__enter__()
    monkeypatch.setattr("pipelines.ablate.time.sleep", sleep)
    assert ablate_job(plan.file, "reference", 0) == path
    assert len(waited) == 1


def test_a_failed_run_is_shown_with_its_error(store: Store, tmp_path: Path) -> None:
    grid_file(tmp_path, steps=2, rows="{reference: {}, wild: {lr: 1.0e+30}}")
    plan = planned(store, tmp_path)
    with pytest.raises(RunError, match="the loss is nan"):
        ablate_job(plan.file, "wild", 0)
    result = summarize(load_plan(study_file(tmp_path / "runs", "grid")))
    assert result.failed == 1
    found = remark(result, "wild")
    assert found.startswith("seed 0 failed: ")
    assert "the loss is nan on batch 2 of epoch 1 (blocks of" in found
    assert found.endswith("; seed 1 waiting")


def test_an_unknown_row_of_a_job(store: Store, tmp_path: Path) -> None:
    grid_file(tmp_path)
    plan = planned(store, tmp_path)
    with pytest.raises(ConfigError, match=r"unknown row 'plane'. Did you mean 'plain'"):
        ablate_job(plan.file, "plane", 0)


def test_six_folds_agree_with_eval(store: Store, tmp_path: Path) -> None:
    base = {"depth": 3, "width": 8, "k": 4, "fusion_channels": 32, "max_steps": 2, "batch_size": 4}
    base |= {"num_points": 64, "device": "cpu", "threads": 1}
    plan = planned(store, tmp_path, grid=None, preset="six-fold", base=base)
    for row in plan.rows:
        ablate_job(plan.file, row.name, 0)
    (table,) = summarize(load_plan(study_file(tmp_path / "runs", "six-fold"))).tables
    runs = tuple(Path(f"six-fold-area-{area}-s0") for area in (1, 2, 3))
    (folds,) = six_fold(
        EvalConfig(runs=tmp_path / "runs", run_dirs=runs, device="cpu", pictures=False)
    )
    lines = {line.name: line for line in table.lines}
    assert list(lines) == ["area-1", "area-2", "area-3", "pooled", "mean"]
    assert lines["pooled"].mean("miou") == folds.pooled.miou
    assert lines["mean"].mean("miou") == folds.mean.miou
    assert lines["area-2"].mean("oa") == folds.areas[2].oa


def test_a_row_says_where_its_steps_were_split(done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "runs", tmp_path / "runs")
    file = tmp_path / "runs" / "grid-plain-s1" / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "micro_batch": 1}))
    (table,) = summarize(load_plan(study_file(tmp_path / "runs", "grid"))).tables
    remarks = {line.name: line.remark for line in table.lines}
    assert remarks == {"reference": "", "plain": "seed 1 in micro-batches of 1", "small": ""}


def test_a_dry_run_counts_and_writes_nothing(store: Store, done: Path, tmp_path: Path) -> None:
    shutil.copytree(done / "runs", tmp_path / "runs")
    for name, change in {
        "gone": {"conv": "gone:Conv"},
        "unknown": {"conv": "NoSuchConv"},
        "of 16 bits": {},
    }.items():
        foreign = tmp_path / "runs" / name
        shutil.copytree(tmp_path / "runs" / "grid-plain-s1", foreign)
        values = json.loads((foreign / "config.json").read_text())
        values["model"] |= change
        values["precision"] = "32" if change else "bf16"
        (foreign / "config.json").write_text(json.dumps(values))
    grid_file(tmp_path, rows="{reference: {}, twice: {max-steps: 12}, wide: {width: 64}}")
    found = dry_run(config(store, tmp_path))
    assert not (tmp_path / "runs" / "studies" / "mine").exists()
    rows = {row.row.name: row for row in found.rows}
    assert [(n, row.runs, row.steps) for n, row in rows.items()] == [
        ("reference", 0, 6),
        ("twice", 2, 12),
        ("wide", 2, 6),
    ]
    assert found.source == f"the pace of 6 runs of this machine in {tmp_path / 'runs'}"
    assert rows["reference"].seconds == 0
    assert rows["wide"].seconds > rows["twice"].seconds / 2, "more arithmetic a step"
    assert found.seconds == pytest.approx(sum(row.seconds for row in found.rows))


@pytest.mark.alone
@pytest.mark.slow
def test_times_are_not_taken_from_far_smaller_blocks(
    store: Store, done: Path, tmp_path: Path
) -> None:
    shutil.copytree(done / "runs", tmp_path / "runs")
    grid_file(tmp_path, rows="{reference: {num-points: 512}}")
    assert dry_run(config(store, tmp_path, name="other")).source == "timed steps of the first row"


def command(store: Store, folder: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "deepgcn_cli", "ablate", "--grid", str(folder / "grid.yaml")),
        *("--data", str(store.path), "--runs", str(folder / "runs"), "--no-pictures", *more),
    ]


def table_of(folder: Path) -> list[dict[str, Any]]:
    """The rows of a study without what depends on the clock, the machine and the folder."""
    (values,) = tables_values(summarize(load_plan(study_file(folder / "runs", "grid"))).tables)
    for row in values["rows"]:
        row["remark"] = row["remark"].replace(str(folder), "")
        for record in (row, *row["samples"]):
            for name in TIMES:
                record.pop(name)
    return values["rows"]


@pytest.mark.slow
def test_killed_and_stopped_the_table_is_the_same(store: Store, tmp_path: Path) -> None:
    """A job killed, then Ctrl-C, then to the end; rows fail on the way."""
    whole, broken = (tmp_path / name for name in ("whole", "broken"))
    rows = "{reference: {}, plain: {arch: plaingcn}, wild: {lr: 1.0e+30}, wide: {num-points: 2}}"
    for folder in (whole, broken):
        folder.mkdir()
        grid_file(folder, steps=120, rows=rows)
    undisturbed = planned(store, whole, seeds=1)
    with kernels.use(None):  # as the command line does
        for row in ("reference", "plain", "wild"):
            with suppress(RunError):
                ablate_job(undisturbed.file, row, 0)

    with started(store, broken) as process:
        wait_for_steps(broken / "runs", {})
        (killed, *_) = sorted(logs(broken / "runs"))
        job = int((broken / "runs" / killed / ".lock").read_text().split()[1])
        os.kill(job, signal.SIGKILL)
        before = {**logs(broken / "runs"), killed: sys.maxsize}
        wait_for_steps(broken / "runs", before)  # the others go on
        wait_for_text(broken / "stderr", "-s0 failed: its process ended without a result")
        process.send_signal(signal.SIGINT)
    assert process.returncode == 130
    states = [cell.state for cell in gather(load_plan(study_file(broken / "runs", "grid")))]
    assert states.count("scored") < 2, "stopped before the end"

    done = subprocess.run(
        command(store, broken, "--workers", "2", "--seeds", "1"), capture_output=True, text=True
    )
    assert done.returncode == 1, "two rows cannot be trained"
    assert "wild-s0 failed: " in done.stderr
    assert "2 of 4 runs scored, 2 failed" in done.stdout
    lines = {line.split("|")[2].strip(): line for line in done.stdout.splitlines() if "|" in line}
    assert "the loss is nan on batch 2 of epoch 1 (blocks of" in lines["wild"]
    assert "not trained: k·d: layer 2 takes neighbours from" in lines["wide"]
    assert table_of(broken) == table_of(whole)
    assert len(find_runs(broken / "runs")) == 3, "nothing was begun twice"


@contextmanager
def started(store: Store, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The command in the background, until it has ended."""
    with (
        (folder / "stderr").open("wb") as errors,
        subprocess.Popen(
            command(store, folder, "--workers", "2", "--seeds", "1"),
            stdout=subprocess.DEVNULL,
            stderr=errors,
            # Tests in the background may have inherited that it is ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def logs(runs: Path) -> dict[str, int]:
    """The size of each run's metrics log."""
    found = {run.name: run.path / "metrics.jsonl" for run in find_runs(runs)}
    return {name: path.stat().st_size for name, path in found.items() if path.is_file()}


def wait_for_text(file: Path, text: str, seconds: float = 60.0) -> None:
    """Wait until a file holds a text."""
    end = time.monotonic() + seconds
    while text not in file.read_text():
        assert time.monotonic() < end, f"{text!r} did not come"
        time.sleep(0.05)


def wait_for_steps(runs: Path, before: dict[str, int], seconds: float = 240.0) -> None:
    """Wait until a run has taken some more steps than in `before`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any(size - before.get(name, 0) > 2000 for name, size in logs(runs).items()):
            return  # some ten records
        time.sleep(0.05)
    raise AssertionError(f"no steps within {seconds:.0f} s")
