"""Scores and labelled scans as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .display import print_json, print_table, print_text

if TYPE_CHECKING:
    from pipelines.evaluate import EvalResult, RunScores
    from pipelines.predict import PredictResult, ScanResult


def print_scores(result: EvalResult, *, as_json: bool) -> None:
    """Print the scores of every run under every protocol, and where the reports are."""
    if as_json:
        return print_json([_record(found) for found in result.results])
    for number, found in enumerate(result.results):
        if number:
            print_text("")
        print_result(found)


def print_result(found: RunScores) -> None:
    """Print one run's table: classes down, runs across, so that it fits on a terminal."""
    print_text(found.report.title)
    columns, lines = found.report.table()
    names = ["", *(line[0] for line in lines)]
    rows = [[columns[n], *(line[n] for line in lines)] for n in range(1, len(columns))]
    print_table(names, rows)
    print_text("\n".join(found.report.notes))
    for file in found.files:
        print_text(f"  {file}")


def _record(found: RunScores) -> dict[str, object]:
    """Return what a script wants of one run's scores; scores.json has the rest."""
    return {
        "run": found.run,
        "area": found.area,
        "protocol": found.protocol,
        "scores": found.scores,
        "baseline": found.baseline,
        "files": found.files,
        "blocks": found.blocks,
        "seconds": found.seconds,
    }


def print_predictions(result: PredictResult, *, as_json: bool) -> None:
    """Print what each scan was found to hold."""
    if as_json:
        return print_json(result)
    for scan in result.scans:
        print_scan(scan)


def print_scan(scan: ScanResult) -> None:
    """Print one labelled scan: where it is, and the share of each class."""
    labelled = scan.points - scan.unlabelled
    unlabelled = f", {scan.unlabelled:,} without label" if scan.unlabelled else ""
    print_text(
        f"{scan.out}: {scan.points:,} points{unlabelled}, "
        f"mean confidence {100 * scan.confidence:.1f} %, {scan.seconds:.1f} s"
    )
    found = sorted(scan.counts.items(), key=lambda item: -item[1])
    shares = [f"{name} {100 * count / labelled:.1f} %" for name, count in found if count]
    print_text(f"  {', '.join(shares)}")
