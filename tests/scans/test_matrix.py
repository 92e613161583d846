"""The matrix in docs/scans.md: what each format keeps, with files of plyfile, laspy, pye57, pandas.

Every cell that says more than `–` is tried: the file is read, labelled, and its result read again.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from plyfile import PlyData, PlyElement

from pipelines.scans import Scan, labelled_name, open_scan, write_labelled
from tests.scans.scan_labels import labels_for, placed

DOCS = Path(__file__).parents[2] / "docs" / "scans.md"
COUNT = 30
RNG = np.random.default_rng(0)
POS = (RNG.random((COUNT, 3)) * 8).round(3)
RGB = RNG.integers(1, 256, (COUNT, 3)).astype(np.uint8)
NORMALS = RNG.choice([-0.5, 0.25, 0.75], (COUNT, 3))
QUALITY = RNG.integers(1, 99, COUNT) / 4  # any other column
GONE = np.arange(COUNT) % 7 == 3
FAR = np.array([4_500_000.0, 5_400_000.0, 300.0])
POSE = "0 0 0\n1 0 0\n0 1 0\n0 0 1\n1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n"

IN_THEIR_OWN_FORMAT = ("PTS", "CSV", "TXT", "NPY", "NPZ")  # other columns are, not in PLY

Columns = dict[str, np.ndarray]


def columns(pos: np.ndarray, color: np.ndarray | None = RGB, **more: np.ndarray) -> Columns:
    found = dict(zip("xyz", pos.T, strict=True))
    if color is not None:
        found |= zip(("red", "green", "blue"), color.T, strict=True)
    return found | more


def rows_of(found: Columns) -> np.ndarray:
    rows = np.empty(len(found["x"]), [(name, values.dtype) for name, values in found.items()])
    for name, values in found.items():
        rows[name] = values
    return rows


def write_ply(path: Path, found: Columns) -> None:
    PlyData([PlyElement.describe(rows_of(found), "vertex")]).write(str(path))


def write_pcd(path: Path, found: Columns) -> None:
    kinds = [values.dtype for values in found.values()]
    lines = [
        *("VERSION 0.7", f"FIELDS {' '.join(found)}"),
        f"SIZE {' '.join(str(kind.itemsize) for kind in kinds)}",
        f"TYPE {' '.join(kind.kind.upper() for kind in kinds)}",
        *(f"COUNT {' '.join('1' for _ in kinds)}", f"WIDTH {COUNT}", "HEIGHT 1"),
        *("VIEWPOINT 0 0 0 1 0 0 0", f"POINTS {COUNT}", "DATA binary", ""),
    ]
    path.write_bytes("\n".join(lines).encode() + rows_of(found).tobytes())


def write_las(path: Path, found: Columns) -> None:
    laspy = pytest.importorskip("laspy")
    pytest.importorskip("lazrs")
    form = 7 if "red" in found else 6
    header = laspy.LasHeader(version="1.4", point_format=form)
    header.scales, header.offsets = [0.001] * 3, [np.floor(found[axis].min()) for axis in "xyz"]
    standard = ("x", "y", "z", "red", "green", "blue")
    extra = [name for name in found if name not in standard]
    header.add_extra_dims([laspy.ExtraBytesParams(name, found[name].dtype) for name in extra])
    header.vlrs.append(laspy.VLR("LASF_Projection", 2112, "", b'PROJCS["x"]'))
    data = laspy.LasData(header)
    for name, values in found.items():
        wide = values.astype(np.uint16) * 257 if values.dtype == np.uint8 else values
        setattr(data, name, wide)
    data.write(str(path))


def write_e57(path: Path, found: Columns) -> None:
    pye57 = pytest.importorskip("pye57")
    names = dict(zip("xyz", ("cartesianX", "cartesianY", "cartesianZ"), strict=True))
    names |= {"red": "colorRed", "green": "colorGreen", "blue": "colorBlue", "quality": "intensity"}
    red = found.get("red", np.zeros(COUNT, np.uint8))
    if red.dtype != np.uint8:  # only the library itself writes 16 bits, and the mark for no colour
        from tests.scans.test_e57 import write_fields

        if (gone := np.isnan(red)).any():
            found |= {n: np.nan_to_num(found[n]).astype(np.uint8) for n in ("red", "green", "blue")}
            found |= {"isColorInvalid": gone.astype(np.uint8)}
        write_fields(path, {names.get(name, name): values for name, values in found.items()})
        return
    file = pye57.E57(str(path), mode="w")
    edges = (0, COUNT // 2, COUNT) if "two" in path.stem else (0, COUNT)
    far = np.array([np.floor(np.nanmin(found[axis])) for axis in "xyz"])  # it writes float32
    found |= {axis: found[axis] - start for axis, start in zip("xyz", far, strict=True)}
    bad = np.isnan(found["x"])
    if bad.any():
        found |= {axis: np.nan_to_num(found[axis]) for axis in "xyz"} | {"bad": bad.astype("i1")}
        names["bad"] = "cartesianInvalidState"
    for part in map(slice, edges, edges[1:]):
        values = {names[name]: column[part].copy() for name, column in found.items()}
        file.write_scan_raw(values, translation=far)
    file.close()


def grid_lines(found: Columns) -> list[str]:
    rest = ("red", "green", "blue") if "red" in found else ()
    quality = found.get("quality", np.full(COUNT, 0.5))
    table = [*(found[axis] for axis in "xyz"), quality, *(found[name] for name in rest)]
    return [" ".join(f"{value:.10g}" for value in row) for row in zip(*table, strict=True)]


def write_ptx(path: Path, found: Columns) -> None:
    lines, half = grid_lines(found), COUNT // 2
    parts = (lines[:half], lines[half:]) if "two" in path.stem else (lines,)
    path.write_text("".join(f"1\n{len(p)}\n{POSE}" + "\n".join(p) + "\n" for p in parts))


def write_pts(path: Path, found: Columns) -> None:
    lines, half = grid_lines(found), COUNT // 2
    parts = (lines[:half], lines[half:]) if "two" in path.stem else (lines,)
    path.write_text("".join(f"{len(p)}\n" + "\n".join(p) + "\n" for p in parts))


WRITERS: dict[str, tuple[str, Callable[[Path, Columns], object]]] = {
    "PLY": (".ply", write_ply),
    "PCD": (".pcd", write_pcd),
    "LAS": (".las", write_las),
    "LAZ": (".laz", write_las),
    "E57": (".e57", write_e57),
    "PTX": (".ptx", write_ptx),
    "PTS": (".pts", write_pts),
    "CSV": (".csv", lambda path, found: pd.DataFrame(found).to_csv(path, index=False)),
    "TXT": (
        ".txt",
        lambda path, found: pd.DataFrame(found).to_csv(path, index=False, sep=" ", na_rep="nan"),
    ),
    "NPY": (".npy", lambda path, found: np.save(path, rows_of(found))),
    "NPZ": (".npz", lambda path, found: np.savez(path, points=rows_of(found))),
}


def both(folder: Path, form: str, found: Columns, name: str = "scan") -> list[Scan]:
    """The scan, its result in its own format, and its result as PLY, all read."""
    suffix, write = WRITERS[form]
    path = folder / f"{name}{suffix}"
    write(path, found)
    scans = [open_scan(path)]
    for out in (folder / labelled_name(path), folder / "as.ply"):
        write_labelled(out, scans[0], labels_for(COUNT))
        scans.append(open_scan(out))
    return scans


def colour(folder: Path, form: str, cell: str) -> None:
    kinds = {"8": (np.uint8, 1), "16": (np.uint16, 257), "0–1": (np.float32, 1 / 255)}
    for word in cell.split(", "):
        kind, factor = kinds[word]
        (folder / word).mkdir()
        for scan in both(
            folder / word, form, columns(POS, (RGB.astype(float) * factor).astype(kind))
        ):
            np.testing.assert_array_equal(scan.colors(), RGB)


def no_colour(folder: Path, form: str, _: str) -> None:
    assert all(scan.colors() is None for scan in both(folder, form, columns(POS, None)))


def some_colour(folder: Path, form: str, _: str) -> None:
    color = np.where(GONE[:, None], np.nan, RGB).astype(np.float32)
    for scan in both(folder, form, columns(POS, color)):
        np.testing.assert_array_equal(scan.uncolored(), GONE)
        np.testing.assert_array_equal(scan.colors()[~GONE], RGB[~GONE])


def normals(folder: Path, form: str, _: str) -> None:
    if form == "E57":  # in an extension of the format, which MeshLab writes: 0 for points
        pytest.importorskip("pye57")
        scan = open_scan(Path(__file__).parent / "foreign" / "meshlab.e57")
        write_labelled(folder / "out.ply", scan, labels_for(len(scan)))
        names = open_scan(folder / "out.ply").rows.dtype.names or ()
        assert {"nor:normalX", "nor:normalY", "nor:normalZ"} <= {*names}
        return
    stay(folder, form, dict(zip(("nx", "ny", "nz"), NORMALS.T, strict=True)))


def others(folder: Path, form: str, _: str) -> None:
    stay(folder, form, {"quality": QUALITY})


def stay(folder: Path, form: str, more: Columns) -> None:
    _, own, ply = both(folder, form, columns(POS, RGB, **more))
    found = [other_columns(own, form)]
    if form not in IN_THEIR_OWN_FORMAT:
        found.append(other_columns(ply, "PLY"))
    for kept, (name, values) in product(found, more.items()):
        np.testing.assert_allclose(kept[name], values)


def other_columns(result: Scan, form: str) -> Columns:
    """The columns of a result in its own format; of text by pandas, as `predict` reads few."""
    if form in ("CSV", "TXT"):
        table = pd.read_csv(result.path, sep="," if form == "CSV" else " ")
        return {str(name): table[name].to_numpy() for name in table}
    if form == "PTS":
        table = pd.read_csv(result.path, sep=" ", skiprows=1, header=None)
        return {"quality": table[3].to_numpy()}
    names = result.rows.dtype.names or ()
    return {"quality" if n == "intensity" else n: result.rows[n] for n in names}


def coordinate_system(folder: Path, form: str, _: str) -> None:
    laspy = pytest.importorskip("laspy")
    out = both(folder, form, columns(POS))[1].path
    kept = {item.record_id: item.record_data_bytes() for item in laspy.read(out).vlrs}
    assert kept[2112].rstrip(b"\0") == b'PROJCS["x"]'


def several_scans(folder: Path, form: str, _: str) -> None:
    scans = both(folder, form, columns(POS), name="two")
    assert any("2 scans" in note for note in scans[0].notes)
    for scan in scans:
        np.testing.assert_allclose(placed(scan), POS, atol=1e-6)


def nan(folder: Path, form: str, _: str) -> None:
    pos = np.where(GONE[:, None], np.nan, POS)
    for scan in both(folder, form, columns(pos)):
        local, _ = scan.positions()
        np.testing.assert_array_equal(np.isnan(local).any(axis=1), GONE)


def far(folder: Path, form: str, _: str) -> None:
    for scan in both(folder, form, columns(POS + FAR)):
        np.testing.assert_allclose(placed(scan), POS + FAR, rtol=0, atol=1e-6)


def faces(folder: Path, form: str, _: str) -> None:
    rows = np.array([([0, 1, 2],), ([2, 3, 4],)], [("vertex_indices", "O")])
    mesh = PlyElement.describe(rows, "face", val_types={"vertex_indices": "i4"})
    path = folder / f"mesh{WRITERS[form][0]}"
    PlyData([PlyElement.describe(rows_of(columns(POS)), "vertex"), mesh]).write(str(path))
    write_labelled(folder / "out.ply", open_scan(path), labels_for(COUNT))
    kept = PlyData.read(str(folder / "out.ply"))["face"]["vertex_indices"]
    assert [list(face) for face in kept] == [[0, 1, 2], [2, 3, 4]]


CHECKS: dict[str, Callable[[Path, str, str], None]] = {
    "colour": colour,
    "none": no_colour,
    "some": some_colour,
    "normals": normals,
    "other columns": others,
    "CRS": coordinate_system,
    "several scans": several_scans,
    "NaN": nan,
    "far away": far,
    "faces": faces,
}


def matrix() -> list[tuple[str, str, str]]:
    """The format, the heading and the text of every cell."""
    lines = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    rows = [[word.strip() for word in line.strip("|").split("|")] for line in lines]
    start = next(n for n, row in enumerate(rows) if row[1:] == list(CHECKS))
    return [
        (row[0], heading, cell)
        for row in rows[start + 2 : start + 2 + len(WRITERS)]
        for heading, cell in zip(CHECKS, row[1:], strict=True)
    ]


def test_every_format_has_its_row() -> None:
    assert list(dict.fromkeys(form for form, _, _ in matrix())) == list(WRITERS)


@pytest.mark.parametrize(
    ("form", "heading", "cell"), [cell for cell in matrix() if cell[2] != "–"], ids=str
)
def test_what_the_matrix_says(tmp_path: Path, form: str, heading: str, cell: str) -> None:
    CHECKS[heading](tmp_path, form, cell)
