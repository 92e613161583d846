"""Pictures for reports: rooms side by side, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..files import atomic_write
from .render import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100


def room_picture(
    path: Path,
    pos: np.ndarray,
    color: np.ndarray,
    label: np.ndarray,
    predicted: np.ndarray,
    *,
    classes: Sequence[str],
    class_colors: Sequence[Sequence[int]],
    title: str,
) -> None:
    """Draw a room three times: the scan, its ground truth, its prediction.

    Points whose ground truth is ceiling are left out of all three, so that one sees inside.

    Args:
        path: PNG to write.
        pos: (N, 3) metres.
        color: (N, 3) uint8.
        label: (N,) ground truth.
        predicted: (N,) prediction.
        classes: names, in the order of the labels.
        class_colors: one RGB colour per class.
        title: above the picture.
    """
    inside = np.ones(len(pos), bool)
    if "ceiling" in classes and (label != classes.index("ceiling")).any():
        inside = label != classes.index("ceiling")
    palette = np.asarray(class_colors, np.uint8)
    panels = {
        "scan": color[inside],
        "ground truth": palette[label[inside]],
        "prediction": palette[predicted[inside]],
    }
    pictures = {name: render(pos[inside], values) for name, values in panels.items()}
    shown = sorted({*label[inside].tolist(), *predicted[inside].tolist()})
    figure = _side_by_side(pictures, title)
    _legend(figure, [classes[n] for n in shown], [class_colors[n] for n in shown])
    _save(figure, path)


def _side_by_side(pictures: dict[str, np.ndarray], title: str) -> Figure:
    from matplotlib.figure import Figure

    height, width, _ = next(iter(pictures.values())).shape
    figure = Figure(figsize=(len(pictures) * width / DPI, height / DPI + 1.1), dpi=DPI)
    top, bottom = 0.62 / figure.get_figheight(), 0.48 / figure.get_figheight()
    for number, (name, picture) in enumerate(pictures.items()):
        share = 1 / len(pictures)
        axes = figure.add_axes((number * share, bottom, share, 1 - top - bottom))
        axes.imshow(picture, interpolation="none")
        axes.set_title(name, fontsize=13)
        axes.set_axis_off()
    figure.suptitle(title, fontsize=13, y=1 - 0.08 / figure.get_figheight(), va="top")
    return figure


def _legend(figure: Figure, names: Sequence[str], colors: Sequence[Sequence[int]]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(
            facecolor=(color[0] / 255, color[1] / 255, color[2] / 255), edgecolor="0.4", label=name
        )
        for name, color in zip(names, colors, strict=True)
    ]
    figure.legend(handles=handles, loc="lower center", ncols=13, frameon=False, fontsize=11)


def confusion_picture(path: Path, matrix: np.ndarray, classes: Sequence[str], title: str) -> None:
    """Draw a confusion matrix (C, C): rows are ground truth, in percent of the row.

    Classes without ground truth have an empty row.
    """
    from matplotlib.figure import Figure

    totals = matrix.sum(axis=1, keepdims=True)
    share = np.divide(matrix, totals, out=np.full(matrix.shape, np.nan), where=totals > 0)
    figure = Figure(figsize=(8.4, 7.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("prediction")
    axes.set_ylabel("ground truth (each row is 100 %)")
    axes.set_title(title)
    for row, column in np.argwhere(share >= 0.005):
        value = share[row, column]
        tone = "white" if value > 0.6 else "black"
        text = f"{100 * value:.0f}"
        axes.text(column, row, text, ha="center", va="center", color=tone, fontsize=9)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, without the date and program in it."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
