"""Your own data: labels by property, column and file name, and descriptions that do not fit."""

from __future__ import annotations

import dataclasses
import json
import shutil
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from deepgcn_cli.__main__ import run
from deepgcn_cli.progress import Lines
from pipelines.config import PrepareConfig
from pipelines.data.custom import read_custom_room, read_description, spread_colors
from pipelines.data.store import IGNORED, Room, Store
from pipelines.errors import ConfigError, DatasetError
from pipelines.prepare import prepare
from tests.ears import Ears

POS = np.array([[0.0, 0, 0], [1, 0, 0.5], [0, 1, 1], [1, 1, 2]]) + np.array([7, -3, 1])
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
RGB = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [1, 2, 3]])


def write_csv(path: Path, label: list[Any], pos: np.ndarray = POS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["x,y,z,r,g,b,kind"]
    lines += [
        ",".join(map(str, [*p, *c, value])) for p, c, value in zip(pos, RGB, label, strict=True)
    ]
    path.write_text("\n".join(lines) + "\n")


def describe(folder: Path, text: str) -> Path:
    path = folder / "rooms.yaml"
    path.write_text(textwrap.dedent(text))
    return path


@pytest.fixture
def described(tmp_path: Path) -> Path:
    write_csv(tmp_path / "train" / "a.csv", [1, 2, 9, 1])
    write_csv(tmp_path / "train" / "b.csv", [2, 2, 2, 2])
    write_csv(tmp_path / "test" / "a.csv", [1, 1, 9, 2])
    return describe(
        tmp_path,
        """
        classes: {ground: [1, 2, 3], thing: [4, 5, 6]}
        areas: {1: ["train/*.csv"], 2: ["test/*.csv"]}
        label: kind
        values: {1: ground, 2: thing}
        ignore: [9]
        test_area: 2
        """,
    )


def by_place(room: Room) -> dict[tuple[float, ...], tuple[tuple[int, ...], int]]:
    """Return color and label by the point's place in the raw frame."""
    places = np.round(room.pos.astype(np.float64) + room.origin, 5)
    return {
        tuple(p.tolist()): (tuple(c.tolist()), int(n))
        for p, c, n in zip(places, room.color, room.label, strict=True)
    }


def test_labels_of_a_column(described: Path) -> None:
    dataset = read_description(described)
    assert [(room.area, room.name) for room in dataset.rooms] == [
        (1, "train_a"),
        (1, "train_b"),
        (2, "test_a"),
    ]
    room, notes = read_custom_room(dataset, dataset.rooms[0])
    expected = [0, 1, IGNORED, 0]
    assert by_place(room) == {
        tuple(p.tolist()): (tuple(c.tolist()), n)
        for p, c, n in zip(POS, RGB, expected, strict=True)
    }
    assert notes.unlabelled == 1


def test_what_predict_wrote_is_no_room(described: Path, tmp_path: Path) -> None:
    write_csv(tmp_path / "test" / "a.labelled.csv", [1, 1, 1, 1])
    before = [(1, "train_a"), (1, "train_b"), (2, "test_a")]
    assert [(room.area, room.name) for room in read_description(described).rooms] == before
    described.write_text(described.read_text().replace("test/*.csv", "test/*.labelled.csv"))
    assert read_description(described).rooms[-1].name == "test_a.labelled", "asked for by name"


def test_it_becomes_a_store(described: Path, tmp_path: Path) -> None:
    result = prepare(PrepareConfig(dataset=described, data=tmp_path / "data", workers=1))
    store = Store.open(tmp_path / "data")
    assert store.classes == ("ground", "thing")
    assert store.class_colors == ((1, 2, 3), (4, 5, 6))
    assert (store.test_area, store.published_rooms) == (2, 0)
    assert [info.counts for info in store.rooms()] == [(2, 1), (0, 4), (2, 1)]
    assert result.reused == 0
    assert prepare(PrepareConfig(dataset=described, data=tmp_path / "data")).reused == 3
    described.write_text(
        described.read_text().replace("1: ground, 2: thing", "1: thing, 2: ground")
    )
    assert prepare(PrepareConfig(dataset=described, data=tmp_path / "data")).reused == 0
    assert Store.open(tmp_path / "data").rooms()[0].counts == (1, 2)


@pytest.mark.usefixtures("described")
def test_it_has_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """As documented, in a folder whose data/ holds S3DIS."""
    hall = tmp_path / "raw/Area_1/hall_1/Annotations"
    hall.mkdir(parents=True)
    (hall / "wall_1.txt").write_text("1 2 3 4 5 6\n" * 5)
    monkeypatch.chdir(tmp_path)
    assert run(["prepare", "raw"]) == 0
    before = Store.open(Path("data")).fingerprint
    assert run(["prepare", "--dataset", "rooms.yaml"]) == 0
    assert "deepgcn train --data data-rooms" in capsys.readouterr().err
    assert Store.open(Path("data-rooms")).classes == ("ground", "thing")
    assert Store.open(Path("data")).fingerprint == before
    assert run(["prepare", "--dataset", "rooms.yaml", "--data", "data"]) == 1
    assert "--replace" in capsys.readouterr().err
    assert Store.open(Path("data")).fingerprint == before
    shutil.rmtree("data")
    with pytest.raises(DatasetError, match="There is some in data-rooms: --data data-rooms"):
        Store.open(Path("data"))


@pytest.mark.parametrize("suffix", [".las", ".laz", ".npz", ".npy", ".ply", ".pcd"])
def test_labels_of_every_format(tmp_path: Path, suffix: str) -> None:
    """The classification of a LAS file, an array of an archive, a field or a property."""
    write_labelled_room(tmp_path / f"a{suffix}", np.array([1, 2, 9, 1]))
    path = describe(
        tmp_path,
        f"""
        classes: [ground, thing]
        areas: {{1: "a{suffix}"}}
        label: classification
        values: {{1: ground, 2: thing}}
        ignore: [9]
        """,
    )
    dataset = read_description(path)
    room, _ = read_custom_room(dataset, dataset.rooms[0])
    assert by_place(room) == {
        tuple(p.tolist()): (tuple(c.tolist()), n)
        for p, c, n in zip(POS, RGB, [0, 1, IGNORED, 0], strict=True)
    }


def write_labelled_room(path: Path, label: np.ndarray) -> None:
    kind = [*((n, "f8") for n in "xyz"), *((n, "u1") for n in ("red", "green", "blue"))]
    rows = np.zeros(len(label), [*kind, ("classification", "u1")])
    rows["x"], rows["y"], rows["z"] = POS.T
    rows["red"], rows["green"], rows["blue"] = RGB.T
    rows["classification"] = label
    if path.suffix == ".npy":
        np.save(path, rows)
    elif path.suffix == ".npz":
        np.savez(path, pos=POS, color=RGB.astype(np.uint8), classification=label)
    elif path.suffix == ".ply":
        PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))
    elif path.suffix == ".pcd":
        head = "FIELDS x y z r g b classification\nSIZE 8 8 8 1 1 1 1\nTYPE F F F U U U U\n"
        head += f"WIDTH {len(rows)}\nHEIGHT 1\nDATA binary\n"
        path.write_bytes(head.encode() + rows.tobytes())
    else:
        laspy = pytest.importorskip("laspy")
        data = laspy.LasData(laspy.LasHeader(version="1.4", point_format=7))
        data.x, data.y, data.z = POS.T
        data.red, data.green, data.blue = RGB.T.astype(np.uint16) * 257
        data.classification = label
        data.write(str(path))


def test_points_without_place_and_black_ones_are_said(described: Path, tmp_path: Path) -> None:
    lines = (tmp_path / "train" / "a.csv").read_text().splitlines()
    for row, place in ((1, ",,"), (3, "inf,0,0")):
        lines[row] = ",".join([place, *lines[row].split(",")[3:]])
    lines[2] = ",".join([*lines[2].split(",")[:3], "0,0,0", lines[2].split(",")[6]])
    (tmp_path / "train" / "a.csv").write_text("\n".join(lines))
    config = PrepareConfig(dataset=described, data=tmp_path / "data")
    made = prepare(config, progress=(heard := Ears()))
    assert made.points == 10
    said = "\n".join(heard.warned)
    assert "2 of 12 points without coordinates" in said
    assert "1 of 12 points exactly black" in said
    assert [warned.partition(":")[0] for warned in heard.warned] == [str(described)] * 2


def test_a_colour_far_above_all_others_is_none(tmp_path: Path) -> None:
    """In the files of one room, too; the others keep their own colours."""
    rng = np.random.default_rng(0)
    pos, color = rng.random((2000, 3)), rng.random((2000, 3)).astype(np.float32)
    bright = color.copy()
    bright[5] = 200
    for name, values in (("a", color), ("b", bright)):
        np.savez(tmp_path / f"{name}.npz", pos=pos, color=values, kind=np.zeros(2000, int))
    text = "{classes: [a, b], areas: {1: [a.npz], 2: [b.npz]}, label: kind}"
    dataset = read_description(describe(tmp_path, text))
    clean, other = (read_custom_room(dataset, room) for room in dataset.rooms)
    assert (clean[1].uncolored, other[1].uncolored) == (0, 1)
    places, same = by_place(clean[0]), by_place(other[0])
    assert sum(places[place] != same[place] for place in places) == 1


def test_labels_of_file_names(tmp_path: Path) -> None:
    folder = tmp_path / "Area_1" / "office_1" / "Annotations"
    for number, name in enumerate(("floor_1", "floor_2", "stool_1", "junk_1")):
        folder.mkdir(parents=True, exist_ok=True)
        x, y, z = POS[number]
        (folder / f"{name}.txt").write_text(f"{x} {y} {z} 1 2 3\n{x} {y} {z + 1} 4 5 6\n")
    path = describe(
        tmp_path,
        """
        classes: [floor, chair]
        areas: {1: "Area_1/*/Annotations/*.txt"}
        label: {file: "([a-z]+)_"}
        values: {stool: chair}
        ignore: [junk]
        columns: x,y,z,r,g,b
        """,
    )
    dataset = read_description(path)
    (room,) = dataset.rooms
    assert (room.name, len(room.files)) == ("Area_1_office_1", 4)
    found, _ = read_custom_room(dataset, room)
    assert sorted(found.label.tolist()) == [0, 0, 0, 0, 1, 1, IGNORED, IGNORED]


def test_colors_have_one_range_in_a_room(tmp_path: Path) -> None:
    """A black object stays black, and one with colours up to 1 of 255 almost black."""
    folder = tmp_path / "room"
    folder.mkdir()
    for name, color in (("floor_1", "200 100 50"), ("chair_1", "1 0 1"), ("chair_2", "0 0 0")):
        (folder / f"{name}.txt").write_text(f"1 2 3 {color}\n4 5 {len(color)} {color}\n")
    path = describe(
        tmp_path,
        """
        classes: [floor, chair]
        areas: {1: "room/*.txt"}
        label: {file: "([a-z]+)_"}
        columns: x,y,z,r,g,b
        """,
    )
    dataset = read_description(path)
    room, _ = read_custom_room(dataset, dataset.rooms[0])
    assert sorted(room.color.tolist()) == [[0, 0, 0]] * 2 + [[1, 0, 1]] * 2 + [[200, 100, 50]] * 2


@pytest.mark.parametrize("white", [1, 255, 65535])
def test_an_object_without_color_leaves_the_others_theirs(tmp_path: Path, white: int) -> None:
    """Its grey, 128 of 255, says nothing about the range of the others' colours."""
    kind = float if white == 1 else np.uint16
    names = ("red", "green", "blue")
    for name, color in (("chair_1", [0.2, 0.4, 1.0]), ("table_1", None)):
        columns = dict(zip("xyz", POS.T, strict=True))
        if color:
            columns |= {
                n: np.full(4, white * c).astype(kind) for n, c in zip(names, color, strict=True)
            }
        rows = np.rec.fromarrays([*columns.values()], names=[*columns])
        (tmp_path / "room").mkdir(exist_ok=True)
        np.save(tmp_path / "room" / f"{name}.npy", rows)
    text = 'classes: [chair, table]\nareas: {1: "room/*.npy"}\nlabel: {file: "([a-z]+)_"}\n'
    dataset = read_description(describe(tmp_path, f"{text}no_color_ok: true\n"))
    room, _ = read_custom_room(dataset, dataset.rooms[0])
    assert {tuple(map(int, color)) for color in room.color} == {(51, 102, 255), (128, 128, 128)}


def test_a_change_anywhere_in_a_pattern_is_noticed(tmp_path: Path) -> None:
    write_csv(tmp_path / "room" / "chair_1.csv", [1] * 4)
    text = 'classes: [chair, c]\nareas: {{1: "room/*.csv"}}\nlabel: {{file: "^(?:{}x)?{}"}}\n'
    found = [
        read_description(describe(tmp_path, text.format("long" * 60, end))).digest
        for end in ("([a-z]+)_", "([a-z])")
    ]
    assert found[0] != found[1]


def test_a_room_whose_colors_are_all_0_has_none(described: Path) -> None:
    path = described.parent / "train" / "a.csv"
    path.write_text("x,y,z,r,g,b,kind\n1,2,3,0,0,0,1\n4,5,6,0,0,0,2\n")
    dataset = read_description(described)
    with pytest.raises(DatasetError, match=r"found only 0 in the colours .*\n.*no_color_ok: true"):
        read_custom_room(dataset, dataset.rooms[0])
    described.write_text(described.read_text() + "no_color_ok: true\n")
    dataset = read_description(described)
    room, _ = read_custom_room(dataset, dataset.rooms[0])
    assert room.color.tolist() == [[128, 128, 128]] * 2


def test_units_and_axes_are_those_described(described: Path) -> None:
    described.write_text(described.read_text() + "up: y\nscale: 0.5\n")
    dataset = read_description(described)
    room, _ = read_custom_room(dataset, dataset.rooms[0])
    np.testing.assert_allclose(room.extent, (1.0, 0.5, 0.5))  # z, x, y of the file, halved


def test_colors_differ() -> None:
    colors = spread_colors(20)
    assert len(set(colors)) == 20


BAD = {
    "no YAML": ("{", "cannot be read as YAML"),
    "a list": ("- 1", "found no keys"),
    "an unknown key": ("clases: [a, b]", "Did you mean 'classes'?"),
    "one class": ("classes: [a]\nareas: {1: x}\nlabel: a", "two or more names"),
    "a list for a class": ("classes: [[a], b]", "found the class ['a'], expected a text"),
    "classes that are no texts": ("classes: [yes, no, c]", "found the class True, expected a text"),
    "such keys": ("classes: {on: [1, 2, 3], b: [4, 5, 6]}", "found the class True, expected a"),
    "a class twice with colours": (
        "classes: {a: [1, 2, 3], b: [4, 5, 6], a: [7, 8, 9]}",
        "found the key 'a' in line 1 and again in line 1",
    ),
    "an area twice": (
        "classes: [a, b]\nlabel: kind\nareas:\n  1: [train/*]\n  1: [test/*]",
        "found the key '1' in line 4 and again in line 5, expected each key once",
    ),
    "a label as number and text": (
        "classes: [a, b]\nlabel: kind\nvalues: {1: a, '1': b}",
        "found the key '1' in line 3 and again",
    ),
    "a list as a meaning": ("classes: [a, b]\nlabel: k\nvalues: {1: [a]}", "class ['a'] under"),
    "a class twice": ("classes: [a, a, b]", "found the class 'a' twice"),
    "a label with a class and ignored": (
        "classes: [a, b]\nlabel: k\nvalues: {1: a, 2: b}\nignore: [2]",
        "found the label 2 under values and under ignore",
    ),
    "a class with a space": ("classes: [a b, c]", "found the class 'a b'"),
    "a wrong colour": ("classes: {a: [1, 2], b: [1, 2, 3]}", "found the colour [1, 2] of a"),
    "no label": ("classes: [a, b]", "found label nothing"),
    "a pattern without a group": ('classes: [a, b]\nlabel: {file: "x"}', "with a group"),
    "a broken pattern": ('classes: [a, b]\nlabel: {file: "("}', "found the pattern '('"),
    "an unknown class": ("classes: [ab, cd]\nlabel: k\nvalues: {1: aab}", "Did you mean 'ab'?"),
    "no areas": ("classes: [a, b]\nlabel: k", "found areas nothing"),
    "area 7": ("classes: [a, b]\nlabel: k\nareas: {7: x}", "found the area 7"),
    "no such files": ("classes: [a, b]\nlabel: k\nareas: {1: '*.none'}", "found no file like"),
    "outside": (
        "classes: [a, b]\nlabel: k\nareas: {1: '../*'}",
        "expected one without .. of files",
    ),
    "a file twice": (
        "classes: [a, b]\nlabel: k\nareas: {1: 'train/a.csv', 2: 'train/*.csv'}",
        "in the areas 1 and 2",
    ),
    "an axis": ("classes: [a, b]\nlabel: k\nareas: {1: 'train/*'}\nup: w", "--up: found 'w'"),
    "a fold": ("classes: [a, b]\nlabel: k\nareas: {1: 'train/*'}\ntest_area: 3", "test_area 3"),
    "a text for a switch": (
        "classes: [a, b]\nlabel: k\nareas: {1: 'train/*'}\nno_color_ok: 'no'",
        "no_color_ok 'no'",
    ),
    "no quotes": ("areas: {1: [*.ply]}", "Put patterns that begin with * or ? in quotes."),
    "code": ("classes: !!python/object/apply:os.system [echo]", "cannot be read as YAML"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_descriptions_that_do_not_fit(described: Path, name: str) -> None:
    text, found = BAD[name]
    described.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_description(described)
    message = str(caught.value)
    assert message.startswith(str(described))
    assert found in message
    assert len(message.splitlines()) <= 3


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("kinds", r"r, g, b, kind; expected the label 'kinds'\. Did you mean 'kind'\?\nCorrect"),
        ("kind", r"found the label 9 \(1 point\), expected one of: 1, 2"),
    ],
)
def test_labels_that_are_not_described(described: Path, label: str, found: str) -> None:
    text = described.read_text().replace("label: kind", f"label: {label}")
    described.write_text(text.replace("ignore: [9]", ""))
    dataset = read_description(described)
    with pytest.raises(DatasetError, match=found):
        read_custom_room(dataset, dataset.rooms[0])


def test_points_without_color_get_the_nearest_one(
    described: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second and third point stand at 1.1 and 1.4 m from the first, the last is farther."""
    lines = (tmp_path / "train" / "a.csv").read_text().splitlines()
    for row in (2, 3):
        words = lines[row].split(",")
        lines[row] = ",".join([*words[:3], "", "nan", "NA", words[6]])
    (tmp_path / "train" / "a.csv").write_text("\n".join(lines))
    prepare(PrepareConfig(dataset=described, data=tmp_path / "data"), progress=Lines())
    assert "2 of 12 points without colour" in capsys.readouterr().err
    store = Store.open(tmp_path / "data")
    room = by_place(store.read(store.rooms(1)[0]))
    colors = [room[tuple(np.round(p, 5).tolist())][0] for p in POS]
    away = np.linalg.norm(POS[:, None] - POS[[0, 3]], axis=2).argmin(axis=1)
    assert colors == [tuple(RGB[[0, 3]][n].tolist()) for n in away]


@pytest.mark.parametrize(
    ("ignored", "told"),
    [
        ("", "2 more failed, see above. Fix the data and run the same command again."),
        ("[1, 9]", "1 more failed, see above. The other rooms are kept. Fix"),
    ],
)
def test_rooms_that_fail_are_reported_once(
    described: Path, tmp_path: Path, ignored: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(tmp_path / "train" / "b.csv", [1, 1, 1, 1])
    text = described.read_text().replace("values: {1: ground, 2: thing}", "values: {3: ground}")
    described.write_text(text.replace("ignore: [9]", f"ignore: {ignored}" if ignored else ""))
    config = PrepareConfig(dataset=described, data=tmp_path / "data")
    with pytest.raises(DatasetError) as caught:
        prepare(config, progress=Lines(quiet=True))
    assert str(caught.value).splitlines()[-1].startswith(told)
    shown = capsys.readouterr().err + str(caught.value)
    assert shown.count("found the label") == 1
    assert shown.count("Area_1/train_a") == shown.count("Area_2/test_a") == 1


def test_no_description(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--dataset: found no file"):
        read_description(tmp_path / "none.yaml")


@pytest.mark.slow
def test_real_rooms_described_as_your_own_data(real_dir: Path, tmp_path: Path) -> None:
    """The example's description gives the same points as the reader of S3DIS, in other classes."""
    archive = real_dir / "scans_s3dis_layout.zip"
    with zipfile.ZipFile(archive) as opened:
        opened.extractall(tmp_path)
    (folder,) = (path for path in tmp_path.iterdir() if path.is_dir())
    shutil.copy(EXAMPLES / "object_files.yaml", folder)
    prepare(PrepareConfig(dataset=folder / "object_files.yaml", data=tmp_path / "own"))
    prepare(PrepareConfig(raw=archive, data=tmp_path / "s3dis"))
    own, s3dis = Store.open(tmp_path / "own"), Store.open(tmp_path / "s3dis")
    numbers = {name: n for n, name in enumerate(s3dis.classes)}
    assert len(own.rooms()) == len(s3dis.rooms()) == 15
    for mine, theirs in zip(own.rooms(), s3dis.rooms(), strict=True):
        assert mine.name == f"Area_{theirs.area}_{theirs.name}"
        assert mine.points == theirs.points
        counts = dict(zip(own.classes, mine.counts, strict=True))
        assert counts["floor"] == theirs.counts[numbers["floor"]]
        seats = ("chair", "table", "sofa", "bookcase")
        assert counts["furniture"] == sum(theirs.counts[numbers[name]] for name in seats)
        assert mine.points - sum(mine.counts) == theirs.counts[numbers["clutter"]]
    first, second = own.read(own.rooms()[0]), s3dis.read(s3dis.rooms()[0])
    np.testing.assert_allclose(np.sort(first.pos, axis=0), np.sort(second.pos, axis=0), atol=1e-5)


def test_a_label_of_several_values_is_refused(tmp_path: Path) -> None:
    rows = np.zeros(4, [*((name, "f4") for name in "xyzrgb"), ("kind", "u1", 2)])
    for axis, name in enumerate("xyz"):
        rows[name], rows["rgb"[axis]] = POS[:, axis], RGB[:, axis]
    np.save(tmp_path / "a.npy", rows)
    text = "{classes: [a, b], areas: {1: ['a.npy']}, label: kind}"
    dataset = read_description(describe(tmp_path, text))
    with pytest.raises(DatasetError, match="several values a point in 'kind'"):
        read_custom_room(dataset, dataset.rooms[0])


def test_folders_of_one_name_for_two_rooms_are_refused(tmp_path: Path) -> None:
    for folder in ("a b", "a_b"):
        write_csv(tmp_path / folder / "Annotations" / "thing_1.csv", [1] * 4)
        write_csv(tmp_path / folder / "ground_1.csv", [1] * 4)
    text = 'classes: [ground, thing]\nareas: {1: "%s"}\nlabel: {file: "([a-z]+)_"}\n'
    with pytest.raises(ConfigError, match=r"a_b/.*csv: found two folders for a room a_b; rename"):
        read_description(describe(tmp_path, text % "**/*.csv"))
    (room,) = read_description(describe(tmp_path, text % "a_b/**/*.csv")).rooms
    assert len(room.files) == 2


def test_class_names_in_any_letters(tmp_path: Path) -> None:
    """Names of files with ü decomposed, as macOS writes them, and composed; labels as text."""
    for area, names in ((1, ("Tür_1", "Tu\u0308r_2", "Wände_1")), (2, ("墙_1",))):
        for name in names:
            write_csv(tmp_path / f"raum_{area}" / f"{name}.csv", [1, 2, 9, 1])
    described = describe(
        tmp_path,
        """
        classes: [Tu\u0308r, Wände, 墙]
        areas: {1: ["raum_1/*.csv"], 2: ["raum_2/*.csv"]}
        label: {file: "([^_]+)_"}
        """,
    )
    dataset = read_description(described)
    assert dataset.classes == ("Tür", "Wände", "墙")
    counts = [np.bincount(read_custom_room(dataset, r)[0].label).tolist() for r in dataset.rooms]
    assert counts == [[8, 4], [0, 0, 4]]
    prepare(PrepareConfig(dataset=described, data=tmp_path / "data"))
    assert Store.open(tmp_path / "data").classes == ("Tür", "Wände", "墙")


def test_one_mistake_is_told_once(tmp_path: Path) -> None:
    """Of four rooms, three have a value that is not described."""
    for name in "abc":
        write_csv(tmp_path / f"{name}.csv", [1, 2, 3, 1])
    write_csv(tmp_path / "d.csv", [1, 2, 1, 1])
    described = describe(
        tmp_path,
        "classes: [a, b]\nareas: {1: '[abd].csv', 2: c.csv}\nlabel: kind\nvalues: {1: a, 2: b}",
    )
    heard = Ears()
    config = PrepareConfig(dataset=described, data=tmp_path / "data")
    with pytest.raises(DatasetError, match=r"a\.csv: found the label 3 \(1 point\)") as caught:
        prepare(config, progress=heard)
    assert "2 more failed" in str(caught.value)
    assert heard.warned == ["The same as in Area_1/a in 2 other rooms: Area_1/b, Area_2/c"]
    heard = Ears()
    prepare(dataclasses.replace(config, allow_incomplete=True), progress=heard)
    first, *others = sorted(heard.warned, key=len, reverse=True)
    assert "is left out: " in first
    assert "found the label 3" in first
    assert others == [
        "Area_1/b is left out, as Area_1/a is",
        "Area_2/c is left out, as Area_1/a is",
    ]


def test_stray_points_are_kept_behind_the_room(tmp_path: Path) -> None:
    """Their room has the frame and blocks of a clean copy; they are scored, not trained on."""
    rng = np.random.default_rng(0)
    pos = rng.random((2000, 3)) * (2, 3, 2.5) + (1e5, 5e6, 40)
    stray = np.concatenate([pos[:1] - np.array([0, 0, 3]), np.zeros((30, 3))])
    kinds = rng.integers(0, 2, 2000)

    def save(name: str, points: np.ndarray, kind: np.ndarray) -> None:
        color = np.full((len(points), 3), 9, np.uint8)
        np.savez(tmp_path / name, pos=points, color=color, kind=kind)

    save("clean.npz", pos, kinds)
    save("stray.npz", np.concatenate([stray, pos]), np.concatenate([np.ones(31, int), kinds]))
    text = "classes: [ground, thing]\nareas: {1: [clean.npz], 2: [stray.npz]}\nlabel: kind\n"
    description, lines = describe(tmp_path, text), Ears()
    config = PrepareConfig(dataset=description, data=tmp_path / "data")
    prepare(config, progress=lines)
    store = Store.open(tmp_path / "data")
    clean, room = (store.read(info) for info in store.rooms())
    for name in ("pos", "color", "label"):
        np.testing.assert_array_equal(getattr(room, name)[:2000], getattr(clean, name))
    assert (room.inside, len(room.pos), room.stray.sum()) == (2000, 2031, 31)
    for name in ("origin", "extent"):
        np.testing.assert_array_equal(getattr(room, name), getattr(clean, name))
    np.testing.assert_array_equal(room.grid.offsets, clean.grid.offsets)
    assert store.rooms()[1].counts == (int((kinds == 0).sum()), int((kinds == 1).sum()) + 31)
    assert (store.manifest["frame"], store.manifest["stray_points"]) == ("robust", 31)
    (said,) = (text for text in lines.said if "far from all others" in text)
    assert "Area_2/stray: 31 of 2,031 points" in said
    with pytest.raises(DatasetError, match=r"31 of 2,031 .* the first at index 0: 10000"):
        read_custom_room(
            read_description(description, "published"), read_description(description).rooms[1]
        )
    published = PrepareConfig(dataset=description, frame="published", data=tmp_path / "other")
    with pytest.raises(DatasetError, match=r"31 of 2,031 points far from the others"):
        prepare(published)


def test_stray_points_without_color_are_none_of_the_room(tmp_path: Path) -> None:
    """As beams that did not return, twice as many as points; a tenth of these has no colour."""
    rng = np.random.default_rng(0)
    pos = np.concatenate([rng.random((2000, 3)) * (4, 3, 2.5) + 1, np.zeros((4000, 3))])
    color = rng.random((6000, 3))
    color[:200] = color[2000:] = np.nan
    np.savez(tmp_path / "a.npz", pos=pos, color=color, kind=np.arange(6000) % 2)
    description = describe(tmp_path, "{classes: [a, b], areas: {1: [a.npz]}, label: kind}")
    config = PrepareConfig(dataset=description, data=tmp_path / "data")
    assert prepare(config).statistics.colored == pytest.approx(0.9)
    manifest = tmp_path / "data" / "manifest.json"
    found = json.loads(manifest.read_text())
    del found["rooms"][0]["statistics"]
    manifest.write_text(json.dumps(found))
    assert prepare(config).statistics.colored == pytest.approx(0.9), "measured in the store"


def test_the_frame_of_s3dis_is_published() -> None:
    with pytest.raises(ConfigError, match=r"--frame: found it without --dataset"):
        PrepareConfig(frame="robust")


def test_hidden_files_are_no_rooms(tmp_path: Path) -> None:
    write_csv(tmp_path / "data" / "train" / "more" / "b.csv", [1, 2, 1, 1])
    write_csv(tmp_path / "data" / "train" / "a.csv", [1, 2, 1, 1])
    (tmp_path / "data" / "train" / "._a.csv").write_bytes(b"\0\5\x16\7")
    write_csv(tmp_path / "data" / "train" / ".trash" / "c.csv", [1, 2, 1, 1])
    (tmp_path / "data" / "train" / "round").symlink_to(tmp_path / "data")
    text = "classes: [floor, rest]\nlabel: kind\nvalues: {1.0: floor, 2.0: rest}\n"
    for pattern, expected in {
        "train/*.csv": ["train_a"],
        "train/**/*.csv": ["train_a", "train_more_b"],
    }.items():
        described = describe(tmp_path / "data", f'{text}areas: {{1: ["{pattern}"]}}\n')
        found = read_description(described)
        assert [room.name for room in found.rooms] == expected
    assert found.values == {"1": 0, "2": 1}


def test_a_file_by_two_names_is_in_one_area(tmp_path: Path) -> None:
    """Else the test area's rooms would be trained on."""
    write_csv(tmp_path / "test" / "a.csv", [1, 2, 1, 1])
    (tmp_path / "train").symlink_to(tmp_path / "test")
    text = "classes: [floor, rest]\nlabel: kind\nvalues: {1: floor, 2: rest}\n"
    described = describe(tmp_path, text + "areas: {1: ['train/*.csv'], 5: ['test/*.csv']}\n")
    with pytest.raises(ConfigError, match="in the areas 1 and 5"):
        read_description(described)
