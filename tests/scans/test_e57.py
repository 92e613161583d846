"""E57 scans: several scans in one frame, poses, invalid points and spherical coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plyfile import PlyData

from pipelines.errors import DatasetError
from pipelines.scans import open_scan, write_labelled
from tests.scans.scan_labels import labels_for, placed

pye57 = pytest.importorskip("pye57")

COUNT = 200
FOREIGN = Path(__file__).parent / "foreign"
QUARTER = np.array([np.sqrt(0.5), 0, 0, np.sqrt(0.5)])  # a quarter turn about z, as a quaternion


def write(path: Path, scans: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Write random scans, each turned and moved; return the places and colours in their order."""
    rng = np.random.default_rng(0)
    places, colors = [], []
    file = pye57.E57(str(path), mode="w")
    for number in range(scans):
        local = rng.random((COUNT, 3)).astype(np.float32).astype(np.float64)
        color = rng.integers(0, 256, (COUNT, 3)).astype(np.uint8)
        invalid = np.zeros(COUNT, np.int8)
        invalid[7] = 2
        columns = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), local.T.copy(), strict=True))
        columns |= dict(zip(("colorRed", "colorGreen", "colorBlue"), color.T.copy(), strict=True))
        columns |= {"intensity": rng.random(COUNT).astype(np.float32)}
        columns |= {"cartesianInvalidState": invalid}
        moved = np.array([1000.0 * number, -5, 2])
        file.write_scan_raw(columns, rotation=QUARTER, translation=moved)
        turned = np.stack([-local[:, 1], local[:, 0], local[:, 2]], axis=1) + moved
        turned[7] = np.nan
        places.append(turned)
        colors.append(color)
    file.close()
    return np.concatenate(places), np.concatenate(colors)


def write_fields(path: Path, *scans: dict[str, np.ndarray]) -> None:
    """Write scans of any fields with the library: pye57's own writer knows only some."""
    library = pye57.libe57
    file = pye57.E57(str(path), mode="w")
    image = file.image_file
    for number, fields in enumerate(scans):
        prototype = library.StructureNode(image)
        buffers, columns = library.VectorSourceDestBuffer(), []
        for name, values in fields.items():
            if values.dtype.kind == "f":
                node = library.FloatNode(image, 0.0, library.E57_DOUBLE, -1e10, 1e10)
            else:
                limits = np.iinfo(values.dtype)
                node = library.IntegerNode(image, 0, limits.min, limits.max)
            prototype.set(name, node)
            columns.append(np.ascontiguousarray(values))
            buffers.append(
                library.SourceDestBuffer(image, name, columns[-1], len(values), True, True)
            )
        scan = library.StructureNode(image)
        scan.set("guid", library.StringNode(image, f"{{{number}}}"))
        points = library.CompressedVectorNode(image, prototype, library.VectorNode(image, True))
        scan.set("points", points)
        file.data3d.append(scan)
        writer = points.writer(buffers)
        writer.write(len(columns[0]))
        writer.close()
    file.close()


def test_scans_come_in_one_frame(tmp_path: Path) -> None:
    pos, color = write(tmp_path / "scan.e57")
    scan = open_scan(tmp_path / "scan.e57")
    np.testing.assert_allclose(placed(scan), pos, atol=1e-4)
    assert np.flatnonzero(np.isnan(scan.positions()[0][:, 0])).tolist() == [7, COUNT + 7]
    np.testing.assert_array_equal(scan.colors(), color)
    assert scan.rows["scan"].tolist() == [0] * COUNT + [1] * COUNT
    assert scan.notes == ("2 scans, in their common frame",)


def test_chunks_smaller_than_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "scan.e57")
    whole = open_scan(tmp_path / "scan.e57").rows.tobytes()
    monkeypatch.setattr("pipelines.scans.e57.CHUNK", 64)
    assert open_scan(tmp_path / "scan.e57").rows.tobytes() == whole


@given(
    count=st.integers(1, 9),
    far=st.sampled_from([0.0, 5e6, -4e9]),
    bad=st.lists(st.booleans(), min_size=9, max_size=9),
    painted=st.booleans(),
    seed=st.integers(0, 99),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    count: int,
    far: float,
    bad: list[bool],
    painted: bool,
    seed: int,
) -> None:
    """One point, no valid point, any offset and field: all of it is in the labelled PLY."""
    folder = tmp_path_factory.getbasetemp()
    rng = np.random.default_rng(seed)
    pos = rng.integers(0, 800, (count, 3)) / 8 + np.array([far, -far, 0])
    fields = {
        "rowIndex": rng.integers(0, 65536, count).astype(np.uint16),
        "returnIndex": rng.integers(-128, 128, count).astype(np.int8),
        "timeStamp": rng.random(count) * 1e9,
    }
    color = rng.integers(1, 256, (count, 3)).astype(np.uint8)
    columns = dict(zip(("cartesianX", "cartesianY", "cartesianZ"), pos.T, strict=True))
    columns |= {**fields, "cartesianInvalidState": np.array(bad[:count], np.int8)}
    if painted:
        columns |= dict(zip(("colorRed", "colorGreen", "colorBlue"), color.T, strict=True))
    write_fields(folder / "trip.e57", columns)
    scan = open_scan(folder / "trip.e57")
    labels = labels_for(count)
    write_labelled(folder / "trip.ply", scan, labels)
    vertex = PlyData.read(str(folder / "trip.ply"))["vertex"].data
    pos[bad[:count]] = np.nan
    np.testing.assert_array_equal(np.stack([vertex[n] for n in "xyz"], axis=1), pos)
    for name, values in fields.items():
        np.testing.assert_array_equal(vertex[name], values)
    assert vertex["class"].tolist() == labels.label.tolist()
    if painted:
        np.testing.assert_array_equal(scan.colors(), color)
    else:
        assert scan.colors() is None


def test_scans_of_different_fields(tmp_path: Path) -> None:
    """What one scan has and another has not is 0 there."""
    columns = {name: np.arange(3.0) for name in ("cartesianX", "cartesianY", "cartesianZ")}
    write_fields(
        tmp_path / "scan.e57",
        {**columns, "intensity": np.full(3, 0.5)},
        {**columns, "rowIndex": np.arange(7, 10, dtype=np.uint16)},
    )
    rows = open_scan(tmp_path / "scan.e57").rows
    assert rows["intensity"].tolist() == [0.5] * 3 + [0] * 3
    assert rows["rowIndex"].tolist() == [0] * 3 + [7, 8, 9]


def test_fields_of_an_extension_stay(tmp_path: Path) -> None:
    """MeshLab writes normals, all 0 for points, under names with a prefix."""
    write_labelled(tmp_path / "out.ply", open_scan(FOREIGN / "meshlab.e57"), labels_for(6))
    vertex = PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
    assert vertex["nor:normalZ"].tolist() == [0] * 6


def test_no_points(tmp_path: Path) -> None:
    file = pye57.E57(str(tmp_path / "scan.e57"), mode="w")
    file.close()
    with pytest.raises(DatasetError, match="found 0 points"):
        open_scan(tmp_path / "scan.e57")


def test_the_labels_are_a_ply(tmp_path: Path) -> None:
    write(tmp_path / "scan.e57", scans=1)
    scan = open_scan(tmp_path / "scan.e57")
    write_labelled(tmp_path / "out.ply", scan, labels_for(COUNT))
    again = open_scan(tmp_path / "out.ply")
    np.testing.assert_array_equal(placed(again), placed(scan))
    np.testing.assert_array_equal(again.rows["intensity"], scan.rows["intensity"])
    np.testing.assert_array_equal(again.colors(), scan.colors())
    assert "scan" not in again.fields


def test_spherical_coordinates(tmp_path: Path) -> None:
    spherical = np.array([[2.0, 0, 0], [2, np.pi / 2, 0], [2, 0, np.pi / 2], [2, np.pi, 0]])
    names = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
    write_fields(tmp_path / "scan.e57", dict(zip(names, spherical.T, strict=True)))
    scan = open_scan(tmp_path / "scan.e57")
    expected = [[2, 0, 0], [0, 2, 0], [0, 0, 2], [-2, 0, 0]]
    np.testing.assert_allclose(placed(scan), expected, atol=1e-6)
    assert scan.colors() is None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.99])
def test_cut_files_are_refused(tmp_path: Path, share: float) -> None:
    path = tmp_path / "scan.e57"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(DatasetError, match="found a damaged or truncated E57"):
        open_scan(path)


def test_a_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "scan.e57")
    monkeypatch.setitem(__import__("sys").modules, "pye57", None)
    with pytest.raises(DatasetError, match=r'pip install "deepgcn\[e57\]"'):
        open_scan(tmp_path / "scan.e57")
