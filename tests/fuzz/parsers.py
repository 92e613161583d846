"""The readers of outside data, each with small valid files to begin from."""

from __future__ import annotations

import io
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import torch

from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.custom import read_custom_room, read_description
from pipelines.data.s3dis.published import find_published, read_published_room
from pipelines.data.s3dis.raw import find_raw
from pipelines.data.s3dis.rooms import read_raw_room
from pipelines.data.store import Store, read_rooms, write_rooms
from pipelines.model.deepgcn import DeepGCN
from pipelines.planning.file import read_plan, write_plan
from pipelines.runs.directory import create_run, open_run
from pipelines.runs.index import describe, query
from pipelines.scans import FORMATS, open_scan, write_labelled
from pipelines.studies.grid import read_grid
from pipelines.training.checkpoint import TrainingState
from pipelines.weights.safetensors import save_weights
from pipelines.weights.sources import inspect_weights
from pipelines.weights.tensorflow import read_log
from tests.planning.test_file import PLAN
from tests.raw_tree import box, write_zip
from tests.scans import test_scans
from tests.scans.scan_labels import labels_for
from tests.tiny_store import tiny_room, write_tiny_store
from tests.weights.test_tensorflow import Table, entry_of, number

LONGEST = 1 << 14  # bytes of an input, unless a seed is longer


@dataclass(frozen=True)
class Parser:
    """A reader, and where the file that is fuzzed has to lie for it."""

    name: str
    file: str  # within the folder
    read: Callable[[Path], object]
    seeds: Callable[[Path], list[bytes]]  # writes around them what the reader needs besides
    wrap: Callable[[bytes], bytes] = bytes  # from an input to a file, as with checksums that fit
    ours: bool = True  # the parser itself, rather than a library's

    def path(self, folder: Path) -> Path:
        return folder / self.file

    def place(self, folder: Path, data: bytes) -> Path:
        """Write an input where the reader looks for it."""
        path = self.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.wrap(data))
        return path


def _scan(suffix: str, path: Path) -> None:
    scan = open_scan(path)
    scan.positions()
    scan.colors()
    labels = labels_for(len(scan))
    own = FORMATS[suffix]
    for end in {suffix if own.write else own.labels_as, ".ply"}:
        write_labelled(path.with_name(f"out{end}"), scan, labels)


def _scans(*names: str) -> Callable[[Path], list[bytes]]:
    """Return the scans that the tests of formats write, and files of `tests.fuzz.seeds`."""

    def seeds(folder: Path) -> list[bytes]:
        return [test_scans.written(folder, name).read_bytes() for name in names]

    return seeds


def _texts(*texts: str | bytes) -> Callable[[Path], list[bytes]]:
    return lambda _: [text.encode() if isinstance(text, str) else text for text in texts]


PLY = """ply
format {} 1.0
comment TextureFile a.png
element vertex 2
property float x
property float y
property double z
property uchar red
property uchar green
property uchar blue
property list uchar int near
element face 1
property list uchar int vertex_indices
end_header
"""
_ROW = struct.pack("<ffd4Bi", 1, 2, 3, 1, 2, 3, 1, 7)
PLIES = (
    PLY.format("ascii") + "1 2 3 4 5 6 1 7\n1 nan 3 4 5 6 0\n3 0 1 0\n",
    PLY.format("binary_little_endian").encode() + 2 * _ROW + struct.pack("<B3i", 3, 0, 1, 0),
)
PCD = test_scans.PCD.format("ascii") + "1 2 3 4.2e-39 1 2 3 4 5\n" * 3
POINTS = (
    "1 2 3 4 5 6\n" * 3 + "1.5 nan -3e2 255 0 0\n",
    "//X Y Z R G B\n3\n1 2 3 4 5 6\n",
    '"x";y;z;label\n1,5;2;3;a\n1,5;2;3;"b c"\n# no\n',
    "1\t2\t3\t\n\t1\t2\t3\n",
)


def _prepare(path: Path) -> None:
    for dataset in (find_published(path), find_raw(path)):
        for room in dataset.rooms if dataset else ():
            read_published_room(dataset, room) if hasattr(dataset, "blocks") else read_raw_room(
                dataset, room
            )


def _raw_seeds(folder: Path) -> list[bytes]:
    angles = folder / "Area_1" / "Area_1_alignmentAngle.txt"
    angles.parent.mkdir(parents=True, exist_ok=True)
    angles.write_text("# a\n# b\noffice_1 90\n")
    return [box(3, 1), box(3, 2, decimals=6), b"22.350 6.692 3.048 185\x00187 182\n"]


def _zip_seeds(folder: Path) -> list[bytes]:
    name = "a/Area_1/office_1/{}.txt"
    files = {name.format("Annotations/wall_1"): box(3, 1), name.format("office_1"): box(3, 1)}
    return [
        write_zip(folder / "seed.zip", files).read_bytes(),
        write_zip(folder / "seed.zip", {**files, "Area_1_alignmentAngle.txt": b"#"}).read_bytes(),
    ]


def _published_seeds(folder: Path) -> list[bytes]:
    import h5py

    (folder / "h5").mkdir(parents=True, exist_ok=True)
    (folder / "h5/all_files.txt").write_text("a/ply_data_all_0.h5\n")
    (folder / "h5/room_filelist.txt").write_text("Area_1_office_1\n")
    found = []
    for options in ({}, {"compression": "gzip", "chunks": True}):
        content = io.BytesIO()
        data = np.tile(np.linspace(0, 1, 8, dtype="f4")[:, None], 9)[None]
        with h5py.File(content, "w") as file:
            file.create_dataset("data", data=data, **options)
            file.create_dataset("label", data=np.zeros((1, 8), "u1"), **options)
        found.append(content.getvalue())
    return found


def _read_published(path: Path) -> None:
    dataset = find_published(path.parent)
    for room in dataset.rooms if dataset else ():
        read_published_room(dataset, room)


def _store_seeds(folder: Path) -> list[bytes]:
    write_rooms(folder / "seed.h5", [tiny_room(1, 1, 4)])
    return [(folder / "seed.h5").read_bytes()]


def _manifest_seeds(folder: Path) -> list[bytes]:
    write_tiny_store(folder / "data", points=4)
    return [(folder / "data/manifest.json").read_bytes()]


DATASETS = (
    "classes: [wall, floor]\nlabel: column_7\nareas: {1: 'a*.xyz', 2: 'b*'}\n"
    "columns: 'x,y,z,r,g,b,-'\nvalues: {0: wall}\n",
    "classes: {wall: [1, 2, 3], floor: [255, 0, 0]}\nlabel: {file: '(a|b)[0-9]*'}\n"
    "areas: &a {1: 'a*.xyz'}\nvalues: {a: wall, b: floor}\nscale: 0.001\nup: y\n",
)
GRIDS = (
    "name: a\nbase: {epochs: 1}\naxes: {k: [4, 8], conv: [edge, mr]}\nexclude: [{k: 4}]\n",
    "title: b\nrows: {a: {depth: 7}, b: {k: 4}}\nseeds: 2\nreference: a\n",
)


def _plan_seeds(folder: Path) -> list[bytes]:
    write_plan(path := folder / "seed.json", PLAN)
    return [path.read_bytes()]


def _description(path: Path) -> None:
    dataset = read_description(path)
    for room in dataset.rooms:
        read_custom_room(dataset, room)


def _description_seeds(folder: Path) -> list[bytes]:
    for name in ("a1.xyz", "b1.xyz"):
        (folder / name).write_text("1 2 3 4 5 6 0\n" * 3)
    return [text.encode() for text in DATASETS]


@cache
def _model() -> DeepGCN:
    torch.manual_seed(0)
    return DeepGCN(ModelConfig(depth=2, width=2, k=2, fusion_channels=2, num_classes=2))


def _weights_seeds(folder: Path) -> list[bytes]:
    path = folder / "seed.safetensors"
    save_weights(path, _model(), metadata={"classes": "a b", "num_points": "8"})
    found = [path.read_bytes()]
    head = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return [*found, struct.pack("<Q", len(head)) + head + bytes(4)]


def _with_metadata(data: bytes) -> bytes:
    """Return weights with the metadata that the input has as JSON, if it has."""
    from safetensors.torch import save

    try:
        values = json.loads(data)
        texts = {str(k): v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
        return save(dict(_model().state_dict()), metadata=texts)
    except (ValueError, AttributeError, RecursionError):
        return data


def _metadata_seeds(folder: Path) -> list[bytes]:
    import torch_geometric.nn  # noqa: F401 - some inputs need it; its import is not theirs
    from safetensors import safe_open

    (folder / "seed.safetensors").write_bytes(_weights_seeds(folder)[0])
    with safe_open(folder / "seed.safetensors", framework="pt") as file:
        values = file.metadata()
    values.pop("deepgcn_sha256")
    return [json.dumps({**values, "config": json.loads(values["config"])}).encode()]


def _torch_seeds(_folder: Path) -> list[bytes]:
    found = []
    for form in (True, False):
        content = io.BytesIO()
        state = {"state_dict": {"a": torch.zeros(2)}, "epoch": 3}
        torch.save(state, content, _use_new_zipfile_serialization=form)
        found.append(content.getvalue())
    return found


def _bundle_items() -> list[tuple[bytes, bytes]]:
    return [(b"", number(1, 1)), (b"a/w", entry_of(np.zeros(2, "f4"), 0))]


def _bundle_seeds(folder: Path) -> list[bytes]:
    (folder / "a.data-00000-of-00001").write_bytes(bytes(8))
    return [Table().write(_bundle_items())]


def _block_seeds(folder: Path) -> list[bytes]:
    _bundle_seeds(folder)
    table = Table()
    table.block(_bundle_items())
    return [table.content[:-5]]  # without what `append` adds: compression and checksum


def _with_table(data: bytes) -> bytes:
    """Return a table whose only block is the input, with checksums that fit."""
    table = Table()
    index = table.block([(b"z", table.append(data))])
    return table.content + (table.block([]) + index).ljust(40, b"\0") + Table().write([])[-8:]


def _state() -> TrainingState:
    model = _model()
    return TrainingState(model, torch.optim.Adam(model.parameters()))


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    _state().save(folder / "seed.pt")
    return [(folder / "seed.pt").read_bytes()]


@cache
def _run_files(runs: Path) -> dict[str, bytes]:
    """Make a run whose files can be fuzzed."""
    shutil.rmtree(runs, ignore_errors=True)
    config = TrainConfig(model=ModelConfig(depth=2), runs=runs, name="a")
    run = create_run(config, environment={"gpu": "x", "store": {"fingerprint": "0"}})
    run.update_status(state="finished", step=3, best_miou=0.5)
    scores = {"protocol": "room", "oa": 0.5, "macc": 0.5, "miou": 0.5, "confusion": [[1, 2]]}
    (run.path / "eval/room").mkdir(parents=True)
    (run.path / "eval/room/scores.json").write_text(json.dumps(scores))
    (run.path / "metrics.jsonl").write_text('{"event": "step", "step": 1, "loss": 0.5}\n' * 2)
    query(runs)
    files = (file for file in runs.rglob("*") if file.is_file())
    return {str(file.relative_to(runs)): file.read_bytes() for file in files}


def _in_run(name: str) -> Callable[[Path], list[bytes]]:
    return lambda folder: [_run_files(folder / "runs")[name]]


def _read_run(path: Path) -> None:
    run = open_run(path.parent)
    describe(run)
    assert run.config
    assert run.status is not None


def _read_index(path: Path) -> None:
    for side in ("-wal", "-shm"):
        path.with_name(path.name + side).unlink(missing_ok=True)
    query(path.parent, where="miou > 0", sort="-miou,name")


def _where(path: Path) -> None:
    query(path.with_name("runs"), where=path.read_bytes().decode("utf-8", "replace"))


def _where_seeds(folder: Path) -> list[bytes]:
    _run_files(folder / "runs")
    wheres = ("arch=resgcn and miou>40%", 'not (k=4 or name ~ "a*")', "tags~x or miou>=0.5")
    return [text.encode() for text in wheres]


def _pages(data: bytes) -> bytes:
    """Return an E57 file with the checksums of its pages of 1,024 bytes."""
    pages = [data[at : at + 1020] for at in range(0, len(data), 1024)]
    return b"".join(
        page + google_crc32c.value(page).to_bytes(4, "big") if len(page) == 1020 else page
        for page in pages
    )


def _scan_parser(suffix: str, seeds: Callable[[Path], list[bytes]], **more: Any) -> Parser:
    return Parser(suffix[1:], f"a{suffix}", partial(_scan, suffix), seeds, **more)


def _both(*seeds: Callable[[Path], list[bytes]]) -> Callable[[Path], list[bytes]]:
    return lambda folder: [each for one in seeds for each in one(folder)]


def _open_manifest(path: Path) -> None:
    store = Store.open(path.parent)
    for info in store.rooms():
        store.read(info)


PARSERS = {
    parser.name: parser
    for parser in (
        Parser("raw", "Area_1/office_1/Annotations/wall_1.txt",
               lambda path: _prepare(path.parents[3]), _raw_seeds),
        Parser("zip", "a.zip", _prepare, _zip_seeds),
        _scan_parser(".ply", _both(_scans("a.ply"), _texts(*PLIES))),
        _scan_parser(".pcd", _both(_scans("b.pcd", "c.pcd"), _texts(PCD))),
        _scan_parser(".npy", _scans("h.npy", "j.npy")),
        _scan_parser(".npz", _scans("i.npz")),
        _scan_parser(".xyz", _texts(*POINTS)),
        _scan_parser(".csv", _both(_scans("d.csv"), _texts(*POINTS))),
        _scan_parser(".ptx", _scans("k.ptx")),
        _scan_parser(".las", _scans("e.las"), ours=False),
        _scan_parser(".laz", _scans("f.laz"), ours=False),
        _scan_parser(".e57", _scans("g.e57"), wrap=_pages, ours=False),
        Parser("hdf5-published", "h5/ply_data_all_0.h5", _read_published, _published_seeds,
               ours=False),
        Parser("hdf5-store", "area_1.h5", lambda path: list(read_rooms(path)), _store_seeds,
               ours=False),
        Parser("manifest", "data/manifest.json", _open_manifest, _manifest_seeds),
        Parser("dataset", "a.yaml", _description, _description_seeds),
        Parser("grid", "a.yaml", read_grid, _texts(*GRIDS)),
        Parser("plan", "plan.json", read_plan, _plan_seeds),
        Parser("safetensors", "a.safetensors", inspect_weights, _weights_seeds, ours=False),
        Parser("metadata", "a.safetensors", inspect_weights, _metadata_seeds, wrap=_with_metadata),
        Parser("pytorch", "a.pth", inspect_weights, _torch_seeds, ours=False),
        Parser("tensorflow", "a.index", inspect_weights, _bundle_seeds),
        Parser("tensorflow-block", "a.index", inspect_weights, _block_seeds, wrap=_with_table),
        Parser("tensorflow-log", "log_train.txt", read_log, _texts(
            "Namespace(gcn='edgeconv', num_neighbors=[16], dilations=[-1], num_points=4096)\n")),
        Parser("checkpoint", "last.pt", lambda path: _state().load(path), _checkpoint_seeds,
               ours=False),
        *(Parser(name, f"runs/a/{name}", _read_run, _in_run(f"a/{name}"))
          for name in ("config.json", "status.json", "environment.json")),
        Parser("scores.json", "runs/a/eval/room/scores.json",
               lambda path: _read_run(path.parents[2] / "config.json"),
               _in_run("a/eval/room/scores.json")),
        Parser("metrics.jsonl", "runs/a/metrics.jsonl",
               lambda path: open_run(path.parent).metrics(), _in_run("a/metrics.jsonl")),
        Parser("results.db", "runs/results.db", _read_index, _in_run("results.db"), ours=False),
        Parser("where", "where", _where, _where_seeds),
    )
}  # fmt: skip
