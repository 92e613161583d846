"""The standard streams: open, able to take any text, and without what would steer a terminal.

Names of files and classes, notes, headers and errors come from others. Everything that is printed
passes through `harmless`, so that none of them can clear the screen, set its title or reverse text.
"""

from __future__ import annotations

import io
import os
import re
import sys
from contextlib import suppress
from typing import TextIO

# Control characters but tab and newline; line separators; marks that change the direction of text;
# bytes of names that are no UTF-8.
_STEERING = re.compile(
    "[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def harmless(text: str) -> str:
    r"""Return a text with control characters and direction marks as their codes, as in JSON.

    >>> harmless("run\x1b[2J")
    'run\\u001b[2J'
    """
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def one_line(text: str) -> str:
    r"""Return a `harmless` text for a cell or a name, also with newlines and tabs as codes.

    >>> one_line("two\nlines")
    'two\\nlines'
    """
    if text.isprintable():  # nearly always, and found out at once
        return text
    return harmless(text).replace("\n", "\\n").replace("\t", "\\t")


def show(text: str, *, error: bool = False, end: str = "\n") -> None:
    """Print a text on stdout, or at once on stderr.

    What stderr cannot take, as its disk is full or gone, is dropped: no work ends for a message.
    """
    stream = sys.stderr if error else sys.stdout
    try:
        stream.write(f"{harmless(text)}{end}")
        if error:
            stream.flush()
    except BrokenPipeError:
        raise
    except OSError as failure:
        if not error:
            failure.filename = "standard output"
            raise
        discard(stream)


def flush() -> None:
    """Write what stdout has kept; OSError: it cannot be written."""
    try:
        sys.stdout.flush()
    except OSError as failure:
        failure.filename = "standard output"
        raise


def discard(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere: Python writes once more when it ends."""
    with suppress(OSError, ValueError):  # closed, or no file
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def make_streams_usable() -> None:
    """Open the standard streams that were closed at the start, and let stdout take any text.

    A stream that was closed (`>&-`, a daemon) is None, and the next file that is opened would get
    its descriptor: what a library prints would end up in that file. A character that stdout cannot
    encode (an old locale, a pipe on Windows) is written as its code, as Python does on stderr.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):  # descriptors 0, 1, 2
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and (out.errors == "strict" or not holds_all_text()):
        out.reconfigure(errors="backslashreplace")


def holds_all_text() -> bool:
    """Return whether stdout can encode every character."""
    return (sys.stdout.encoding or "").lower().startswith("utf")
