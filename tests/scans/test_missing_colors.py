"""Points without colour, in every format; a clean copy of the same scan has the right values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from plyfile import PlyData, PlyElement

from pipelines.scans import labelled_name, open_scan, write_labelled
from pipelines.scans.colors import fill_colors
from tests.scans.scan_labels import labels_for, placed
from tests.scans.test_pcd import ascii_pcd

COUNT = 1500  # more lines than the layout of a text is detected from
RNG = np.random.default_rng(0)
POS = (RNG.random((COUNT, 3)) * [5, 4, 3]).round(3)
CLEAN = RNG.integers(1, 256, (COUNT, 3)).astype(np.uint8)
SCATTERED = RNG.random(COUNT) < 0.25
FIRST = np.arange(COUNT) < 1200  # all that is looked at first
HEAD = "ply\nformat ascii 1.0\nelement vertex 1500\n" + "".join(
    f"property {kind} {name}\n"
    for kind, names in (("double", "xyz"), ("uchar", ("red", "green", "blue")))
    for name in names
)


def lines(missing: np.ndarray, word: str, joint: str = " ") -> str:
    rows = (
        joint.join([*map(str, p), *(word if gone else str(value) for value in c)]) + "\n"
        for p, c, gone in zip(POS.tolist(), CLEAN.tolist(), missing, strict=True)
    )
    return "".join(rows)


def table(missing: np.ndarray) -> np.ndarray:
    return np.hstack([POS, np.where(missing[:, None], np.nan, CLEAN)])


def write_npz(path: Path, missing: np.ndarray) -> None:
    np.savez(path, pos=POS, color=table(missing)[:, 3:].astype(np.float32) / np.float32(255))


def write_ply(path: Path, missing: np.ndarray) -> None:
    kind = [(name, "f8") for name in "xyz"] + [(c, "f4") for c in ("red", "green", "blue")]
    rows = np.array([tuple(row) for row in table(missing)], kind)
    PlyData([PlyElement.describe(rows, "vertex")]).write(str(path))


def write_packed(path: Path, missing: np.ndarray) -> None:
    """As Open3D and PCL write it: the bytes of the colour as a float, which may be NaN."""
    bits = CLEAN.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    rows = np.empty(COUNT, [*((a, "<f8") for a in "xyz"), ("rgb", "<f4")])
    rows["x"], rows["y"], rows["z"] = POS.T
    rows["rgb"] = np.where(missing, np.float32(np.nan), bits.astype("<u4").view("<f4"))
    text = "VERSION .7\nFIELDS x y z rgb\nSIZE 8 8 8 4\nTYPE F F F F\nCOUNT 1 1 1 1\n"
    text += f"WIDTH {COUNT}\nHEIGHT 1\nPOINTS {COUNT}\nDATA "
    if path.stem == "binary":
        path.write_bytes((text + "binary\n").encode() + rows.tobytes())
    else:  # as whole numbers
        body = "".join(
            " ".join(map(str, p)) + f" {'nan' if gone else value}\n"
            for p, value, gone in zip(POS.tolist(), bits.tolist(), missing, strict=True)
        )
        path.write_text(text.replace("F F F F", "F F F U") + "ascii\n" + body)


def write_marked(path: Path, missing: np.ndarray) -> None:
    """The standard's own mark, with any value in the place of the colour."""
    pytest.importorskip("pye57")
    from tests.scans.test_e57 import write_fields

    write_fields(path, {**e57_places(), **e57_colors(), "isColorInvalid": missing.astype(np.uint8)})


def e57_places() -> dict[str, np.ndarray]:
    return {f"cartesian{axis}": values for axis, values in zip("XYZ", POS.T, strict=True)}


def e57_colors() -> dict[str, np.ndarray]:
    return dict(zip(("colorRed", "colorGreen", "colorBlue"), CLEAN.T, strict=True))


WRITERS: dict[str, Callable[[Path, np.ndarray], object]] = {
    "a.ply": write_ply,
    "ascii.ply": lambda path, gone: path.write_text(
        f"{HEAD}end_header\n{lines(gone, '-nan(ind)')}"
    ),
    "a.npz": write_npz,
    "a.npy": lambda path, gone: np.save(path, table(gone)),
    "named.csv": lambda path, gone: path.write_text("x,y,z,r,g,b\n" + lines(gone, "", ",")),
    "a.csv": lambda path, gone: path.write_text(lines(gone, "", ",")),
    "a.txt": lambda path, gone: path.write_text(lines(gone, "N/A")),
    "tabs.txt": lambda path, gone: path.write_text(lines(gone, "", "\t")),
    "infinite.txt": lambda path, gone: path.write_text(lines(gone, "inf")),
    "minus.xyz": lambda path, gone: path.write_text(lines(gone, "-1")),
    "infinite.npy": lambda path, gone: np.save(path, np.nan_to_num(table(gone), nan=np.inf)),
    "negative.xyz": lambda path, gone: path.write_text("x y z r g b\n" + lines(gone, "-1")),
    "separate.pcd": lambda path, gone: ascii_pcd(
        path, "x y z r g b", "F F F U U U", "8 8 8 1 1 1", lines(gone, "nan").splitlines()
    ),
    "ascii.pcd": write_packed,
    "binary.pcd": write_packed,
    "a.e57": write_marked,
}


@pytest.mark.parametrize("missing", [SCATTERED, FIRST], ids=["scattered", "first"])
@pytest.mark.parametrize("name", list(WRITERS))
def test_missing_is_missing_and_stays_so(tmp_path: Path, name: str, missing: np.ndarray) -> None:
    path = tmp_path / name
    WRITERS[name](path, missing)
    own = tmp_path / f"out{Path(labelled_name(path)).suffix}"
    for source, out in ((path, own), (path, tmp_path / "out.2.ply"), (own, None)):
        scan = open_scan(source)
        np.testing.assert_allclose(placed(scan), POS, atol=1e-6)
        np.testing.assert_array_equal(scan.uncolored(), missing)
        colors = scan.colors()
        assert colors is not None
        np.testing.assert_array_equal(colors[~missing], CLEAN[~missing])
        if out is not None:
            write_labelled(out, scan, labels_for(COUNT))
    np.testing.assert_array_equal(open_scan(tmp_path / "out.2.ply").uncolored(), missing)


@pytest.mark.parametrize("name", list(WRITERS))
def test_no_colour_at_all_is_none(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name, np.ones(COUNT, bool))
    assert open_scan(tmp_path / name).colors() is None


def test_a_scan_of_several_without_colour(tmp_path: Path) -> None:
    """In an E57 the scans differ in their fields."""
    pytest.importorskip("pye57")
    from tests.scans.test_e57 import write_fields

    def part(columns: dict[str, np.ndarray], where: slice) -> dict[str, np.ndarray]:
        return {name: values[where] for name, values in columns.items()}

    first, second = slice(0, 1000), slice(1000, COUNT)
    painted = part({**e57_places(), **e57_colors()}, first)
    write_fields(tmp_path / "a.e57", painted, part(e57_places(), second))
    write_fields(tmp_path / "clean.e57", painted)
    scan = open_scan(tmp_path / "a.e57")
    assert np.flatnonzero(scan.uncolored()).tolist() == list(range(1000, COUNT))
    np.testing.assert_array_equal(scan.colors()[first], open_scan(tmp_path / "clean.e57").colors())
    assert "isColorInvalid" not in open_scan(tmp_path / "clean.e57").fields
    write_labelled(tmp_path / "a.ply", scan, labels_for(COUNT))
    np.testing.assert_array_equal(open_scan(tmp_path / "a.ply").uncolored(), scan.uncolored())


@pytest.mark.parametrize(
    ("kind", "factor", "wrong"), [("f4", 1 / 255, 40), ("f4", 1, 1e5), ("u2", 1, 65535)]
)
def test_a_value_far_above_all_others_is_a_mistake(
    tmp_path: Path, kind: str, factor: float, wrong: float
) -> None:
    """It used to set the range, so that all others became black."""
    color = (CLEAN * factor).astype(kind)
    color[7, 1] = wrong
    np.savez(tmp_path / "a.npz", pos=POS, color=color)
    scan = open_scan(tmp_path / "a.npz")
    assert np.flatnonzero(scan.uncolored()).tolist() == [7]
    np.testing.assert_array_equal(np.delete(scan.colors(), 7, 0), np.delete(CLEAN, 7, 0))


def test_a_few_bright_points_among_black_ones_are_the_colours(tmp_path: Path) -> None:
    color = np.zeros((COUNT, 3), np.uint16)
    color[7] = 60_000
    np.savez(tmp_path / "a.npz", pos=POS, color=color)
    scan = open_scan(tmp_path / "a.npz")
    assert not scan.uncolored().any()
    assert scan.colors()[7].tolist() == [233] * 3


@pytest.mark.parametrize("missing", [SCATTERED, POS[:, 0] < 1.5], ids=["scattered", "region"])
def test_the_nearest_colour(missing: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against all distances."""
    monkeypatch.setattr("pipelines.scans.colors.CHUNK", 100)
    color = np.where(missing[:, None], 0, CLEAN).astype(np.uint8)
    pos = POS.copy()
    pos[::7] = np.nan
    fill_colors(pos, color, missing)
    placed = ~np.isnan(pos[:, 0])
    known = np.flatnonzero(~missing & placed)
    for n in np.flatnonzero(missing & placed):
        away = np.linalg.norm(pos[known] - pos[n], axis=1)
        assert color[n].tolist() == CLEAN[known[away.argmin()]].tolist()
    np.testing.assert_array_equal(color[~missing], CLEAN[~missing])


def test_of_very_many_coloured_points_some_are_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wall in two colours stays one."""
    monkeypatch.setattr("pipelines.scans.colors.LARGEST", 300)
    color = np.where(POS[:, :1] < 2.5, [[200, 0, 0]], [[0, 0, 200]]).astype(np.uint8)
    expected = color.copy()
    color[SCATTERED] = 0
    fill_colors(POS, color, SCATTERED)
    near_the_edge = abs(POS[:, 0] - 2.5) < 1
    np.testing.assert_array_equal(color[~near_the_edge], expected[~near_the_edge])
