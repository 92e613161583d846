"""The named studies: the paper's rows, written down once more by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.config import STUDIES, AblateConfig, TrainConfig
from pipelines.config.recipes import RECIPES
from pipelines.errors import ConfigError
from pipelines.model.presets import PRESETS
from pipelines.studies import Row, study
from pipelines.studies.plan import absolute, base_config, changed

# ICCV 2019, table 1: mIoU on Area 5 and what differs from ResGCN-28 (C 64, k 16, dilated, ε 0.2).
TABLE1: dict[str, tuple[float, dict[str, Any]]] = {
    "reference": (52.49, {}),
    "no-stochastic": (51.98, {"epsilon": 0.0}),
    "no-dilation": (49.64, {"dilation": False}),
    "fixed": (48.38, {"knn": "fixed"}),
    "plain-fixed": (
        43.43,
        {"arch": "plaingcn", "knn": "fixed", "dilation": False, "epsilon": 0.0},
    ),
    "plain": (40.31, {"arch": "plaingcn", "dilation": False, "epsilon": 0.0}),
    "dense": (51.27, {"arch": "densegcn", "width": 32, "k": 8}),
    "k-half": (49.98, {"k": 8}),
    "k-quarter": (49.22, {"k": 4}),
    "depth-double": (53.64, {"depth": 56, "k": 8}),
    "depth-half": (49.90, {"depth": 14}),
    "depth-quarter": (48.95, {"depth": 7}),
    "width-double": (53.78, {"width": 128, "k": 8}),
    "width-half": (48.80, {"width": 32}),
    "width-quarter": (45.62, {"width": 16}),
    "no-skip": (40.47, {"arch": "plaingcn"}),
    "no-skip-double": (38.79, {"arch": "plaingcn", "depth": 56, "k": 8}),
    "no-skip-half": (49.23, {"arch": "plaingcn", "depth": 14}),
    "no-skip-quarter": (47.92, {"arch": "plaingcn", "depth": 7}),
}
VARIANTS = {"edge": 52.49, "mr": 51.17, "sage": 49.20, "sage-n": 49.02, "gin": 42.81}
REFERENCE = {
    **{"arch": "resgcn", "depth": 28, "width": 64, "k": 16, "dilation": True, "epsilon": 0.2},
    **{"knn": "dynamic", "conv": "edge", "layout": "paper", "fusion_channels": 1024},
}


def trained(name: str, row: Row, **base: Any) -> TrainConfig:
    made = base_config(base, AblateConfig(preset=name))
    return changed(made, absolute(row.changes, made))


def rows(name: str, **options: Any) -> dict[str, Row]:
    sections = study(name, **options).sections
    return {row.name: row for section in sections for row in section.rows}


def test_the_row_of_a_fixed_graph_is_trained_whatever_the_others_share() -> None:
    found = trained("graphs", rows("graphs")["fixed"], knn_until=4)
    assert found.model.graph_layers() == (0,) * 28


def test_table_1_has_every_row_of_the_paper() -> None:
    found = rows("paper-table1")
    assert list(found) == list(TABLE1)
    for name, (miou, changes) in TABLE1.items():
        config = trained("paper-table1", found[name])
        wanted = {**REFERENCE, **changes}
        assert {key: getattr(config.model, key) for key in wanted} == wanted, name
        assert config.parts == ()
        assert PRESETS[str(found[name].published)].published == miou


def test_a_smaller_table_1_keeps_its_proportions() -> None:
    base = {"depth": 14, "width": 16, "k": 8}
    found = rows("paper-table1")

    def size(name: str) -> tuple[int, int, int]:
        model = trained("paper-table1", found[name], **base).model
        return model.depth, model.width, model.k

    assert size("reference") == size("no-dilation") == size("plain") == (14, 16, 8)
    assert size("depth-double") == (28, 16, 4)
    assert size("depth-quarter") == (4, 16, 8), "3.5 is rounded up"
    assert size("width-double") == (14, 32, 4)
    assert size("width-quarter") == (14, 4, 8)
    assert size("dense") == (14, 8, 4)


def test_variants() -> None:
    found = rows("paper-variants")
    assert {n: PRESETS[str(row.published)].published for n, row in found.items()} == VARIANTS
    for name, row in found.items():
        config = trained("paper-variants", row, depth=14)
        assert (config.model.conv, config.model.depth) == (name, 14)


def test_depths_follow_the_published_rules_for_k() -> None:
    found = rows("depth")
    assert "res-1001" not in found
    sizes = {}
    for name, row in rows("depth", deepest=True).items():
        model = trained("depth", row, num_points=4096).model
        sizes[name] = (model.arch, model.depth, model.width, model.k)
    for depth, k in ((7, 16), (14, 16), (28, 16), (56, 8)):
        assert sizes[f"plain-{depth}"] == ("plaingcn", depth, 64, k)
        assert sizes[f"res-{depth}"] == ("resgcn", depth, 64, k)
        assert sizes[f"dense-{depth}"] == ("densegcn", depth, 32, 8)
    assert sizes["res-112"] == ("resgcn", 112, 64, 16)
    assert sizes["res-152"] == ("resgcn", 152, 64, 3)
    assert sizes["res-1001"] == ("resgcn", 1001, 64, 3)
    assert len(sizes) == 15


def test_every_part_is_removed_and_added_once() -> None:
    modern, scans, paper = study("recipe").sections
    assert [part.reference for part in (modern, scans, paper)] == ["modern", "scans", "paper"]
    for section in (modern, scans):
        parts = RECIPES[str(section.reference)]
        left = [trained("recipe", row).parts for row in section.rows]
        assert left[0] == parts
        without = [tuple(p for p in parts if p != part) for part in parts]
        assert left[1 : len(parts) + 1] == without
        assert {*left[-1]} == {*parts, "sgd"} - {"adamw"}
    parts = RECIPES["modern"]
    added = [trained("recipe", row).parts for row in paper.rows]
    assert added == [(), *((p,) for p in parts), ("sgd",)]


def test_sgd_has_its_own_rate_in_both_recipes() -> None:
    """A rate for Adam would make SGD look worse than it is."""
    rates = {row.name: trained("recipe", row).first_lr for row in rows("recipe").values()}
    assert (rates["modern-sgd"], rates["paper-sgd"]) == (0.1, 0.1)
    assert (rates["modern"], rates["paper"]) == (1e-3, 1e-3)


def test_six_folds_are_the_six_areas() -> None:
    found = [trained("six-fold", row).test_area for row in rows("six-fold").values()]
    assert found == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("name", STUDIES)
def test_names_are_plain_and_references_exist(name: str) -> None:
    for section in study(name).sections:
        names = [row.name for row in section.rows]
        assert len(set(names)) == len(names)
        assert all(Path(each).name == each for each in names)
        assert section.folds or section.reference in names


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'six-fold'"):
        study("sixfold")
