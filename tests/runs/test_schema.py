"""Versions of the index: an old file is brought up to date, and the documentation is true."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.runs.directory import create_run
from pipelines.runs.index import query
from pipelines.runs.schema import FILE, MIGRATIONS, VERSION, migrate

DOCS = Path(__file__).resolve().parents[2] / "docs" / "runs.md"
# As deepgcn 0.1 wrote it, letter by letter.
VERSION_1 = (
    "CREATE TABLE runs (name TEXT PRIMARY KEY, state TEXT, created TEXT, arch TEXT, depth INTEGER,"
    " conv TEXT, width INTEGER, k INTEGER, layout TEXT, recipe TEXT, test_area INTEGER,"
    " num_points INTEGER, batch_size INTEGER, seed INTEGER, epoch INTEGER, step INTEGER,"
    " seconds REAL, val_miou REAL, room_oa REAL, room_macc REAL, room_miou REAL, block_s1_oa REAL,"
    " block_s1_macc REAL, block_s1_miou REAL, block_s05_oa REAL, block_s05_macc REAL,"
    " block_s05_miou REAL, error TEXT)"
)


def write_version_1(path: Path, *names: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute(VERSION_1)
        for name in names:
            database.execute("INSERT INTO runs (name, depth, error) VALUES (?, 1, 'x')", (name,))
        database.execute("PRAGMA user_version=1")


def columns(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as database:
        return [(row[1], row[2]) for row in database.execute("PRAGMA table_info(runs)")]


def test_a_file_of_version_1_is_brought_up_to_date(tmp_path: Path) -> None:
    config = TrainConfig(model=ModelConfig(depth=7), runs=tmp_path, name="mine", test_area=5)
    create_run(config, environment={})
    fresh = columns(tmp_path / FILE)
    (tmp_path / FILE).unlink()
    write_version_1(tmp_path / FILE, "mine", "gone")
    found = query(tmp_path, columns=["name", "depth", "epsilon", "error"])
    assert found == [("mine", 7, 0.2, None)]
    assert columns(tmp_path / FILE) == fresh, "an old file and a new one end up the same"
    with closing(sqlite3.connect(tmp_path / FILE)) as database:
        assert database.execute("PRAGMA user_version").fetchone() == (VERSION,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("version", range(VERSION))
def test_a_migration_happens_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    path = tmp_path / FILE
    if version > 0:
        write_version_1(path, "mine")
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for number in range(1, version):
            for statement in MIGRATIONS[number]:
                database.execute(statement)
        database.execute(f"PRAGMA user_version={version}")
    before = columns(path)
    broken = (*MIGRATIONS[version], "ALTER TABLE nothing ADD COLUMN x")
    changed = (*MIGRATIONS[:version], broken, *MIGRATIONS[version + 1 :])
    monkeypatch.setattr("pipelines.runs.schema.MIGRATIONS", changed)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        with pytest.raises(sqlite3.OperationalError, match="nothing"):
            migrate(database, path)
        assert database.execute("PRAGMA user_version").fetchone() == (version,)
    assert columns(path) == before


def test_the_documentation_names_every_column_and_its_type(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / FILE, isolation_level=None)) as database:
        migrate(database, tmp_path / FILE)
    text = DOCS.read_text(encoding="utf-8")
    documented = re.findall(r"^\| `(\w+)` \| (TEXT|INTEGER|REAL) \| \S", text, re.MULTILINE)
    assert sorted(documented) == sorted(columns(tmp_path / FILE))
    assert f"version {VERSION}" in text
