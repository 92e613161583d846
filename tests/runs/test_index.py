"""The index holds what the directories hold, whatever happened to its file."""

from __future__ import annotations

import json
import os
import random
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError, RunError
from pipelines.runs.annotations import add_tag, write_note
from pipelines.runs.directory import Run, changing, create_run
from pipelines.runs.index import FILE, VERSION, describe, query, runs_frame, sync
from pipelines.runs.lock import lock_run
from pipelines.runs.query import COLUMNS
from tests.ears import Ears
from tests.small_disk import largest_file


def make(runs: Path, name: str, **model: Any) -> Run:
    network = ModelConfig(**{"depth": 7, "k": 8, **model})
    config = TrainConfig(model=network, runs=runs, name=name, test_area=5)
    return create_run(config, environment={"cpu": "a processor"})


def score(run: Run, miou: float, protocol: str = "room") -> None:
    folder = run.path / "eval" / protocol
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scores.json").write_text(json.dumps({"oa": 0.9, "macc": 0.8, "miou": miou}))


def rows(runs: Path, columns: str = "name, state, depth, room_miou") -> list[tuple]:
    """What the file itself holds, without this program's reading."""
    with closing(sqlite3.connect(runs / FILE)) as database:
        return database.execute(f"SELECT {columns} FROM runs ORDER BY name").fetchall()


def listed(runs: Path, **options: Any) -> list[str]:
    return [name for (name,) in query(runs, columns=["name"], **options)]


def age(run: Run) -> None:
    """Make the last change of a run's directory a minute old."""
    past = run.path.stat().st_mtime_ns - 60 * 10**9
    os.utime(run.path, ns=(past, past))


def test_a_reading_brings_the_file_up_to_date(tmp_path: Path) -> None:
    run = make(tmp_path, "mine", epsilon=0.1)
    assert not (tmp_path / FILE).exists(), "who writes a run does not touch the index"
    query(tmp_path)
    assert rows(tmp_path, "name, status, epsilon") == [("mine", "running", 0.1)]
    run.update_status(state="finished", best_miou=0.5, epoch=3)
    with changing(run):
        score(run, 0.7, "block-s1")
    query(tmp_path)
    assert rows(tmp_path, "name, state, epoch, val_miou") == [("mine", "finished", 3, 0.5)]
    assert rows(tmp_path, "block_s1_oa, block_s1_macc, block_s1_miou") == [(0.9, 0.8, 0.7)]


def test_a_line_says_what_the_files_say(tmp_path: Path) -> None:
    config = TrainConfig(
        model=ModelConfig.published("resgcn", 28, conv="mr"),
        runs=tmp_path,
        data=Path("data"),
        name="mine",
        test_area=2,
        recipe="modern",
        without=("flip", "cosine"),
        max_steps=10**30,
    )
    run = create_run(config, environment={"cpu": "a processor", "gpu": "a GPU", "device": "cuda"})
    run.update_status(peak_memory=123, blocks_per_second=4.5, best_epoch=2, seconds=60.0)
    add_tag(run.path, "paper")
    add_tag(run.path, "area-2")
    write_note(run.path, "two\nlines")
    assert describe(run)["stamp"] is None, "the directory may change again in the same instant"
    age(run)
    line = describe(run)
    expected = {
        **{"arch": "resgcn", "depth": 28, "conv": "mr", "preset": "resmrgcn-28", "dilation": 1},
        **{"knn_every": 1, "knn_until": None},
        **{"test_area": 2, "recipe": "modern", "data": "data", "lr": config.first_lr},
        "parts": "balance resample rotate scale jitter contrast color-drop "
        "smoothing adamw clip ema",
        **{"device": "cuda", "hardware": "a GPU", "peak_memory": 123, "blocks_per_second": 4.5},
        **{"best_epoch": 2, "seconds": 60.0, "tags": "area-2 paper", "note": "two\nlines"},
        **{"max_steps": 1e30, "error": None, "parameters": None},
    }
    assert {name: line[name] for name in expected} == expected
    assert line["stamp"] == run.path.stat().st_mtime_ns


def test_changes_behind_our_back_are_seen(tmp_path: Path) -> None:
    first, second = make(tmp_path, "first"), make(tmp_path, "second")
    assert listed(tmp_path) == ["first", "second"]
    first.path.rename(tmp_path / "renamed")
    (tmp_path / "notes").mkdir()
    (second.path / "config.json").unlink()
    assert listed(tmp_path) == ["renamed"]
    assert [name for name, *_ in rows(tmp_path)] == ["renamed"]


def test_only_sync_sees_what_was_edited_in_place(tmp_path: Path) -> None:
    run = make(tmp_path, "mine")
    age(run)
    assert query(tmp_path, columns=["depth"]) == [(7,)]
    text = (run.path / "config.json").read_text()
    with (run.path / "config.json").open("r+") as file:
        file.write(text.replace('"depth": 7', '"depth": 9'))
    assert query(tmp_path, columns=["depth"]) == [(7,)]
    assert sync(tmp_path) == 1
    assert query(tmp_path, columns=["depth"]) == [(9,)]


def test_a_kill_while_scores_are_written_hides_nothing(tmp_path: Path) -> None:
    run = make(tmp_path, "mine")
    score(run, 0.1)
    with changing(run):
        assert query(tmp_path, columns=["miou"]) == [(0.1,)]
        score(run, 0.2)
        assert query(tmp_path, columns=["miou"]) == [(0.2,)], "seen within the block already"
    (run.path / ".changing").touch()  # as a killed process leaves it
    age(run)
    for miou in (0.3, 0.4):
        score(run, miou)
        assert query(tmp_path, columns=["miou"]) == [(miou,)]
    with changing(run):
        pass
    assert not (run.path / ".changing").exists()


def test_a_killed_run_is_interrupted_and_a_living_one_runs(tmp_path: Path) -> None:
    run = make(tmp_path, "mine")
    with lock_run(run.path):
        assert query(tmp_path, columns=["state"]) == [("running",)]
        assert listed(tmp_path, where="state=interrupted") == []
    assert listed(tmp_path, where="state=interrupted") == ["mine"]
    with lock_run(run.path):  # and back, without any change of its files but the lock's
        assert listed(tmp_path, where="state=running") == ["mine"]


def test_a_broken_run_has_a_line_with_the_reason(tmp_path: Path) -> None:
    run = make(tmp_path, "bad")
    (run.path / "config.json").write_text('{"depth": ')
    make(tmp_path, "lost").path.joinpath("status.json").unlink()
    sync(tmp_path)
    ((_, bad), (_, lost)) = query(tmp_path, columns=["state", "error"], sort="name")
    assert "config.json" in bad
    assert "status.json" in lost
    assert listed(tmp_path, where="state=broken", sort="name") == ["bad", "lost"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("status.json", '{"best_miou": "x"}'),
        ("status.json", f'{{"seconds": {10**400}}}'),
        ("status.json", '{"peak_memory": 1.5}'),
        ("config.json", '{"model": {"dilation": {}}}'),
        ("config.json", '{"batch_size": 1.5}'),
        ("config.json", "[" * 100_000),
        ("eval/room/scores.json", '{"miou": []}'),
    ],
)
def test_a_value_that_cannot_be_breaks_its_run_alone(tmp_path: Path, file: str, text: str) -> None:
    score(make(tmp_path, "bad"), 0.5)
    score(make(tmp_path, "whole"), 0.5)
    (tmp_path / "bad" / file).write_text(text)
    sync(tmp_path)
    assert listed(tmp_path, where="state=broken") == ["bad"]
    ((error,),) = query(tmp_path, columns=["error"], where="state=broken")
    assert file in error
    assert len(runs_frame(tmp_path)) == 2


@pytest.mark.parametrize("status", ['{"step": [1], "created": {"a": 1}}', '{"note": "\\ud800"}'])
def test_odd_values_do_no_harm(tmp_path: Path, status: str) -> None:
    run = make(tmp_path, "odd")
    (run.path / "status.json").write_text(status)
    (run.path / "eval" / "room").mkdir(parents=True)
    (run.path / "eval" / "room" / "scores.json").write_text('{"miou": "\\ud800", "oa": 1e999}')
    assert sync(tmp_path) == 1
    assert listed(tmp_path) == ["odd"]


@pytest.mark.parametrize("content", [b"", b"not a database" * 100, None])
def test_a_damaged_file_is_made_anew(tmp_path: Path, content: bytes | None) -> None:
    for number in range(30):
        make(tmp_path, f"run{number}")
    assert len(listed(tmp_path)) == 30
    path = tmp_path / FILE
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    whole = path.read_bytes()
    # None: a file whose header is right and whose pages are not, which shows only when it is read
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096) if content is None else content)
    assert len(listed(tmp_path)) == 30
    assert len(rows(tmp_path)) == 30


def test_a_flipped_bit_anywhere_changes_nothing(tmp_path: Path) -> None:
    for number in range(4):
        score(run := make(tmp_path, f"run{number}", epsilon=number / 8), number / 3)
        run.update_status(state="finished", best_miou=0.5, seconds=60.0)
        age(run)
    sync(tmp_path)
    columns = [name for name in COLUMNS if name != "stamp"]
    expected = query(tmp_path, columns=columns)
    path = tmp_path / FILE
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=DELETE")
    whole = path.read_bytes()
    places = [place for place, byte in enumerate(whole) if byte]
    rng = random.Random(0)
    for place in rng.sample(places, 150):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        assert query(tmp_path, columns=columns) == expected, place


def test_sync_says_that_it_could_not_write(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    with largest_file(1000), pytest.raises(RunError, match=r"results\.db: cannot be written"):
        sync(tmp_path)
    assert listed(tmp_path) == ["mine"]
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(RunError, match=r"results\.db: cannot be written \(unable to open"):
        sync(tmp_path)


def test_a_database_of_another_program_is_made_anew(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("CREATE TABLE runs (title TEXT)")
    assert listed(tmp_path) == ["mine"]


def test_where_nothing_can_be_written_the_directories_are_read(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    (tmp_path / FILE).mkdir()
    heard = Ears()
    assert query(tmp_path, columns=["name", "depth"], progress=heard) == [("mine", 7)]
    assert "cannot be used" in heard.warned[0]


def test_on_a_network_folder_there_is_no_write_ahead_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "mine")
    for network, mode in ((False, "wal"), (True, "delete")):
        monkeypatch.setattr("pipelines.runs.index.is_on_network", lambda _, is_it=network: is_it)
        assert listed(tmp_path) == ["mine"]
        with closing(sqlite3.connect(tmp_path / FILE)) as database:
            assert database.execute("PRAGMA journal_mode").fetchone() == (mode,)


def test_several_at_once(tmp_path: Path) -> None:
    for number in range(3):
        make(tmp_path, f"run{number}")
    (tmp_path / FILE).write_bytes(b"damaged")
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(sync, [tmp_path] * 8)) == [3] * 8
    assert len(rows(tmp_path)) == 3


def test_order_and_limit(tmp_path: Path) -> None:
    for name, miou in (("a", 0.3), ("b", None), ("c", 0.5), ("d", 0.3)):
        run = make(tmp_path, name)
        if miou is not None:
            score(run, miou)
    assert listed(tmp_path) == ["a", "b", "c", "d"]
    assert listed(tmp_path, sort="miou") == ["a", "d", "c", "b"]
    assert listed(tmp_path, sort="-miou,-name") == ["c", "d", "a", "b"]
    assert listed(tmp_path, sort="-created", limit=2) == ["d", "c"]
    assert listed(tmp_path, where="miou>=0.3 and not name=c") == ["a", "d"]


def test_no_folder_no_runs(tmp_path: Path) -> None:
    assert query(tmp_path / "nothing") == []
    assert sync(tmp_path / "nothing") == 0
    assert not (tmp_path / "nothing").exists()


def test_wrong_questions_do_not_touch_the_index(tmp_path: Path) -> None:
    make(tmp_path, "mine")
    for options in ({"where": "miou>"}, {"sort": "miou;"}, {"columns": ["1"]}):
        with pytest.raises(ConfigError):
            query(tmp_path, **options)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("version", [1, 3, VERSION + 1])
def test_an_index_of_another_schema_is_rebuilt(tmp_path: Path, version: int) -> None:
    make(tmp_path, "mine")
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.execute("CREATE TABLE runs (name TEXT PRIMARY KEY, depth INTEGER)")
        database.execute("INSERT INTO runs VALUES ('mine', 1), ('gone', 1)")
        database.execute(f"PRAGMA user_version={version}")
        database.commit()
    assert query(tmp_path, columns=["name", "depth", "epsilon"]) == [("mine", 7, 0.2)]
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)


def test_the_documentation_names_every_column_and_its_type() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "runs.md").read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (TEXT|INTEGER|REAL) \| \S", text, re.MULTILINE)
    assert documented == [(name, kind.split()[0]) for name, kind in COLUMNS.items()]


def test_a_run_without_tags_has_none(tmp_path: Path) -> None:
    make(tmp_path, "plain")
    add_tag(make(tmp_path, "tagged").path, "paper")
    assert listed(tmp_path, where="tags=none") == ["plain"]
    assert listed(tmp_path, where="tags!=none") == ["tagged"]
