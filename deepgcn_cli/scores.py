"""Scores and labelled scans as a person reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .display import percent, print_json, print_table, print_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pipelines.evaluate import EvalResult, RunScores
    from pipelines.predict import PredictResult, ScanResult
    from pipelines.reports.tables import Report
    from pipelines.sixfold import SixFoldResult


def print_scores(result: EvalResult, *, as_json: bool) -> None:
    """Print the scores of every run under every protocol, and where the reports are."""
    if as_json:
        return print_json([_record(found) for found in result.results])
    for number, found in enumerate(result.results):
        if number:
            print_text("")
        print_report(found.report, found.files)
    if len(result.results) > 1:
        print_text("")
        print_side_by_side(result.results)


def print_report(report: Report, files: Sequence[Path]) -> None:
    """Print a report's table, classes down and rows across, so that it fits on a terminal."""
    print_text(report.title)
    table = report.table()
    columns, lines = table.columns, table.lines
    names = ["", *(line[0] for line in lines)]
    rows = [[columns[n], *(line[n] for line in lines)] for n in range(1, len(columns))]
    print_table(names, rows)
    print_text("\n".join(report.notes))
    for file in files:
        print_text(f"  {file}")


def print_side_by_side(results: Sequence[RunScores]) -> None:
    """Print a line for each run and protocol."""
    columns = ("run", "protocol", "points scored", "OA", "mAcc", "mIoU")
    rows = [
        (
            found.run.name,
            found.protocol,
            f"{found.scores.points:,}",
            *(percent(v) for v in (found.scores.oa, found.scores.macc, found.scores.miou)),
        )
        for found in results
    ]
    print_table(columns, rows)


def print_folds(results: Sequence[SixFoldResult], *, as_json: bool) -> None:
    """Print the pooled and mean scores of all areas."""
    if as_json:
        return print_json([{**found.report.values, "files": found.files} for found in results])
    for number, found in enumerate(results):
        if number:
            print_text("")
        print_report(found.report, found.files)


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
    for number, scan in enumerate(result.scans):
        if number:
            print_text("")
        print_scan(scan)


def print_scan(scan: ScanResult) -> None:
    """Print one labelled scan: where it is, how large, and what each class has of it."""
    labelled = scan.points - scan.unlabelled
    unlabelled = f", {scan.unlabelled:,} without label" if scan.unlabelled else ""
    earlier = f"; {scan.earlier:,} points were labelled before" if scan.earlier else ""
    extent = " × ".join(f"{size:.2f}" for size in scan.extent)
    print_text(
        f"{scan.out}: {scan.points:,} points{unlabelled}, {extent} m, "
        f"mean confidence {100 * scan.confidence:.1f} %\n"
        f"{scan.seconds:.1f} s, of which labelling {scan.label_seconds:.1f} s "
        f"({(labelled - scan.earlier) / scan.label_seconds:,.0f} points/s){earlier}"
    )
    found = sorted(scan.counts.items(), key=lambda item: -item[1])
    rows = [
        [name, f"{count:,}", f"{100 * count / labelled:.1f} %", f"{scan.areas[name]:.1f}"]
        for name, count in found
        if count
    ]
    print_table(["class", "points", "share", "area m²"], rows)
