"""A scan as one HTML file that shows its points in 3-D, offline.

The file holds the page (`page.*`), three.js (`three.min.js`, MIT) and the points: planes of values
one after another, little-endian, deflated (zlib), in base64.

    x, y, z             uint16 each; metres = origin + step · value
    red, green, blue    uint8 each
    label, predicted    uint8, the class, or 255 for none; only if given
    confidence          uint8, 255 is certain; only if given
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

from pipelines.errors import DatasetError
from pipelines.files import atomic_text
from pipelines.metrics import confusion, scores
from pipelines.reports.policy import page_policy

MAX_POINTS = 1_000_000  # shown; about 16 bytes each in the file before deflation
NO_CLASS = 255
HERE = Path(__file__).parent
SCRIPTS = ("three.min.js", "page.points.js", "page.scene.js", "page.js")

# Thirteen colours that stay apart (CIE76 ΔE ≥ 22) in normal vision and in full protanopia and
# deuteranopia as simulated by Machado, Oliveira and Fernandes (2009); those of S3DIS do not
# (ΔE 0.1). In the order of its classes: light for the shell, strong for furniture.
# fmt: off
SAFE_COLORS = (
    (255, 255, 204), (0, 0, 102), (102, 204, 255), (255, 255, 0), (255, 51, 153), (102, 102, 255),
    (204, 153, 0), (153, 51, 153), (255, 102, 102), (0, 0, 255), (0, 255, 102), (0, 255, 255),
    (0, 102, 0),
)
# fmt: on


def write_viewer(
    path: Path,
    pos: np.ndarray,
    color: np.ndarray,
    *,
    classes: Sequence[str],
    class_colors: Sequence[Sequence[int]],
    title: str,
    summary: Mapping[str, str],
    label: np.ndarray | None = None,
    predicted: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
    max_points: int = MAX_POINTS,
    seed: int = 0,
) -> None:
    """Write a page that shows points in 3-D, coloured by scan, class, error or confidence.

    Counts and IoU in its legend are of all points; if there are more than `max_points`, a random
    sample of `seed` is shown. DatasetError: no point has finite coordinates.

    Args:
        pos: (N, 3) metres, z up; points that are not finite are left out.
        color: (N, 3) uint8.
        classes: at most 255 names, in the order of the labels.
        summary: of the scan and the network, in order.
        label: (N,) ground truth; a value that is no class means unlabelled. `predicted`: likewise.
        confidence: (N,) from 0 to 1.
    """
    finite = shown = np.flatnonzero(np.isfinite(pos).all(axis=1))
    if not len(finite):
        raise DatasetError(f"{path}: found no point with finite coordinates to show.")
    if len(finite) > max_points:
        rng = np.random.default_rng(seed)
        # In order, as neighbours deflate well.
        shown = np.sort(rng.choice(finite, max_points, replace=False, shuffle=False))
    known = {}
    for name, values in (("label", label), ("predicted", predicted)):
        if values is not None:
            valid = (values >= 0) & (values < len(classes))
            known[name] = np.where(valid, values, NO_CLASS).astype(np.uint8)
    low = pos[shown].min(axis=0).astype(np.float64)
    step = (pos[shown].max(axis=0) - low) / 65535  # so that a position is off by half of it at most
    step[step == 0] = 1.0
    steps = np.rint((pos[shown] - low) / step).astype("<u2")
    planes = {name: steps[:, axis] for axis, name in enumerate("xyz")}
    planes |= {name: color[shown, axis] for axis, name in enumerate(("red", "green", "blue"))}
    planes |= {name: values[shown] for name, values in known.items()}
    if confidence is not None:
        certain = np.clip(np.nan_to_num(confidence[shown]), 0, 1)
        planes["confidence"] = np.rint(certain * 255).astype(np.uint8)
    content = {
        "title": title,
        "total": len(pos),
        "finite": len(finite),
        "shown": len(shown),
        "origin": low.tolist(),
        "step": step.tolist(),
        "planes": [[name, values.itemsize] for name, values in planes.items()],
        "facts": dict(summary),
        **_legend(classes, class_colors, {n: v[finite] for n, v in known.items()}),
    }
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}  # and unsorted
    raw = b"".join(np.ascontiguousarray(plane).tobytes() for plane in planes.values())
    points = base64.b64encode(zlib.compress(raw, 6)).decode("ascii")
    page = environment.get_template("page.html")

    def source(name: str) -> Markup:
        """Return one of the page's own files, not to be escaped."""
        return Markup((HERE / name).read_text(encoding="utf-8"))

    scripts = [source(name) for name in SCRIPTS]
    text = page.render(
        title=title,
        content=content,
        points=points,
        source=source,
        scripts=scripts,
        policy=page_policy(*scripts),
    )
    atomic_text(path, text)


def _legend(
    classes: Sequence[str], class_colors: Sequence[Sequence[int]], known: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return what the legend shows: names, colours, counts and, with both labels, IoU and OA."""
    safe = SAFE_COLORS if len(classes) <= len(SAFE_COLORS) else None
    counts = {name: np.bincount(values, minlength=256) for name, values in known.items()}
    legend: dict[str, Any] = {
        "classes": list(classes),
        "colors": [[int(v) for v in color] for color in class_colors],
        "safe_colors": safe and safe[: len(classes)],
        "counts": {name: found[: len(classes)].tolist() for name, found in counts.items()},
        "unlabelled": {name: int(found[NO_CLASS]) for name, found in counts.items()},
    }
    if len(known) == 2:
        scored = (known["label"] != NO_CLASS) & (known["predicted"] != NO_CLASS)
        pairs = (known["label"][scored], known["predicted"][scored])
        found = scores(confusion(*pairs, len(classes)), classes)
        legend |= {"iou": found.iou, "miou": found.miou, "oa": found.oa, "scored": found.points}
    return legend
