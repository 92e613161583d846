"""stdin, stdout and stderr as the rest of the program may take them to be: open, for any text."""

from __future__ import annotations

import io
import os
import sys


def make_streams_usable() -> None:
    """Open what was closed at the start, and let stdout take any text.

    Whoever closes stdout or stderr (`>&-`, a daemon) wants nothing of it. Python has None in its
    place then, and the next file that is opened would get its number: what a library prints would
    end up in that file.

    Where stdout is not UTF-8 (an old locale, a pipe on Windows), or a file's name is not, a
    character that it cannot hold is written as its code, as Python does on stderr. A result must
    not be lost for a sign in its table.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # by their numbers
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and (out.errors == "strict" or not holds_all_text()):
        out.reconfigure(errors="backslashreplace")


def holds_all_text() -> bool:
    """Whether stdout has a code for every character."""
    return (sys.stdout.encoding or "").lower().startswith("utf")
