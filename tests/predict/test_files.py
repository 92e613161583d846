"""What is written, where, and what is not overwritten."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from pipelines.config import PredictConfig
from pipelines.data.s3dis import CLASS_COLORS, CLASSES
from pipelines.data.s3dis.rooms import open_room
from pipelines.errors import ConfigError, DatasetError
from pipelines.predict import _find_scans, _made_from, _open_networks, _output_paths, predict
from pipelines.progress import Progress
from pipelines.runs.directory import Run
from pipelines.runtime.lock import hold_alone
from pipelines.scans import open_scan
from pipelines.scans.ply import write_points
from tests.small_disk import largest_file

from .labelling import label, labelled, write_as


def test_outputs_never_overwrite(scan: Path, trained: Run, tmp_path: Path) -> None:
    before = scan.read_bytes()
    with pytest.raises(ConfigError, match=r"would overwrite the scan .*scan\.ply"):
        label(scan, trained, out=scan)
    (tmp_path / "deep").mkdir()
    twin = Path(shutil.copy(scan, tmp_path / "deep" / "scan.ply"))
    with pytest.raises(ConfigError, match=f"result of {twin} would overwrite the result of {scan}"):
        predict(PredictConfig(scans=(scan, twin), run=trained.path, out=tmp_path / "out"))
    assert scan.read_bytes() == before


def test_a_file_is_no_folder_for_results(scan: Path, tmp_path: Path) -> None:
    (tmp_path / "labelled").write_text("somebody's")
    with pytest.raises(ConfigError, match="labelled: found a file, expected a folder, or a file"):
        _output_paths(PredictConfig(out=tmp_path / "labelled"), [scan])
    assert (tmp_path / "labelled").read_text() == "somebody's"


def test_patterns_give_each_scan_once_and_no_results(tmp_path: Path) -> None:
    results = ("a.labelled.ply", "c.labelled.csv", "c.labelled.csv.html", "c.labelled.csv.png")
    (tmp_path / "a.labelled.mine.pcd").touch()
    for name in ("b.ply", "a.ply", "c.csv", *results):
        (tmp_path / name).touch()

    def names(*patterns: str) -> list[str]:
        return [path.name for path in _find_scans(tuple(tmp_path / text for text in patterns))]

    assert names("*.ply", "c.csv") == ["a.ply", "b.ply", "c.csv"]
    assert names("b.ply", "*.*", "a.ply") == ["b.ply", "a.labelled.mine.pcd", "a.ply", "c.csv"]
    assert names("*.labelled.???") == ["a.labelled.ply", "c.labelled.csv"]
    assert names("a.labelled.ply") == ["a.labelled.ply"]
    with pytest.raises(ConfigError, match="found no file like this"):
        names("*.xyz")


def test_one_scan_into_a_folder(scan: Path, trained: Run, tmp_path: Path) -> None:
    """A pattern that fits one file means the same folder as one that fits several."""
    (found,) = label(scan, trained, out=tmp_path / "new").scans
    assert found.out == tmp_path / "new" / "scan.labelled.ply"
    assert len(labelled(found.out)) == found.points


def test_two_formats_at_once(scan: Path, trained: Run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--format ply: found it with --out .*a\.las"):
        label(scan, trained, out=tmp_path / "a.las", format="ply")
    (found,) = label(scan, trained, out=tmp_path / "a.PLY", format="ply").scans
    assert found.out == tmp_path / "a.PLY"


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".pcd", ".las"])
def test_every_format_gets_the_same_labels(
    scan: Path,
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    suffix: str,
) -> None:
    """The scan in millimetres with y up, in another format, is labelled as the PLY in metres."""
    (expected,) = label(scan, trained).scans
    pos = np.rint(points[0][:, [1, 2, 0]] * 1000)  # z up to y up: (x, y, z) becomes (y, z, x)
    other = write_as(tmp_path / f"other{suffix}", pos, points[1])
    options = {"up": "y", "scale": 0.001, "probabilities": True}
    (found,) = label(other, trained, **options).scans
    assert found.out == tmp_path / f"other.labelled{suffix}"
    again = open_scan(found.out)
    local, frame = again.positions()
    np.testing.assert_allclose(local + frame.origin, pos, atol=1e-2)
    agree = sum(min(found.counts[name], expected.counts[name]) for name in CLASSES)
    assert agree > 0.98 * len(pos), "rounding to millimetres moves few labels"


def test_a_page_to_look_at_the_result(scan: Path, trained: Run, tmp_path: Path) -> None:
    (found,) = label(scan, trained, out=tmp_path / "out.ply", view=True).scans
    page = (tmp_path / "out.html").read_text(encoding="utf-8")
    assert "scan.ply" in page
    assert found.out == tmp_path / "out.ply"
    assert "http://" not in page.replace("http://www.w3.org", ""), "nothing is fetched"


def test_a_picture_of_the_result(trained: Run, tmp_path: Path) -> None:
    """It has the colours of the scan on the left and those of its classes on the right."""
    pos = np.random.default_rng(0).random((400, 3)) * [3, 3, 0.01]
    pos[0] = [0, 0, 2000]  # far off; shown, it would make the rest a dot
    scan = tmp_path / "scan.ply"
    write_points(scan, pos, np.full((400, 3), (1, 2, 3), np.uint8))
    (found,) = label(scan, trained, picture=True).scans
    left, right = np.array_split(imread(found.out.with_suffix(".png"))[..., :3] * 255, 2, axis=1)
    most = CLASSES.index(max(found.counts, key=lambda name: found.counts[name]))

    def share(half: np.ndarray, color: tuple[int, ...]) -> float:
        return float(np.mean(np.abs(half - color).max(axis=-1) < 2))

    assert share(left, (1, 2, 3)) > 0.05 > share(right, (1, 2, 3))
    assert share(right, CLASS_COLORS[most]) > 0.05 > share(left, CLASS_COLORS[most])


def test_another_format_for_many_scans(trained: Run, scan: Path, tmp_path: Path) -> None:
    vertex = labelled(label(scan, trained).scans[0].out)
    text = tmp_path / "hall.xyz"
    rows = np.c_[vertex["x"], vertex["y"], vertex["z"], np.full((len(vertex), 3), 9)]
    np.savetxt(text, rows, "%g")
    config = PredictConfig(scans=(text, scan), run=trained.path, format="ply", device="cpu")
    found = predict(config).scans
    assert [one.out.name for one in found] == ["hall.labelled.ply", "scan.labelled.ply"]
    assert len(labelled(found[0].out)) == len(vertex)
    with pytest.raises(ConfigError, match=r"scan\.labelled\.las: found the format '\.las'"):
        predict(PredictConfig(scans=(scan,), run=trained.path, format="las"))


def test_a_page_that_cannot_be_written_is_found_before_labelling(
    scan: Path, trained: Run, tmp_path: Path
) -> None:
    (tmp_path / "scan.labelled.html").mkdir()
    config = PredictConfig(scans=(scan,), run=trained.path, device="cpu", view=True)
    with pytest.raises(ConfigError, match=r"^--view .*scan\.labelled\.html: found a folder"):
        predict(config)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.labelled.html", "scan.ply"]


def test_a_page_that_is_not_written_keeps_the_labels(
    scan: Path, trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("pipelines.predict.write_viewer", fail)
        with pytest.raises(
            DatasetError, match=r"scan\.labelled\.html: cannot be written \(No space"
        ):
            label(scan, trained, view=True)
    (again,) = label(scan, trained, view=True).scans
    assert again.earlier == again.points
    assert (tmp_path / "scan.labelled.html").is_file()


def test_two_results_never_share_a_page(scan: Path, trained: Run, tmp_path: Path) -> None:
    """Whether one call writes them or two, and the result says what was written."""
    text = tmp_path / "scan.xyz"
    np.savetxt(text, np.hstack([np.random.default_rng(0).random((200, 3)), np.full((200, 3), 9)]))
    (one,) = label(scan, trained, view=True, picture=True).scans
    before = (tmp_path / "scan.labelled.html").read_bytes()
    (other,) = label(text, trained, view=True, picture=True).scans
    (plain,) = label(text, trained).scans
    assert (tmp_path / "scan.labelled.html").read_bytes() == before
    assert one.page == tmp_path / "scan.labelled.html"
    assert other.picture == tmp_path / "scan.labelled.xyz.png"
    assert None not in (one.picture, other.page)
    assert len({one.page, one.picture, other.page, other.picture}) == 4
    assert all(path.is_file() for path in (one.page, one.picture, other.page, other.picture))
    assert plain.page is plain.picture is None


def test_labels_of_a_room_folder_are_of_its_files(trained: Run, tmp_path: Path) -> None:
    file = tmp_path / "hall_1" / "hall_1.txt"
    file.parent.mkdir()
    network = _open_networks(PredictConfig(weights=(str(trained.weights()),)), Progress())
    made = []
    for text in ("1 2 3 4 5 6\n", "1 2 3 4 5 66\n"):
        file.write_text(text)
        opened = open_scan(file.parent, folder=open_room)
        made.append(_made_from(file.parent, opened, network, opened.positions()[1]))
    assert made[0] != made[1]


def test_what_a_killed_start_was_writing_is_removed(scan: Path, trained: Run) -> None:
    others = {".other.ply.7.part", f".{scan.stem}.labelled.ply2.7.part"}
    for name in {*others, f".{scan.stem}.labelled.ply.123.part"}:
        scan.with_name(name).write_bytes(b"half")
    label(scan, trained)
    assert {path.name for path in scan.parent.glob(".*")} == others


class Tasks(Progress):
    """Remembers what was begun."""

    def __init__(self) -> None:
        self.begun: list[str] = []

    def task(self, name: str, *args: Any, **options: Any) -> Any:
        self.begun.append(name)
        return super().task(name, *args, **options)


def test_what_cannot_be_written_is_found_before_labelling(
    scan: Path, trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    """A name too long for the folder, and damage in an array that labelling does not need."""
    np.savez(tmp_path / "a.npz", pos=points[0], color=points[1], other=np.arange(999.0))
    content = (tmp_path / "a.npz").read_bytes()
    at = content.index(np.arange(500, 510.0).tobytes())
    (tmp_path / "a.npz").write_bytes(content[:at] + b"!" + content[at + 1 :])
    cases = ((scan, tmp_path / f"{'x' * 249}.ply"), (tmp_path / "a.npz", tmp_path / "b.npz"))
    for path, out in cases:
        tasks = Tasks()
        config = PredictConfig(scans=(path,), run=trained.path, device="cpu", out=out)
        with pytest.raises(DatasetError, match=r"cannot be written|Nothing was labelled"):
            predict(config, progress=tasks)
        assert tasks.begun == []
    (found,) = label(tmp_path / "a.npz", trained, out=tmp_path / "b.ply").scans
    assert len(labelled(found.out)) == len(points[0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.ply", "scan.ply"]


def test_labels_that_could_not_be_written_serve_another_format(
    trained: Run, points: tuple[np.ndarray, np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    path = tmp_path / "scan.xyz"
    np.savetxt(path, np.hstack(points[:2]), fmt="%40.6f")  # long lines, so that these do not fit
    size = len(points[0]) * 200
    assert len(points[0]) > 1500, "more than the trial writes"
    with largest_file(size), pytest.raises(DatasetError) as caught:
        label(path, trained)
    cannot, kept = str(caught.value).splitlines()
    assert "scan.labelled.xyz: cannot be written (File too large)" in cannot
    assert "go" in kept
    assert f"--out {tmp_path / 'scan.labelled.ply'}" in kept
    assert not (tmp_path / "scan.labelled.xyz").exists()
    (again,) = label(path, trained, out=tmp_path / "scan.labelled.ply").scans
    assert again.earlier == again.points == len(points[0]), "nothing is labelled twice"
    (fresh,) = label(path, trained, out=tmp_path / "fresh.ply").scans
    assert fresh.earlier == 0
    assert again.out.read_bytes() == fresh.out.read_bytes()
    assert again.areas == fresh.areas
    assert not list(tmp_path.glob(".*")), "what was kept is gone"


def test_labels_that_have_no_place_beside_the_result_are_kept_elsewhere(
    trained: Run,
    points: tuple[np.ndarray, np.ndarray, np.ndarray],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a disk that is too full for them, too."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path, in_the_way = tmp_path / "scan.xyz", tmp_path / ".scan.labelled.xyz.part"
    np.savetxt(path, np.hstack(points[:2]), fmt="%40.6f")
    in_the_way.touch()
    size = len(points[0]) * 200
    with (
        largest_file(size),
        pytest.raises(DatasetError, match=r"temporary/\.scan.*or in any folder"),
    ):
        label(path, trained)
    (tmp_path / "other").mkdir()
    (again,) = label(path, trained, out=tmp_path / "other" / "scan.ply").scans
    assert again.earlier == len(points[0])
    assert not list((tmp_path / "temporary").iterdir()), "what was kept is gone"


def test_a_file_s_name_is_no_folder_for_two_scans(scan: Path, tmp_path: Path) -> None:
    other = Path(shutil.copy(scan, tmp_path / "other.ply"))
    with pytest.raises(ConfigError, match=r"both\.ply: found the name of a file for several"):
        predict(PredictConfig(scans=(scan, other), out=tmp_path / "both.ply"))
    assert not (tmp_path / "both.ply").exists()


def test_two_at_once_for_one_result(scan: Path, trained: Run) -> None:
    out = scan.with_name("result.ply")
    with (
        hold_alone(out.with_name(".result.ply.lock"), out, "."),
        pytest.raises(DatasetError, match=r"result\.ply: another process is writing it \(process "),
    ):
        label(scan, trained, out=out)
    label(scan, trained, out=out)
    assert sorted(path.name for path in scan.parent.iterdir()) == ["result.ply", "scan.ply"]


def test_what_a_killed_call_was_writing_is_removed(scan: Path, trained: Run) -> None:
    for name in ("scan.labelled.ply", "scan.labelled.html"):
        scan.with_name(f".{name}.7.part").write_text("half")
    trial = scan.with_name(".scan.labelled.ply-trial")
    trial.mkdir()
    (trial / "scan.labelled.ply").write_text("half")
    label(scan, trained, view=True)
    assert not list(scan.parent.glob(".*"))
