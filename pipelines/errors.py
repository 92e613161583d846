"""The error tree: everything that a user can cause and fix.

    DeepGCNError
    ├── ConfigError    an option or configuration value that cannot work
    ├── DatasetError   raw data, prepared data or a scan that is missing or broken
    │   └── NothingScoredError  rooms in which nothing can be scored
    ├── RunError       a run directory that is missing, unfinished or does not fit
    │   ├── DiskFullError     there is no space to write it
    │   ├── ProcessLostError  a process of the same work ended or does not answer
    │   ├── TakenError        another process has the run, or has just made it
    │   └── EverywhereError   an error that every process of the training finds
    └── WeightsError   a weights file that is broken or of another network

A message has one to three lines: where, what was found, what was expected, and what to do
(the exact command where there is one). The command line shows it without a traceback; any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable

LONGEST_WORD = 100  # characters, of what is compared: it takes time with their square


class DeepGCNError(Exception):
    """A problem that the user can fix; its text is shown as it is."""


class ConfigError(DeepGCNError):
    """An option or a configuration value that cannot work."""


class DatasetError(DeepGCNError):
    """Raw data, prepared data or a scan that is missing, broken or of another version."""


class NothingScoredError(DatasetError):
    """Rooms in which nothing can be scored: no labelled point, or no block of a protocol."""


class RunError(DeepGCNError):
    """A run directory that is missing, unfinished or does not fit what was asked."""


class DiskFullError(RunError):
    """There is no space left to write a run; what was saved before is intact."""


class ProcessLostError(RunError):
    """A process of the same work, as of a training, has ended or does not answer."""


class TakenError(RunError):
    """Another process is training a run, or has just made one of the same name."""


class EverywhereError(RunError):
    """An error that every process of a training finds; rank 0 reports it for all."""


class WeightsError(DeepGCNError):
    """A weights file that is broken, unsafe or of another network."""


def command(*words: object) -> str:
    """Return ``deepgcn …`` as it has to be typed: a path with a space in quotes.

    >>> command("predict", "my scan.ply")
    "deepgcn predict 'my scan.ply'"
    """
    return shlex.join(["deepgcn", *map(str, words)])


def did_you_mean(word: str, choices: Iterable[str], least: float = 0.5) -> str:
    """Return `` Did you mean 'x'?`` for the closest choice, whatever its case, or nothing.

    `least` is the likeness (from 0 to 1, difflib's) that it must have.

    >>> did_you_mean("ResGNC", ["resgcn", "densegcn"])
    " Did you mean 'resgcn'?"
    """
    spelled = {choice.lower(): choice for choice in choices if len(choice) <= LONGEST_WORD}
    known = list(spelled) if len(str(word)) <= LONGEST_WORD else []
    close = difflib.get_close_matches(str(word).lower(), known, n=1, cutoff=least)
    return f" Did you mean {spelled[close[0]]!r}?" if close else ""
