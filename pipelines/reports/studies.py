"""A study as tables and a plot: the scores of each row, over its seeds and against its reference.

Scores are from 0 to 1 in the data and in percent where they are shown. ± is the standard deviation
over the seeds (n − 1 in the denominator).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .latex import latex_table
from .plots import COLORS, literal, panels, save_figure
from .tables import DAGGER, NONE, Table, csv_text, json_text, render_page, write_formats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "os^Dvp*"
# What a study may vary, as the axis of a plot.
AXES = {"depth": "layers", "width": "channels of a layer", "k": "neighbours k"}


@dataclass(frozen=True)
class Sample:
    """One scored run of a row; memory in bytes, the mean loss of the last tenth of the steps."""

    seed: int
    run: str
    oa: float
    macc: float
    miou: float
    seconds: float | None = None
    peak_memory: int | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Delta:
    """mIoU against the reference row: the mean over the seeds that both have, and its interval."""

    miou: float
    low: float | None  # None for one room and one seed, which have no spread
    high: float | None
    rooms: int
    seeds: int


@dataclass(frozen=True)
class Published:
    """The paper's figures for a row, in percent."""

    miou: float
    delta: float | None  # its difference to the reference row's; None for the reference itself
    cited: bool  # read in a public source; otherwise recalled, and shown with a dagger
    comparable: bool  # whether the runs have the published network, recipe, budget and data


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    name: str
    group: str  # the kind of change
    label: str  # the network and what else the row changes, for people
    samples: tuple[Sample, ...] = ()  # its scored runs
    delta: Delta | None = None  # against the reference row
    parameters: int | None = None  # trainable values
    published: Published | None = None
    remark: str = ""  # what is not finished, or went wrong
    axes: Mapping[str, Any] = field(default_factory=dict)  # the plots that it belongs to
    network: Mapping[str, Any] = field(default_factory=dict)  # settings, and places in plots

    @property
    def difference(self) -> float | None:
        """The mean mIoU minus the published one, in points, if the two compare."""
        mean, published = self.mean("miou"), self.published
        if mean is None or published is None or not published.comparable:
            return None
        return 100 * mean - published.miou

    def mean(self, figure: str) -> float | None:
        """Return the mean of a figure over the seeds that have it."""
        values = self._values(figure)
        return statistics.fmean(values) if values else None

    def deviation(self, figure: str) -> float | None:
        """Return the standard deviation of a figure over the seeds; None for fewer than two."""
        values = self._values(figure)
        return statistics.stdev(values) if len(values) > 1 else None

    def most(self, figure: str) -> float | None:
        """Return the largest of a figure over the seeds that have it."""
        return max(self._values(figure), default=None)

    def _values(self, figure: str) -> list[float]:
        found = (getattr(sample, figure) for sample in self.samples)
        return [value for value in found if value is not None]


@dataclass(frozen=True)
class StudyTable:
    """One table of a study."""

    study: str  # its name
    title: str  # of the table
    reference: str | None  # the row that the others are compared with, if any
    lines: tuple[Line, ...]  # its rows, in the study's order
    summary: Mapping[str, str] = field(default_factory=dict)  # what all rows share, in order
    notes: tuple[str, ...] = ()  # sentences below the table
    study_title: str = ""  # the heading of all its tables; "": its name

    @property
    def heading(self) -> str:
        """The study's title, or its name."""
        return self.study_title or self.study

    def table(self) -> Table:
        """Return the rows as texts, without columns that are empty."""
        shown = {name: [text(line) for line in self.lines] for name, text in COLUMNS.items()}
        kept = {
            name: cells for name, cells in shown.items() if name in ALWAYS or {*cells} - {"", NONE}
        }
        lines = tuple(zip(*kept.values(), strict=True))
        return Table(self.title, tuple(kept), lines, 3, 1, self.notes, self.summary)

    def records(self) -> list[dict[str, Any]]:
        """Return a flat record a row: fractions, seconds, bytes; the published in percent."""
        means, deltas = ("oa", "macc", "miou"), ("miou", "low", "high")
        figures = ("miou", "delta", "cited", "comparable")
        return [
            {
                "study": self.study,
                "table": self.title,
                "group": line.group,
                "row": line.name,
                "network": line.label,
                "seeds": len(line.samples),
                **{f"{name}_mean": line.mean(name) for name in means},
                **{f"{name}_sd": line.deviation(name) for name in means},
                **{f"delta_{name}": getattr(line.delta, name, None) for name in deltas},
                "loss": line.mean("loss"),
                "parameters": line.parameters,
                "seconds": line.mean("seconds"),
                "peak_memory": line.most("peak_memory"),
                **{f"published_{name}": getattr(line.published, name, None) for name in figures},
                "difference": line.difference,
                "remark": line.remark,
            }
            for line in self.lines
        ]


def write_study(
    folder: Path,
    tables: Sequence[StudyTable],
    *,
    reports: Sequence[str],
    pictures: bool,
    page_columns: int = 1,
) -> tuple[Path, ...]:
    """Write a study's tables in the formats asked for, and its plot, and return the files.

    `folder` is runs/studies/<study>; `tables` has one table a section. LaTeX is for pages of so
    many columns of text.
    """
    title, shown = tables[0].heading, [table.table() for table in tables]
    varied = {axis: found for axis in AXES if (found := curves(tables, axis))}
    drawn = [folder / "plot.png"] if pictures and varied else []
    for plot in drawn:
        save_figure(plot, study_figure(title, varied))
    records = [record for table in tables for record in table.records()]
    texts: dict[str, Callable[[], str]] = {
        "md": lambda: tables_markdown(tables),
        "csv": lambda: csv_text(list(records[0]), (record.values() for record in records)),
        "json": lambda: json_text(tables_values(tables)),
        "tex": lambda: "\n".join(latex_table(table, page_columns=page_columns) for table in shown),
        "html": lambda: render_page("study.html", title, drawn, tables=shown),
    }
    return (*write_formats(folder / "table", reports, texts), *drawn)


def tables_markdown(tables: Sequence[StudyTable]) -> str:
    """Return all tables of a study as one Markdown document."""
    return "\n".join([f"# {tables[0].heading}\n", *(t.table().as_section("##") for t in tables)])


def tables_values(tables: Sequence[StudyTable]) -> list[dict[str, Any]]:
    """Return all that the tables hold, with every seed's scores, for JSON."""
    return [
        {
            **{"study": table.study, "title": table.title, "reference": table.reference},
            **{"facts": dict(table.summary), "notes": list(table.notes)},
            "rows": [
                {**record, "axes": dict(line.axes), "samples": list(map(asdict, line.samples))}
                for record, line in zip(table.records(), table.lines, strict=True)
            ],
        }
        for table in tables
    ]


def duration(seconds: float) -> str:
    """Return "45 s", "3 min 5 s" or "2 h 10 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _shown(value: float | None, text: Callable[[float], str]) -> str:
    return NONE if value is None else text(value)


def _score(line: Line, name: str) -> str:
    """Return a score of a line, "52.49 ± 0.31", in percent."""
    spread = _shown(line.deviation(name), lambda value: f"{100 * value:.2f}")
    return _shown(line.mean(name), lambda value: f"{100 * value:.2f} ± {spread}")


def _loss(line: Line) -> str:
    spread = line.deviation("loss")
    after = "" if spread is None else f" ± {spread:.3f}"
    return _shown(line.mean("loss"), lambda value: f"{value:.3f}{after}")


def _delta(line: Line) -> str:
    if line.delta is None:
        return NONE
    miou, *interval = (line.delta.miou, line.delta.low, line.delta.high)
    ends = ", ".join(f"{100 * end:+.2f}" for end in interval if end is not None)
    return f"{100 * miou:+.2f}" + (f" [{ends}]" if ends else "")


def _published(line: Line, *, delta: bool = False) -> str:
    """Return the paper's mIoU, if it compares, or its difference to the reference row."""
    found = line.published
    if found is None or (found.delta is None if delta else not found.comparable):
        return NONE
    mark = "" if found.cited else f" {DAGGER}"
    return f"{found.delta:+.2f}{mark}" if delta else f"{found.miou:.2f}{mark}"


COLUMNS: dict[str, Callable[[Line], str]] = {
    "group": lambda line: line.group,
    "row": lambda line: line.name,
    "network": lambda line: line.label,
    "OA": lambda line: _score(line, "oa"),
    "mIoU": lambda line: _score(line, "miou"),
    "Δ mIoU": _delta,
    "training loss": _loss,
    "seeds": lambda line: str(len(line.samples)),
    "parameters": lambda line: _shown(line.parameters, lambda n: f"{n / 1e6:.3f} M"),
    "time": lambda line: _shown(line.mean("seconds"), duration),
    "memory": lambda line: _shown(line.most("peak_memory"), lambda n: f"{n / 1e9:.2f} GB"),
    "published Δ, full size": lambda line: _published(line, delta=True),
    "published": _published,
    "ours − published": lambda line: _shown(line.difference, lambda points: f"{points:+.2f}"),
    "remark": lambda line: line.remark,
}
ALWAYS = ("group", "row", "network", "OA", "mIoU", "seeds")  # also if they are empty


def curves(tables: Sequence[StudyTable], axis: str) -> dict[str, list[Line]]:
    """Return the curves of mIoU over an axis of the plot, each in ascending order.

    A row belongs to the axis if the study put it there; the reference row joins the curve of its
    own kind. With fewer than two places there is nothing to draw: no curves.
    """
    found: dict[str, list[Line]] = {}
    for table in tables:
        title = [table.title] if len(tables) > 1 else []
        lines = [(_kind(line, axis, title), line) for line in table.lines if line.samples]
        drawn = {kind for kind, line in lines if axis in line.axes}
        for kind, line in lines:
            if axis in line.axes or (line.name == table.reference and kind in drawn):
                found.setdefault(kind, []).append(line)
    if len({line.network[axis] for lines in found.values() for line in lines}) < 2:
        return {}
    return {kind: sorted(lines, key=lambda n: n.network[axis]) for kind, lines in found.items()}


def _kind(line: Line, axis: str, title: Sequence[str]) -> str:
    """Return the name of a row's curve: its values on the other axes."""
    others = [str(v) if n == "arch" else f"{n} {v}" for n, v in line.axes.items() if n != axis]
    return ", ".join([*title, *others]) or "mIoU"


def study_figure(title: str, varied: Mapping[str, Mapping[str, Sequence[Line]]]) -> Figure:
    """Draw mIoU over what a study varies, a panel for each: axis → name → curve.

    Each seed is a dot, the line goes through the means, a bar is ± one standard deviation.
    """
    figure, drawn = panels(1 + 4.2 * len(varied), 3.8, len(varied), sharey=True)
    for axes, (axis, curves) in zip(drawn, varied.items(), strict=True):
        for number, (name, curve) in enumerate(curves.items()):
            _draw_curve(axes, axis, number, name, curve)
        places = sorted({line.network[axis] for curve in curves.values() for line in curve})
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:g}" for place in places])
        axes.minorticks_off()
        axes.set_xlabel(AXES[axis])
        axes.grid(axis="y", color="0.9")
        axes.set_axisbelow(True)
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8)
    drawn[0].set_ylabel("mIoU, %")
    figure.suptitle(literal(title), fontsize=11)
    return figure


def _draw_curve(axes: Axes, axis: str, number: int, name: str, curve: Sequence[Line]) -> None:
    """Draw a curve; a row's note names the settings that differ from most of the curve."""
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    places = [line.network[axis] for line in curve]
    means = [100 * (line.mean("miou") or 0) for line in curve]
    spreads = [100 * (line.deviation("miou") or 0) for line in curve]
    style: dict[str, Any] = {"color": color, "marker": marker, "label": literal(name), "capsize": 3}
    axes.errorbar(places, means, yerr=spreads if any(spreads) else None, ms=5, lw=1.4, **style)
    usual = {name: statistics.mode(line.network[name] for line in curve) for name in AXES}
    for line, place, mean in zip(curve, places, means, strict=True):
        seeds = [100 * sample.miou for sample in line.samples]
        if len(seeds) > 1:
            axes.plot([place] * len(seeds), seeds, ".", color=color, alpha=0.45, ms=6)
        differing = [n for n in AXES if n != axis and line.network[n] != usual[n]]
        if differing:
            note = ", ".join(f"{n} {line.network[n]}" for n in differing)
            text = axes.annotate(note, (place, mean), (0, 8), textcoords="offset points")
            text.set(ha="right", fontsize=8, color="0.3")
