"""What the viewer's file holds: the points, to the value, and the figures of its legend."""

from __future__ import annotations

import base64
import json
import re
import zlib
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix, jaccard_score

from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.errors import DatasetError
from pipelines.reports import viewer
from pipelines.reports.viewer import SAFE_COLORS, write_viewer

UINT = {1: np.dtype("u1"), 2: np.dtype("<u2")}


def read_page(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the facts and planes of a page, read as its own script reads them."""
    text = path.read_text(encoding="utf-8")
    facts = json.loads(element(text, "data-facts"))
    raw = zlib.decompress(base64.b64decode(element(text, "data-points")))
    planes, start = {}, 0
    for name, size in facts["planes"]:
        planes[name] = np.frombuffer(raw, UINT[size], facts["shown"], start)
        start += size * facts["shown"]
    assert start == len(raw)
    return facts, planes


def element(text: str, name: str) -> str:
    found = re.findall(rf'<script [^>]*id="{name}">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return found[0]


def scan(count: int, seed: int = 0) -> dict[str, Any]:
    """Return random points with everything that a page can show."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 13, count)
    return {
        "pos": (rng.random((count, 3)) * (7, 5, 3) + (400_000.0, -3.5, 12.0)),
        "color": rng.integers(0, 256, (count, 3), np.uint8),
        "label": label,
        "predicted": np.where(rng.random(count) < 0.7, label, rng.integers(0, 13, count)),
        "confidence": rng.random(count),
    }


def write(path: Path, **changes: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    words = {"title": "a room", "summary": {"run": "one"}}
    write_viewer(path, **{"classes": CLASSES, "class_colors": CLASS_COLORS, **words, **changes})
    return read_page(path)


def test_the_points_come_back(tmp_path: Path) -> None:
    given_scan = scan(5000)
    facts, planes = write(tmp_path / "v.html", **given_scan)
    pos = facts["origin"] + np.column_stack([planes[a] for a in "xyz"]) * facts["step"]
    assert np.abs(pos - given_scan["pos"]).max() <= 7 / 65535 / 2 * 1.001
    color = np.column_stack([planes[name] for name in ("red", "green", "blue")])
    np.testing.assert_array_equal(color, given_scan["color"])
    np.testing.assert_array_equal(planes["label"], given_scan["label"])
    np.testing.assert_array_equal(planes["predicted"], given_scan["predicted"])
    assert np.abs(planes["confidence"] / 255 - given_scan["confidence"]).max() <= 0.5 / 255 + 1e-9
    assert (facts["total"], facts["finite"], facts["shown"]) == (5000, 5000, 5000)
    assert list(tmp_path.iterdir()) == [tmp_path / "v.html"]


def test_only_what_is_given_is_in_the_file(tmp_path: Path) -> None:
    full = scan(50)
    facts, planes = write(tmp_path / "v.html", pos=full["pos"], color=full["color"])
    assert list(planes) == ["x", "y", "z", "red", "green", "blue"]
    assert "iou" not in facts
    assert facts["counts"] == {}


def test_the_figures_against_scikit_learn(tmp_path: Path) -> None:
    full = scan(4000)
    full["label"][:300] = 255  # unlabelled in the ground truth
    full["predicted"][200:400] = -1  # and in the prediction
    facts, _ = write(tmp_path / "v.html", **full)
    both = (full["label"] != 255) & (full["predicted"] != -1)
    expected = jaccard_score(
        full["label"][both], full["predicted"][both], average=None, labels=range(13)
    )
    np.testing.assert_allclose(facts["iou"], expected)
    counts = confusion_matrix(full["label"][both], full["predicted"][both])
    assert facts["oa"] == pytest.approx(np.trace(counts) / counts.sum())
    assert facts["scored"] == 3600
    assert facts["unlabelled"] == {"label": 300, "predicted": 200}
    assert facts["counts"]["label"] == [int((full["label"] == n).sum()) for n in range(13)]


def test_a_part_keeps_points_whole_and_counts_of_all(tmp_path: Path) -> None:
    full = scan(3000)
    facts, planes = write(tmp_path / "a.html", **full, max_points=700)
    assert (facts["finite"], facts["shown"]) == (3000, 700)
    assert sum(facts["counts"]["label"]) == 3000
    pos = facts["origin"] + np.column_stack([planes[a] for a in "xyz"]) * facts["step"]
    away = np.abs(pos[:, None] - full["pos"][None]).max(axis=-1)
    source = away.argmin(axis=1)
    assert away.min(axis=1).max() < 1e-3
    assert (np.diff(source) > 0).all(), "in the order of the scan, none twice"
    np.testing.assert_array_equal(planes["label"], full["label"][source])
    np.testing.assert_array_equal(planes["blue"], full["color"][source, 2])
    first = (tmp_path / "a.html").read_bytes()
    write(tmp_path / "b.html", **full, max_points=700)
    assert (tmp_path / "b.html").read_bytes() == first
    write(tmp_path / "c.html", **full, max_points=700, seed=1)
    assert (tmp_path / "c.html").read_bytes() != first


def test_points_that_lie_nowhere_are_left_out(tmp_path: Path) -> None:
    full = scan(100)
    full["pos"][3, 1], full["pos"][70, 0] = np.nan, np.inf
    facts, planes = write(tmp_path / "v.html", **full)
    assert (facts["total"], facts["shown"]) == (100, 98)
    np.testing.assert_array_equal(planes["label"], np.delete(full["label"], [3, 70]))
    with pytest.raises(DatasetError, match="no point with finite"):
        write(tmp_path / "w.html", **{**full, "pos": np.full((100, 3), np.nan)})
    assert not (tmp_path / "w.html").exists()


def test_one_point_and_a_flat_scan(tmp_path: Path) -> None:
    facts, planes = write(
        tmp_path / "v.html", pos=np.array([[1.5, 2, 3]], np.float32), color=np.zeros((1, 3), "u1")
    )
    assert facts["origin"] == [1.5, 2, 3]
    assert [planes[axis].tolist() for axis in "xyz"] == [[0], [0], [0]]


def test_the_size_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "v.html"
    write(path, **scan(300_000))
    assert path.stat().st_size < 6_000_000, "noise, which does not deflate, is the worst case"


def test_nothing_is_fetched_and_the_library_has_its_licence(tmp_path: Path) -> None:
    write(tmp_path / "v.html", **scan(10))
    text = (tmp_path / "v.html").read_text(encoding="utf-8")
    markup = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"(?:src|href)\s*=|url\(|@import", markup)
    assert "default-src 'none'" in text
    assert "SPDX-License-Identifier: MIT" in text
    assert (viewer.HERE / "three.min.js").stat().st_size < 1_000_000
    assert "MIT License" in (viewer.HERE / "three_license.txt").read_text("utf-8")


def test_a_hostile_title_stays_text(tmp_path: Path) -> None:
    title = "</script><script>alert(1)</script> {{library}} & <!-- 'x'"
    facts, _ = write(tmp_path / "v.html", **scan(10), title=title, summary={"<b>": "</script>"})
    text = (tmp_path / "v.html").read_text(encoding="utf-8")
    assert facts["title"] == title
    assert facts["facts"] == {"<b>": "</script>"}
    assert "<script>alert" not in text
    assert unescape(re.findall("<title>(.*)</title>", text)[0]) == title
    assert text.count("SPDX-License-Identifier") == (viewer.HERE / "three.min.js").read_text(
        "utf-8"
    ).count("SPDX")


@given(words=st.dictionaries(st.text(), st.text()))
def test_json_in_a_script(words: dict[str, str]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "v.html"
        facts, _ = write(path, **scan(2), summary=words)
        assert list(facts["facts"].items()) == list(words.items()), "whole, and in order"
        assert "<" not in element(path.read_text(encoding="utf-8"), "data-facts")


def simulated(colors: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return sRGB colours as CIE Lab, as an eye with the given simulation matrix sees them."""
    share = colors / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ matrix.T, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = seen @ to_xyz.T / (0.9505, 1, 1.089)
    bent = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = bent.T
    return np.column_stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize(
    "matrix",
    [
        pytest.param(np.eye(3), id="normal"),
        pytest.param(
            [
                [0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998],
            ],
            id="protanopia",
        ),
        pytest.param(
            [
                [0.367322, 0.860646, -0.227968],
                [0.280085, 0.672501, 0.047413],
                [-0.011820, 0.042940, 0.968881],
            ],
            id="deuteranopia",
        ),
    ],
)
def test_safe_colors_stay_apart(matrix: Any) -> None:
    lab = simulated(np.array(SAFE_COLORS), np.asarray(matrix))
    apart = np.linalg.norm(lab[:, None] - lab[None], axis=-1)[np.triu_indices(len(lab), 1)]
    assert apart.min() > 22
