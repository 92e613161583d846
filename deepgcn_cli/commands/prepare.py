"""`deepgcn prepare`: raw rooms → the prepared data."""

from __future__ import annotations

from deepgcn_cli.display import print_json, print_text
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import Flags, Json, Quiet, subcommand
from deepgcn_cli.progress import open_progress
from pipelines.config import PrepareConfig
from pipelines.errors import command


@subcommand(
    "deepgcn prepare --area 5",
    "deepgcn prepare Stanford3dDataset_v1.2_Aligned_Version.zip --data data",
    "deepgcn prepare --dataset rooms.yaml",
    takes=(PrepareConfig,),
)
def prepare(*, flags: Flags, as_json: Json = False, quiet: Quiet = False) -> None:
    """Read raw S3DIS rooms, repair known defects and write the prepared data.

    Every area found is prepared; --area is only recorded, as the default of train and eval. Run it
    again to go on after a stop.
    """
    config = PrepareConfig(**flags)

    from pipelines.prepare import prepare as stage

    progress = open_progress(quiet=quiet)
    with interruptible("the same command goes on where it stopped"):
        result = stage(config, progress=progress)
    if as_json:
        return print_json(result)
    areas = ", ".join(f"area {area}: {rooms}" for area, rooms in result.areas.items())
    print_text(f"{result.data}: {result.rooms} rooms ({areas}), {result.points:,} points")
    print_text(f"test area {result.test_area}, {len(result.repairs)} lines repaired")
    if result.exported:
        print_text(f"{result.exported}: the published HDF5 form")
    where = () if config.data == PrepareConfig.data else ("--data", config.data)
    progress.say(f"{result.seconds:.1f} s. Next: {command('train', *where)}")
