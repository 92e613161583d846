"""Plans, parts of rooms, turned rooms, and the arrays that training reads."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.data.s3dis import CLASSES
from pipelines.data.synthetic import plan_room, room, scan_room
from pipelines.data.synthetic.laser import Points
from pipelines.data.synthetic.plans import draw_plan
from pipelines.data.synthetic.rooms import KINDS, SIZES
from pipelines.data.synthetic.variety import vary

SIZE = (5.0, 4.0, 2.6)


@pytest.mark.parametrize("seed", range(40))
def test_floors_fill_what_the_walls_enclose(seed):
    plan = draw_plan((6.0, 5.0, 2.7), np.random.default_rng(seed))
    ring = [wall for wall in plan.walls if not wall.reveal]
    starts = np.array([wall.frame.point((0, 0, 0))[:2] for wall in ring])
    ends = np.array([wall.frame.point((wall.length, 0, 0))[:2] for wall in ring])
    assert np.allclose(ends, np.roll(starts, -1, axis=0)), "each wall begins where one ends"
    x, y = starts.T
    shoelace = (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2
    areas = [
        sum((x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in r) for r in (plan.floors, plan.outside)
    ]
    assert shoelace == pytest.approx(areas[0]), "they go around to the left"
    assert sum(areas) == pytest.approx(30.0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_room_of_each_kind_has_a_plan(kind):
    least = tuple(SIZES[kind][row][0] for row in ("width", "depth", "height"))
    plans = [draw_plan(least, np.random.default_rng(seed)) for seed in range(100)]
    assert all(plan.slope is None or plan.slope[1] < least[0] for plan in plans)


def test_a_part_of_a_turned_room_keeps_its_shape_and_its_owners():
    rng, forms, turned = np.random.default_rng(0), set(), 0
    pos = rng.uniform(0, 1, (3000, 3)) * SIZE
    # The owner tells which point it was: vary must keep rows together.
    whole = Points(pos, rng.integers(0, 256, (3000, 3), np.uint8), np.arange(3000))
    for _ in range(40):
        part = vary(whole, SIZE, rng)
        before = pos[part.object]
        assert np.all(np.diff(part.object) > 0)
        assert np.allclose(part.pos[:, 2], before[:, 2])
        gaps = [np.linalg.norm(p[:-1] - p[1:], axis=1) for p in (part.pos, before)]
        assert np.allclose(*gaps)
        forms.add((len(before) < 3000, before[:, 2].max() < 2.3))
        turned += not np.allclose(part.pos, before)
    assert forms == {(False, False), (True, False), (True, True)}
    assert 8 < turned < 32


def test_arrays_for_training_are_the_scanned_objects():
    pos, color, label = room(4, 3, density=200.0)
    objects = scan_room(plan_room(4, 0, 3), 200.0, "mixed")
    assert (pos.dtype, color.dtype, label.dtype) == (np.float32, np.uint8, np.uint8)
    assert pos.min() == 0
    assert len(pos) == len(color) == len(label) == sum(len(item.pos) for item in objects)
    for index, name in enumerate(CLASSES):
        points = sum(len(item.pos) for item in objects if item.name.startswith(f"{name}_"))
        assert (label == index).sum() == points


def test_a_camera_aims_at_a_mean_brightness():
    shape = (2000, 3)
    for level in (40, 120, 200):
        color = np.random.default_rng(level).integers(level - 20, level + 20, shape, np.uint8)
        points = Points(
            np.random.default_rng(0).uniform(0, 1, shape) * SIZE, color, np.arange(2000)
        )
        means = [vary(points, SIZE, np.random.default_rng(s)).color.mean() / 255 for s in range(30)]
        assert 0.22 < min(means) < 0.4
        assert 0.5 < max(means) < 0.75


def test_rooms_of_one_seed_differ_and_repeat():
    first = [room(1, index, density=50.0) for index in range(4)]
    again = [room(1, index, density=50.0) for index in (3, 2, 1, 0)][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert len({len(pos) for pos, _, _ in first}) == 4
