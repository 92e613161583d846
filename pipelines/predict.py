"""Label every point of scans, and write the scans with their labels.

For each scan, `open_scan` makes it a table, `checked_points` takes positions and colours and
refuses what cannot be labelled well, `label_points` labels block by block, and `write_labelled`
writes the table with its labels.

A scan's own columns stay on disk. In memory are its coordinates, colours, cell order and labels,
about 45 bytes a point at the peak, and the blocks that the network is working on. The labels of a
large scan are saved as they are made (`inference.label_store`), so that a stop loses few of them.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.s3dis.rooms import open_room
from pipelines.data.statistics import SUMMARY, differences, measure, read_summary
from pipelines.inference.label_store import LabelStore, label_points
from pipelines.inference.segmentation import Draws
from pipelines.model.deepgcn import DeepGCN
from pipelines.reports.plots import save_figure, scan_picture
from pipelines.reports.viewer import write_viewer
from pipelines.runs.directory import named_run
from pipelines.runs.weights import (
    NamedWeights,
    default_weights,
    distinctly_named,
    find_weights,
    weights_of,
)
from pipelines.runtime.compiling import compile_beside
from pipelines.runtime.device import pick_device
from pipelines.runtime.lock import hold_alone
from pipelines.runtime.memory import available_memory
from pipelines.runtime.precision import Precision
from pipelines.runtime.waiting import sleep_if_crowded
from pipelines.scans.checks import LARGE, checked_points
from pipelines.scans.frame import Frame, left_out
from pipelines.scans.ply import rounded_columns
from pipelines.scans.table import UNLABELLED, Labels, Scan, ScanOptions

from .config import PredictConfig
from .errors import ConfigError, DatasetError
from .files import check_place, remove_unfinished
from .progress import SILENT, Progress, counted
from .scans import (
    FORMATS,
    check_format,
    labelled_name,
    open_scan,
    try_writing,
    without_results,
    write_labelled,
)

LARGE_FILE = 1 << 24  # bytes; from here on, reading may take more than two seconds
BYTES = 60  # of memory for a point, at the peak, with those of the scan itself


@dataclass(frozen=True)
class ScanResult:
    """What was found in one scan."""

    scan: Path
    out: Path
    points: int  # in the scan
    unlabelled: int  # points without coordinates, written with class 255
    counts: dict[str, int]  # points per class
    areas: dict[str, float]  # m² of the surfaces of each class, an estimate
    extent: tuple[float, ...]  # of its frame along x, y and z in metres
    confidence: float  # mean of the labelled points, 0 to 1
    seconds: float  # wall time
    label_seconds: float  # the part of it spent labelling; the rest is reading and writing
    earlier: int = 0  # points that an earlier, interrupted call had labelled
    frame: str = "published"  # the rule of the frame
    precision: str = "32"  # of the matmuls; less changes some labels
    stray: int = 0  # points outside of it, labelled all the same
    page: Path | None = None  # of `view`
    picture: Path | None = None


@dataclass(frozen=True)
class PredictResult:
    """What was labelled, with which weights."""

    weights: tuple[Path, ...]
    scans: tuple[ScanResult, ...]
    failed: tuple[tuple[Path, str], ...] = ()  # of several scans, those not labelled, and why
    names: tuple[str, ...] = ()  # of the weights
    votes: int = 1


def predict(config: PredictConfig, *, progress: Progress = SILENT) -> PredictResult:
    """Label every point of the scans.

    If one of several scans cannot be read or lacks coordinates or colour, or an option does not
    fit it, a warning is shown and the others are labelled.

    Raises:
        ConfigError: a format is unknown, or outputs collide with the scans or with each other.
        DatasetError: the only scan cannot be read or lacks coordinates or colour.
        RunError: there is no finished run, and no weights are inside the package.
        WeightsError: the weights cannot be found, fetched or read.

    >>> from pipelines.scans.ply import write_points
    >>> write_points(Path("hall.ply"), np.random.rand(500, 3), np.full((500, 3), 128, np.uint8))
    >>> (found,) = predict(PredictConfig(scans=(Path("hall.ply"),))).scans  # with runs/tiny
    >>> found.out, found.points
    (PosixPath('hall.labelled.ply'), 500)
    """
    scans = _find_scans(config.scans)
    outs = _output_paths(config, scans)
    if len(scans) == 1 and not scans[0].exists():
        open_scan(scans[0])  # says so, before anything is said of weights
    networks = _open_networks(config, progress)
    results, failed = [], []
    for scan, out in zip(scans, outs, strict=True):
        try:
            with _alone(out, progress):
                results.append(_predict_one(config, networks, scan, out, progress))
        except (DatasetError, ConfigError) as error:
            if len(scans) == 1:
                raise
            progress.warn(f"{error}\nThe other scans are still labelled.")
            failed.append((scan, str(error)))
    weights = tuple(found.file for found in networks.weights)
    names = tuple(found.name for found in networks.weights)
    return PredictResult(weights, tuple(results), tuple(failed), names, config.votes)


def _find_scans(named: tuple[Path, ...]) -> list[Path]:
    """Return the scans, each once, with patterns such as `scans/*.ply` expanded.

    A pattern skips results of earlier calls unless it names them.
    """
    if not named:
        raise ConfigError("predict: found no scan, expected at least one: deepgcn predict SCAN.ply")
    found: list[Path] = []
    for path in named:
        if path.exists() or not any(sign in str(path) for sign in "*?["):
            found.append(path)
            continue
        matched = without_results(map(Path, glob(str(path), recursive=True)), path.name)
        if not matched:
            raise ConfigError(f"{path}: found no file like this, expected a scan.")
        found += sorted(matched)
    return list({path.resolve(): path for path in found}.values())


def _output_paths(config: PredictConfig, scans: list[Path]) -> list[Path]:
    """Return where each scan's labels go; no output may overwrite a scan or another output."""
    outs = [_output_path(config, scan, several=len(scans) > 1) for scan in scans]
    taken = {path.resolve(): f"the scan {path}" for path in scans}
    for scan, out in zip(scans, outs, strict=True):
        check_format(scan, out)
        check_place(out, "--out")
        if (place := out.resolve()) in taken:
            raise ConfigError(
                f"{out}: the result of {scan} would overwrite {taken[place]}.\n"
                "Give another --out file for one scan, or a folder for several of different names."
            )
        taken[place] = f"the result of {scan}"
        if config.view:
            check_place(_beside(out, ".html"), "--view")
        if config.picture:
            check_place(_beside(out, ".png"), "--picture")
    return outs


def _beside(out: Path, suffix: str) -> Path:
    """Return the page or picture of a result: `a.html` of a.ply, `a.las.html` of a.las.

    So results of one name in several formats share none, whichever call wrote them.
    """
    is_ply = out.suffix.lower() == ".ply"
    return out.with_suffix(suffix) if is_ply else out.with_name(f"{out.name}{suffix}")


def _output_path(config: PredictConfig, scan: Path, *, several: bool) -> Path:
    check_format(scan)
    name = labelled_name(scan, config.format)
    if config.out is None:
        return scan.resolve().parent / name if scan.is_dir() else scan.with_name(name)
    if several or config.out.is_dir() or not config.out.suffix:
        is_folder = config.out.is_dir()
        if not is_folder and config.out.suffix.lower() in FORMATS:
            raise ConfigError(
                f"--out {config.out}: found the name of a file for several scans, expected a "
                f"folder.\nGive one: --out {config.out.stem}"
            )
        if config.out.exists() and not is_folder:
            raise ConfigError(
                f"--out {config.out}: found a file, expected a folder"
                f"{'.' if several else ', or a file of a known format.'}\n"
                "Give another path with --out."
            )
        return config.out / name
    if config.format is not None and Path(name).suffix != config.out.suffix.lower():
        raise ConfigError(
            f"--format {config.format}: found it with --out {config.out}, expected one format.\n"
            "Leave out --format, or give a folder as --out."
        )
    return config.out


@dataclass(frozen=True)
class _Networks:
    """The networks that label together, most often one, with how each draws points."""

    weights: tuple[NamedWeights, ...]
    models: tuple[tuple[DeepGCN, Draws], ...]
    classes: tuple[str, ...]
    class_colors: tuple[tuple[int, ...], ...]
    votes: int

    @property
    def passes(self) -> int:
        """How often each point goes through a network."""
        return self.votes * len(self.models)

    @property
    def without_color(self) -> bool:
        """Whether none of them looks at colours, or was trained on data that has them."""
        seen = (read_summary(each.metadata.get(SUMMARY)) for each in self.weights)
        models = (model for model, _ in self.models)
        return all(
            not model.config.rgb or each.get("colored", 1.0) == 0
            for model, each in zip(models, seen, strict=True)
        )

    @property
    def label(self) -> str:
        """The networks in short."""
        return " + ".join(model.label for model, _ in self.models)


def _open_networks(config: PredictConfig, progress: Progress) -> _Networks:
    """Open the weights that are named, else those of the latest finished run or the package."""
    named = [find_weights(each, config.runs, progress=progress) for each in config.weights]
    weights = distinctly_named(named)
    if config.run is not None:
        weights = [weights_of(named_run(config.run, config.runs))]
    weights = weights or [default_weights(config.runs, progress)]
    device = pick_device(config.device, progress)
    Precision(config.precision, device)  # its errors come before the weights are read
    models = []
    for found in weights:
        model = found.load_for_points(config.own_classes).to(device)
        points = config.num_points or model.num_points
        blocks = model.block_size, model.voxel
        draws = Draws(points, config.batch_size, config.seed, *blocks, config.precision)
        if points < model.config.widest:
            raise ConfigError(
                f"--num-points: found {points}, expected at least the {model.config.widest} "
                f"nearest points that {found.name} looks at (k·d)."
            )
        models.append((model, draws))
    compile_beside(models[0][0].config, device)
    palettes = [w.palette(m.config.num_classes) for w, (m, _) in zip(weights, models, strict=True)]
    for found, (classes, _) in zip(weights, palettes, strict=True):
        if classes != palettes[0][0]:
            raise ConfigError(
                f"--weights {found.argument}: found the classes {', '.join(classes)}, expected "
                f"those of {weights[0].name}: {', '.join(palettes[0][0])}.\n"
                "Only networks of the same classes label together."
            )
    return _Networks(tuple(weights), tuple(models), *palettes[0], config.votes)


@contextmanager
def _alone(out: Path, progress: Progress) -> Iterator[None]:
    """Let no other process write the result `out` meanwhile; DatasetError: one does."""
    lock = out.with_name(f".{out.name}.lock")
    with ExitStack() as stack:
        try:
            held = hold_alone(lock, out, ", or give another --out.", progress)
            stack.enter_context(held)
        except OSError as error:
            raise _not_writable(out, error) from error
        yield


def _predict_one(
    config: PredictConfig, networks: _Networks, path: Path, out: Path, progress: Progress
) -> ScanResult:
    start = time.monotonic()
    scan = _read(config, path, progress)
    _check_memory(path, len(scan))
    pos, color, frame = checked_points(scan, config, progress, without_color=networks.without_color)
    stray = frame.stray(pos)
    if count := int(stray.sum()):
        progress.say(f"{path}: {left_out(count, len(pos))}; labelled all the same")
    _compare_with_training(path, networks, pos[~stray], color[~stray], progress)
    _check_writable(config, out, scan, networks)
    if out.suffix.lower() == ".ply" and (rounded := rounded_columns(scan)):
        progress.warn(
            f"{out}: {', '.join(rounded)} will be rounded: a PLY file holds whole numbers exactly "
            "up to 2^53 only."
        )
    begun = time.monotonic()
    total, passes = int((~np.isnan(pos[:, 0])).sum()), networks.passes
    part, made_from = out.with_name(f".{out.name}.part"), _made_from(path, scan, networks, frame)
    size = len(pos), len(networks.classes)
    with (
        sleep_if_crowded(),
        progress.task(f"Labelling {path.name}", total=passes * total, unit="points") as task,
    ):
        found = LabelStore.open(
            *(part, made_from, *size), probabilities=config.probabilities, passes=passes
        )
        earlier = found.points // passes
        label_points(networks.models, pos, color, found, task, networks.votes, stray)
    label_seconds = time.monotonic() - begun
    rule = f"{config.frame}, without {counted(count, 'stray point')}" if count else config.frame
    rule += f"; precision {config.precision}" if config.precision != "32" else ""
    shown = progress if len(scan) >= LARGE else SILENT
    with (
        _kept_if_unwritten(out, found, progress),
        shown.task(f"Writing {out.name}", total=len(scan), unit="points") as task,
    ):
        remove_unfinished(out.parent, out.name)
        names, colors = networks.classes, networks.class_colors
        labels = Labels(classes=names, class_colors=colors, frame=rule, task=task, **found.labels)
        write_labelled(out, scan, labels)
    page = _beside(out, ".html") if config.view else None
    picture = _beside(out, ".png") if config.picture else None
    if page or picture:
        pos[stray] = np.nan  # a page that holds them shows the scan as a dot
        for each in filter(None, (page, picture)):
            with _kept_if_unwritten(each, found, progress):
                remove_unfinished(each.parent, each.name)
                _show(networks, path, each, pos + frame.origin, color, labels)
    shutil.rmtree(found.folder, ignore_errors=True)
    counts = np.bincount(labels.label, minlength=256).tolist()
    return ScanResult(
        scan=path,
        out=out,
        points=len(scan),
        unlabelled=counts[UNLABELLED],
        counts=dict(zip(networks.classes, counts, strict=False)),
        areas=dict(zip(networks.classes, found.areas.tolist(), strict=True)),
        extent=tuple(frame.extent.tolist()),
        confidence=float(labels.confidence.sum(dtype=np.float64) / total),
        seconds=time.monotonic() - start,
        label_seconds=label_seconds,
        earlier=earlier,
        frame=config.frame,
        precision=config.precision,
        stray=count,
        page=page,
        picture=picture,
    )


def _check_memory(path: Path, points: int) -> None:
    """Raise DatasetError, before any work, if a scan does not fit into the memory that is left."""
    needed, left = BYTES * points, available_memory("cpu")
    if needed > left:
        raise DatasetError(
            f"{path}: found {points:,} points, which need {needed / 1e9:.2f} GB of memory; "
            f"{left / 1e9:.2f} GB are left.\n"
            "Give it more (a limit may be that of ulimit -v, a container or a job), or cut the "
            "scan into parts."
        )


def _show(
    networks: _Networks, path: Path, shown: Path, pos: np.ndarray, color: np.ndarray, labels: Labels
) -> None:
    """Write the page or the picture of a labelled scan, as the suffix of `shown` says."""
    if shown.suffix == ".html":
        write_viewer(
            *(shown, pos, color),
            classes=networks.classes,
            class_colors=networks.class_colors,
            title=path.name,
            summary={"scan": str(path), "network": networks.label},
            predicted=labels.label,
            confidence=labels.confidence,
        )
    else:
        names = " + ".join(each.name for each in networks.weights)
        title = f"{path.name}, labelled by {names} (without ceiling)"
        drawn = scan_picture(
            *(pos, color, labels.label, networks.classes, networks.class_colors, title)
        )
        save_figure(shown, drawn)


def _compare_with_training(
    path: Path, networks: _Networks, pos: np.ndarray, color: np.ndarray, progress: Progress
) -> None:
    """Say what is very unlike the data that a network was trained on, as far as its weights tell.

    `pos` (n, 3) and `color` (n, 3) are those of the points that are not stray.
    """
    seen = [(each.name, read_summary(each.metadata.get(SUMMARY))) for each in networks.weights]
    if not any(trained for _, trained in seen):
        return
    known = ~np.isnan(pos[:, 0])
    found = measure(pos[known], color[known])
    for name, trained in seen:
        if unlike := differences(found, trained):
            progress.say(f"{path}: unlike the data that {name} was trained on: {unlike}")


def _read(config: PredictConfig, path: Path, progress: Progress) -> Scan:
    """Open a scan, and say what was detected in it."""
    size = path.stat().st_size if path.is_file() else 0
    shown = progress if size >= LARGE_FILE else SILENT
    with shown.task(f"Reading {path.name}", total=size / 1e6, unit="MB") as task:
        options = ScanOptions(config.up, config.scale, config.columns, task=task)
        scan = open_scan(path, options, folder=open_room)
    for note in scan.notes:
        progress.say(f"{path}: {note}")
    return scan


def _made_from(path: Path, scan: Scan, networks: _Networks, frame: Frame) -> str:
    """Return a text that differs for the labels of another scan, frame or network.

    Not for another batch size, which changes no label, so that what ran out of memory goes on.
    """
    # A folder's modification time does not change when a file in it is rewritten.
    files = sorted([*path.rglob("*.txt"), *path.glob("*.npy")]) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        line = f"{file.name} {stat.st_size} {stat.st_mtime_ns}\n"
        digest.update(line.encode(errors="backslashreplace"))
    by = [
        (w.sha256, replace(draws, batch_size=Draws.batch_size))
        for w, (_, draws) in zip(networks.weights, networks.models, strict=True)
    ]
    box: tuple[Any, ...] = (frame.low.tolist(), frame.high.tolist())
    if len(frame.piles):  # which points are stray is not all in the box
        box += (frame.piles.tolist(),)
    how = f"{scan.options} {box} {by} votes {networks.votes}"
    return f"{path.resolve()} {digest.hexdigest()} {how}"


def _check_writable(config: PredictConfig, out: Path, scan: Scan, networks: _Networks) -> None:
    """Raise DatasetError if a result like `out` cannot be written; called before labelling."""
    colors, probabilities = networks.class_colors, config.probabilities
    try:
        try_writing(out, scan, networks.classes, colors, probabilities=probabilities)
    except OSError as error:
        raise _not_writable(out, error) from error
    except DatasetError as error:
        raise DatasetError(
            f"{error}\nNothing was labelled. Its labels may fit into another format: --format ply"
        ) from error


def _not_writable(out: Path, error: OSError) -> DatasetError:
    reason = error.strerror or error
    return DatasetError(f"{out}: cannot be written ({reason}).\nGive another path with --out.")


@contextmanager
def _kept_if_unwritten(out: Path, found: LabelStore, progress: Progress) -> Iterator[None]:
    """Keep the labels, and say how to go on, if the block that writes the result fails."""
    try:
        yield
    except BaseException as error:
        try:
            found.keep()
            beside = found.folder.parent == out.parent
            other = "for another folder, move them there first" if beside else "or in any folder"
            how = (
                f"Its labels are kept in {found.folder}: the same command goes on from them, also "
                f"with --out {out.with_suffix('.ply')}; {other}."
            )
        except OSError as second:
            how = f"Its labels cannot be kept in {found.folder} ({second.strerror})."
        if isinstance(error, OSError):
            cause = f"{out}: cannot be written ({error.strerror or error})."
            raise DatasetError(f"{cause}\n{how}") from error
        if isinstance(error, DatasetError):
            raise DatasetError(f"{error}\n{how}") from error
        progress.warn(f"{out}: was not written.\n{how}")
        raise
