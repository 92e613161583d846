"""A manifest whose values are not what was written is refused, with the command that mends it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.store import MANIFEST, Store
from pipelines.errors import DatasetError
from tests.tiny_store import write_tiny_store


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("fingerprint",), None),
        (("classes", 1), []),
        (("classes",), "floor"),
        (("class_colors", 1), 1),
        (("class_colors", 1), ["red", 0, 0]),
        (("test_area",), {}),
        (("rooms",), 5),
        (("rooms", 1), 5),
        (("rooms", 1, "area"), {}),
        (("rooms", 1, "points"), "many"),
        (("rooms", 1, "counts", 5), {}),
        (("rooms", 1, "counts"), [1, 2]),
        (("rooms", 1, "extent", 0), "wide"),
        (("rooms", 1, "checksum"), 7),
    ],
)
def test_wrong_values(tmp_path: Path, where: tuple[Any, ...], value: Any) -> None:
    write_tiny_store(tmp_path, points=2)
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    *path, last = where
    place = manifest
    for name in path:
        place = place[name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(
        DatasetError, match=r"manifest\.json: found a damaged manifest .*\n.*prepare"
    ):
        Store.open(tmp_path)
