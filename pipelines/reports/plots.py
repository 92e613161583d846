"""Pictures for reports: rooms side by side, confusion, IoU bars, training curves, failures."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.data.store import Room
from pipelines.files import atomic_write

from .failures import TITLES, UNITS, error_rates
from .tables import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# With Chinese, Japanese and Korean letters, of Linux, Windows and macOS.
FONTS = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Arial Unicode MS", "Hiragino Sans"),
)
DPI = 100
MOST_POINTS = 3_000_000  # of a scan's picture
AZIMUTH, ELEVATION = 25.0, 55.0  # degrees, of the view of a room
BACKGROUND = 255  # grey
# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
WRONG, RIGHT, UNLABELLED = (200, 30, 30), (205, 205, 205), (128, 128, 128)


def room_picture(
    room: Room,
    predicted: np.ndarray,
    classes: Sequence[str],
    class_colors: Sequence[Sequence[int]],
    title: str,
) -> Figure:
    """Draw a room four times: the scan, its ground truth, its prediction (N,), its errors.

    Stray points, and those of the ceiling by ground truth, are left out of all four. `classes`
    are names in the order of the labels, `class_colors` their colours in RGB.
    """
    inside = _below_ceiling(room.label, ~room.stray, classes)
    palette = _palette(class_colors)
    label, predicted = room.label[inside], predicted[inside]
    wrong = (label != predicted) & (label < len(classes))
    shown = {
        "scan": room.color[inside],
        "ground truth": palette[label],
        "prediction": palette[predicted],
        f"errors ({100 * wrong.mean():.0f} % of these points)": np.where(
            wrong[:, None], np.array(WRONG, np.uint8), np.array(RIGHT, np.uint8)
        ),
    }
    found = {*label.tolist(), *predicted.tolist()}
    return _side_by_side(room.pos[inside], shown, found, classes, palette, title)


def scan_picture(
    pos: np.ndarray,
    color: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
    class_colors: Sequence[Sequence[int]],
    title: str,
) -> Figure:
    """Draw a scan twice: its colours and its predicted classes (N,).

    Points at NaN and those of the ceiling by prediction are left out of both. Of more than
    MOST_POINTS, a random sample is drawn.
    """
    shown = np.flatnonzero(_below_ceiling(predicted, ~np.isnan(pos[:, 0]), classes))
    if len(shown) > MOST_POINTS:
        rng = np.random.default_rng(0)
        shown = rng.choice(shown, MOST_POINTS, replace=False, shuffle=False)
    predicted, palette = predicted[shown], _palette(class_colors)
    views = {"scan": color[shown], "prediction": palette[predicted]}
    return _side_by_side(pos[shown], views, {*predicted.tolist()}, classes, palette, title)


def literal(text: str) -> str:
    """Return a name as Matplotlib draws it letter by letter, and not as mathematics.

    >>> literal("$x$")
    '\\\\$x\\\\$'
    """
    return text.encode(errors="backslashreplace").decode().replace("$", r"\$")


def _below_ceiling(label: np.ndarray, drawn: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """Return which `drawn` points (N,) bool are not of the ceiling; all of them if all are."""
    below = drawn & (label != (classes.index("ceiling") if "ceiling" in classes else -1))
    return below if below.any() else drawn


def _palette(class_colors: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the colour of every label (256, 3) uint8."""
    palette = np.full((256, 3), UNLABELLED, np.uint8)
    palette[: len(class_colors)] = np.asarray(class_colors, np.uint8)
    return palette


def _side_by_side(
    pos: np.ndarray,
    shown: Mapping[str, np.ndarray],
    found: Set[int],
    classes: Sequence[str],
    palette: np.ndarray,
    title: str,
) -> Figure:
    """Draw points in the colours (N, 3) of each view, with a legend of the classes `found`."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    pictures = {name: render(pos, values) for name, values in shown.items()}
    height, width, _ = pictures["scan"].shape
    figure = Figure(figsize=(len(pictures) * width / DPI, height / DPI + 1.1), dpi=DPI)
    top, bottom = 0.62 / figure.get_figheight(), 0.48 / figure.get_figheight()
    share = 1 / len(pictures)
    for number, (name, picture) in enumerate(pictures.items()):
        axes = figure.add_axes((number * share, bottom, share, 1 - top - bottom))
        axes.imshow(picture, interpolation="none")
        axes.set_title(name, fontsize=13)
        axes.set_axis_off()
    figure.suptitle(literal(title), fontsize=13, y=1 - 0.08 / figure.get_figheight(), va="top")
    labels = sorted(number for number in found if number < len(classes))
    handles = [
        Patch(facecolor=palette[n] / 255, edgecolor="0.4", label=literal(classes[n]))
        for n in labels
    ]
    size = {"fontsize": 11} if len(pictures) > 2 else {"fontsize": 9, "columnspacing": 1.0}
    figure.legend(handles=handles, loc="lower center", ncols=13, frameon=False, **size)
    return figure


def panels(
    width: float, height: float, columns: int = 1, *, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure, in inches, and its axes from left to right."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    return figure, list(figure.subplots(1, columns, sharey=sharey, squeeze=False)[0])


def confusion_figure(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Draw a confusion matrix (C, C): rows are ground truth, in percent of the row.

    Classes without ground truth have an empty row.
    """
    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    figure, (axes,) = panels(8.4, 7.6)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    names = [*map(literal, classes)]
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), names)
    axes.set_xlabel("prediction")
    axes.set_ylabel("ground truth (each row is 100 %)")
    axes.set_title(literal(title))
    for y, x in np.argwhere(share >= 0.005):
        tone = "white" if share[y, x] > 0.6 else "black"
        text = f"{100 * share[y, x]:.0f}"
        axes.text(x, y, text, ha="center", va="center", color=tone, fontsize=9)
    return figure


def iou_figure(rows: Sequence[Row], classes: Sequence[str]) -> Figure:
    """Draw the IoU per class, a bar for each row that has IoUs."""
    figure, (axes,) = panels(9, 3.6)
    shown = [(row.name, row.iou) for row in rows if row.iou is not None]
    width = 0.8 / len(shown)
    places = np.arange(len(classes))
    for number, (name, iou) in enumerate(shown):
        heights = [100 * (value or 0) for value in iou]
        shade = str(0.25 + 0.5 * number / max(1, len(shown) - 1)) if number else COLORS[0]
        offset = (number - (len(shown) - 1) / 2) * width
        axes.bar(places + offset, heights, width, label=literal(name), color=shade)
        for place, value in zip(places, iou, strict=True):
            if value is None:
                axes.text(place + offset, 1, "absent", rotation=90, ha="center", fontsize=7)
    axes.set_xticks(places, [*map(literal, classes)], rotation=30, ha="right")
    axes.set_ylabel("IoU, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=8)
    return figure


def training_curves(history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the loss and the validation scores over the steps of "epoch" records.

    A value that is missing or not finite leaves a gap.
    """

    def values(name: str) -> np.ndarray:
        return np.array([record.get(name) for record in history], dtype=float)  # None: NaN

    steps = [record.get("step", number) for number, record in enumerate(history, 1)]
    figure, (loss, validation) = panels(11, 3.4, 2)
    loss.plot(steps, values("loss"), ".-", color=COLORS[0])
    loss.set_title("training loss", fontsize=10)
    names = {"val_miou": ("mIoU", "-"), "val_macc": ("mAcc", "--"), "val_oa": ("OA", ":")}
    for (name, (label, dash)), color in zip(names.items(), COLORS, strict=False):
        if not np.isnan(found := values(name)).all():
            validation.plot(steps, 100 * found, dash, marker=".", color=color, label=label)
    validation.set_title("validation, %", fontsize=10)
    validation.set_ylim(0, 100)
    if validation.lines:
        validation.legend(frameon=False, fontsize=8)
    for axes in (loss, validation):
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step")
        axes.grid(axis="y", color="0.9")
    return figure


def failure_figure(failures: np.ndarray) -> Figure:
    """Draw the share of wrong points over each attribute."""
    figure, drawn = panels(11, 3.2, len(TITLES), sharey=True)
    for axes, (name, rows) in zip(drawn, error_rates(failures).items(), strict=True):
        axes.bar(range(len(rows)), [100 * (share or 0) for _, _, share in rows], color=COLORS[0])
        axes.set_xticks(range(len(rows)), [label for label, _, _ in rows], rotation=40, ha="right")
        axes.set_title(f"by {TITLES[name]}", fontsize=10)
        axes.set_xlabel(UNITS[name])
    drawn[0].set_ylabel("wrong points, %")
    return figure


def save_figure(path: Path, figure: Figure) -> None:
    """Write a figure as PNG, whole or not at all, without the date and program in it."""
    with atomic_write(path) as temporary, _fonts_for_all_letters():
        figure.savefig(temporary, format="png", metadata={"Software": None})


def figure_svg(figure: Figure) -> bytes:
    """Return a figure as SVG, the same bytes for the same figure."""
    import matplotlib

    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "deepgcn"}), _fonts_for_all_letters():
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()


@contextmanager
def _fonts_for_all_letters() -> Iterator[None]:
    """Draw letters that the usual font lacks in an installed one; without any, as boxes."""
    import matplotlib
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    fonts = [matplotlib.rcParams["font.sans-serif"][0], *(f for f in FONTS if f in installed)]
    with matplotlib.rc_context({"font.sans-serif": fonts}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+")
        yield


def project(pos: np.ndarray, azimuth: float, elevation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return screen coordinates (N, 2), right and up, and depth (N,), in the unit of `pos`."""
    turn, tilt = math.radians(azimuth), math.radians(elevation)
    right = np.array([math.cos(turn), math.sin(turn), 0.0])
    ahead = np.array([-math.sin(turn), math.cos(turn), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    screen_up = ahead * math.sin(tilt) + up * math.cos(tilt)
    looking = ahead * math.cos(tilt) - up * math.sin(tilt)
    pos = pos.astype(np.float64)
    return pos @ np.column_stack([right, screen_up]), pos @ looking


def render(
    pos: np.ndarray,
    color: np.ndarray,
    *,
    width: int = 640,
    azimuth: float = AZIMUTH,
    elevation: float = ELEVATION,
    splat: int | None = None,
) -> np.ndarray:
    """Draw points as squares, the nearest in front, in an orthographic view, as (H, W, 3) uint8.

    Args:
        pos: (N, 3) metres.
        color: (N, 3) uint8.
        width: of the picture, pixels; its height follows, at most four times as much.
        azimuth: degrees; 0 looks along +y with +x to the right, as on a map, and a larger one turns
            the camera counter-clockwise.
        elevation: degrees above the horizon that the camera looks down from.
        splat: side of a point, pixels; None: large enough to close the gaps between points.
    """
    screen, depth = project(pos, azimuth, elevation)
    low, high = screen.min(axis=0), screen.max(axis=0)
    across, up = map(float, high - low)
    scale = (width - 8) / max(across, up / 4, 1e-6)  # a thin column would be of endless height
    left = (width - round(across * scale)) // 2
    height = max(8, round(up * scale) + 8)
    if splat is None:
        splat = min(12, max(1, round(1.6 * math.sqrt(width * height / len(pos)))))
    columns = np.rint((screen[:, 0] - low[0]) * scale).astype(np.int64) + left - splat // 2
    rows = np.rint((high[1] - screen[:, 1]) * scale).astype(np.int64) + 4 - splat // 2
    far_first = np.argsort(-depth, kind="stable")
    rows, columns, order = rows[far_first], columns[far_first], np.arange(len(rows))
    front = np.full(height * width, -1)  # for each pixel the last point whose square covers it
    for down, right in itertools.product(range(splat), repeat=2):
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        np.maximum.at(front, y[inside] * width + x[inside], order[inside])
    picture = np.full((height * width, 3), BACKGROUND, np.uint8)
    picture[front >= 0] = color[far_first[front[front >= 0]]]
    return picture.reshape(height, width, 3)
