"""`deepgcn synth`: a synthetic building as raw rooms."""

from __future__ import annotations

from deepgcn_cli.display import print_json, print_text
from deepgcn_cli.options import Flags, Json, Quiet, subcommand
from deepgcn_cli.progress import open_progress
from pipelines.config import SynthConfig
from pipelines.errors import command


@subcommand(
    "deepgcn synth raw", "deepgcn synth raw --areas 6 --rooms 3 --seed 1", takes=(SynthConfig,)
)
def synth(*, flags: Flags, as_json: Json = False, quiet: Quiet = False) -> None:
    """Write a synthetic building in the raw S3DIS layout."""
    config = SynthConfig(**flags)

    from pipelines.synth import synth as stage

    progress = open_progress(quiet=quiet)
    result = stage(config, progress=progress)
    if as_json:
        return print_json(result)
    print_text(f"{result.out}: {result.rooms} rooms, {result.points:,} points")
    progress.say(f"Next: {command('prepare', result.out)}")
