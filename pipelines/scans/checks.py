"""What is odd about a scan that is to be labelled: refused, or labelled with a word about it."""

from __future__ import annotations

import numpy as np

from pipelines.config import PredictConfig
from pipelines.errors import DatasetError
from pipelines.progress import SILENT, Progress, counted

from .colors import BLACK, GREY, fill_colors
from .frame import Frame, check_ground
from .table import UNLABELLED, Scan

# Metres; an extent outside of these is not that of a room or storey, but perhaps in other units.
SHORTEST, LONGEST, TALLEST = 0.5, 200.0, 20.0
LOW, HIGH = 1.8, 4.5  # of rooms
COARSE = 0.04  # steps of coordinates, of which a scanner has none, but float32 far off does
SAMPLE = 10_000  # points by which they are found
FEWEST = 8  # of these steps, along an axis
DARK = 15  # of 255; no scan's brightest colour
# From here on, going through the points may take more than two seconds.
LARGE = 1_000_000


def checked_points(
    scan: Scan, config: PredictConfig, progress: Progress, *, without_color: bool = False
) -> tuple[np.ndarray, np.ndarray, Frame]:
    """Return pos (N, 3) float32 from the frame's low corner, color (N, 3) uint8, and the frame.

    Unknown positions are NaN. Without colours the points are grey, which needs no permission if
    the network labels `without_color`.

    Raises:
        DatasetError: no point has coordinates, some have none, or none has a colour, and the
            options do not allow it; or the frame is not that of a scan.
    """
    shown = progress if len(scan) >= LARGE else SILENT
    with shown.task("Finding the frame", total=len(scan), unit="points") as task:
        pos, frame = scan.positions(config.frame, task)
    check_positions(scan, config, pos, frame, progress)
    color = _colors(scan, config, pos, progress, without_color=without_color)
    if scan.dropped:
        lists = ", ".join(
            f"{name} of {counted(count, 'point')}" for name, count in scan.dropped.items()
        )
        progress.say(f"{scan.path}: left out of the result are the lists {lists}")
    return pos, color, frame


def _colors(
    scan: Scan, config: PredictConfig, pos: np.ndarray, progress: Progress, *, without_color: bool
) -> np.ndarray:
    """Return color (N, 3) uint8 for every point, with a word about those that have none."""
    color = scan.colors()
    if color is None and without_color:
        progress.say(f"{scan.path}: no colour, which the network does without")
        return np.full((len(scan), 3), GREY, np.uint8)
    if color is None:
        if not config.no_color_ok:
            raise DatasetError(
                f"{scan.path}: found {scan.without_color()}; expected red, green, blue.\n"
                "Label it with weights that see none (--weights indoor-large), or as if it were "
                "grey with --no-color-ok (less accurate)."
            )
        progress.warn(
            f"{scan.path}: no colour; labelled as if it were grey, so less accurately, unless the "
            "network was trained with --recipe modern."
        )
        return np.full((len(scan), 3), GREY, np.uint8)
    missing, placed = scan.uncolored(), np.flatnonzero(~np.isnan(pos[:, 0]))
    if (count := int(missing[placed].sum())) and not without_color:
        progress.warn(
            f"{scan.path}: {count:,} of {counted(len(scan), 'point')} without colour; labelled "
            "with that of the nearest coloured point, and written as in the scan."
        )
        with progress.task("Filling in colours", unit="points"):
            fill_colors(pos, color, missing)
    if (brightest := int(color.max())) <= DARK:
        progress.warn(
            f"{scan.path}: found {brightest} of 255 as its brightest colour; if these columns are "
            "labels, not colours, say so with --columns."
        )
    black = float(np.mean(color.max(axis=1)[placed] == 0))
    if black >= BLACK:
        progress.warn(
            f"{scan.path}: {100 * black:.0f} % of the points are exactly black, as programs write "
            "for points without colour; labelled as black. If they have none, say so with NaN."
        )
    return color


def check_positions(
    scan: Scan, config: PredictConfig, pos: np.ndarray, frame: Frame, progress: Progress
) -> None:
    """Refuse positions that cannot be labelled, and warn of those that look wrong.

    `pos` (N, 3) float32 is in metres from the low corner of the frame, NaN where unknown.
    """
    bad = np.flatnonzero(np.isnan(pos[:, 0]))
    if len(bad) == len(pos):
        raise DatasetError(f"{scan.path}: found no point with finite coordinates, expected some.")
    if len(bad) and not config.drop_nan:
        raise DatasetError(
            f"{scan.path}: found {len(bad):,} of {counted(len(pos), 'point')} with NaN or infinite "
            f"coordinates, the first at index {bad[0]}.\n"
            f"To keep them in the output with class {UNLABELLED}, add --drop-nan."
        )
    leave_out = "leave points that lie far away out of the frame (--frame robust)"
    advice = (
        "Give its unit (--scale 0.001 for millimetres), or "
        f"{leave_out if config.frame == 'published' else 'cut out the part to label'}."
    )
    check_ground(scan.path, len(scan), scan.coordinates, frame, advice)
    extent = frame.extent.tolist()
    shown = " × ".join(f"{size:.3g}" for size in extent)
    if not SHORTEST <= max(extent[:2]) <= LONGEST or extent[2] > TALLEST:
        progress.warn(
            f"{scan.path}: its extent is {shown}; the network expects a room or storey in metres, "
            "with z up. The labels are likely to be wrong: see --scale and --up."
        )
    elif config.up == "z" and LOW <= (low := min(extent[:2])) <= HIGH < extent[2] >= 1.5 * low:
        progress.warn(
            f"{scan.path}: its extent is {shown}, as of a room that lies on its side. If it does, "
            f"label it with --up {'xy'[extent.index(low)]}"
        )
    if steps := _coarse_steps(scan):
        progress.warn(
            f"{scan.path}: its coordinates {', '.join(steps)} are in steps of "
            f"{max(steps.values()):.2g} m, so digits were lost, as in float32 far from the origin, "
            "or it was thinned to a grid. The labels are likely to be wrong: export it as float64, "
            "or moved to the origin."
        )


def _coarse_steps(scan: Scan) -> dict[str, float]:
    """Return the steps, in metres, of coordinates that are in steps of COARSE or more."""
    found = {}
    for name in scan.position:
        values = scan.rows[name][:: -(-len(scan) // SAMPLE)].astype(np.float64)
        places = np.unique(values[np.isfinite(values)])
        if len(places) < FEWEST or len(values) < max(1000, 4 * len(places)):
            continue  # as of a few flat things, or of as many places as a scan has
        if (step := float(np.quantile(np.diff(places), 0.05)) * scan.options.scale) >= COARSE:
            found[name] = step
    return found
