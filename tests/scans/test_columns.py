"""Columns of scans: which are coordinates and colours, by option, by name and by value."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import ConfigError
from pipelines.scans.columns import find_roles, guessed_roles
from pipelines.scans.table import ScanOptions


@pytest.mark.parametrize(
    ("columns", "ok"),
    [
        ("x,y,z", True),
        ("-,X, y ,z,r,g,b,-", True),
        ("x,y", False),
        ("x,y,z,r,g", False),
        ("x,y,z,z", False),
        ("x,y,z,red,green,blue", False),
        ("", False),
    ],
)
def test_columns_option(columns: str, ok: bool) -> None:
    if ok:
        assert ScanOptions(columns=columns).columns == columns
    else:
        with pytest.raises(ConfigError, match="expected x, y and z"):
            ScanOptions(columns=columns)


NAMED = {
    "X Y Z Red Green Blue": "xyzrgb",
    "posx posy posz diffuse_red diffuse_green diffuse_blue": "xyzrgb",
    "easting northing height": "xyz",
    "x y z red green": "xyz",  # two channels are no colour
    "x y red green blue": "xyrgb",
}


@pytest.mark.parametrize("names", list(NAMED))
def test_names_in_any_case(names: str) -> None:
    found = find_roles(names.split())
    assert "".join(found) == NAMED[names]
    assert list(found.values()) == [n for n in names.split() if n in found.values()]


def test_the_own_colour_of_a_labelled_scan() -> None:
    plain, own = ["x", "y", "z", "red", "green", "blue"], ["scan_red", "scan_green", "scan_blue"]
    assert find_roles([*plain, *own])["r"] == "scan_red"
    assert find_roles([*plain, *own], labelled=True)["r"] == "scan_red"
    assert "r" not in find_roles(plain, labelled=True), "those are the colours of the classes"


@given(columns=st.integers(3, 12), seed=st.integers(0, 99))
def test_guessed_roles_fit_the_values(columns: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(20, columns))
    at = int(rng.integers(3, columns)) if columns > 3 else 3
    values[:, at:] = rng.integers(2, 256, (20, columns - at))
    roles = guessed_roles(values)
    assert len(roles) == columns
    assert roles[:3] == ("x", "y", "z")
    assert ("r" in roles) == (columns - at >= 3)
    if "r" in roles:
        assert roles.index("r") >= at


def test_numbers_of_points_come_once() -> None:
    """An x of 0, 10, 20 … is no second column of numbers."""
    count = np.arange(200)
    rest = [np.linspace(0, 3, 200) + 0.01, np.linspace(2, 5, 200) + 0.02]
    color = [count % 200, (count * 7) % 256, (count * 3) % 256]
    values = np.column_stack([count, 10.0 * count, *rest, *color]).astype(float)
    assert guessed_roles(values) == ("-", "x", "y", "z", "r", "g", "b")
