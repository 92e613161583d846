"""`deepgcn plan`: the options of a training, chosen for the data, the machine and the time."""

from __future__ import annotations

from typing import Annotated

from deepgcn_cli.display import Answer
from deepgcn_cli.errors import interruptible
from deepgcn_cli.options import PRESET, Flags, ModelFlags, TrainFlags, chosen_model, subcommand
from deepgcn_cli.plans import plan_parts
from pipelines.config import PlanConfig
from pipelines.config.options import option
from pipelines.errors import command
from pipelines.progress import Progress


@subcommand(
    "deepgcn plan --time 2h",
    "deepgcn plan --data data-rooms --time 30m --weights none",
    "deepgcn plan --time 1d --gpu-memory 80",
    "deepgcn plan --time 8h --depth 28 --num-points 8192 --dry-run",
)
def plan(
    *,
    own: Annotated[Flags, PlanConfig],
    preset: str | None = PRESET,
    model: ModelFlags,
    training: TrainFlags,
    dry_run: bool = option(False, "Time no steps and write no plan: only show it."),
    progress: Progress,
) -> Answer:
    """Choose the options of a training for prepared data, a machine and a time.

    It reads the statistics that prepare has measured of the training rooms, times a few steps here,
    and writes plan.json for train --plan. Options of train that are given stay as they are; those
    that are not are chosen, and their defaults below do not count. --weights none starts from
    nothing. The rules are in docs/plan.md.
    """
    from pipelines.files import check_place
    from pipelines.plan import plan as stage
    from pipelines.planning.file import check_replaced, write_plan
    from pipelines.training.start import named_classes

    changes = vars(chosen_model(preset, model)) if preset else model
    config = PlanConfig(**own, base={**changes, **training})
    if not dry_run:
        check_place(config.out, "--out")
        check_replaced(config.out)
    tried = "no plan was written; the same command goes on with the candidates"
    with interruptible("nothing was written" if config.candidates == 1 else tried):
        made = stage(config, measure=not dry_run, progress=progress)
        if not dry_run:
            write_plan(config.out, made)
    written = [] if dry_run else [f"{config.out}: the plan"]
    where: tuple[object, ...] = () if config.runs == PlanConfig.runs else ("--runs", config.runs)
    for name in named_classes(config.base):
        where = (*where, "--own-class", name)
    hint = "" if dry_run else f"Next: {command('train', '--plan', config.out, *where)}"
    return Answer(made, [*plan_parts(made), *written], hint)
