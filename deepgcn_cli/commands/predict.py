"""`deepgcn predict`: labels for the points of scans."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from deepgcn_cli.display import print_json, print_table, print_text
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, Json, Quiet, subcommand
from deepgcn_cli.progress import open_progress
from pipelines.config import PredictConfig

if TYPE_CHECKING:
    from pipelines.predict import ScanResult


@subcommand(
    "deepgcn predict scan.ply",
    "deepgcn predict scan.pcd room.las 'more/*.csv' --out labelled --up y --scale 0.001",
    "deepgcn predict scan.ply --run runs/mine --out labelled.ply --view",
    takes=(PredictConfig,),
)
def predict(*, flags: Flags, as_json: Json = False, quiet: Quiet = False) -> None:
    """Label every point of scans: class, colour and confidence, in the scan's own order.

    Exit code 1: a scan could not be labelled; with several, the others are.
    """
    config = PredictConfig(**flags)

    from pipelines.predict import predict as stage

    progress = open_progress(quiet=quiet)
    with interruptible("the same command goes on where it stopped, with large scans"):
        result = stage(config, progress=progress)
    if as_json:
        print_json(result)
    else:
        for number, scan in enumerate(result.scans):
            if number:
                print_text("")
            print_scan(scan)
    if result.failed:
        raise typer.Exit(1)


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
