"""What `synth` and `train --synth` are told about the rooms that they make (no dependencies)."""

from __future__ import annotations

from pipelines.errors import ConfigError

from .options import Bounds

SCANNERS = ("laser", "rgbd", "mixed")
DENSITY = Bounds(1, 1_000_000, "points per m²")
DENSEST_FILMED = 50_000  # a camera's views have too few pixels for more
# Of `train --synth`, unless they are given.
TRAINED = {"synth_rooms": 200, "scanner": "mixed", "density": "500-5000"}


def check_filmed(density: float, scanner: str) -> None:
    """Raise ConfigError if a camera's views cannot be as dense as that, points per m²."""
    if scanner != "laser" and density > DENSEST_FILMED:
        raise ConfigError(
            f"--density: found {density:g}, expected at most {DENSEST_FILMED:,} points per m² with "
            f"--scanner {scanner}, whose camera sees no more.\nLower it, or give --scanner laser."
        )


def density_range(text: str) -> tuple[float, float]:
    """Return the lowest and the highest density, points per m², that a text means.

    >>> density_range("500-5000"), density_range("1500")
    ((500.0, 5000.0), (1500.0, 1500.0))

    Raises:
        ConfigError: it is neither a number nor a range, or out of bounds.
    """
    first, _, last = text.partition("-")
    try:
        low, high = float(first), float(last or first)
    except ValueError:
        low, high = 1.0, 0.0
    if not low <= high:
        raise ConfigError(
            f"--density: found {text!r}, expected points per m² such as 1500, or a range of them "
            "such as 500-5000."
        )
    for each in (low, high):
        DENSITY.check("--density", each)
    return low, high
