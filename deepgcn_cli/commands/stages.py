"""`deepgcn synth`, `prepare` and `predict`: one stage each, and what it returns in a few lines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from deepgcn_cli.display import Answer, Table
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import subcommand
from pipelines.config import PredictConfig, PrepareConfig, SynthConfig, TrainConfig
from pipelines.errors import command
from pipelines.progress import Progress, counted

if TYPE_CHECKING:
    from pipelines.predict import PredictResult


@subcommand("deepgcn synth raw", "deepgcn synth raw --areas 6 --rooms 3 --seed 1")
def synth(config: SynthConfig, progress: Progress) -> Answer:
    """Write a synthetic building in the raw S3DIS layout.

    A synthetic building of other settings in OUT is replaced, also one of another seed.
    """
    from pipelines.synth import synth as stage

    result = stage(config, progress=progress)
    text = f"{result.out}: {counted(result.rooms, 'room')}, {counted(result.points, 'point')}"
    return Answer(result, [text], hint=f"Next: {command('prepare', result.out)}")


@subcommand(
    "deepgcn prepare --area 5",
    "deepgcn prepare Stanford3dDataset_v1.2_Aligned_Version.zip --data data",
    "deepgcn prepare --dataset rooms.yaml",
)
def prepare(config: PrepareConfig, progress: Progress) -> Answer:
    """Read raw S3DIS rooms, repair known defects and write the prepared data.

    Every area found is prepared; --area is only recorded, as the default of train and eval. Run it
    again to continue after a stop.
    """
    from pipelines.data.s3dis.classes import TAKEN, describe_unknown
    from pipelines.data.statistics import describe
    from pipelines.prepare import prepare as stage

    with interruptible("the same command continues where it stopped"):
        result = stage(config, progress=progress)
    areas = ", ".join(f"area {area}: {rooms}" for area, rooms in result.areas.items())
    texts = [
        f"{result.data}: {counted(result.rooms, 'room')} ({areas}), "
        f"{counted(result.points, 'point')}",
        f"{f'test area {result.test_area}' if result.test_area else 'no test area'}, "
        f"{counted(len(result.repairs), 'line')} repaired",
        describe(result.statistics),
    ]
    taken = f"unknown class, {TAKEN.get(config.unknown)}"
    texts += [f"{taken}: {describe_unknown(name, **n)}" for name, n in result.unknown.items()]
    if result.exported:
        texts.append(f"{result.exported}: the published HDF5 form")
    where = () if config.data == TrainConfig.data else ("--data", config.data)
    return Answer(result, texts, f"{result.seconds:.1f} s. Next: {command('train', *where)}")


@subcommand(
    "deepgcn predict scan.ply",
    "deepgcn predict scan.pcd room.las 'more/*.csv' --out labelled --up y --scale 0.001",
    "deepgcn predict scan.ply --run runs/mine --out labelled.ply --view",
    "deepgcn predict scan.ply --weights mine --weights dgcnn-s3dis-area5 --votes 4",
)
def predict(config: PredictConfig, progress: Progress) -> Answer:
    """Label every point of scans: class, colour and confidence, in the scan's own order.

    Exit code 1: a scan could not be labelled; with several, the others are.
    """
    from pipelines.predict import predict as stage

    with interruptible("the same command continues where it stopped, if the scan is large"):
        result = stage(config, progress=progress)
    return Answer(result, described(result), failed=bool(result.failed))


def described(result: PredictResult) -> Iterator[str | Table]:
    """Yield each labelled scan's path and size, and the points and area of every class."""
    if len(result.names) > 1 or result.votes > 1:
        yield f"labelled by {' + '.join(result.names)}, {counted(result.votes, 'vote')}"
    for number, scan in enumerate(result.scans):
        labelled = scan.points - scan.unlabelled
        unlabelled = f", {scan.unlabelled:,} without label" if scan.unlabelled else ""
        earlier = f"; {counted(scan.earlier, 'point')} labelled before" if scan.earlier else ""
        extent = " × ".join(f"{size:.2f}" for size in scan.extent)
        if number:
            yield ""
        yield (
            f"{scan.out}: {counted(scan.points, 'point')}{unlabelled}, {extent} m, "
            f"mean confidence {100 * scan.confidence:.1f} %"
        )
        yield (
            f"{scan.seconds:.1f} s, of which labelling {scan.label_seconds:.1f} s "
            f"({(labelled - scan.earlier) / scan.label_seconds:,.0f} points/s){earlier}"
        )
        found = sorted(scan.counts.items(), key=lambda item: -item[1])
        rows = [
            [name, f"{count:,}", f"{100 * count / labelled:.1f} %", f"{scan.areas[name]:.1f}"]
            for name, count in found
            if count
        ]
        yield Table(["class", "points", "share", "area m²"], rows)
        if scan.page:
            yield f"{scan.page}: to look at it in 3-D, in a browser"
        if scan.picture:
            yield f"{scan.picture}: its picture"
