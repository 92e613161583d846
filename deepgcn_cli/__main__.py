"""`deepgcn` and `python -m deepgcn_cli`: run the app; every error ends here, and only here.

Exit codes: 0 done, 1 something that the person can mend (or a bug, with its traceback), 2 wrong
usage, 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from pipelines.errors import DeepGCNError
from pipelines.files import DISK_FULL

from .interruption import Interrupted, signals_interrupt
from .streams import make_streams_usable

# What the file system answers to a path that a person gave; anything else is a bug.
REFUSED = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
    errno.ELOOP,
)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run `deepgcn` with `arguments` (None: the process's own) and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run `deepgcn` with `arguments` and return the exit code."""
    make_streams_usable()
    code = 130
    with suppress(KeyboardInterrupt), signals_interrupt():
        code = _run(arguments)
    return code  # also if a signal comes when all is said


def _run(arguments: list[str]) -> int:
    try:
        code = _run_app(arguments)
        sys.stdout.flush()
    except DeepGCNError as error:
        return _fail(str(error))
    except Interrupted as interruption:
        return _interrupted(str(interruption))
    except KeyboardInterrupt:
        return _interrupted()
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python flushes once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        return _file_system_error(error)
    except Exception as error:
        return _bug(error)
    return code


def _run_app(arguments: list[str]) -> int:
    """Run the app and return its exit code; only usage errors are shown here."""
    from .app import app, usage_error

    try:
        code = app(arguments, prog_name="deepgcn", standalone_mode=False)
    except usage_error as error:
        return _usage_error(error)
    if code == 130:  # how typer passes a KeyboardInterrupt on
        raise KeyboardInterrupt
    return int(code or 0)


def _usage_error(error: Any) -> int:
    close = getattr(error, "possibilities", None)
    message = error.message if close else error.format_message()
    if close:
        message += f". Did you mean {' or '.join(sorted(close))}?"
    command = error.ctx.command_path if error.ctx else "deepgcn"
    _say(f"{command}: {message}\nHelp: {command} --help")
    return 2


def _interrupted(how: str = "") -> int:
    _say(f"interrupted; {how}" if how else "interrupted")
    return 130


def _file_system_error(error: OSError) -> int:
    where = f"{error.filename}: " if error.filename else ""
    if link := _broken_link(error.filename):
        return _fail(
            f"{link}: found a link to {os.readlink(link)}, where nothing is.\n"
            "Make what it leads to (is its disk mounted?), or give another path."
        )
    if error.errno in DISK_FULL or "No space left on device" in str(error):
        return _fail(f"{where}the disk is full.\nMake room, then run the same command again.")
    if error.errno in REFUSED:
        return _fail(f"{where}{error.strerror}.")
    return _bug(error)


def _broken_link(name: object) -> Path | None:
    """Return the link that leads nowhere on the way to the file `name`, if there is one."""
    if not isinstance(name, str):
        return None
    places = (Path(name), *Path(name).parents)
    return next((one for one in places if one.is_symlink() and not os.path.exists(one)), None)


def _fail(message: str) -> int:
    _say(f"Error: {message}")
    return 1


def _bug(error: BaseException) -> int:
    from .app import version

    traceback.print_exception(error)
    system = f"deepgcn {version()}, Python {sys.version.split()[0]}, {sys.platform}"
    _say(f"This is a bug in deepgcn. Please report it with the lines above ({system}).")
    return 1


def _say(message: str) -> None:
    print(message, file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
