"""The synth stage: the files, their lines, and what happens to folders that are in the way."""

from __future__ import annotations

import json
import os
import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import SynthConfig
from pipelines.errors import ConfigError, DatasetError
from pipelines.progress import Progress, Task
from pipelines.runtime.lock import hold_alone
from pipelines.synth import demo_building, synth
from tests.data.synthetic.test_meshes import entry, write_library
from tests.small_disk import largest_file

LINE = re.compile(rb"(-?\d{1,4}\.\d{3} ){3}(\d{1,3} ){2}\d{1,3}")


def small(out: Path, seed: int = 0) -> SynthConfig:
    return SynthConfig(out=out, areas=2, rooms=2, seed=seed, density=100.0)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Interrupter(Progress):
    """Presses Ctrl-C when a number of rooms are done."""

    def __init__(self, after: int) -> None:
        self.left = after

    @contextmanager
    def task(self, name, *_args, **_kwargs):
        outer = self

        class Counting(Task):
            def advance(self, *_args, **_kwargs):
                outer.left -= name == "Building rooms"
                if outer.left == 0:
                    raise KeyboardInterrupt

        yield Counting()


def test_layout_and_lines_by_an_independent_reader(tmp_path):
    result = synth(small(tmp_path / "raw"))
    rooms = sorted((tmp_path / "raw").glob("Area_*/*"))
    assert [room.parent.name for room in rooms] == ["Area_1", "Area_1", "Area_2", "Area_2"]
    total = 0
    for room in rooms:
        assert re.fullmatch(r"[a-zA-Z]+_\d+", room.name)
        whole = np.loadtxt(room / f"{room.name}.txt", ndmin=2)
        parts = [np.loadtxt(p, ndmin=2) for p in (room / "Annotations").iterdir()]
        joined = np.concatenate(parts)
        assert np.array_equal(np.sort(whole, axis=0), np.sort(joined, axis=0))
        assert whole.shape[1] == 6
        assert whole[:, 3:].min() >= 0
        assert whole[:, 3:].max() <= 255
        assert np.abs(whole[:, :2].min(0)).max() > 0.5, "coordinates are the building's"
        total += len(whole)
    assert (result.rooms, result.points) == (4, total)
    assert sum(result.points_per_class.values()) == total
    assert len(result.points_per_class) == 13


def test_every_line_has_the_raw_form(tmp_path):
    synth(small(tmp_path / "raw"))
    for path in (tmp_path / "raw").glob("Area_1/*/*.txt"):
        lines = path.read_bytes().split(b"\n")
        assert lines.pop() == b""
        assert all(LINE.fullmatch(line) for line in lines)


def test_objects_are_named_numbered_and_never_empty(tmp_path):
    synth(small(tmp_path / "raw"))
    for folder in (tmp_path / "raw").glob("Area_*/*/Annotations"):
        numbers: dict[str, list[int]] = {}
        for path in folder.iterdir():
            name, number = re.fullmatch(r"([a-z]+)_(\d+)\.txt", path.name).groups()
            numbers.setdefault(name, []).append(int(number))
            assert path.stat().st_size > 0
        for found in numbers.values():
            assert sorted(found) == list(range(1, len(found) + 1))
        assert len(numbers["floor"]) == len(numbers["ceiling"]) == 1
        assert 4 <= len(numbers["wall"]) <= 8  # a niche or a partition has more than four


def test_same_seed_same_bytes_other_seed_other_bytes(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        synth(small(tmp_path / name, seed))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert contents(tmp_path / "a") != contents(tmp_path / "c")


def test_an_interrupted_synth_leaves_whole_rooms_and_can_be_rerun(tmp_path):
    synth(small(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        synth(small(tmp_path / "cut"), progress=Interrupter(after=2))
    whole, cut = contents(tmp_path / "whole"), contents(tmp_path / "cut")
    assert len({name.split("/")[1] for name in cut if "/" in name}) == 2
    assert all(whole[name] == content for name, content in cut.items())
    assert {n for n in whole if n.startswith("Area_1/")} == {n for n in cut if "/" in n}
    synth(small(tmp_path / "cut"))
    assert contents(tmp_path / "cut") == whole


def test_what_a_killed_synth_left_is_not_in_the_way(tmp_path):
    synth(small(tmp_path / "a"))
    whole = contents(tmp_path / "a")
    (room, *_) = (tmp_path / "a" / "Area_1").iterdir()
    left = tmp_path / "a" / ".unfinished" / f"1-{room.name}-{os.getpid()}"
    left.parent.mkdir()
    room.rename(left)
    synth(small(tmp_path / "a"))
    assert contents(tmp_path / "a") == whole


def test_any_number_of_workers_writes_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr("pipelines.synth.WORKER_DENSITY", 1.0)  # start workers for few rooms too
    for name, workers in (("one", 1), ("two", 2)):
        synth(replace(small(tmp_path / name), scanner="mixed", rooms=3, workers=workers))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert not (tmp_path / "two" / ".unfinished").exists()


def test_finished_rooms_are_kept_and_broken_ones_made_again(tmp_path):
    out = tmp_path / "raw"
    first = synth(small(out))
    whole = contents(out)
    rooms = sorted(out.glob("Area_*/*"))
    stamps = [(room / f"{room.name}.txt").stat().st_mtime_ns for room in rooms]
    victim = next((rooms[1] / "Annotations").iterdir())
    victim.write_bytes(victim.read_bytes()[:-10])
    assert synth(small(out)) == first
    assert contents(out) == whole
    again = [(room / f"{room.name}.txt").stat().st_mtime_ns for room in rooms]
    assert [a == b for a, b in zip(stamps, again, strict=True)] == [True, False, True, True]


def test_more_rooms_are_added_and_fewer_are_removed(tmp_path):
    out = tmp_path / "raw"
    synth(small(out))
    kept = {name: data for name, data in contents(out).items() if "/" in name}
    synth(replace(small(out), rooms=3))
    assert len(list(out.glob("Area_*/*"))) == 6
    assert kept.items() <= contents(out).items()
    synth(small(out))
    assert {name: data for name, data in contents(out).items() if "/" in name} == kept


def test_other_settings_make_all_rooms_anew(tmp_path):
    out = tmp_path / "raw"
    for scanner in ("laser", "rgbd"):
        synth(replace(small(out), scanner=scanner))
    synth(replace(small(tmp_path / "alone"), scanner="rgbd"))
    assert contents(out) == contents(tmp_path / "alone")


def test_furniture_is_credited_and_shapes_the_rooms(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    catalogue = entry(1, "Chair", "cube/cube.obj", width=45, depth=45, height=85)
    folder = write_library(tmp_path / "furniture", catalogue)
    synth(small(tmp_path / "plain"))
    synth(replace(small(tmp_path / "mixed"), furniture=folder))
    marker = json.loads((tmp_path / "mixed" / "synthetic.json").read_text())
    assert marker["credits"] == ["Ann, CC0"]
    assert contents(tmp_path / "plain") != contents(tmp_path / "mixed")
    with pytest.raises(ConfigError, match=r"found no \.sh3f file"):
        synth(replace(small(tmp_path / "none"), furniture=tmp_path))
    assert not (tmp_path / "none").exists()


def test_another_synthetic_building_is_replaced(tmp_path):
    out = tmp_path / "raw"
    synth(small(out, seed=1))
    (out / "notes.txt").write_text("mine")
    synth(SynthConfig(out=out, areas=1, rooms=1, seed=0, density=100.0))
    assert len(list(out.glob("Area_*/*"))) == 1
    assert (out / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("stranger", ["Area_1/office_1/office_1.txt", "thesis.docx"])
def test_a_folder_with_other_content_is_refused_and_kept(tmp_path, stranger):
    out = tmp_path / "raw"
    (out / stranger).parent.mkdir(parents=True)
    (out / stranger).write_text("precious")
    with pytest.raises(ConfigError, match=r"found 1 file.*expected an empty folder"):
        synth(small(out))
    assert contents(out) == {stranger: b"precious"}


def test_a_room_that_synth_did_not_write_is_kept(tmp_path):
    out = tmp_path / "raw"
    synth(small(out))
    marker = json.loads((out / "synthetic.json").read_text())
    (out / "synthetic.json").write_text(json.dumps({**marker, "rooms": ["../../etc", "x"]}))
    before = contents(out)
    with pytest.raises(ConfigError, match="not made by synth"):
        synth(small(out))
    assert contents(out) == before


def test_a_broken_marker_and_a_file_in_the_way_are_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="found a file, expected a folder"):
        synth(small(tmp_path / "file"))
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "synthetic.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        synth(small(tmp_path / "raw"))


def test_two_at_once_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    another = rf"raw: another process is writing it \(process {os.getpid()} .*\n.*another OUT"
    with hold_alone(out / ".lock", out, "."), pytest.raises(DatasetError, match=another):
        synth(small(out))
    synth(small(out))
    assert not (out / ".lock").exists()


def test_the_lock_of_a_killed_synth_is_not_in_the_way(tmp_path: Path) -> None:
    out = tmp_path / "raw"
    out.mkdir()
    (out / ".lock").write_text("process 7 on mine, since 2026-01-01 00:00:00\n")
    assert synth(small(out)).rooms == 4


def test_the_demo_building_is_small_and_complete(tmp_path):
    result = synth(demo_building(tmp_path / "raw"))
    assert result.rooms == 16
    assert 400_000 < result.points < 900_000
    assert len(result.points_per_class) == 13


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    config = replace(small(tmp_path / "raw"), areas=1, rooms=1)
    with largest_file(1000), pytest.raises(OSError, match="too large") as caught:
        synth(config)
    assert caught.value.filename == str(config.out)
