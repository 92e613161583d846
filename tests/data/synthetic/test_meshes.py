"""Furniture libraries: a made one, what it becomes in a room, and what strangers may hand in."""

from __future__ import annotations

import io
import pickle
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.synthetic import room
from pipelines.data.synthetic.meshes import (
    LARGEST,
    TRIANGLES,
    Library,
    build_model,
    class_of,
    load_library,
)
from pipelines.data.synthetic.scene import TRIANGLE, Frame, Material, Scene
from pipelines.errors import ConfigError
from pipelines.progress import Task
from tests.ears import Ears
from tests.tiny_training import AtStep

DEBIAN = Path("/usr/share/sweethome3d/furniture")
PLAIN = Material("paint", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), scale=1.0)
HEAD = "id=Test\nlicense=CC0\n"
CUBE = """mtllib cube.mtl
v 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nv 0 0 4\nv 2 0 4\nv 2 1 4\nv 0 1 4
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
usemtl painted
f 1/1 2/2 3/3 4/4\nf 5/1 6/2 7/3 8/4\nf 1/1 2/2 6/3 5/4
usemtl red
f 4 3 7 8\nf 1 4 8 5\nf 2 3 7 6
"""
MATERIALS = "newmtl painted\nKd 1 1 1\nmap_Kd paint.png\nnewmtl red\nKd 0.8 0 0\n"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def texture(size: int = 8) -> bytes:
    """Return a PNG whose left half is green and whose right half is black."""
    from PIL import Image

    pixels = np.zeros((size, size, 3), np.uint8)
    pixels[:, : size // 2] = (0, 200, 0)
    Image.fromarray(pixels).save(stream := io.BytesIO(), "PNG")
    return stream.getvalue()


def entry(number: int, name: str, model: str, category: str = "Office", **more: object) -> str:
    fields = {"name": name, "category": category, "model": f"/{model}", "creator": "Ann"}
    fields |= {"width": 120, "depth": 60, "height": 75, **more}
    return "".join(f"{key}#{number}={value}\n" for key, value in fields.items())


def write_library(folder: Path, catalogue: str, **files: bytes | str) -> Path:
    """Write a library with a textured box and the files given."""
    folder.mkdir(exist_ok=True)
    content = {"cube/cube.obj": CUBE, "cube/cube.mtl": MATERIALS, "cube/paint.png": texture()}
    content |= files
    with zipfile.ZipFile(folder / "test.sh3f", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("PluginFurnitureCatalog.properties", HEAD + catalogue)
        for name, data in content.items():
            archive.writestr(name, data)
    return folder


def test_a_model_has_its_size_place_class_colours_and_credit(tmp_path):
    library = load_library(write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj")))
    (model,) = library.models
    assert (model.label, model.place, model.size) == ("table", "floor", (1.2, 0.6, 0.75))
    assert model.credit == "Ann, CC0"
    corners = model.triangles.reshape(-1, 3)
    assert np.allclose(corners.min(axis=0), (-0.6, 0, 0), atol=0.01)
    assert np.allclose(corners.max(axis=0), (0.6, 0.6, 0.75), atol=0.01)
    assert len(model.triangles) == 12
    # One is 0.8 0 0 and a little around it, the other half green, half black.
    red, painted = sorted(model.colors, key=lambda colors: colors[:, 1].max())
    assert painted[:, [0, 2]].max() == 0
    assert painted[0, 1] < 0.1
    assert painted[1, 1] > 0.7
    assert np.allclose(red.mean(axis=0), (0.8, 0, 0), atol=0.01)


def test_fronts_of_models_look_into_the_room(tmp_path):
    """In an OBJ file y is up and z to the front: what has the largest z gets the largest y."""
    spike = CUBE.replace("v 0 1 4", "v 0 1 8")  # the corner at the left, top and front
    folder = write_library(tmp_path / "f", entry(1, "Desk", "s/s.obj"), **{"s/s.obj": spike})
    corners = load_library(folder).models[0].triangles.reshape(-1, 3)
    front = corners[corners[:, 1] > 0.55]
    assert np.allclose(front, (0.6, 0.6, 0.75), atol=0.01)


def test_a_built_model_lies_where_its_frame_is(tmp_path):
    (model,) = load_library(write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj"))).models
    scene = Scene()
    scene.add("floor", Frame()).sheet((0, 0, 0), (9, 0, 0), (0, 9, 0), PLAIN)
    part = scene.add("table", Frame(3.0, 2.0, 0.0, np.pi / 2))
    build_model(part, np.random.default_rng(0), model, size=(2.0, 1.0, 0.5))
    patches = scene.patches()
    at = patches.shape == TRIANGLE
    assert np.array_equal(np.unique(patches.object[at]), [1])
    corners = np.stack([patches.origin, patches.origin + patches.u, patches.origin + patches.v])
    # Turned by 90 degrees, x becomes y and the front, y, looks to -x.
    assert np.allclose(corners[:, at].min(axis=(0, 1)), (2, 1, 0), atol=0.02)
    assert np.allclose(corners[:, at].max(axis=(0, 1)), (3, 3, 0.5), atol=0.02)


@pytest.mark.parametrize(
    ("name", "category", "size", "label"),
    [
        ("Desk", "Office", (120, 60, 75), "table"),
        ("Coffee table", "Living room", (90, 50, 45), "table"),
        ("Bedside table", "Bedroom", (50, 40, 50), "clutter"),
        ("Office chair", "Office", (60, 60, 100), "chair"),
        ("Armchair", "Living room", (90, 85, 90), "sofa"),
        ("Armchair", "Living room", (60, 60, 90), "chair"),
        ("Corner sofa", "Living room", (230, 140, 80), "sofa"),
        ("Full bookcase", "Living room", (90, 30, 220), "bookcase"),
        ("Wardrobe", "Bedroom", (200, 70, 240), "clutter"),
        ("Desk lamp", "Lights", (20, 20, 40), "clutter"),
        ("Glass door", "Doors and windows", (90, 10, 205), "door"),
        ("Glass door cabinet", "Kitchen", (60, 40, 70), "clutter"),
        ("Sedan", "Vehicles", (200, 390, 150), None),
        ("Oriental rug", "Living room", (200, 100, 1), None),
        ("Pine", "Exterior", (300, 300, 400), None),
    ],
)
def test_classes_follow_s3dis(name, category, size, label):
    sizes = dict(zip(("width", "depth", "height"), map(str, size), strict=True))
    assert class_of({"name": name, "category": category, **sizes}) == label


def test_rooms_take_models_and_stay_the_same_when_pickled(tmp_path):
    catalogue = entry(1, "Armchair", "cube/cube.obj", width=100, depth=90, height=85)
    catalogue += entry(2, "Chair", "cube/cube.obj", width=45, depth=45, height=85)
    library = load_library(write_library(tmp_path / "f", catalogue))
    certain = Library(library.models, library.digest, share=1.0)
    for index in (0, 1):
        plain = room(3, index, density=100.0)
        mixed = room(3, index, density=100.0, library=certain)
        again = room(3, index, density=100.0, library=pickle.loads(pickle.dumps(certain)))
        assert len(mixed[0]) != len(plain[0])
        assert all(np.array_equal(a, b) for a, b in zip(mixed, again, strict=True))


def test_the_second_reading_comes_from_the_cache(tmp_path):
    folder = write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj"))
    first = load_library(folder)
    (cached,) = (tmp_path / "cache" / "deepgcn" / "furniture").iterdir()
    stamp = cached.stat().st_mtime_ns
    second = load_library(folder)
    assert cached.stat().st_mtime_ns == stamp
    for a, b in zip(first.models, second.models, strict=True):
        assert (a.name, a.size, a.credit) == (b.name, b.size, b.credit)
        assert np.array_equal(a.triangles, b.triangles)
        assert np.array_equal(a.colors, b.colors)
    cached.write_bytes(b"PK broken")
    assert len(load_library(folder).models) == 1
    assert cached.stat().st_size > 100


def test_a_first_reading_shows_each_model_and_where_they_are_kept(tmp_path, monkeypatch):
    advanced = []
    monkeypatch.setattr(Task, "advance", lambda task: advanced.append(task))
    catalogue = entry(1, "Desk", "cube/cube.obj") + entry(2, "Table", "cube/cube.obj")
    folder = write_library(tmp_path / "f", catalogue)
    first, second = AtStep(), AtStep()
    load_library(folder, first)
    assert first.tasks == [("Reading furniture", 1), ("Reading test", 2)]
    assert len(advanced) == 1 + 2
    (said,) = first.said
    assert said.endswith(f"and kept in {tmp_path / 'cache' / 'deepgcn' / 'furniture'}")
    load_library(folder, second)
    assert (second.tasks, second.said) == ([("Reading furniture", 1)], [])


def test_large_models_are_reduced(tmp_path):
    side = 80
    grid = [f"v {x} {np.sin(x) * np.cos(z)} {z}" for x in range(side) for z in range(side)]
    faces = [
        f"f {a + 1} {a + 2} {a + side + 2} {a + side + 1}"
        for a in (x * side + z for x in range(side - 1) for z in range(side - 1))
    ]
    write_library(
        tmp_path / "f", entry(1, "Table", "g/g.obj"), **{"g/g.obj": "\n".join(grid + faces)}
    )
    (model,) = load_library(tmp_path / "f").models
    assert 200 < len(model.triangles) <= TRIANGLES


HOSTILE = {
    "no such file": entry(2, "Table", "missing/missing.obj"),
    "outside": entry(2, "Table", "../../../etc/passwd"),
    "no size": entry(2, "Table", "cube/cube.obj", width="wide"),
    "infinite": entry(2, "Table", "cube/cube.obj", width="nan", depth="nan", height="nan"),
    "flat": entry(2, "Table", "cube/cube.obj", height=0),
    "no model": "name#2=Table\ncategory#2=Office\nwidth#2=100\ndepth#2=50\nheight#2=70\n",
    "rotation": entry(2, "Table", "cube/cube.obj", modelRotation="1 0 0"),
    "empty": entry(2, "Table", "bad/empty.obj"),
    "binary": entry(2, "Table", "bad/binary.obj"),
    "index": entry(2, "Table", "bad/index.obj"),
    "not a number": entry(2, "Table", "bad/nan.obj"),
}
BAD = {
    "bad/empty.obj": "",
    "bad/binary.obj": bytes(range(256)) * 40,
    "bad/index.obj": "v 0 0 0\nv 1 0 0\nv 1 1 0\nf 1 2 999999999\n",
    "bad/nan.obj": "v nan 0 0\nv 1 inf 0\nv 1 1 0\nf 1 2 3\n",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_broken_models_are_left_out_and_counted(tmp_path, kind):
    catalogue = entry(1, "Desk", "cube/cube.obj") + HOSTILE[kind]
    progress = Ears()
    library = load_library(write_library(tmp_path / "f", catalogue, **BAD), progress)
    assert [model.name for model in library.models] == ["Desk"]
    path, said = tmp_path / "f" / "test.sh3f", "1 of 2 models cannot be read and are left out."
    assert progress.warned == ([] if kind == "infinite" else [f"{path}: {said}"])


def test_a_texture_of_too_many_pixels_is_not_decoded(tmp_path):
    from PIL import Image

    Image.new("1", (30_000, 3_000)).save(stream := io.BytesIO(), "PNG")
    files = {"cube/paint.png": stream.getvalue()}
    begin = time.process_time()
    load_library(write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj"), **files))
    assert time.process_time() - begin < 2


def test_a_model_of_too_many_materials_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("trimesh.load", lambda *_, **__: pytest.fail("it takes minutes"))
    many = CUBE + "".join(f"usemtl m{i}\nf 1 2 3\n" for i in range(256))
    folder = write_library(tmp_path / "f", entry(1, "Table", "m/m.obj"), **{"m/m.obj": many})
    with pytest.raises(ConfigError, match="found no usable model"):
        load_library(folder)


def test_no_program_is_started_for_a_texture(tmp_path, monkeypatch):
    from PIL import EpsImagePlugin, Image

    called = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: called.append(1))
    Image.new("RGB", (8, 8)).save(stream := io.BytesIO(), "EPS")
    files = {"cube/paint.png": stream.getvalue()}
    library = load_library(
        write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj"), **files)
    )
    assert not called
    assert [model.name for model in library.models] == ["Desk"]


def test_an_archive_that_unpacks_to_too_much_is_refused(tmp_path):
    zeros = {"cube/big.obj": bytes(LARGEST + 1)}
    folder = write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj"), **zeros)
    assert (folder / "test.sh3f").stat().st_size < 1 << 20
    with pytest.raises(ConfigError, match=r"found files of 67,108,865 bytes.*expected at most"):
        load_library(folder)


def test_what_is_no_library_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"found no \.sh3f file.*\n.*apt install"):
        load_library(tmp_path)
    (tmp_path / "a.sh3f").write_bytes(b"no zip")
    with pytest.raises(ConfigError, match="expected a furniture library"):
        load_library(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.sh3f", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ConfigError, match="expected a furniture library"):
        load_library(tmp_path)
    folder = write_library(tmp_path / "f", entry(1, "Sedan", "cube/cube.obj", "Vehicles"))
    with pytest.raises(ConfigError, match="found no usable model"):
        load_library(folder)


def test_without_trimesh_the_command_to_install_it_is_shown(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    folder = write_library(tmp_path / "f", entry(1, "Desk", "cube/cube.obj"))
    with pytest.raises(ConfigError, match=r"no package trimesh.*\n.*deepgcn\[meshes\]"):
        load_library(folder)


@pytest.mark.slow
@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package sweethome3d-furniture")
def test_debians_libraries():
    models = load_library(DEBIAN).models
    found = {label: sum(m.label == label for m in models) for label in ("chair", "sofa", "table")}
    assert all(number >= 15 for number in found.values())
    assert sum(model.label == "clutter" for model in models) > 300


def test_a_catalogue_is_read_as_java_writes_it(tmp_path, monkeypatch):
    text = entry(1, "Desk", "cube/cube.obj", creator="Ren\\u00e9 \\\n   Fleury\\: 3D")
    write_library(tmp_path / "lib", text.replace("/cube/cube.obj", "/cube/cu\\be.obj"))
    (model,) = load_library(tmp_path / "lib").models
    assert "Ren\u00e9 Fleury: 3D" in model.credit
    monkeypatch.setattr("pipelines.data.synthetic.meshes.MOST_MODELS", 2)
    many = "".join(entry(n, f"Desk {n}", "cube/cube.obj") for n in range(1, 4))
    with pytest.raises(ConfigError, match="found more than 2 models"):
        load_library(write_library(tmp_path / "many", many))
