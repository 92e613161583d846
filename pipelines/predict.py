"""The predict stage: scans in, labelled scans out.

A scan's properties stay on disk (binary PLY is memory-mapped); in memory are its coordinates,
colours, cell order, labels and confidences, about 45 bytes a point, and the blocks that the network
is working on.
"""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config import PredictConfig
from .data.grid import grid_sort
from .data.ply import PlyScan, colors, positions, read_ply, write_labelled
from .data.s3dis import CLASS_COLORS, CLASSES
from .errors import ConfigError, DatasetError, did_you_mean
from .inference import block_logits, softmax
from .model.deepgcn import DeepGCN
from .model.weights import describe, load_weights, read_metadata
from .progress import SILENT, Progress
from .results.runs import latest_finished, open_run
from .results.viewer import write_viewer
from .runtime.device import pick_device

FORMATS = (".ply",)
UNLABELLED = 255  # class of a point without coordinates
GREY = 128  # of a scan without colour
LARGEST_GROUND = 4e6  # m²; its cells take 128 MB


@dataclass(frozen=True)
class ScanResult:
    """One labelled scan.

    Attributes:
        scan: the file read.
        out: the file written.
        points: its points.
        unlabelled: points without coordinates, written with class 255.
        counts: points per class.
        confidence: mean confidence of the labelled points, 0 to 1.
        seconds: wall time.
    """

    scan: Path
    out: Path
    points: int
    unlabelled: int
    counts: dict[str, int]
    confidence: float
    seconds: float


@dataclass(frozen=True)
class PredictResult:
    """What was labelled, with which weights."""

    weights: Path
    scans: tuple[ScanResult, ...]


def predict(config: PredictConfig, *, progress: Progress = SILENT) -> PredictResult:
    """Label every point of the scans.

    Raises:
        ConfigError: the outputs collide with the scans or with each other.
        DatasetError: a scan cannot be read or lacks coordinates or colour.
        RunError: there is no finished run.
        WeightsError: the weights cannot be read.
    """
    outs = output_paths(config)
    weights = find_weights(config, progress)
    facts = read_metadata(weights)
    model = load_weights(weights).to(pick_device(config.device))
    classes = tuple(facts.get("classes", " ".join(CLASSES)).split())
    num_points = config.num_points or model.num_points
    model.config.check_points(num_points)
    results = []
    for scan, out in zip(config.scans, outs, strict=True):
        results.append(_predict_one(config, model, classes, num_points, scan, out, progress))
    return PredictResult(weights, tuple(results))


def find_weights(config: PredictConfig, progress: Progress = SILENT) -> Path:
    """Return the weights file that the configuration means, and say it if it was not named."""
    if config.weights is not None:
        return config.weights
    if config.run is not None:
        found = config.run if config.run.is_dir() else config.runs / config.run
        return open_run(found if found.is_dir() else config.run).weights()
    run = latest_finished(config.runs)
    progress.say(f"{run.path}: the latest finished run")
    return run.weights()


def output_paths(config: PredictConfig) -> list[Path]:
    """Return where each scan's labels go.

    Raises:
        ConfigError: no scan is named, a format is not known, or an output would overwrite a scan
            or another output.
    """
    if not config.scans:
        raise ConfigError("predict: found no scan, expected at least one: deepgcn predict SCAN.ply")
    for scan in config.scans:
        if scan.suffix.lower() not in FORMATS:
            raise ConfigError(
                f"{scan}: found the format {scan.suffix or 'without a suffix'!r}."
                f"{did_you_mean(scan.suffix, FORMATS)}\nExpected one of: {', '.join(FORMATS)}."
            )
    outs = [_output_path(config, scan) for scan in config.scans]
    taken = [path.resolve() for path in (*config.scans, *outs)]
    if len(set(taken)) < len(taken):
        raise ConfigError(
            f"--out {config.out}: found outputs that overwrite a scan or each other.\n"
            "Give another file for one scan, or a folder for several of different names."
        )
    return outs


def _output_path(config: PredictConfig, scan: Path) -> Path:
    name = f"{scan.stem}.labelled.ply"
    if config.out is None:
        return scan.with_name(name)
    several = len(config.scans) > 1 or config.out.is_dir()
    return config.out / name if several else config.out


def _predict_one(
    config: PredictConfig,
    model: DeepGCN,
    classes: tuple[str, ...],
    num_points: int,
    path: Path,
    out: Path,
    progress: Progress,
) -> ScanResult:
    start = time.monotonic()
    scan = read_ply(path)
    pos, color, origin = _points(config, scan, progress)
    finite = ~np.isnan(pos[:, 0])
    label = np.full(len(scan), UNLABELLED, np.uint8)
    confidence = np.zeros(len(scan), np.float32)
    known = np.flatnonzero(finite)
    order, grid = grid_sort(pos[known])
    order = known[order]
    pos, color = pos[order], color[order]
    extent = np.array([axis.max() for axis in pos.T])
    with progress.task(f"Labelling {path.name}", total=len(order), unit="points") as task:
        for block in block_logits(
            model,
            pos,
            color,
            grid,
            extent,
            num_points=num_points,
            batch_size=config.batch_size,
            seed=config.seed,
            task=task,
        ):
            probabilities = softmax(block.logits)
            label[order[block.points]] = probabilities.argmax(axis=1)
            confidence[order[block.points]] = probabilities.max(axis=1)
    _write(out, scan, label, confidence, classes)
    if config.view:
        write_viewer(
            out.with_suffix(".html"),
            pos + origin,
            color,
            classes=classes,
            class_colors=CLASS_COLORS,
            title=path.name,
            facts={"scan": str(path), "network": describe(model.config)},
            predicted=label[order],
            confidence=confidence[order],
        )
    counts = np.bincount(label, minlength=256)
    return ScanResult(
        scan=path,
        out=out,
        points=len(scan),
        unlabelled=int(counts[UNLABELLED]),
        counts={name: int(counts[number]) for number, name in enumerate(classes)},
        confidence=float(confidence[finite].mean()),
        seconds=time.monotonic() - start,
    )


def _points(
    config: PredictConfig, scan: PlyScan, progress: Progress
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pos (N, 3) float32 from the minimum, NaN where unknown, color (N, 3) uint8, and the
    minimum (3,) float64."""
    pos, origin = positions(scan)
    _check_finite(config, scan, pos)
    _check_extent(scan, pos, progress)
    color = colors(scan)
    if color is None:
        if not config.no_color_ok:
            names = ", ".join(scan.vertex.dtype.names or ())
            raise DatasetError(
                f"{scan.path}: found no colour among the vertex properties {names}; "
                "expected red, green, blue.\nTo label it all the same, as if it were grey, "
                "add --no-color-ok (less accurate)."
            )
        progress.warn(f"{scan.path}: no colour; labelled as if it were grey, so less accurately.")
        color = np.full((len(scan), 3), GREY, np.uint8)
    if scan.dropped:
        shown = ", ".join(f"{count:,} {name}" for name, count in scan.dropped.items())
        progress.say(f"{scan.path}: only points are labelled and written, not its {shown}")
    return pos, color, origin


def _check_finite(config: PredictConfig, scan: PlyScan, pos: np.ndarray) -> None:
    bad = np.flatnonzero(np.isnan(pos[:, 0]))
    if len(bad) == len(pos):
        raise DatasetError(f"{scan.path}: found no point with finite coordinates, expected some.")
    if len(bad) and not config.drop_nan:
        raise DatasetError(
            f"{scan.path}: found {len(bad):,} of {len(pos):,} points with NaN or infinite "
            f"coordinates, the first at index {bad[0]}.\n"
            f"To keep them in the output with class {UNLABELLED}, add --drop-nan."
        )


def _check_extent(scan: PlyScan, pos: np.ndarray, progress: Progress) -> None:
    extent = [float(np.nanmax(axis)) for axis in pos.T]
    shown = " × ".join(f"{size:.3g}" for size in extent)
    if extent[0] * extent[1] > LARGEST_GROUND:
        raise DatasetError(
            f"{scan.path}: found an extent of {shown}, expected metres, at most "
            f"{LARGEST_GROUND / 1e6:.0f} km² of ground.\n"
            "Convert its unit (millimetres?) or remove points that lie far off, and try again."
        )
    if max(extent) < 0.5 or max(extent) > 1000:
        progress.warn(
            f"{scan.path}: its extent is {shown}; the network expects metres, with z up. "
            "The labels are likely to be wrong."
        )


def _write(
    out: Path,
    scan: PlyScan,
    label: np.ndarray,
    confidence: np.ndarray,
    classes: tuple[str, ...],
) -> None:
    try:
        write_labelled(out, scan, label, confidence, classes, CLASS_COLORS)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            raise
        raise DatasetError(
            f"{out}: cannot be written ({error.strerror}).\nGive another place with --out."
        ) from error
