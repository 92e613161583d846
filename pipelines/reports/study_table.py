"""A study as a table: what each row came to, over its seeds and against its reference.

Figures are from 0 to 1 in the data, in percent where they are shown. ± is the standard deviation
over the seeds (n − 1 in the denominator).
"""

from __future__ import annotations

import csv
import dataclasses
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .tables import DAGGER, Table, escape_latex, markdown_table

NONE = "–"
TEXTS = 3  # leading columns of text


@dataclass(frozen=True)
class Sample:
    """One scored run of a row: its seed, name and figures; memory in bytes.

    `loss` is the mean cross-entropy of the last tenth of its training steps: how far the training
    came, whatever the test rooms make of it.
    """

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
    """mIoU against the reference row: the mean over the seeds that both have, and its interval.

    `low` and `high` are None where there is nothing to draw from: one room and one seed.
    """

    miou: float
    low: float | None
    high: float | None
    rooms: int
    seeds: int


@dataclass(frozen=True)
class Published:
    """What the paper gives for a row, in percent.

    Attributes:
        miou: the row's figure.
        delta: its difference to the reference row's; None for the reference itself.
        cited: read in a public source; else recalled, and shown with a dagger.
        comparable: whether the runs have the published network, recipe, budget and data.
    """

    miou: float
    delta: float | None
    cited: bool
    comparable: bool


@dataclass(frozen=True)
class Line:
    """A row of the table.

    Attributes:
        name: plain.
        group: what kind of change it is.
        label: the network and what else the row changes, for people.
        samples: its scored runs.
        delta: against the reference row.
        parameters: trainable values.
        published: what the paper gives.
        remark: what is not finished, or went wrong.
        axes: where it stands in plots; `network` has the places.
        network: the settings of its network.
    """

    name: str
    group: str
    label: str
    samples: tuple[Sample, ...] = ()
    delta: Delta | None = None
    parameters: int | None = None
    published: Published | None = None
    remark: str = ""
    axes: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)

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
    """One table of a study.

    Attributes:
        study: its name.
        title: heading.
        reference: the row that the others are compared with, if there is one.
        lines: its rows, in the study's order.
        seeds: how many each row has when all is done.
        facts: what all rows share, in order.
        notes: sentences below the table.
    """

    study: str
    title: str
    reference: str | None
    lines: tuple[Line, ...]
    seeds: int
    facts: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def table(self) -> Table:
        """Return the column names and the lines as texts, without columns that are empty."""
        lines = [tuple(text(line) for _, text, _ in COLUMNS) for line in self.lines]
        kept = [
            number
            for number, (_, _, always) in enumerate(COLUMNS)
            if always or any(line[number] not in ("", NONE) for line in lines)
        ]
        return Table(
            self.title,
            tuple(COLUMNS[number][0] for number in kept),
            tuple(tuple(line[number] for number in kept) for line in lines),
        )

    def as_markdown(self) -> str:
        """Return the table, its notes and facts as Markdown."""
        table = self.table()
        facts = "\n".join(f"- {name}: {value}" for name, value in self.facts.items())
        drawn = markdown_table(table.columns, table.lines, texts=TEXTS)
        parts = (f"## {self.title}", drawn, *self.notes, facts)
        return "\n\n".join(part for part in parts if part) + "\n"

    def as_latex(self) -> str:
        """Return the table as LaTeX, for the package booktabs; notes and facts as comments."""
        table = self.table()
        remarks = [*self.notes, *(f"{name}: {value}" for name, value in self.facts.items())]
        rows = [" & ".join(map(escape_latex, line)) + r" \\" for line in table.lines]
        return "\n".join(
            [
                *(f"% {remark}" for remark in remarks),
                r"% needs \usepackage{booktabs}",
                r"\begin{table*}",
                r"\centering\small",
                rf"\caption{{{escape_latex(self.title)}.}}",
                rf"\begin{{tabular}}{{{'l' * TEXTS}{'r' * (len(table.columns) - TEXTS)}}}",
                r"\toprule",
                " & ".join(map(escape_latex, table.columns)) + r" \\",
                r"\midrule",
                *rows,
                r"\bottomrule",
                r"\end{tabular}",
                r"\end{table*}",
                "",
            ]
        )

    def records(self) -> list[dict[str, Any]]:
        """Return a flat record a row, unrounded, for CSV and JSON."""
        return [_record(self, line) for line in self.lines]


def tables_csv(tables: Sequence[StudyTable]) -> str:
    """Return the rows of all tables as CSV: fractions, seconds, bytes; empty where none is known.

    Published figures are in percent, as published.
    """
    records = [record for table in tables for record in table.records()]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {k: "" if v is None else f"{v:.6f}" if isinstance(v, float) else v for k, v in r.items()}
        for r in records
    )
    return text.getvalue()


def tables_values(tables: Sequence[StudyTable]) -> list[dict[str, Any]]:
    """Return everything that the tables hold, every seed's figures included, for JSON."""
    return [
        {
            **{"study": table.study, "title": table.title, "reference": table.reference},
            **{"facts": dict(table.facts), "notes": list(table.notes)},
            "rows": [
                {
                    **record,
                    "axes": dict(line.axes),
                    "samples": [dataclasses.asdict(sample) for sample in line.samples],
                }
                for record, line in zip(table.records(), table.lines, strict=True)
            ],
        }
        for table in tables
    ]


def _record(table: StudyTable, line: Line) -> dict[str, Any]:
    delta, published = line.delta, line.published
    ours = line.mean("miou")
    both = published is not None and published.comparable and ours is not None
    return {
        "study": table.study,
        "table": table.title,
        "group": line.group,
        "row": line.name,
        "network": line.label,
        "seeds": len(line.samples),
        **{f"{name}_mean": line.mean(name) for name in ("oa", "macc", "miou")},
        **{f"{name}_sd": line.deviation(name) for name in ("oa", "macc", "miou")},
        "delta_miou": delta and delta.miou,
        "delta_low": delta and delta.low,
        "delta_high": delta and delta.high,
        "loss": line.mean("loss"),
        "parameters": line.parameters,
        "seconds": line.mean("seconds"),
        "peak_memory": line.most("peak_memory"),
        "published_miou": published and published.miou,
        "published_delta": published and published.delta,
        "published_cited": published and published.cited,
        "published_comparable": published and published.comparable,
        "difference": 100 * ours - published.miou if both and published and ours else None,
        "remark": line.remark,
    }


# --- columns -------------------------------------------------------------------------------------


def _scored(figure: str) -> Callable[[Line], str]:
    return lambda line: with_deviation(line.mean(figure), line.deviation(figure))


def with_deviation(mean: float | None, deviation: float | None) -> str:
    """Return "52.49 ± 0.31", in percent; "–" in place of what is not known."""
    if mean is None:
        return NONE
    spread = NONE if deviation is None else f"{100 * deviation:.2f}"
    return f"{100 * mean:.2f} ± {spread}"


def _delta(line: Line) -> str:
    if line.delta is None:
        return NONE
    found = f"{100 * line.delta.miou:+.2f}"
    if line.delta.low is None or line.delta.high is None:
        return found
    return f"{found} [{100 * line.delta.low:+.2f}, {100 * line.delta.high:+.2f}]"


def _loss(line: Line) -> str:
    mean, deviation = line.mean("loss"), line.deviation("loss")
    if mean is None:
        return NONE
    return f"{mean:.3f}" if deviation is None else f"{mean:.3f} ± {deviation:.3f}"


def _parameters(line: Line) -> str:
    return NONE if line.parameters is None else f"{line.parameters / 1e6:.3f} M"


def _time(line: Line) -> str:
    mean = line.mean("seconds")
    return NONE if mean is None else duration(mean)


def duration(seconds: float) -> str:
    """Return "45 s", "3 min 5 s" or "2 h 10 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _memory(line: Line) -> str:
    most = line.most("peak_memory")
    return NONE if most is None else f"{most / 1e9:.2f} GB"


def _published_delta(line: Line) -> str:
    found = line.published
    return NONE if found is None or found.delta is None else f"{found.delta:+.2f}{_dagger(found)}"


def _published(line: Line) -> str:
    found = line.published
    return f"{found.miou:.2f}{_dagger(found)}" if found and found.comparable else NONE


def _difference(line: Line) -> str:
    ours, found = line.mean("miou"), line.published
    if ours is None or found is None or not found.comparable:
        return NONE
    return f"{100 * ours - found.miou:+.2f}"


def _dagger(published: Published) -> str:
    return "" if published.cited else f" {DAGGER}"


# Title, what stands in it, and whether it is there even when nothing does.
COLUMNS: tuple[tuple[str, Callable[[Line], str], bool], ...] = (
    ("group", lambda line: line.group, True),
    ("row", lambda line: line.name, True),
    ("network", lambda line: line.label, True),
    ("OA", _scored("oa"), True),
    ("mIoU", _scored("miou"), True),
    ("Δ mIoU", _delta, False),
    ("training loss", _loss, False),
    ("seeds", lambda line: str(len(line.samples)), True),
    ("parameters", _parameters, False),
    ("time", _time, False),
    ("memory", _memory, False),
    ("published Δ, full size", _published_delta, False),
    ("published", _published, False),
    ("ours − published", _difference, False),
    ("remark", lambda line: line.remark, False),
)
