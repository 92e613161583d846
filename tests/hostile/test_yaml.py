"""YAML that explodes, nests, refers to itself or asks for code, as `--dataset` and as `--grid`."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pipelines.data.custom import read_description
from pipelines.documents import LARGEST, composed, read_yaml
from pipelines.errors import ConfigError, did_you_mean
from pipelines.studies.grid import read_grid

READERS: dict[str, Callable[[Path], object]] = {"dataset": read_description, "grid": read_grid}
# Where an exploding value can stand; `*bomb` is replaced.
DATASET = (
    "classes: *bomb",
    "classes: [*bomb, a]",
    "classes: {a: *bomb, b: }",
    "classes: [a, b]\nareas: *bomb",
    "classes: [a, b]\nlabel: k\nareas: {1: *bomb}",
    "classes: [a, b]\nlabel: *bomb",
    "classes: [a, b]\nlabel: k\nvalues: *bomb",
    "classes: [a, b]\nlabel: k\nignore: *bomb",
    "classes: [a, b]\nlabel: k\nup: *bomb",
    "classes: [a, b]\nlabel: k\ntest_area: *bomb",
    "*bomb : 1",
)
GRID = (
    "axes: *bomb",
    "axes: {k: *bomb}",
    "axes: {k: [*bomb]}",
    "rows: {a: {with: *bomb}}",
    "rows: {a: *bomb}",
    "base: *bomb",
    "exclude: *bomb",
    "axes: {k: [4]}\nexclude: [*bomb]",
    "rows: {a: {}}\nseeds: *bomb",
    "rows: {a: {}}\nreference: *bomb",
    "rows: {a: {}}\nname: *bomb",
)


def lists(levels: int) -> str:
    """Return anchors of which each repeats the one before nine times: 9^levels values."""
    anchors = "".join(f"- &l{n} [{','.join([f'*l{n - 1}'] * 9)}]\n" for n in range(1, levels))
    return f"- &l0 [{','.join(['lol'] * 9)}]\n{anchors}"


def merges(levels: int) -> str:
    """Return mappings that merge the one before nine times."""
    parts = [f"- &l{n} {{<<: [{','.join([f'*l{n - 1}'] * 9)}]}}\n" for n in range(1, levels)]
    return "- &l0 {a: b}\n" + "".join(parts)


def texts(levels: int) -> str:
    return "- &l0 " + "x" * 100_000 + "\n" + lists(levels).partition("\n")[2]


@contextmanager
def cheap() -> Iterator[None]:
    """Fail if a block takes long, which tracing makes several times longer, or 64 MB."""
    begun = time.process_time()
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20
    assert time.process_time() - begun < 20


@pytest.mark.parametrize("bomb", [lists(9), merges(9), texts(4)], ids=["lists", "merges", "texts"])
@pytest.mark.parametrize("name", READERS)
def test_what_aliases_repeat_is_counted_before_it_is_made(
    bomb: str, name: str, tmp_path: Path
) -> None:
    last = bomb.count("\n") - 1
    for text in DATASET if name == "dataset" else GRID:
        path = tmp_path / "bomb.yaml"
        path.write_text(f"x:\n{bomb}{text.replace('*bomb', f'*l{last}')}\n")
        with cheap(), pytest.raises(ConfigError) as caught:
            READERS[name](path)
        assert len(str(caught.value)) < 600
        assert "aliases that repeat too much" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("rows: " + "[" * 100_000, "more than 32 levels in line 1"),
        ("a: " + "{b: " * 100_000, "more than 32 levels"),
        ("- " * 100_000, "more than 32 levels"),
        ("a: &a [*a]", "a value within itself in line 1"),
        ("&a {b: {c: *a}}", "a value within itself"),
        (
            "[" + ",".join(f"&a{n} [*a{n - 1}]" for n in range(1, 100)).replace("*a0", "x") + "]",
            "aliases that repeat too much",
        ),
        ("a: " + "9" * 5000, "a number of 5,000 digits"),
        ("a: " + ":".join(["59"] * 5000), "a number of"),
        ("a: 0x" + "f" * 5000, "a number of"),
        ("[" + "," * 200_000 + "]", "cannot be read as YAML"),
        ("[" + "a," * 200_000 + "]", "more than 50,000 values"),
        ("a: !!binary x", "the tag 'binary'"),
        ("a: !!timestamp 2001-99-99", "the tag 'timestamp'"),
        ("a: !!set {b}", "the tag 'set'"),
        ("a: !!python/object/apply:os.system [touch hacked]", "the tag 'python/object/apply:os"),
        ("a: !!python/name:os.system", "the tag 'python/name:os.system'"),
        ("!evil a", "the tag '!evil'"),
        ("a: !!int x", "cannot be read as YAML"),
        ("a: !!bool x", "cannot be read as YAML"),
        ("? [a]\n: b", "cannot be read as YAML"),
        ("a: \x1b", "cannot be read as YAML"),
        ("a: *b", "Put patterns that begin with * or ? in quotes"),
        ("a\n---\nb", "cannot be read as YAML"),
        ("a: !!int ''", "cannot be read as YAML"),
        ("a: !!map b", "cannot be read as YAML"),
        ("{a: 1, b: {c: 1, c: 2}}", "the key 'c' in line 1 and again in line 1"),
        ("yes: 1\nTrue: 2", "the key 'True' in line 1 and again in line 2"),
        ("0x10: 1\n16: 2", "the key '16' in line 1 and again in line 2"),
        ("u\u0308: 1\n\u00fc: 2", "the key '\u00fc' in line 1 and again in line 2"),
    ],
)
def test_what_is_refused(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with cheap(), pytest.raises(ConfigError) as caught:
        read_yaml(path, "--grid")
    assert found in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 600
    assert not Path("hacked").exists()


def test_large_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(" " * (LARGEST + 1))
    with pytest.raises(ConfigError, match="found 524,289 bytes, expected YAML of at most 524,288"):
        read_yaml(path, "--grid")
    path.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="cannot be read as YAML: 'utf-8' codec"):
        read_yaml(path, "--grid")


def test_aliases_and_dates_that_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    text = (
        "a: &a {k: 4, on: yes}\nb: [*a, {<<: *a, k: 8, <<: *a}]\n2001-99-99: 1_000\nc: 0x1f\n=: 1\n"
    )
    path.write_text(text)
    known = {"k": 4, True: True}
    assert read_yaml(path, "--grid") == {
        "a": known,
        "b": [known, {**known, "k": 8}],
        "2001-99-99": 1000,
        "c": 31,
        "=": 1,
    }
    path.write_text("")
    assert read_yaml(path, "--grid") is None


@pytest.mark.parametrize("marks", ["\u0301\u0316", "\u0316\u0301", "e\u0301"])
def test_marks_that_take_the_square_of_their_number(marks: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(f"clas{marks * 50_000}: 1")
    for read in READERS.values():
        with cheap(), pytest.raises(ConfigError):
            read(path)
    assert composed("u\u0308" * 100) == "ü" * 100
    with cheap():
        assert did_you_mean("ab" * 50_000, ["ba" * 50_000]) == ""


def test_many_exclusions(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("axes: {k: [1, 2], seed: [1]}\nexclude: true")
    with pytest.raises(ConfigError):
        read_grid(path)
    numbers = list(range(2, 102))
    axes = f"axes: {{k: {numbers}, depth: {numbers}}}\n"
    path.write_text(f"{axes}exclude: [{'{k: 4},' * 10_000}]")
    with pytest.raises(ConfigError, match="found 10,000 entries for 10,000 combinations, expected"):
        read_grid(path)
    path.write_text(f"{axes}exclude: [{'{k: 4},' * 100}]")
    with cheap():
        (section,) = read_grid(path).sections
    assert len(section.rows) == 9_900


@pytest.mark.parametrize(
    "text",
    [
        "classes: [a, b]\nlabel: k\nareas: {1: '*'}\ncolumns: 5",
        "classes: [a, b]\nlabel: k\nareas: {1: '*'}\nscale: big",
        "classes: [a, b]\nlabel: k\nareas: {1: '*'}\nup: [z]",
        'classes: [a, b]\nlabel: k\nareas: {1: "a\\0b"}',
        "classes: [a, b]\nlabel: k\nareas: {1: ''}",
        "classes: [a, b]\nlabel: k\nareas: {1: 'a**b'}",
        "classes: [a, b]\nlabel: k\nareas: {1: '[z-a]'}",
        f"classes: [a, b]\nlabel: k\nareas: {{1: '{'a/' * 100_000}'}}",
        f"classes: [{'a,' * 40_000}]",
        f"classes: [a, b]\nlabel: {{file: '{'(a)' * 2000}'}}\nareas: {{1: '*'}}",
        "classes: [a, b]\nlabel: {file: '(a){99999999999}'}\nareas: {1: '*'}",
    ],
)
def test_descriptions(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with cheap(), pytest.raises(ConfigError) as caught:
        read_description(path)
    assert str(caught.value).startswith(str(path))
    assert len(str(caught.value)) < 1000


def test_a_pattern_that_takes_forever(tmp_path: Path) -> None:
    (tmp_path / f"{'a' * 40}!.xyz").write_text("1 2 3\n")
    path = tmp_path / "a.yaml"
    path.write_text("classes: [a, b]\nlabel: {file: '(a+)+$'}\nareas: {1: '*.xyz'}")
    begun = time.monotonic()
    with pytest.raises(
        ConfigError, match=r"the pattern '\(a\+\)\+\$' under label, which takes over"
    ):
        read_description(path)
    assert time.monotonic() - begun < 20
    path.write_text("classes: [a, b]\nlabel: {file: '(a)a+!'}\nareas: {1: '*.xyz'}")
    assert read_description(path).found == {f"{'a' * 40}!": "a"}
