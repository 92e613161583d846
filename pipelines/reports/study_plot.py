"""mIoU against depth, width and k: a panel for each that a study varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .plots import DPI, save_figure
from .study_table import Line, StudyTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

AXES = {"depth": "layers", "width": "channels of a layer", "k": "neighbours k"}
# Okabe and Ito's colours, which stay apart for colour-blind readers.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
MARKERS = "os^Dvp*"

Series = dict[str, list[tuple[float, Line]]]


def study_plot(path: Path, tables: Sequence[StudyTable]) -> bool:
    """Draw the panels that have two points or more; False: there are none, nothing is written.

    Each seed is a dot, the line goes through the means, a bar is ± one standard deviation.

    Args:
        path: PNG to write.
        tables: of a study; a table's series stay apart from the other tables'.
    """
    from matplotlib.figure import Figure

    panels = {axis: found for axis in AXES if (found := series(tables, axis))}
    if not panels:
        return False
    figure = Figure(figsize=(1 + 4.2 * len(panels), 3.8), dpi=DPI, layout="constrained")
    drawn = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (axis, found) in zip(drawn, panels.items(), strict=True):
        _draw_panel(axes, axis, found)
    drawn[0].set_ylabel("mIoU, %")
    figure.suptitle(tables[0].study, fontsize=11)
    save_figure(figure, path)
    return True


def series(tables: Sequence[StudyTable], axis: str) -> Series:
    """Return what a panel shows: (place, row) for each curve, in order of the places.

    A row belongs to the panel if the study put it on that axis; the reference row joins the curve
    of its own kind. Without two places there is no panel.
    """
    found: Series = {}
    for table in tables:
        lines = [line for line in table.lines if line.samples]
        placed = [line for line in lines if axis in line.axes]
        kinds = {_kind(line.axes, axis, table, tables) for line in placed}
        for line in lines:
            kind = _kind(line.axes, axis, table, tables)
            joins = line.name == table.reference and kind in kinds
            if line in placed or joins:
                place = float(line.network[axis])
                found.setdefault(kind, []).append((place, line))
    places = {place for points in found.values() for place, _ in points}
    if len(places) < 2:
        return {}
    return {kind: sorted(points, key=lambda p: p[0]) for kind, points in found.items()}


def _kind(
    axes: Mapping[str, Any], axis: str, table: StudyTable, tables: Sequence[StudyTable]
) -> str:
    """Return what a curve has in common: where its rows stand on the other axes."""
    others = [str(v) if n == "arch" else f"{n} {v}" for n, v in axes.items() if n != axis]
    return ", ".join([*([table.title] if len(tables) > 1 else []), *others]) or "mIoU"


def _draw_panel(axes: Axes, axis: str, found: Series) -> None:
    for number, (kind, points) in enumerate(found.items()):
        color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
        places = [place for place, _ in points]
        means = [100 * (line.mean("miou") or 0.0) for _, line in points]
        spreads = [100 * (line.deviation("miou") or 0.0) for _, line in points]
        axes.errorbar(
            places,
            means,
            yerr=spreads if any(spreads) else None,
            color=color,
            marker=marker,
            ms=5,
            lw=1.4,
            capsize=3,
            label=kind,
        )
        for place, line in points:
            _note_difference(axes, axis, place, line, points)
            dots = [100 * sample.miou for sample in line.samples]
            if len(dots) > 1:
                axes.plot([place] * len(dots), dots, ".", color=color, alpha=0.45, ms=6)
    places = sorted({place for points in found.values() for place, _ in points})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
    axes.set_xlabel(AXES[axis])
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    if len(found) > 1:
        axes.legend(frameon=False, fontsize=8)


def _note_difference(
    axes: Axes, axis: str, place: float, line: Line, points: list[tuple[float, Line]]
) -> None:
    """Write beside a point what else it has that most of its curve has not: "k 8"."""
    for name in AXES:
        values = [other.network[name] for _, other in points]
        usual = max(values, key=values.count)
        if name != axis and line.network[name] != usual:
            top = (place, 100 * (line.mean("miou") or 0.0))
            text, beside = f"{name} {line.network[name]}", (0, 8)
            axes.annotate(
                text, top, beside, textcoords="offset points", ha="right", fontsize=8, color="0.3"
            )
