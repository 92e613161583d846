"""The viewer in a browser, opened from disk: what one sees and what the controls do.

About 30 s with Chromium; skipped where there is none.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.reports.viewer import SAFE_COLORS, write_viewer
from tests.reports.browser import SOFTWARE_GL, WITHOUT_GL, Page, open_browser

pytestmark = pytest.mark.slow
GROUND = (16, 20, 24)
RIGHT, WRONG = (78, 92, 108), (255, 140, 0)
SCENE = 670  # columns of the picture, 1,000 wide; the panel is to the right
CEILING, FLOOR, CHAIR, TABLE = (CLASSES.index(n) for n in ("ceiling", "floor", "chair", "table"))


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    with open_browser(*SOFTWARE_GL) as page:
        yield page
        assert page.complaints == []
        assert {address.split("#")[0][:5] for address in page.requests} <= {"file:", "about"}


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A 4 × 3 × 2 m room: floor, ceiling, a chair at large x that is half taken for a table."""
    rng = np.random.default_rng(0)
    kinds = {FLOOR: (4, 3, 0), CEILING: (4, 3, 0), CHAIR: (0.5, 0.5, 1)}
    corners = {FLOOR: (0, 0, 0), CEILING: (0, 0, 2), CHAIR: (3, 1.5, 0)}
    counts = {FLOOR: 3000, CEILING: 30_000, CHAIR: 3000}  # a ceiling without gaps
    label = np.repeat(list(counts), list(counts.values()))
    pos = np.concatenate([rng.random((counts[c], 3)) * kinds[c] + corners[c] for c in kinds])
    predicted = np.where((label == CHAIR) & (pos[:, 2] < 0.5), TABLE, label)
    path = tmp_path_factory.mktemp("page") / "room.html"
    write_viewer(
        path,
        pos,
        np.full((36_000, 3), (12, 200, 34), np.uint8),
        classes=CLASSES,
        class_colors=CLASS_COLORS,
        label=label,
        predicted=predicted,
        confidence=np.where(label == CHAIR, 0.0, 1.0),
        title="A room",
        summary={"run": "one"},
    )
    return path.as_uri()


def colors(page: Page) -> set[tuple[int, ...]]:
    """Return the colours of the scene, without the ring."""
    scene = page.picture()[:, :SCENE].reshape(-1, 3)
    return {tuple(color) for color in np.unique(scene, axis=0).tolist()}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("color=scan", {(12, 200, 34)}),
        ("color=label", {CLASS_COLORS[FLOOR], CLASS_COLORS[CHAIR]}),
        ("color=prediction", {CLASS_COLORS[n] for n in (FLOOR, CHAIR, TABLE)}),
        ("color=prediction&palette=safe", {SAFE_COLORS[n] for n in (FLOOR, CHAIR, TABLE)}),
        ("color=error", {RIGHT, WRONG}),
        ("color=confidence", {(0, 34, 78), (254, 232, 56)}),
        ("color=label&hide=none", {CLASS_COLORS[n] for n in (FLOOR, CHAIR, CEILING)}),
        ("color=label&hide=none&height=0.9", {CLASS_COLORS[n] for n in (FLOOR, CHAIR)}),
        ("color=label&off=floor", {CLASS_COLORS[CHAIR]}),
        ("color=prediction&off=floor,table", {CLASS_COLORS[CHAIR]}),
        ("color=label&off=floor,chair", set()),
    ],
)
def test_the_colours_of_a_state(page: Page, room: str, state: str, expected: set) -> None:
    page.open(f"{room}#shade=off&{state}")
    page.settle()
    assert colors(page) == expected | {GROUND}


def test_wrong_is_where_the_prediction_is_wrong(page: Page, room: str) -> None:
    masks = {}
    for mode, color in (("error", WRONG), ("prediction", CLASS_COLORS[TABLE])):
        page.open(f"{room}#shade=off&color={mode}")
        page.settle()
        masks[mode] = (page.picture()[:, :SCENE] == color).all(axis=-1)
    assert masks["error"].sum() > 500
    np.testing.assert_array_equal(masks["error"], masks["prediction"])


def test_every_control_changes_the_picture(page: Page, room: str) -> None:
    page.open(f"{room}#shade=off")
    page.settle()
    before = page.picture()[:, :SCENE]
    modes = ("scan", "label", "error", "confidence", "predicted")
    clicks = [f"input[value={mode}]" for mode in modes]
    clicks += ["#hide", "#safe", "#shade", "#none", "#all", "#top", "#reset"]
    clicks += [f"#class-{FLOOR}", f"#class-{FLOOR}"]
    for selector in clicks:
        page.click(selector)
        after = page.picture()[:, :SCENE]
        assert (after != before).any(), selector
        before = after
    for slider, value in (("size", 3), ("height", 0.2)):
        page.evaluate(
            f"(byId('{slider}').value = {value},"
            f" byId('{slider}').dispatchEvent(new Event('input')))"
        )
        page.settle()
        after = page.picture()[:, :SCENE]
        assert (after != before).any(), slider
        before = after


def test_x_is_to_the_right_and_y_is_up_from_above(page: Page, room: str) -> None:
    page.open(f"{room}#shade=off&view=top&color=label")
    page.settle()
    scene = page.picture()[:, :SCENE]
    chair = np.argwhere((scene == CLASS_COLORS[CHAIR]).all(axis=-1)).mean(axis=0)
    floor = np.argwhere((scene == CLASS_COLORS[FLOOR]).all(axis=-1))
    low, high = floor.min(axis=0), floor.max(axis=0)
    row, column = (chair - low) / (high - low)
    assert column == pytest.approx(3.25 / 4, abs=0.06)
    assert row == pytest.approx(1 - 1.75 / 3, abs=0.06)
    assert (high - low)[0] / (high - low)[1] == pytest.approx(3 / 4, abs=0.03)


def test_a_click_picks_the_point_under_it(page: Page, room: str) -> None:
    page.open(f"{room}#shade=off&color=label")
    page.settle()
    scene = page.picture()[:, :SCENE]
    y, x = np.argwhere((scene == CLASS_COLORS[CHAIR]).all(axis=-1)).mean(axis=0).tolist()
    for kind in ("mousePressed", "mouseReleased"):
        page.mouse(kind, x, y, button="left", clickCount=1)
    page.settle()
    terms = page.evaluate("[...document.querySelectorAll('#picked dt')].map(e => e.textContent)")
    values = page.evaluate("[...document.querySelectorAll('#picked dd')].map(e => e.textContent)")
    found = dict(zip(terms, values, strict=True))
    assert found["ground truth"] == "chair"
    assert found["red, green, blue"] == "12, 200, 34"
    assert found["confidence"] == "0 %"
    at = [float(value) for value in found["x, y, z"].removesuffix(" m").split(", ")]
    assert ((np.array(at) >= (2.99, 1.49, -0.01)) & (np.array(at) <= (3.51, 2.01, 1.01))).all()
    assert found["prediction"] == ("table" if at[2] < 0.5 else "chair")
    assert page.evaluate("!byId('ring').hidden")
    assert (page.picture()[:, :SCENE] != scene).any(), "a ring marks the point"


def test_of_points_behind_one_another_the_nearest_is_picked(page: Page, room: str) -> None:
    page.open(f"{room}#shade=off&view=top&color=label")
    page.settle()
    scene = page.picture()[:, :SCENE]
    y, x = np.argwhere((scene == CLASS_COLORS[CHAIR]).all(axis=-1)).mean(axis=0) / scene.shape[:2]
    for state, expected in (("hide=none", "ceiling"), ("hide=ceiling", "chair")):
        page.open(f"{room}#view=top&{state}&pick={x},{y}")
        assert f"truth{expected}" in page.evaluate("byId('picked').textContent")


def test_the_mouse_turns_zooms_and_moves(page: Page, room: str) -> None:
    page.open(room)
    page.settle()
    for button, way in (("left", (80, 20)), ("right", (40, 60))):
        before = page.picture()[:, :SCENE]
        page.mouse("mousePressed", 300, 300, button=button, clickCount=1)
        page.mouse("mouseMoved", 300 + way[0], 300 + way[1], button=button)
        page.mouse("mouseReleased", 300 + way[0], 300 + way[1], button=button, clickCount=1)
        page.settle()
        assert (page.picture()[:, :SCENE] != before).any(), button
        assert page.evaluate("byId('ring').hidden"), "dragging picks nothing"
    before = page.picture()[:, :SCENE]
    page.mouse("mouseWheel", 300, 300, deltaX=0, deltaY=-200)
    page.settle()
    assert (page.picture()[:, :SCENE] != before).any()


def test_keys_move_the_view_and_home_restores_it(page: Page, room: str) -> None:
    page.open(room)
    page.evaluate("byId('canvas').focus()")
    page.settle()
    start = page.picture()[:, :SCENE]
    keys = [(key, 0) for key in ("ArrowLeft", "ArrowUp", "+")] + [("ArrowRight", 8)]
    for key, modifiers in keys:
        before = page.picture()[:, :SCENE]
        page.press(key, modifiers)
        assert (page.picture()[:, :SCENE] != before).any(), key
    page.press("Home")
    np.testing.assert_array_equal(page.picture()[:, :SCENE], start)
    page.press("p")
    assert "m" in page.evaluate("byId('picked').textContent")


def test_the_arrow_keys_keep_the_horizon(page: Page, room: str) -> None:
    """Turning right and left again, and up and down, ends where it began."""
    page.open(room)
    page.evaluate("byId('canvas').focus()")
    page.settle()
    start = page.picture()[:, :SCENE].astype(int)
    for key in ("ArrowRight", "ArrowUp", "ArrowLeft", "ArrowDown"):
        page.press(key)
    changed = (np.abs(page.picture()[:, :SCENE].astype(int) - start) > 8).any(axis=-1)
    assert changed.mean() < 0.01


def test_the_legend(page: Page, room: str) -> None:
    page.open(f"{room}#color=prediction")
    rows = page.evaluate(
        "[...byId('legend').rows].map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert [row[0] for row in rows] == list(CLASSES)
    assert rows[FLOOR][1:] == ["3,000", "100.0"]
    right = int(rows[CHAIR][1].replace(",", ""))  # all chair that is predicted is right
    assert float(rows[CHAIR][2]) == pytest.approx(100 * right / 3000, abs=0.06)
    assert rows[TABLE][1:] == [f"{3000 - right:,}", "–"]  # not in the ground truth
    assert rows[CLASSES.index("sofa")][1:] == ["0", "–"]
    page.click("input[value=label]")
    assert page.evaluate(f"byId('legend').rows[{CHAIR}].cells[1].textContent") == "3,000"
    assert "ground truth" in page.evaluate("byId('switching').textContent")


def test_a_scan_alone_has_no_legend(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "scan.html"
    rng = np.random.default_rng(0)
    write_viewer(
        path,
        rng.random((500, 3)),
        np.full((500, 3), 200, np.uint8),
        classes=CLASSES,
        class_colors=CLASS_COLORS,
        title="A scan",
        summary={},
        max_points=400,
    )
    page.open(path.as_uri())
    page.settle()
    modes = page.evaluate("[...document.querySelectorAll('input[name=mode]')].map(e => e.value)")
    assert modes == ["scan"]
    assert page.evaluate("byId('classes').hidden && byId('ceiling').hidden")
    assert "400 of 500 points shown" in page.evaluate("byId('summary').textContent")


def test_without_webgl_the_page_says_so(room: str) -> None:
    with open_browser(*WITHOUT_GL) as page:
        page.open(room)
        assert page.evaluate("document.documentElement.dataset.state") == "failed"
        assert "WebGL 2" in page.evaluate("byId('message').textContent")
        assert page.evaluate("byId('message').getBoundingClientRect().height") > 20
        assert page.complaints == []


def test_axe_finds_nothing(page: Page, room: str) -> None:
    program = os.environ.get("AXE_CORE")
    if not program:
        pytest.skip("AXE_CORE is not set; npm install axe-core, then AXE_CORE=…/axe.min.js")
    page.open(f"{room}#color=confidence&pick=0.5,0.5")
    page.evaluate(Path(program).read_text(encoding="utf-8") + ";0")
    found = page.evaluate("axe.run().then(found => JSON.stringify(found.violations))")
    assert json.loads(found) == []
