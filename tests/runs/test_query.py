"""Conditions: what they select, and that nothing a person types reaches the SQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from pipelines.runs.query import COLUMNS, LONGEST, parse_columns, parse_sort, parse_where

LINES = (
    {"name": "a", "arch": "resgcn", "depth": 28, "room_miou": 0.5, "tags": "paper x", "lr": 1e-3},
    {"name": "b", "arch": "densegcn", "depth": 14, "room_miou": 0.25, "tags": "", "dilation": 1},
    {"name": "c", "arch": "resgcn", "depth": 7, "room_miou": None, "tags": "papers", "seed": 3},
    {"name": "o'x", "arch": None, "depth": None, "room_miou": 0.0, "note": "Two Words"},
)


def memory_index() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", isolation_level=None)
    kinds = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    database.execute(f"CREATE TABLE runs ({kinds})")
    return database


@pytest.fixture(scope="module")
def empty() -> Iterator[sqlite3.Connection]:
    """An index that lets itself be read, and nothing else."""
    with closing(memory_index()) as database:
        allowed = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}
        database.set_authorizer(lambda action, *_: int(action not in allowed))
        yield database


@pytest.fixture(scope="module")
def database() -> Iterator[sqlite3.Connection]:
    with closing(memory_index()) as database:
        for line in LINES:
            places = ", ".join("?" for _ in line)
            sql = f"INSERT INTO runs ({', '.join(line)}) VALUES ({places})"
            database.execute(sql, tuple(line.values()))
        yield database


def selected(database: sqlite3.Connection, where: str) -> str:
    """The first letters of the names that fulfil a condition."""
    sql, values = parse_where(where)
    rows = database.execute(f"SELECT name FROM runs WHERE {sql} ORDER BY name", values)
    return "".join(name[0] for (name,) in rows)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("arch=resgcn", "ac"),
        ("arch==resgcn and miou>0.4", "a"),
        ("arch = resgcn AND miou > 40%", "a"),
        ("ARCH=resgcn or depth=14", "abc"),
        ("depth=28 or depth=14 and arch=resgcn", "a"),  # and binds closer
        ("(depth=28 or depth=14) and arch=resgcn", "a"),
        ("(depth=28 or depth=14) and not arch=resgcn", "b"),
        ("not (depth>=14)", "co"),
        ("not not depth>=14", "ab"),
        ("depth<28", "bc"),
        ("depth<=28", "abc"),
        ("depth!=28", "bco"),
        ("arch!=resgcn", "bo"),
        ("miou=none", "c"),
        ("miou!=NONE", "abo"),
        ("miou=0", "o"),
        ("miou<0.3", "bo"),
        ("lr=0.001", "a"),
        ("lr<=1e-3", "a"),
        ("arch~GCN", "abc"),
        ("note~'two words'", "o"),
        ('name="o\'x"', "o"),
        ("tag=paper", "a"),
        ("tag!=paper", "bco"),
        ("tags~paper", "ac"),
        ("dilation=on", "b"),
        ("dilation=1", "b"),
        ("name=none", ""),
        ("name='none'", ""),
        ("run=a or area=5", "a"),
        ("seed=+3", "c"),
        ("seed<99999999999999999999", "c"),
    ],
)
def test_conditions(database: sqlite3.Connection, where: str, expected: str) -> None:
    assert selected(database, where) == expected


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "found the end, expected a column"),
        ("   ", "found the end, expected a column"),
        ("mio>0.4", r"unknown column 'mio'\. Did you mean 'miou'\?\nColumns: arch, area"),
        ("miou", "found the end, expected = != < <= > >= or ~ after miou"),
        ("miou>", "found the end, expected a value after miou >"),
        ("miou=>0.4", "found '>', expected a value"),
        ("miou>high", "found room_miou 'high', expected a number"),
        ("miou>nan", "expected a number"),
        ("miou>1_0", "expected a number"),
        ("depth>40%", "expected a number"),
        ("miou>40", r"scores are from 0 to 1\.\nIn percent: 40%"),
        ("miou>400%", "scores are from 0 to 1"),
        ("miou<none", "found room_miou < none"),
        ("depth~2", "depth is a number"),
        ("dilation=maybe", "expected on or off"),
        ("tag<a", "expected tag = or !="),
        ("(arch=a", r"found the end, expected \)"),
        ("arch=a)", r"found '\)', expected and, or, or the end"),
        ("arch=a arch=b", "found 'arch', expected and, or, or the end"),
        ("arch='a", "an unclosed quote"),
        ("and=1", "unknown column 'and'"),
        ("arch!a", "found '!'"),
        ("name=\udcff", "expected Unicode"),
        ("(" * 5000, r"more than 50 of \( and not"),
        ("not " * 1000, r"more than 50 of \( and not"),
        ("k=1 " * 3000, "at most 5000"),
    ],
)
def test_wrong_conditions_are_explained(where: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        parse_where(where)
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize(
    "where",
    [
        " or ".join(["k=1"] * ((LONGEST + 4) // 7)),
        " and ".join(["tag=a"] * ((LONGEST + 5) // 10)),
        "(" * 50 + "k=1" + ")" * 50,
        "not " * 50 + "k=1",
        "not(" * 25 + "k=1" + ")" * 25,
    ],
)
def test_sqlite_takes_the_longest_and_deepest_conditions(
    empty: sqlite3.Connection, where: str
) -> None:
    sql, values = parse_where(where)
    assert empty.execute(f"SELECT name FROM runs WHERE {sql}", values).fetchall() == []


INJECTIONS = (
    "1=1",
    "name='' or 1=1 --",
    "name=a; DROP TABLE runs",
    "name='a'; DROP TABLE runs; --'",
    "name=(SELECT name FROM sqlite_master)",
    "name) UNION SELECT 1 --",
    'name="a" OR "1"="1"',
    "name='a''; DROP TABLE runs'",
    "name=a/**/or/**/1=1",
    "rowid=1",
    "name=? or 1=1",
    "name=:name",
)


@pytest.mark.parametrize("text", INJECTIONS)
def test_injections_are_values_or_errors(database: sqlite3.Connection, text: str) -> None:
    with suppress(ConfigError):
        assert selected(database, text) == "", "taken as a value, which no run has"
    assert database.execute("SELECT count(*) FROM runs").fetchone() == (len(LINES),)
    for parse in (parse_sort, lambda text: parse_columns([text])):
        with pytest.raises(ConfigError):
            parse(text)


def test_columns_come_once() -> None:
    assert parse_columns(["name", "miou", "room_miou", " run "]) == ("name", "room_miou")


words = st.sampled_from(
    [
        *(*COLUMNS, "tag", "and", "or", "not", "(", ")", "=", "!=", "<", ">=", "~", "none"),
        *("0.4", "40%", "'a b'", '"', "'", ";", "--", "1e999", "\x00", "ß", "\ud800", "-", "%"),
    ]
)


@given(text=st.one_of(st.text(), st.lists(words).map(" ".join), st.lists(words).map("".join)))
def test_any_text_is_a_condition_or_a_config_error(empty: sqlite3.Connection, text: str) -> None:
    try:
        sql, values = parse_where(text)
    except ConfigError:
        return
    assert sql.count("?") == len(values)
    assert "'" not in sql.replace("' '", "").replace("''", ""), "only our own literals"
    assert empty.execute(f"SELECT name FROM runs WHERE {sql}", values).fetchall() == []


@given(st.text())
def test_any_text_is_an_order_or_a_config_error(text: str) -> None:
    try:
        order = parse_sort(text)
    except ConfigError:
        return
    known = {*COLUMNS, "IS", "NULL", "DESC"}
    assert set(order.replace(",", " ").split()) <= known
