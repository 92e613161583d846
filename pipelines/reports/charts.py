"""Charts as inline SVG: bars and curves."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

WIDTH, HEIGHT = 520, 260  # user units of a chart
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 12, 36  # margins
# Okabe and Ito's colours, dark enough for white paper, and a dash each for prints without colour.
STROKES = (("#0072b2", ""), ("#d55e00", "7 3"), ("#007a5a", "2 3"), ("#6a3d9a", "9 3 2 3"))


def bar(share: float) -> str:
    """Return a bar of `share` (0 to 1) of the cell's width."""
    length = 100 * min(max(share, 0.0), 1.0)
    return (
        '<svg viewBox="0 0 100 10" preserveAspectRatio="none" width="100%" height="12">'
        '<rect width="100" height="10" fill="#e4e8ec"/>'
        f'<rect width="{length:.1f}" height="10" fill="#0072b2"/></svg>'
    )


def curves(
    x: Sequence[float],
    lines: Mapping[str, Sequence[float | None]],
    title: str,
    *,
    top: float | None = None,
) -> str:
    """Draw values over steps; a value that is missing or not finite breaks its line.

    Args:
        x: ascending.
        lines: for each name as many values as `x` has.
        title: read aloud instead of the picture.
        top: the end of the vertical axis, which starts at 0; None: after the largest value.

    Returns:
        An SVG element, with a legend below the curves.
    """
    finite = [v for line in lines.values() for v in line if v is not None and math.isfinite(v)]
    ticks = nice_ticks(top or max([*finite, 1e-9]))
    span = max(x[-1] - x[0], 1e-9)

    def place(at: float, value: float) -> str:
        across = LEFT + (at - x[0]) / span * (WIDTH - LEFT - RIGHT)
        down = HEIGHT - BOTTOM - value / ticks[-1] * (HEIGHT - TOP - BOTTOM)
        return f"{across:.1f},{down:.1f}"

    drawn, legend = [], []
    for number, (name, line) in enumerate(lines.items()):
        color, dash = STROKES[number % len(STROKES)]
        stroke = f'fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"'
        for part in _unbroken(x, line):
            points = " ".join(place(at, value) for at, value in part)
            drawn.append(f'<polyline {stroke} points="{points}"/>')
            if len(part) == 1:
                across, down = points.split(",")
                drawn.append(f'<circle cx="{across}" cy="{down}" r="2.5" fill="{color}"/>')
        key = f'<svg width="30" height="8" aria-hidden="true"><path {stroke} d="M0 4H30"/></svg>'
        legend.append(f"<span>{key} {html.escape(name)}</span>")
    return (
        f'<figure><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"{_axes(x, ticks)}{''.join(drawn)}</svg>"
        f'<figcaption class="key">{" ".join(legend)}</figcaption></figure>'
    )


def nice_ticks(top: float) -> list[float]:
    """Return 4 to 8 round values from 0 to at least `top` (> 0), the steps 1, 2 or 5 · 10ⁿ."""
    unit = 10.0 ** math.floor(math.log10(top))
    step = next(
        unit * factor for factor in (0.2, 0.5, 1.0, 2.0) if top <= unit * factor * 7 * (1 + 1e-9)
    )
    count = max(3, math.ceil(top / step * (1 - 1e-9)))
    return [round(n * step, 12) for n in range(count + 1)]


def _unbroken(x: Sequence[float], line: Sequence[float | None]) -> list[list[tuple[float, float]]]:
    """Return the parts of a line between its missing values."""
    parts: list[list[tuple[float, float]]] = [[]]
    for at, value in zip(x, line, strict=True):
        if value is None or not math.isfinite(value):
            parts.append([])
        else:
            parts[-1].append((at, value))
    return [part for part in parts if part]


def _axes(x: Sequence[float], ticks: Sequence[float]) -> str:
    """Return horizontal lines with their values, and the first and last step below."""
    drawn = []
    for value in ticks:
        down = HEIGHT - BOTTOM - value / ticks[-1] * (HEIGHT - TOP - BOTTOM)
        drawn.append(f'<path stroke="#cfd6dc" d="M{LEFT} {down:.1f}H{WIDTH - RIGHT}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{value:g}</text>')
    low = HEIGHT - BOTTOM + 16
    drawn.append(f'<text x="{LEFT}" y="{low}">{x[0]:g}</text>')
    drawn.append(f'<text x="{WIDTH - RIGHT}" y="{low}" text-anchor="end">{x[-1]:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    drawn.append(f'<text x="{middle:g}" y="{low + 12}" text-anchor="middle">step</text>')
    return "".join(drawn)
