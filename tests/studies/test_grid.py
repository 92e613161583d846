"""Grids in YAML: every combination by hand, and files that are refused with the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.config import ModelConfig, TrainConfig
from pipelines.errors import ConfigError
from pipelines.studies.grid import read_grid

GRID = """
base: {depth: 14, max-steps: 500, lr: 1}
axes:
  k: [4, 8]
  epsilon: [0, 0.2]
rows:
  plain: {arch: plaingcn, dilation: false}
exclude:
  - {k: 4, epsilon: 0.2}
reference: k-8-epsilon-0
seeds: 2
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_combinations_named_rows_and_exclusions(tmp_path: Path) -> None:
    found = read_grid(write(tmp_path, GRID))
    assert (found.name, found.seeds) == ("mine", 2)
    assert found.base == {"depth": 14, "max_steps": 500, "lr": 1.0}
    assert type(found.base["lr"]) is float
    (section,) = found.sections
    assert section.reference == "k-8-epsilon-0"
    assert {row.name: dict(row.changes) for row in section.rows} == {
        "k-4-epsilon-0": {"k": 4, "epsilon": 0.0},
        "k-8-epsilon-0": {"k": 8, "epsilon": 0.0},
        "k-8-epsilon-0.2": {"k": 8, "epsilon": 0.2},
        "plain": {"arch": "plaingcn", "dilation": False},
    }


def test_options_have_the_names_of_the_command_line(tmp_path: Path) -> None:
    text = "rows: {a: {area: 3, recipe: modern, without: [flip, clip], with: [], num_points: 64,\n"
    text += "  logger: [mlflow]}}"
    (row,) = read_grid(write(tmp_path, text)).sections[0].rows
    assert row.changes == {
        "test_area": 3,
        "recipe": "modern",
        "without": ("flip", "clip"),
        "extra": (),
        "num_points": 64,
        "loggers": ("mlflow",),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("axis: {k: [4]}", r"unknown key 'axis'\. Did you mean 'axes'"),
        ("axes: {detph: [4]}", r"axes: found the unknown setting 'detph'\. Did you mean 'depth'"),
        ("axes: {k: 4}", r"axes\.k: found 4, expected a list"),
        ("axes: {k: [4, 4]}", r"axes\.k: found a value twice"),
        (
            "axes: {batch-size: [2], batch_size: [4]}",
            r"axes: found batch_size twice, the second time as 'batch_size'",
        ),
        (
            "rows: {a: {num_points: 64, num-points: 128}}",
            r"rows\.a: found num_points twice, the second time as 'num-points'",
        ),
        ("axes: {k: [four]}", r"axes\.k: found 'four', expected a whole number"),
        ("axes: {k: [true]}", r"axes\.k: found True, expected a whole number"),
        ("axes: {lr: [high]}", r"axes\.lr: found 'high', expected a number"),
        ("rows: {a: {dilation: 1}}", r"rows\.a\.dilation: found 1, expected true or false"),
        ("rows: {a: {with: [1]}}", r"rows\.a\.with: found \[1\], expected a list of texts"),
        ("rows: {a/b: {k: 4}}", r"found the row 'a/b', expected a letter or digit, then letters"),
        (f"rows: {{{'墙' * 67}: {{k: 4}}}}", r"at most 200 bytes in all"),
        ("rows: {a: {data: /etc}}", r"rows\.a: found the unknown setting 'data'"),
        ("rows: [a]", r"rows: found list, expected names with values"),
        ("axes: {k: [4]}\nexclude: [{k: 5}]", r"exclude 1: found k 5, which no axis has"),
        ("axes: {k: [4]}\nexclude: 4", r"exclude: found 4, expected a list"),
        ("axes: {k: [4, 8]}\nreference: k-9", r"unknown row 'k-9'\. Did you mean 'k-\d'"),
        ("axes: {k: [4]}\nrows: {k-4: {}}", r"the row 'k-4' twice"),
        ("rows: {a: {}}\nseeds: 0", r"seeds: found 0"),
        ("seeds: 2", r"neither axes nor rows"),
        ("[1, 2]", r"found list, expected names"),
        ("a: [", r"cannot be read as YAML"),
        ("rows: !!python/object/apply:os.getcwd []", r"cannot be read as YAML"),
    ],
)
def test_what_is_wrong_is_reported_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_grid(write(tmp_path, text))


def test_too_many_runs_are_refused_before_they_are_made(tmp_path: Path) -> None:
    axes = "\n".join(f"  {name}: {list(range(1, 2000))}" for name in ("k", "width", "depth"))
    with pytest.raises(ConfigError, match=r"found 7,988,005,999 runs .* expected 10,000 at most"):
        read_grid(write(tmp_path, f"axes:\n{axes}"))
    with pytest.raises(ConfigError, match=r"found 20,000 runs"):
        read_grid(write(tmp_path, "rows: {a: {}, b: {}}\nseeds: 10000"))


def test_a_row_may_have_a_number_for_a_name(tmp_path: Path) -> None:
    (section,) = read_grid(write(tmp_path, "rows: {1: {k: 4}, 2: {k: 8}}\nreference: 2")).sections
    assert [row.name for row in section.rows] == ["1", "2"]
    assert section.reference == "2"


def test_a_row_may_have_letters_of_any_alphabet(tmp_path: Path) -> None:
    (section,) = read_grid(write(tmp_path, "rows: {größer: {k: 8}, 墙: {k: 4}}")).sections
    assert [row.name for row in section.rows] == ["größer", "墙"]


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--grid: found no file"):
        read_grid(tmp_path / "none.yaml")


def test_the_example_has_the_runs_that_it_says() -> None:
    found = read_grid(Path(__file__).resolve().parents[2] / "examples" / "grid.yaml")
    (section,) = found.sections
    assert (len(section.rows), found.seeds) == (7, 3)
    assert section.reference == "depth-14-k-8-epsilon-0.2"
    assert "depth-7-k-4-epsilon-0" not in [row.name for row in section.rows]


def test_the_candidates_by_hand_are_twelve_trainings() -> None:
    found = read_grid(Path(__file__).resolve().parents[2] / "examples" / "plan_candidates.yaml")
    (section,) = found.sections
    assert (len(section.rows), found.seeds) == (12, 3)
    for row in section.rows:
        settings = {**found.base, **row.changes}
        model = {n: v for n, v in settings.items() if n in vars(ModelConfig())}
        TrainConfig(ModelConfig(**model), **{n: settings[n] for n in settings if n not in model})
