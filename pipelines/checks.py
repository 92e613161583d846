"""What values of options can be: each check raises ConfigError, naming the option."""

from __future__ import annotations

from .errors import ConfigError, did_you_mean

AREAS = (1, 2, 3, 4, 5, 6)  # of S3DIS
LARGEST_SEED = 2**63 - 1  # SQLite's largest number
MOST_POINTS = 1 << 20  # of a block; published are 4096


def check_choice(what: str, value: str, choices: tuple[str, ...], *, flag: str) -> None:
    """Raise ConfigError, with the nearest choice, unless `value` is one of `choices`."""
    if value not in choices:
        raise ConfigError(
            f"{flag}: found the unknown {what} {value!r}.{did_you_mean(value, choices)}\n"
            f"Expected one of: {', '.join(choices)}."
        )


def check_at_least(flag: str, value: int, minimum: int) -> None:
    """Raise ConfigError if `value` is below `minimum`."""
    if value < minimum:
        raise ConfigError(f"{flag}: found {value}, expected at least {minimum}.")


def check_seed(seed: int) -> None:
    """Raise ConfigError unless NumPy, PyTorch and the index of runs can all take `seed`."""
    if not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"--seed: found {seed}, expected a number from 0 to {LARGEST_SEED}.")


def check_num_points(value: int, *, least: int = 1, flag: str = "--num-points") -> None:
    """Raise ConfigError unless a block can have `value` points."""
    if not least <= value <= MOST_POINTS:
        raise ConfigError(
            f"{flag}: found {value:,}, expected points of a block from {least} to {MOST_POINTS:,}."
        )


def check_fraction(flag: str, value: float) -> None:
    """Raise ConfigError unless 0 ≤ value ≤ 1."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{flag}: found {value}, expected a number from 0 to 1.")


def check_area(area: int) -> None:
    """Raise ConfigError unless `area` is an S3DIS area."""
    if area not in AREAS:
        raise ConfigError(f"--area: found {area}, expected an S3DIS area from 1 to 6.")
