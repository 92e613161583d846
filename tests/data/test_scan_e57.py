"""E57 scans: several scans in one frame, poses, invalid points and spherical coordinates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.scans import open_scan, write_labelled
from pipelines.errors import DatasetError
from tests.data.scan_labels import labels_for, placed

pye57 = pytest.importorskip("pye57")

COUNT = 200
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
    monkeypatch.setattr("pipelines.data.scan_e57.CHUNK", 64)
    assert open_scan(tmp_path / "scan.e57").rows.tobytes() == whole


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
    path = tmp_path / "scan.e57"
    library = pye57.libe57
    spherical = np.array([[2.0, 0, 0], [2, np.pi / 2, 0], [2, 0, np.pi / 2], [2, np.pi, 0]])
    names = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
    file = pye57.E57(str(path), mode="w")
    image = file.image_file
    prototype = library.StructureNode(image)
    buffers, columns = library.VectorSourceDestBuffer(), []
    for name, values in zip(names, spherical.T, strict=True):
        prototype.set(name, library.FloatNode(image, 0.0, library.E57_DOUBLE, -10.0, 10.0))
        columns.append(np.ascontiguousarray(values))
        buffers.append(library.SourceDestBuffer(image, name, columns[-1], 4, True, True))
    node = library.StructureNode(image)
    node.set("guid", library.StringNode(image, "{0}"))
    points = library.CompressedVectorNode(image, prototype, library.VectorNode(image, True))
    node.set("points", points)
    file.data3d.append(node)
    writer = points.writer(buffers)
    writer.write(4)
    writer.close()
    file.close()
    scan = open_scan(path)
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


def test_a_missing_package_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "scan.e57")
    monkeypatch.setitem(__import__("sys").modules, "pye57", None)
    with pytest.raises(DatasetError, match=r'pip install "deepgcn\[e57\]"'):
        open_scan(tmp_path / "scan.e57")
