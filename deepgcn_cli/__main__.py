"""`deepgcn` and `python -m deepgcn_cli`: run a command and exit."""

from __future__ import annotations

import sys
from typing import NoReturn

from .errors import exit_code


def main() -> NoReturn:
    """Run the command that the process was started with, and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run `deepgcn` with `arguments` and return the exit code."""

    def run_app() -> int:
        from .app import run_command  # takes a moment, in which a signal may come

        return run_command(arguments)

    return exit_code(run_app)


if __name__ == "__main__":
    main()
