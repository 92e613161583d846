"""Labels in the names of files, found by a regular expression of the user's.

`(a+)+$` takes twice the time for each further letter of a name made for it, and Python cannot stop
a match. So the matching is done in a process of its own, which ends itself after a second.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection

from pipelines.documents import shown
from pipelines.errors import ConfigError

LONGEST = 1000  # characters of a pattern
SECONDS = 1.0  # for all names together; those of S3DIS take 20 ms
_MATCH = f"""
import faulthandler, json, re, sys
faulthandler.dump_traceback_later({SECONDS}, exit=True)
pattern, names = json.load(sys.stdin)
found = map(re.compile(pattern).search, names)
json.dump([match and match.group(1) for match in found], sys.stdout)
"""


def name_pattern(text: str) -> re.Pattern[str]:
    """Return a regular expression with a group; ConfigError: it is none."""
    try:
        if len(text) > LONGEST:
            raise OverflowError(f"it has more than {LONGEST:,} characters")
        pattern = re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"found the pattern {shown(text)} under label: {error}.") from error
    if not pattern.groups:
        raise ConfigError(
            f"found the pattern {shown(text)} under label, expected one with a group that finds "
            'the class in a file\'s name, as "([a-z]+)_".'
        )
    return pattern


def labels_in(names: Collection[str], pattern: re.Pattern[str]) -> dict[str, str]:
    """Return what the pattern's first group finds in each name, "" for nothing.

    ConfigError: the pattern takes over a second.

    >>> labels_in(["chair_1", "7"], re.compile("([a-z]+)_"))
    {'chair_1': 'chair', '7': ''}
    """
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _MATCH],
        input=json.dumps([pattern.pattern, list(names)]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ConfigError(
            f"found the pattern {shown(pattern.pattern)} under label, which takes over "
            f"{SECONDS:g} s for {len(names):,} names of files.\n"
            "Expected one without a repetition inside of a repetition."
        )
    found = json.loads(done.stdout)
    return {name: label or "" for name, label in zip(names, found, strict=True)}
