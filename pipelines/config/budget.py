"""How long something may take, as it is typed (standard library only)."""

from __future__ import annotations

import re

from pipelines.errors import ConfigError

UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}
LEAST, MOST = 1, 366 * 86_400  # seconds
FORM = re.compile("".join(rf"(?:(\d{{1,9}}(?:\.\d{{1,6}})?){unit})?" for unit in UNITS))


def seconds_of(text: str, flag: str = "--time") -> float:
    """Return the seconds that a text means, such as "90s", "30m", "2h", "1h30m" or "1d".

    >>> seconds_of("1h30m"), seconds_of("2.5h")
    (5400.0, 9000.0)

    Raises:
        ConfigError: it is of another form, or below a second or above a year.
    """
    found = FORM.fullmatch(text.strip().lower())
    parts = found.groups() if found else ()
    seconds = sum(float(n) * unit for n, unit in zip(parts, UNITS.values(), strict=False) if n)
    if not LEAST <= seconds <= MOST:
        raise ConfigError(
            f"{flag}: found {text!r:.40}, expected a time such as 90s, 30m, 2h, 1h30m or 1d."
        )
    return float(seconds)


def duration_text(seconds: float) -> str:
    """Return seconds as `seconds_of` reads them, with two units at most.

    >>> duration_text(5400), duration_text(59.6), duration_text(90_000)
    ('1h30m', '1m', '1d1h')
    """
    left = round(seconds)
    parts: list[str] = []
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return "".join(parts) or "0s"
