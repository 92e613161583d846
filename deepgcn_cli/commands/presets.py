"""`deepgcn presets` and `deepgcn doctor`: what the toolkit knows, and what the machine offers."""

from __future__ import annotations

from typing import Any

import typer

from deepgcn_cli.options import Json, examples


def register(app: typer.Typer) -> None:
    """Add the commands to the app."""
    app.command(epilog=examples("deepgcn presets"))(presets)
    app.command(epilog=examples("deepgcn doctor", "deepgcn doctor --json"))(doctor)


def presets(as_json: Json = False) -> None:
    """List the published networks, for train --preset."""
    from deepgcn_cli.display import print_json, print_table, print_text

    rows = preset_rows()
    if as_json:
        return print_json(rows)
    columns = ("preset", "parameters", "layers", "width", "k", "layer", "area 5 mIoU %", "from")
    cells = [
        (
            row["preset"],
            f"{row['parameters'] / 1e6:.3f} M",
            *(str(row[name]) for name in ("depth", "width", "k", "conv")),
            "–" if row["published"] is None else f"{row['published']:.2f}{_dagger(row)}",
            row["note"],
        )
        for row in rows
    ]
    print_table(columns, cells)
    print_text("† quoted from memory of the paper, not checked against it")


def _dagger(row: dict[str, Any]) -> str:
    return "" if row["cited"] else "†"


def preset_rows() -> list[dict[str, Any]]:
    """Return name, sizes and published score of every preset."""
    from pipelines.model.deepgcn import DeepGCN
    from pipelines.model.presets import PRESETS
    from pipelines.serialization import to_plain
    from pipelines.training.summary import count_parameters

    rows = []
    for name, preset in PRESETS.items():
        parameters = count_parameters(DeepGCN(preset.config))
        facts = {"published": preset.published, "cited": preset.cited, "note": preset.note}
        rows.append({"preset": name, "parameters": parameters, **to_plain(preset.config), **facts})
    return rows


def doctor(as_json: Json = False) -> None:
    """Show what this machine offers: versions, processor, GPU, memory, disk, missing parts."""
    from deepgcn_cli.display import print_json, print_table

    from .doctor import describe_machine

    facts = describe_machine()
    if as_json:
        return print_json(facts)
    parts = {f"extra {name}": _part(name, missing) for name, missing in facts.pop("extras").items()}
    rows = [(name, _shown(value)) for name, value in {**facts, **parts}.items()]
    print_table(("what", "found"), rows)


def _part(extra: str, missing: list[str]) -> str:
    """Return whether an optional part is there, or how to install it."""
    if not missing:
        return "installed"
    return f"missing {', '.join(missing)}: pip install 'deepgcn[{extra}]'"


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, float):
        return f"{value:.1f} GiB"
    return "none" if value is None else str(value)
