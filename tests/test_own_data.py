"""Kinds of data that no default was made for: each is planned, trained, scored and labelled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from deepgcn_cli.__main__ import run
from pipelines import kernels
from pipelines.config import PlanConfig
from pipelines.data.store import Store
from pipelines.plan import plan
from pipelines.planning.settings import planned_config
from pipelines.train import open_samplers, resolve
from tests.planning.clouds import box, ground, sheet

Scan = tuple[np.ndarray, np.ndarray]  # positions, labels


def labelled(density: float, *size: float) -> Scan:
    pos = box(density, *size)
    return pos, np.digitize(pos[:, 2], (0.1, 0.6 * pos[:, 2].max()))


def with_rare(number: int) -> Scan:
    """A room whose second class is a patch of a hundredth of the points, in one or two blocks."""
    room = box(300)
    patch = sheet(6000, 0.3, 0.3) + np.array([1 + number / 4, 2, 1.2])
    return np.concatenate([room, patch]), np.repeat([0, 1], [len(room), len(patch)])


def outdoors(number: int) -> Scan:
    pos = ground(8) + np.array([0, 0, number])
    return pos, np.digitize(pos[:, 2] - number, (0.1, 4))


KINDS: dict[str, tuple[Callable[[int], Scan], int, bool]] = {  # a scan, how many, colours
    "density 300": (lambda n: labelled(100, 4 + n / 4, 3, 2.5), 4, True),
    "density 10,000": (lambda n: labelled(2500, 4 + n / 4, 3, 2.5), 3, True),
    "coordinates only": (lambda n: labelled(100, 4 + n / 4, 3, 2.5), 3, False),
    "one room": (lambda _: labelled(300, 7, 5, 2.5), 1, True),
    "a rare class": (with_rare, 6, True),
    "outdoors": (outdoors, 2, True),
    "objects of 1 m": (lambda n: labelled(1000, 0.7 + n / 40, 0.6, 0.8), 8, True),
}


@pytest.fixture
def prepared(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Prepare the data of a kind in data/; the last scan is the test area, and scan.csv."""
    monkeypatch.chdir(tmp_path)
    scan, count, colored = KINDS[request.param]
    rng = np.random.default_rng(0)
    for number in range(count):
        pos, label = scan(number)
        color = np.clip(rng.normal(60 + 60 * label[:, None], 30, (len(pos), 3)), 1, 255)
        columns = [pos, *([color.astype(int)] if colored else []), label[:, None]]
        names = "x,y,z,r,g,b,kind" if colored else "x,y,z,kind"
        rows = np.column_stack(columns)
        np.savetxt(f"{number}.csv", rows, "%.4g", ",", header=names, comments="")
        free = names.removesuffix(",kind")
        np.savetxt("scan.csv", rows[:, :-1], "%.4g", ",", header=free, comments="")
    kinds = "a, b" if request.param == "a rare class" else "a, b, c"
    train = ", ".join(f"{number}.csv" for number in range(max(1, count - 1)))
    test = f", 2: [{count - 1}.csv]" if count > 1 else ""
    lines = [f"classes: [{kinds}]", f"areas: {{1: [{train}]{test}}}", "label: kind"]
    lines += ["test_area: 2"] if test else []
    lines += [] if colored else ["no_color_ok: true"]
    Path("rooms.yaml").write_text("\n".join(lines))
    assert run(["prepare", "--dataset", "rooms.yaml", "--data", "data", "--quiet"]) == 0
    return str(request.param)


@pytest.mark.parametrize("prepared", KINDS, indirect=True)
def test_every_kind_of_data_has_a_plan_with_blocks(prepared: str) -> None:
    made = plan(PlanConfig("30m", cores=2), measure=False)
    config, store = planned_config(made, {}), Store.open(Path("data"))
    trained, validated = open_samplers(resolve(config, store), store)
    assert validated is not None
    features, label = trained.sample(0, 0)
    assert features.shape == (config.num_points, 9)
    assert label.max() <= 2
    started = dict.fromkeys(("density 10,000", "one room", "a rare class"), "indoor-wide")
    started |= {"density 300": "indoor", "coordinates only": "indoor-large"}
    assert config.weights == started.get(prepared)
    assert ("balance" in config.parts) == (prepared == "a rare class")
    assert ("contrast" in config.parts) == (prepared != "coordinates only")
    if prepared in ("objects of 1 m", "outdoors"):
        assert config.block_size == (1 if prepared == "objects of 1 m" else 8)


@pytest.mark.parametrize("prepared", ["coordinates only"], indirect=True)
def test_the_whole_way_without_another_option(
    prepared: str,  # noqa: ARG001
    capsys: pytest.CaptureFixture[str],
) -> None:
    with kernels.use("reference"):
        assert run(["train", "--auto", "--time", "5s"]) == 0
        shown = capsys.readouterr()
        score, label = shown.err.splitlines()[-2:]
        assert run([*score.split()[3:], "--no-pictures"]) == 0
        assert run(label.replace("SCAN.ply", "scan.csv").split()[4:]) == 0
    status, made = (
        json.loads(next(Path("runs").glob(f"*/{name}.json")).read_text())
        for name in ("status", "plan")
    )
    assert status["step"] == made["estimate"]["steps"]
    assert made["predict"] == label.removeprefix("Label a scan: ")
    found = json.loads(next(Path("runs").glob("*/eval/room/scores.json")).read_text())
    assert 0 < found["miou"] <= 1
    rows = Path("scan.labelled.csv").read_text().splitlines()
    assert len(rows) == len(Path("scan.csv").read_text().splitlines())
