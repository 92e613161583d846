"""LAS and LAZ scans: every version and point format keeps all that it had."""

from __future__ import annotations

import re
import resource
import signal
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from plyfile import PlyData

from pipelines.data.s3dis import CLASSES
from pipelines.errors import ConfigError, DatasetError
from pipelines.scans import Labels, ScanOptions, labelled_name, open_scan, write_labelled
from tests.scans.foreign.write import WKT
from tests.scans.scan_labels import labels_for, placed

laspy = pytest.importorskip("laspy")
pytest.importorskip("lazrs")

COUNT = 500


def write(path: Path, version: str, point_format: int, *, painted: bool = True) -> Any:
    """Write random points with two extra dimensions, one of them scaled and one named `class`."""
    rng = np.random.default_rng(point_format)
    header = laspy.LasHeader(version=version, point_format=point_format)
    header.scales, header.offsets = [0.001] * 3, [500_000, 4_000_000, 100]
    header.vlrs.append(laspy.VLR("somebody", 7, "a note", b"keep me"))
    header.add_extra_dim(laspy.ExtraBytesParams("class", "i2"))
    scaled = {"offsets": np.array([1.0]), "scales": np.array([0.5])}
    header.add_extra_dim(laspy.ExtraBytesParams("depth", "u2", "below", **scaled))
    data = laspy.LasData(header)
    for axis, name in enumerate("XYZ"):
        data[name] = rng.integers(0, 4000 + axis, COUNT)
    data["class"] = rng.integers(-9, 9, COUNT)
    data["depth"] = rng.integers(2, 99, COUNT) * 0.5 + 1
    data.classification = rng.integers(0, 31, COUNT)
    data.intensity = rng.integers(0, 65536, COUNT)
    data.return_number = rng.integers(1, 4, COUNT)
    if painted and "red" in data.point_format.dimension_names:
        for name in ("red", "green", "blue"):
            data[name] = rng.integers(0, 65536, COUNT)
    data.write(str(path))
    return data


FORMATS = [("1.2", 0), ("1.2", 2), ("1.2", 3), ("1.3", 1), ("1.4", 6), ("1.4", 7), ("1.4", 8)]


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize(("version", "point_format"), FORMATS)
def test_everything_stays(tmp_path: Path, version: str, point_format: int, suffix: str) -> None:
    path, out = tmp_path / f"in{suffix}", tmp_path / f"out{suffix}"
    before = write(path, version, point_format)
    scan = open_scan(path)
    labels = labels_for(COUNT, probabilities=True)
    write_labelled(out, scan, labels)
    after = laspy.read(out)
    assert str(after.header.version) == version
    assert after.header.point_format.id == point_format
    np.testing.assert_array_equal(after["class"], labels.label)
    np.testing.assert_array_equal(after["confidence"], labels.confidence)
    np.testing.assert_array_equal(after["p_clutter"], labels.probabilities[:, 12])
    np.testing.assert_array_equal(after["scan_class"], before["class"])
    np.testing.assert_array_equal(after["depth"], before["depth"])
    known = labels.label < 255
    if point_format >= 6:
        np.testing.assert_array_equal(after["scan_classification"], before.classification)
        np.testing.assert_array_equal(after.classification[known], 64 + labels.label[known])
        assert set(after.classification[~known]) == {1}
    else:
        np.testing.assert_array_equal(after.classification, before.classification)
    for name in before.point_format.standard_dimension_names:
        if name != "classification":
            np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_array_equal(after.header.scales, before.header.scales)
    kept = {(item.user_id, item.record_id): item.record_data_bytes() for item in after.vlrs}
    assert kept["somebody", 7] == b"keep me"
    lines = kept["deepgcn", 1].decode().splitlines()
    assert lines[1:] == [f"class {number} {name}" for number, name in enumerate(CLASSES)]


@pytest.mark.parametrize(("version", "point_format"), FORMATS)
def test_places_and_colors(tmp_path: Path, version: str, point_format: int) -> None:
    data = write(tmp_path / "in.las", version, point_format)
    scan = open_scan(tmp_path / "in.las")
    np.testing.assert_allclose(placed(scan), data.xyz, atol=1e-6)
    if "red" in data.point_format.dimension_names:
        sixteen = np.stack([data[name] for name in ("red", "green", "blue")], axis=1)
        np.testing.assert_array_equal(scan.colors(), np.rint(sixteen / 257))
    else:
        assert scan.colors() is None


@pytest.mark.parametrize(("version", "point_format"), FORMATS)
def test_everything_is_in_a_ply(tmp_path: Path, version: str, point_format: int) -> None:
    before = write(tmp_path / "in.las", version, point_format)
    write_labelled(tmp_path / "out.ply", open_scan(tmp_path / "in.las"), labels_for(COUNT))
    vertex = PlyData.read(str(tmp_path / "out.ply"))["vertex"].data
    renamed = {name: f"scan_{name}" for name in ("class", "red", "green", "blue")}
    for name in before.point_format.dimension_names:
        if name not in ("X", "Y", "Z"):
            found = vertex[renamed.get(name, name)]
            np.testing.assert_array_equal(found, np.asarray(before[name]))


def test_dimensions_of_several_numbers(tmp_path: Path) -> None:
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.add_extra_dim(laspy.ExtraBytesParams("normal", "3f4"))
    data = laspy.LasData(header)
    data.X = data.Y = data.Z = np.arange(2)
    data["normal"] = [[1, 2, 3], [4, 5, 6]]
    data.write(str(tmp_path / "in.las"))
    rows = open_scan(tmp_path / "in.las").rows
    assert rows["normal"].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_colors_that_are_all_black_are_none(tmp_path: Path) -> None:
    write(tmp_path / "in.las", "1.2", 2, painted=False)
    scan = open_scan(tmp_path / "in.las")
    assert scan.colors() is None
    assert scan.without_color() == "only 0 in the colours red, green, blue"


def test_labelling_twice_keeps_the_first_labels(tmp_path: Path) -> None:
    path = tmp_path / "in.las"
    first = write(path, "1.4", 7)
    labels = [labels_for(COUNT, seed=seed) for seed in (1, 2)]
    for number, found in enumerate(labels):
        write_labelled(tmp_path / f"{number}.laz", open_scan(path), found)
        path = tmp_path / f"{number}.laz"
    twice = laspy.read(path)
    np.testing.assert_array_equal(twice["class"], labels[1].label)
    np.testing.assert_array_equal(twice["scan_class"], first["class"], "the scan's own")
    np.testing.assert_array_equal(twice["scan_scan_class"], labels[0].label)
    records = [item for item in twice.vlrs if item.user_id == "deepgcn"]
    assert len(records) == 1


def test_records_behind_the_points_stay(tmp_path: Path) -> None:
    data = write(tmp_path / "in.las", "1.4", 6)
    data.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("somebody", 9, "behind", b"x" * 100)])
    data.write(str(tmp_path / "in.las"))
    write_labelled(tmp_path / "out.las", open_scan(tmp_path / "in.las"), labels_for(COUNT))
    (record,) = laspy.read(tmp_path / "out.las").evlrs
    assert record.record_data_bytes() == b"x" * 100


def test_labelling_again_and_again(tmp_path: Path) -> None:
    """Names grow by `scan_` each time, and the format has room for 32 bytes."""
    path = tmp_path / "in.las"
    write(path, "1.4", 7)
    for number in range(6):
        out = tmp_path / f"{number}.laz"
        write_labelled(out, open_scan(path), labels_for(COUNT, seed=number))
        path = out
    after = laspy.read(path)
    for number in range(5):
        found = [n for n in after.point_format.extra_dimension_names if len(n) <= 32]
        column = labels_for(COUNT, seed=number).label
        assert sum(np.array_equal(after[name], column) for name in found) == 1


def test_bytes_that_no_record_describes(tmp_path: Path) -> None:
    header = laspy.LasHeader(version="1.4", point_format=6)
    header.add_extra_dims([laspy.ExtraBytesParams("a", "u1"), laspy.ExtraBytesParams("b", "f8")])
    data = laspy.LasData(header)
    data.X = data.Y = data.Z = np.arange(3)
    data["a"], data["b"] = [7, 8, 9], [0.5, 1.5, 2.5]
    data.write(str(tmp_path / "in.las"))
    content = (tmp_path / "in.las").read_bytes()
    (tmp_path / "in.las").write_bytes(content.replace(b"LASF_Spec", b"LASF_Spex"))
    write_labelled(tmp_path / "out.laz", open_scan(tmp_path / "in.las"), labels_for(3))
    after = laspy.read(tmp_path / "out.laz")
    raw = np.stack([after[f"ExtraBytes_{n}"] for n in range(1, 10)], axis=1)
    assert raw[:, 0].tolist() == [7, 8, 9]
    assert raw[:, 1:].copy().view("<f8")[:, 0].tolist() == [0.5, 1.5, 2.5]
    assert after["class"].tolist() == labels_for(3).label.tolist()


def raw_records(path: Path) -> dict[tuple[bytes, int], bytes]:
    """The records of a file, parsed by the specification: (user, number) → content."""
    content, found = path.read_bytes(), {}
    at, _, count = struct.unpack_from("<HII", content, 94)
    for _ in range(count):
        user, number, length = struct.unpack_from("<2x16sHH", content, at)
        found[user.rstrip(b"\0"), number] = content[at + 54 : at + 54 + length]
        at += 54 + length
    later, count = struct.unpack_from("<QI", content, 235) if content[25] >= 4 else (0, 0)
    if content[25] == 3 and (later := struct.unpack_from("<Q", content, 227)[0]):
        count = 1
    for _ in range(count):
        user, number, length = struct.unpack_from("<2x16sHQ", content, later)
        found[user.rstrip(b"\0"), number] = content[later + 60 : later + 60 + length]
        later += 60 + length
    return found


PROJECTION = {  # as other programs write them: padded, without a last 0, in Latin-1
    ("LASF_Projection", 2112): b'PROJCS["WGS 84 / UTM zone 32N"]\0\0\0',
    ("LASF_Projection", 34735): struct.pack("<8H", 1, 1, 0, 1, 3072, 0, 1, 25832),
    ("LASF_Projection", 34737): b"Gau\xdf-Kr\xfcger|",
    ("LASF_Spec", 0): b"\x02Boden" + bytes(20),
    ("somebody", 9): b"\0x\0",
}


@pytest.mark.parametrize(("version", "point_format"), [("1.2", 3), ("1.4", 7)])
def test_records_stay_byte_for_byte(tmp_path: Path, version: str, point_format: int) -> None:
    data = write(tmp_path / "in.las", version, point_format)
    data.vlrs.extend(laspy.VLR(*key, "", content) for key, content in PROJECTION.items())
    if version == "1.4":
        far = [laspy.VLR("LASF_Projection", 2112, "", b"WKT"), laspy.VLR("a", 1, "", b"b" * 70_000)]
        data.evlrs = laspy.vlrs.vlrlist.VLRList(far)
    data.write(str(tmp_path / "in.las"))
    before = raw_records(tmp_path / "in.las")
    assert before.keys() > {(user.encode(), number) for user, number in PROJECTION}
    for suffix in (".las", ".laz"):
        out = tmp_path / f"out{suffix}"
        write_labelled(out, open_scan(tmp_path / "in.las"), labels_for(COUNT))
        after = raw_records(out)
        assert {key: after[key] for key in before if key != (b"LASF_Spec", 4)} == {
            key: content for key, content in before.items() if key != (b"LASF_Spec", 4)
        }


US = 'UNIT["US survey foot",0.3048006096012192,AUTHORITY["EPSG","9003"]]'
METRE = 'UNIT["metre",1,AUTHORITY["EPSG","9001"]]'
DEGREE = 'GEOGCS["NAD83",UNIT["degree",0.0174532925199433]]'


@pytest.mark.parametrize(
    ("number", "content", "said"),
    [
        (2112, f'PROJCS["a",{DEGREE},{US}]'.encode(), "--scale 0.3048006096"),
        (2112, f'COMPD_CS["b",PROJCS["a",{METRE}],VERT_CS["c",{METRE}]]'.encode(), ""),
        (2112, f'COMPD_CS["b",PROJCS["a",{METRE}],VERT_CS["c",{US}]]'.encode(), "its heights are"),
        (34735, struct.pack("<12H", 1, 1, 0, 2, 1024, 0, 1, 1, 3076, 0, 1, 9002), "--scale 0.3048"),
        (34735, struct.pack("<8H", 1, 1, 0, 1, 3076, 0, 1, 9001), ""),
        (34735, b"\1\0", ""),
    ],
)
def test_feet_are_said(tmp_path: Path, number: int, content: bytes, said: str) -> None:
    """A room of 10 feet would else be taken for one of 10 m."""
    data = write(tmp_path / "in.las", "1.2", 3)
    data.vlrs.append(laspy.VLR("LASF_Projection", number, "", content))
    data.write(str(tmp_path / "in.las"))
    notes = open_scan(tmp_path / "in.las").notes
    assert any(said in note for note in notes) if said else not notes
    assert not open_scan(tmp_path / "in.las", ScanOptions(scale=0.3048)).notes


@pytest.mark.parametrize("minor", [3, 4])
def test_waveforms_behind_the_points_stay(tmp_path: Path, minor: int) -> None:
    data = laspy.LasData(laspy.LasHeader(version=f"1.{minor}", point_format=4))
    data.X = data.Y = data.Z = np.arange(9)
    data.header.global_encoding.waveform_data_packets_internal = True
    path, out = tmp_path / "in.las", tmp_path / "out.las"
    if minor == 4:
        waves = [laspy.VLR("a", 1, "", b"123"), laspy.VLR("LASF_Spec", 65535, "", b"waves")]
        data.evlrs = laspy.vlrs.vlrlist.VLRList(waves)
    data.write(str(path))
    content = bytearray(path.read_bytes())
    if minor == 3:
        content += struct.pack("<2x16sHQ32s", b"LASF_Spec", 65535, 5, b"") + b"waves"
    struct.pack_into("<Q", content, 227, len(content) - 65)
    path.write_bytes(content)
    write_labelled(out, open_scan(path), labels_for(9))
    content = out.read_bytes()
    (at,) = struct.unpack_from("<Q", content, 227)
    assert content[at:] == struct.pack("<2x16sHQ32s", b"LASF_Spec", 65535, 5, b"") + b"waves"
    assert laspy.read(out)["class"].tolist() == labels_for(9).label.tolist()


def test_a_copc_becomes_plain_laz_and_keeps_its_coordinate_system(tmp_path: Path) -> None:
    """copclib wrote it, with the coordinate system behind the points."""
    path = Path(__file__).parent / "foreign" / "copclib.copc.laz"
    scan = open_scan(path)
    assert scan.notes == ("COPC; labelled as plain LAZ, without the records of its octree",)
    assert labelled_name(path) == "copclib.labelled.laz"
    write_labelled(tmp_path / "out.laz", scan, labels_for(6))
    before, after = raw_records(path), raw_records(tmp_path / "out.laz")
    assert set(before.keys() - after.keys()) == {(b"copc", n) for n in (1, 1000, 10000)}
    assert after[b"LASF_Projection", 2112] == before[b"LASF_Projection", 2112] == WKT.encode()
    np.testing.assert_array_equal(laspy.read(tmp_path / "out.laz").xyz, laspy.read(path).xyz)
    with pytest.raises(ConfigError, match=r"expected plain LAZ: out\.laz"):
        write_labelled(tmp_path / "out.copc.laz", scan, labels_for(6))


def damaged(path: Path, at: int, content: bytes) -> str:
    whole = bytearray(path.read_bytes())
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    with pytest.raises(DatasetError) as caught:
        open_scan(path)
    assert len(str(caught.value).splitlines()) == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("at", "content", "found"),
    [
        (25, b"\x09", "version 1.9, expected 1.0 to 1.4"),
        (90, b"\xff\xff\x0f\x27", "date value out of range"),
        (96, b"\xff\xff\xff\x7f", "points that begin at byte 2,147,483,647"),
        (100, b"\xff\xff\xff\xff", "4,294,967,295 records"),
        (104, b"\x3f", "point format 63, expected 0 to 10"),
        (105, b"\x01\0", "points of 1 byte"),
        (131, bytes(8), "a scale of 0"),
        (243, b"\xff\xff\xff\xff", "4,294,967,295 records behind the points"),
        (247, b"\xff" * 7, "72,057,594,037,927,935 points"),
    ],
)
def test_headers_that_lie(tmp_path: Path, at: int, content: bytes, found: str) -> None:
    write(tmp_path / "in.las", "1.4", 6)
    assert found in damaged(tmp_path / "in.las", at, content)


def test_a_table_of_chunks_that_lies(tmp_path: Path) -> None:
    """The decompressor would ask for 64 GiB and end the process."""
    path = tmp_path / "in.laz"
    write(path, "1.4", 6)
    start = int.from_bytes(path.read_bytes()[96:100], "little")
    table = int.from_bytes(path.read_bytes()[start : start + 8], "little")
    assert "4,294,967,295 chunks in" in damaged(path, table + 4, b"\xff" * 4)


def test_a_layer_that_lies(tmp_path: Path) -> None:
    path = tmp_path / "in.laz"
    data = write(path, "1.4", 6)
    start = int.from_bytes(path.read_bytes()[96:100], "little")
    layer = start + 8 + data.point_format.size + 4
    assert "in chunk 0 of 1" in damaged(path, layer, b"\xff" * 4)


def test_a_laz_without_its_record(tmp_path: Path) -> None:
    path = tmp_path / "in.laz"
    write(path, "1.4", 6)
    at = path.read_bytes().index(b"laszip encoded")
    assert "without the record of LASzip" in damaged(path, at, b"LASZIP")


@pytest.mark.parametrize("length", [1 << 45, 1 << 63])
def test_a_record_longer_than_all_memory(tmp_path: Path, length: int) -> None:
    path = tmp_path / "in.las"
    data = write(path, "1.4", 6)
    data.evlrs = laspy.vlrs.vlrlist.VLRList([laspy.VLR("somebody", 9, "behind", b"x" * 100)])
    data.write(str(path))
    at = path.stat().st_size - 160 + 20  # its length, in the 60 bytes before its content
    assert "found a damaged or truncated LAS" in damaged(path, at, length.to_bytes(8, "little"))


def test_a_second_name_of_the_laszip_record(tmp_path: Path) -> None:
    """What is checked is the record that the decompressor takes: bytes behind a 0 do not count."""
    path = tmp_path / "in.laz"
    write(path, "1.4", 6)
    content = path.read_bytes()
    at = content.index(b"laszip encoded")
    path.write_bytes(content[: at + 15] + b"x" + content[at + 16 :])
    start = int.from_bytes(content[96:100], "little")
    table = int.from_bytes(content[start : start + 8], "little")
    assert "4,294,967,295 chunks in" in damaged(path, table + 4, b"\xff" * 4)


def test_a_missing_package_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in.las", "1.2", 0)
    monkeypatch.setitem(__import__("sys").modules, "lazrs", None)
    with pytest.raises(DatasetError, match=r'pip install "deepgcn\[las\]"'):
        open_scan(tmp_path / "in.las")


@given(
    name=st.text(
        st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"),
        min_size=1,
        max_size=32,
    ),  # laspy cannot write a colon
    count=st.integers(1, 5),
    far=st.sampled_from([0.0, 5e8, -4e8]),
    form=st.sampled_from(FORMATS),
    suffix=st.sampled_from([".las", ".laz"]),
)
def test_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    name: str,
    count: int,
    far: float,
    form: tuple[str, int],
    suffix: str,
) -> None:
    """One point, any offset, an extra dimension of any name."""
    folder = tmp_path_factory.getbasetemp()
    header = laspy.LasHeader(version=form[0], point_format=form[1])
    header.scales, header.offsets = [0.001] * 3, [far, -far, 0]
    assume(name not in (*header.point_format.dimension_names, *"xyz"))  # laspy cannot write those
    header.add_extra_dim(laspy.ExtraBytesParams(name, "f8"))
    data = laspy.LasData(header)
    rng = np.random.default_rng(count)
    data.X, data.Y, data.Z = rng.integers(-(2**31), 2**31, (3, count))
    data[name] = rng.random(count)
    data.write(str(folder / f"trip{suffix}"))
    scan = open_scan(folder / f"trip{suffix}")
    labels = labels_for(count)
    write_labelled(folder / f"trip.out{suffix}", scan, labels)
    again = laspy.read(folder / f"trip.out{suffix}")
    for axis in "XYZ":
        np.testing.assert_array_equal(again[axis], data[axis])
    new = f"scan_{name}" if name in (*labels.columns(), "scan_classification") else name
    np.testing.assert_array_equal(again[new], data[name])
    assert again["class"].tolist() == labels.label.tolist()
    np.testing.assert_array_equal(placed(open_scan(folder / f"trip.out{suffix}")), placed(scan))
    assert scan.rows[name].tolist() == data[name].tolist()


@pytest.mark.parametrize("suffix", [".las", ".laz"])
@pytest.mark.parametrize("form", [("1.2", 2), ("1.4", 7)])
def test_no_points(tmp_path: Path, suffix: str, form: tuple[str, int]) -> None:
    path = tmp_path / f"in{suffix}"
    laspy.LasData(laspy.LasHeader(version=form[0], point_format=form[1])).write(str(path))
    with pytest.raises(DatasetError, match=r"found 0 points, expected at least one\."):
        open_scan(path)


@pytest.mark.parametrize("minor", [0, 1])
def test_older_versions_are_written_as_1_2(tmp_path: Path, minor: int) -> None:
    path = tmp_path / "in.las"
    before = write(path, "1.2", 0)
    content = bytearray(path.read_bytes())
    content[25] = minor
    path.write_bytes(content)
    write_labelled(tmp_path / "out.las", open_scan(path), labels_for(COUNT))
    after = laspy.read(tmp_path / "out.las")
    assert str(after.header.version) == "1.2"
    np.testing.assert_array_equal(after.X, before.X)
    np.testing.assert_array_equal(after["class"], labels_for(COUNT).label)


def test_what_cannot_be_written_is_not_the_scan_s_damage(tmp_path: Path) -> None:
    """400 probabilities need a longer record than LAS has."""
    write(tmp_path / "in.las", "1.4", 6)
    few = labels_for(COUNT)
    names = [f"k{number}" for number in range(400)]
    table = np.zeros((COUNT, 400), np.float32)
    labels = Labels(few.label, few.confidence, names, [(1, 2, 3)] * 400, table)
    out = tmp_path / "out.laz"
    message = rf"^{re.escape(str(out))}: cannot be written as LAS: .*length .*exceeds"
    with pytest.raises(DatasetError, match=message):
        write_labelled(out, open_scan(tmp_path / "in.las"), labels)
    assert not out.exists()


def test_a_scan_that_was_cut_off_meanwhile_is_damaged(tmp_path: Path) -> None:
    path, out = tmp_path / "in.las", tmp_path / "out.laz"
    write(path, "1.2", 2)
    scan = replace(open_scan(path), size=None)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 40)
    with pytest.raises(DatasetError, match=r"in\.las: found a damaged or truncated LAS"):
        write_labelled(out, scan, labels_for(COUNT))
    assert not out.exists()


def test_a_full_disk_is_not_the_scan_s_damage(tmp_path: Path) -> None:
    write(tmp_path / "in.las", "1.2", 3)
    scan = open_scan(tmp_path / "in.las")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_labelled(tmp_path / "out.las", scan, labels_for(COUNT))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "out.las").exists()


def test_classes_beyond_a_byte_are_unclassified(tmp_path: Path) -> None:
    """Class 193 would else be that of ground, 2."""
    write(tmp_path / "in.las", "1.4", 7)
    label = np.resize(np.array([0, 191, 192, 194, 253, 255], np.uint8), COUNT)
    names = [f"c{number}" for number in range(254)]
    labels = Labels(label, np.ones(COUNT, np.float32), names, [(0, 0, 0)] * 254)
    write_labelled(tmp_path / "out.las", open_scan(tmp_path / "in.las"), labels)
    found = laspy.read(tmp_path / "out.las")
    expected = np.resize(np.array([64, 255, 1, 1, 1, 1], np.uint8), COUNT)
    np.testing.assert_array_equal(found["classification"], expected)
    np.testing.assert_array_equal(found["class"], label)


@pytest.mark.parametrize("version", ["1.2", "1.4"])
def test_descriptions_in_other_letters_stay(tmp_path: Path, version: str) -> None:
    """The format allows ASCII only; surveyors' programs write their own language."""
    data = write(tmp_path / "in.las", version, 7 if version == "1.4" else 3)
    data.vlrs.append(laspy.VLR("mine", 7, "H__he", b"content"))
    data.write(str(tmp_path / "in.las"))
    content = (tmp_path / "in.las").read_bytes()
    (tmp_path / "in.las").write_bytes(content.replace(b"H__he", b"H\xf6\xf6he"))
    out = tmp_path / "out.las"
    write_labelled(out, open_scan(tmp_path / "in.las"), labels_for(COUNT))
    assert b"H\xf6\xf6he" in out.read_bytes()
    assert raw_records(out)[b"mine", 7] == b"content"
