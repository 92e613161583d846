"""`deepgcn` and `python -m deepgcn_cli`: run the app and exit."""

from __future__ import annotations

import sys
from typing import NoReturn

from .errors import run


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run `deepgcn` with `arguments` (None: the process's own) and exit."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


if __name__ == "__main__":
    main()
