"""A plan for people: a table of its options with their reasons, and what they follow from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from deepgcn_cli.display import Table
from pipelines.config.budget import duration_text
from pipelines.progress import counted

if TYPE_CHECKING:
    from pipelines.planning.file import Plan


def plan_parts(plan: Plan) -> Iterator[str | Table]:
    """Yield the options of a plan with their reasons, what it follows from and is going to take."""
    rows = [(choice.option, _shown(choice.value), choice.reason) for choice in plan.choices]
    yield Table(("option", "value", "reason"), rows)
    data, machine, estimate = plan.data, plan.machine, plan.estimate
    area = f"test area {data.test_area} left out" if data.test_area else "no test area"
    yield f"{data.path}: {counted(data.rooms, 'room')} to train on, {area}; {data.text}"
    memory = f"{machine.memory / 1e9:.3g} GB"
    named = machine.name if machine.name.endswith(memory) else f"{machine.name}, {memory}"
    yield f"{named}; {duration_text(plan.budget)}"
    scoring = f", {duration_text(estimate.scoring)} for the scores" if estimate.scoring else ""
    yield (
        f"{counted(estimate.steps, 'step')}, {estimate.epochs:.1f} epochs of "
        f"{counted(data.blocks, 'block')}, {_speed(1 / estimate.block)} blocks/s "
        f"({estimate.source}): {duration_text(estimate.training)}{scoring}; "
        f"memory about {estimate.memory / 1e9:.2g} GB"
    )
    yield from plan.notes


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (tuple, list)):
        return ", ".join(value) or "–"
    return f"{value:g}" if isinstance(value, float) else "–" if value is None else str(value)
