"""The commands that are disturbed, what they start from, and what their results are."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

import pipelines.prepare
from pipelines.config import ModelConfig
from pipelines.inference import label_store
from pipelines.model.deepgcn import DeepGCN
from pipelines.scans.ply import write_points
from pipelines.training import loop
from pipelines.weights import catalogue
from pipelines.weights.catalogue import Entry
from pipelines.weights.published import published_state
from tests.tiny_store import write_tiny_store

# Imported once, before the processes of the commands are forked.
LAZY = (
    *("deepgcn_cli.app", "pipelines.ablate", "pipelines.evaluate", "pipelines.predict"),
    *("pipelines.synth", "pipelines.weights.export", "pipelines.reports.viewer"),
    *("jinja2", "matplotlib.pyplot", "pooch", "pandas", "plyfile", "requests", "safetensors.torch"),
    *("scipy.sparse", "scipy.spatial", "submitit", "torch._dynamo", "torch.utils.tensorboard"),
    *("triton", "yaml"),
)
NETWORK = ("--depth", "2", "--width", "8", "-k", "4", "--fusion-channels", "16")
BRIEF = ("--num-points", "128", "--batch-size", "8", "--device", "cpu", "--threads", "1")
UNDISTURBED = 1800.0  # seconds in which a command ends that nothing disturbs
TRAIN = ("train", *NETWORK, *BRIEF, "--epochs", "2", "--workers", "0")
NET = "soak-net"  # in the catalogue, in place of the published ones
ROOMS = """\
classes: [floor, wall]
areas: {1: ["one/*.ply"], 2: ["two/*.ply"]}
label: {file: "(?P<label>floor|wall)"}
"""
# What differs between two runs of the same command; the index has it from the directories.
TIMES = {
    *("seconds", "created", "updated", "data_wait", "blocks_per_second", "label_seconds", "begun"),
    *("resumed", "peak_memory", "time", "date", "commit", "load", "started", "hardware", "stamp"),
    *("crc", "duration", "measured", "minutes", "source", "data", "host", "packages", "checkpoint"),
}
UNCOMPARED = (".lock", ".results.lock", "results.db-wal", "results.db-shm", "loggers.json")
CURVES = (".png", ".html", ".md")  # which show times
FOLDERS = ("tensorboard", "logs")


@dataclass(frozen=True)
class Work:
    """A command, what it starts from, and what is known of it."""

    arguments: tuple[str, ...]
    make: Callable[[Path], None]  # what it starts from, into an empty folder
    target: str  # the folder that it writes to
    again: tuple[str, ...] | None = None  # continues it once a run has begun
    alone: bool = True  # whether it is one process
    once: bool = False  # it finds nothing to do when it was done
    grace: float = 15.0  # seconds in which all of its processes have to end
    weight: int = 4  # how often it is chosen
    env: Mapping[str, str] = field(default_factory=dict)


def tune() -> None:
    """Make small what is only used when large, and frequent what is rare."""
    pipelines.prepare.WORKER_BYTES = 10_000
    loop.SAVE_SECONDS = 0.0
    label_store.KEPT_FROM, label_store.SAVE_EVERY = 100, 0.0
    if (file := Path("origin/model.t7")).is_file():
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        url = "http://127.0.0.1:9/model.t7"
        entry = Entry(NET, "dgcnn", "rooms", "MIT", file.stat().st_size, sha256, (), url=url)
        catalogue.PUBLISHED = (entry,)


def raw(folder: Path) -> None:
    """Two synthetic areas in the raw layout."""
    _run(folder, "synth", "raw", "--areas", "2", "--rooms", "1", "--density", "10")


def raw_zip(folder: Path) -> None:
    raw(folder)
    with zipfile.ZipFile(folder / "raw.zip", "w") as archive:
        for path in sorted((folder / "raw").rglob("*.txt")):
            archive.write(path, path.relative_to(folder / "raw"))
    shutil.rmtree(folder / "raw")


def own_rooms(folder: Path) -> None:
    """Four labelled scans and their description."""
    (folder / "rooms.yaml").write_text(ROOMS)
    for number, name in enumerate(("one/a_floor", "one/b_wall", "two/a_floor", "two/b_wall")):
        path = folder / f"{name}.ply"
        path.parent.mkdir(exist_ok=True)
        write_points(path, *_points(number))


def store(folder: Path) -> None:
    write_tiny_store(folder / "data", points=250)


def scans(folder: Path) -> None:
    """Two scans, and the results of an earlier call for one of them."""
    for number in (1, 2):
        write_points(folder / f"scan_{number}.ply", *_points(number))
    (folder / "out").mkdir()


def interrupted(folder: Path) -> None:
    """A run that has taken 3 steps of 18."""
    store(folder)
    _run(folder, *TRAIN, "--name", "run", "--max-steps", "3")


def trained(folder: Path) -> None:
    store(folder)
    _run(folder, *TRAIN, "--name", "run", "--max-steps", "2")


def six_runs(folder: Path) -> None:
    trained(folder)
    for area in ("1", "2"):
        _run(folder, *TRAIN, "--name", f"run-{area}", "--area", area, "--max-steps", "2")


def several_runs(folder: Path) -> None:
    trained(folder)
    for number in range(4):
        shutil.copytree(folder / "runs/run", folder / f"runs/run-{number}")


def grid(folder: Path) -> None:
    store(folder)
    (folder / "grid.yaml").write_text("rows: {one: {}, two: {k: 3}}\n")


def released(folder: Path) -> None:
    """A network as its release saves it."""
    (folder / "origin").mkdir()
    small = {**vars(ModelConfig.published("dgcnn")), "width": 8, "fusion_channels": 32}
    torch.manual_seed(0)
    state = published_state(DeepGCN(ModelConfig(**small)).eval())
    named = {f"module.{name}": value for name, value in state.items()}
    torch.save(named, folder / "origin/model.t7")


def store_and_released(folder: Path) -> None:
    store(folder)
    released(folder)


PREPARED = ("prepare", "--workers", "1", "--area", "2")
PARALLEL = ("prepare", "raw", "--workers", "2", "--area", "2", "--export", "pointnet-h5")
STUDY = (*NETWORK, *BRIEF, "--max-steps", "3", "--no-pictures")
ONE_RUN = ("--name", "run")
RESUME = ("train", "--resume", "run")
FETCHED = {"DEEPGCN_WEIGHTS": "origin", "XDG_CACHE_HOME": "{place}/kept"}
WORKS = {
    "synth": Work(("synth", "raw", "--areas", "1", "--rooms", "1", "--density", "10"), Path, "raw"),
    "prepare-folder": Work((*PREPARED, "raw"), raw, "data", weight=6),
    "prepare-zip": Work((*PREPARED, "raw.zip"), raw_zip, "data"),
    "prepare-own": Work(
        ("prepare", "--dataset", "rooms.yaml", "--data", "data"), own_rooms, "data"
    ),
    "prepare-workers": Work(PARALLEL, raw, "data", alone=False, weight=2),
    "train": Work((*TRAIN, *ONE_RUN), store, "runs", RESUME, weight=6),
    "train-modern": Work((*TRAIN, *ONE_RUN, "--recipe", "modern"), store, "runs", RESUME),
    "train-resume": Work(
        (*RESUME, "--max-steps", "9"), interrupted, "runs", (*RESUME, "--max-steps", "9")
    ),
    "train-weights": Work(
        (*TRAIN[:1], *BRIEF, *ONE_RUN, "--weights", "indoor", "--max-steps", "3"),
        store,
        "runs",
        RESUME,
        weight=2,
    ),
    "train-fetched": Work(
        (*TRAIN[:1], *BRIEF, *ONE_RUN, "--weights", NET, "--max-steps", "3"),
        store_and_released,
        "runs",
        RESUME,
        env=FETCHED,
        weight=2,
    ),
    "train-processes": Work(
        (*TRAIN, *ONE_RUN, "--devices", "2"), store, "runs", RESUME, alone=False, weight=1
    ),
    "train-synth": Work(
        (
            "train",
            "--synth",
            *NETWORK,
            *BRIEF,
            *ONE_RUN,
            "--synth-workers",
            "1",
            "--max-steps",
            "2",
        ),
        Path,
        "runs",
        RESUME,
        alone=False,
        weight=1,
    ),
    "eval": Work(("eval", "run", "--report", "json", "--report", "html"), trained, "runs"),
    "six-fold": Work(("eval", "--six-fold", "--no-pictures"), six_runs, "runs", weight=2),
    "predict": Work(
        (
            "predict",
            "--weights",
            "indoor",
            "scan_1.ply",
            "scan_2.ply",
            "--out",
            "out",
            "--num-points",
            "128",
            "--view",
        ),
        scans,
        "out",
        weight=6,
    ),
    "predict-votes": Work(
        (
            "predict",
            "--weights",
            "indoor",
            "scan_1.ply",
            "--out",
            "out/one.ply",
            "--votes",
            "2",
            "--num-points",
            "128",
        ),
        scans,
        "out",
    ),
    "ablate": Work(
        ("ablate", "--grid", "grid.yaml", "--workers", "2", *STUDY),
        grid,
        "runs",
        alone=False,
        grace=70.0,
        weight=1,
    ),
    "runs-sync": Work(("runs", "sync"), several_runs, "runs"),
    "runs-rm": Work(("runs", "rm", "run-1", "run-2", "--yes"), several_runs, "runs", once=True),
    "runs-tag": Work(("runs", "tag", "run-1", "run-2", "good"), several_runs, "runs"),
    "runs-note": Work(("runs", "note", "run-1", "some words"), several_runs, "runs"),
    "weights-import": Work(
        ("weights", "import", "origin/model.t7", "--out", "kept/model.safetensors"),
        released,
        "kept",
    ),
    "weights-get": Work(("weights", "get", NET), released, "kept", env=FETCHED),
    "weights-export": Work(("weights", "export", "run", "--out", "kept/run.pth"), trained, "kept"),
}


def _points(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    pos = rng.random((900, 3)) * (2.0, 1.5, 2.4) + 1.0
    return pos, rng.integers(0, 256, (900, 3), np.uint8)


def _run(folder: Path, *arguments: str) -> None:
    from .processes import Command

    command = Command([*arguments], folder, tune=tune, env={"SOAK_POINTS": "/dev/null"})
    ended = command.end(UNDISTURBED)
    assert ended is not None, arguments
    assert ended.code == 0, ended.said


def result(folder: Path) -> dict[str, str]:
    """Return a text for each file in a folder, which changes with its content but for times.

    Where the folder itself lies, as a recorded command may say, does not count.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        passed_over = path.name in UNCOMPARED or any(part in FOLDERS for part in path.parts)
        if path.is_file() and not passed_over:
            found[name] = _content(path, str(folder))
    return found


def _content(path: Path, folder: str) -> str:
    if path.suffix in CURVES:
        return "written" if path.stat().st_size else "empty"
    if path.suffix == ".json":
        return _said(json.loads(path.read_text().replace(folder, ".")))
    if path.suffix == ".jsonl":
        return _said([json.loads(line) for line in path.read_text().splitlines()])
    if path.suffix == ".pt":
        return _said(torch.load(path, weights_only=True))
    if path.suffix == ".h5":
        values: list[Any] = []
        with h5py.File(path, "r", locking=False) as file:
            file.visititems(lambda name, item: values.append([name, _dataset(item)]))
        return _said(values)
    if path.name == "results.db":
        with closing(sqlite3.connect(path)) as database:
            database.row_factory = sqlite3.Row
            try:
                rows = database.execute("SELECT * FROM runs ORDER BY name").fetchall()
            except sqlite3.Error as error:  # it is made anew from the runs
                return str(error)
        return _said([dict(row) for row in rows])
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _dataset(item: Any) -> list[Any]:
    about = {name: np.asarray(value).tolist() for name, value in item.attrs.items()}
    return [about, item[()] if isinstance(item, h5py.Dataset) else None]


def _said(value: Any) -> str:
    """Return the digest of nested values without times."""
    digest = hashlib.sha256()

    def take(each: Any) -> None:
        if isinstance(each, dict):
            for name in each:
                if name not in TIMES and each[name] is not None:  # None is as good as missing
                    digest.update(f"{name}:".encode())
                    take(each[name])
        elif isinstance(each, (list, tuple)):
            for one in each:
                take(one)
            digest.update(b";")
        elif isinstance(each, torch.Tensor):
            take(each.detach().numpy())
        elif isinstance(each, np.ndarray):
            digest.update(f"{each.dtype}{each.shape}".encode() + each.tobytes())
        else:
            digest.update(f"{each!r},".encode())

    take(value)
    return digest.hexdigest()
