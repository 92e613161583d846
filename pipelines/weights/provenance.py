"""Where weights come from: what they were trained on, and what that training started from.

It is metadata of a weights file, every score repeats it, and a training that starts from weights
keeps theirs inside its own. What others wrote is shown as text, never followed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

KEYS = (
    *("name", "run", "checkpoint", "step", "trained_on", "test_area", "fingerprint", "license"),
    *("source", "source_sha256", "release"),  # of imported weights
)
STARTED_FROM = "started_from"  # JSON of the provenance of the weights that a training started from


def provenance(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what a weights file's metadata says of its origin.

    >>> provenance({"run": "mine", "classes": "floor wall", "started_from": '{"name": "dgcnn"}'})
    {'run': 'mine', 'started_from': {'name': 'dgcnn'}}
    """
    found: dict[str, Any] = {name: metadata[name] for name in KEYS if name in metadata}
    try:
        earlier = json.loads(metadata.get(STARTED_FROM, "null"))
    except (ValueError, RecursionError):
        earlier = None  # damaged
    return {**found, STARTED_FROM: earlier} if isinstance(earlier, dict) else found


def as_metadata(found: Mapping[str, Any]) -> dict[str, str]:
    """Return a provenance as metadata, as `provenance` reads it."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in found.items()
        if value is not None
    }


def history(found: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield a provenance, that of the weights which its training started from, and so on."""
    while isinstance(found, Mapping) and found:
        yield found
        found = found.get(STARTED_FROM, {})


def stages(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each training that weights went through, from the first to the last.

    >>> stages({"run": "b", "step": "9", "started_from": {"run": "a", "trained_on": "rooms"}})
    ['run a, trained on rooms', 'run b; step 9']
    """
    lines = []
    for each in reversed([*history(found)]):
        step = f"; step {each['step']}" if "step" in each else ""
        lines.append(" ".join(f"{describe({**each, STARTED_FROM: None})}{step}".split()))
    return lines


def held_out(area: str) -> str:
    """Return a test area for people; 0 stands for none."""
    return "none held out" if area == "0" else area


def describe(found: Mapping[str, Any]) -> str:
    """Return a provenance in one line for people.

    >>> describe({"run": "mine", "trained_on": "data", "started_from": {"name": "dgcnn"}})
    'run mine, trained on data; started from dgcnn'
    """
    name, run = found.get("name"), found.get("run")
    if run is not None and str(name or run).partition("/")[0] == run:
        text = f"run {run}"
    elif run is not None:  # of the package, or a file that is called otherwise
        text = f"{name} (run {run})"
    elif name is not None:
        text = str(name)
    else:
        text = f"imported from {found['source']}" if "source" in found else "weights without a name"
    if "trained_on" in found:
        text += f", trained on {found['trained_on']}"
    text = " ".join(text.split())
    earlier = found.get(STARTED_FROM)  # one step back is shown; the file has the others
    if not isinstance(earlier, dict):
        return text
    return f"{text}; started from {describe({**earlier, STARTED_FROM: None})}"
