"""Pictures for reports: rooms side by side, confusion, IoU bars, training curves, failures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.files import atomic_write

from .failures import EDGES, TITLES, UNITS, Failures
from .render import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 100
WRONG, RIGHT = (200, 30, 30), (205, 205, 205)
UNLABELLED = (128, 128, 128)


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
    """Draw a room four times: the scan, its ground truth, its prediction, its errors.

    Points whose ground truth is ceiling are left out of all four, so that one sees inside.

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
    palette = np.full((256, 3), UNLABELLED, np.uint8)
    palette[: len(class_colors)] = np.asarray(class_colors, np.uint8)
    wrong = ((label != predicted) & (label < len(classes)))[inside]
    panels = {
        "scan": color[inside],
        "ground truth": palette[label[inside]],
        "prediction": palette[predicted[inside]],
        f"errors ({100 * wrong.mean():.0f} % of these points)": np.where(
            wrong[:, None], np.array(WRONG, np.uint8), np.array(RIGHT, np.uint8)
        ),
    }
    pictures = {name: render(pos[inside], values) for name, values in panels.items()}
    there = {*label[inside].tolist(), *predicted[inside].tolist()}
    shown = sorted(number for number in there if number < len(classes))
    figure = _side_by_side(pictures, title)
    _legend(figure, [classes[n] for n in shown], [class_colors[n] for n in shown])
    save_figure(figure, path)


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
    save_figure(figure, path)


def iou_bars(
    path: Path, rows: Sequence[tuple[str, Sequence[float | None]]], classes: Sequence[str]
) -> None:
    """Draw the IoU per class, a bar for each row; a row is (name, IoUs from 0 to 1 or None)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(rows)
    places = np.arange(len(classes))
    for number, (name, iou) in enumerate(rows):
        heights = [100 * (value or 0) for value in iou]
        shade = str(0.25 + 0.5 * number / max(1, len(rows) - 1)) if number else "#0072b2"
        offset = (number - (len(rows) - 1) / 2) * width
        axes.bar(places + offset, heights, width, label=name, color=shade)
        for place, value in zip(places, iou, strict=True):
            if value is None:
                axes.text(place + offset, 1, "absent", rotation=90, ha="center", fontsize=7)
    axes.set_xticks(places, classes, rotation=30, ha="right")
    axes.set_ylabel("IoU, %")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


def training_curve(path: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Draw loss and validation mIoU over epochs from the "epoch" records of metrics.jsonl."""
    from matplotlib.figure import Figure

    epochs = [record["epoch"] for record in history]
    figure = Figure(figsize=(6, 3.4), dpi=DPI, layout="constrained")
    left = figure.subplots()
    left.plot(epochs, [record["loss"] for record in history], "-", color="#d55e00")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss (solid)")
    right = left.twinx()
    right.plot(
        epochs, [100 * record["val_miou"] for record in history], "--o", color="#0072b2", ms=3
    )
    right.set_ylabel("validation mIoU, % (dashed)")
    save_figure(figure, path)


def failure_plot(path: Path, failures: Failures) -> None:
    """Draw the share of wrong points over each attribute."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.2), dpi=DPI, layout="constrained")
    panels = figure.subplots(1, len(EDGES), sharey=True)
    for axes, name in zip(panels, EDGES, strict=True):
        rows = failures.rows(name)
        axes.bar(range(len(rows)), [100 * (share or 0) for _, _, share in rows], color="#0072b2")
        axes.set_xticks(range(len(rows)), [label for label, _, _ in rows], rotation=40, ha="right")
        axes.set_title(f"by {TITLES[name]}", fontsize=10)
        axes.set_xlabel(UNITS[name])
    panels[0].set_ylabel("wrong points, %")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all, without the date and program in it."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
