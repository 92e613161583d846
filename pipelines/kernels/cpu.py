"""The graph operations compiled for the CPU with Numba; see `pipelines.kernels`.

Numba takes a compiled function from its cache as long as the function's own file is the same; but
ours are inlined into one another across files, so an edit in one would leave stale machine code in
its callers. So the cache has a folder for each state of all the sources.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba

settings: Any = numba.config


@contextmanager
def keyed_cache() -> Iterator[None]:
    """Cache the functions that are decorated within a `with` block under the sources' digest.

    NUMBA_CACHE_DIR is respected; without it the folder is beside the sources, and if that cannot
    be written to, Numba's own fallback for the user is taken.
    """
    before = settings.CACHE_DIR
    folder = Path(__file__).parent
    chosen = Path(before) if before else folder / "__pycache__"
    chosen = chosen / f"compiled-{sources_digest(folder)}"
    try:
        chosen.mkdir(parents=True, exist_ok=True)
    except OSError:
        yield
        return
    settings.CACHE_DIR = str(chosen)
    try:
        yield
    finally:
        settings.CACHE_DIR = before


def sources_digest(folder: Path) -> str:
    """Return a digest of the Python files below `folder` and of Numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


with keyed_cache():
    from .knn_search.cpu import knn as knn
    from .reductions.cpu import edge_ops as edge_ops
    from .reductions.cpu import edge_reduce as edge_reduce
    from .reductions.cpu import neighbor_max as neighbor_max
    from .reductions.cpu import neighbor_sum as neighbor_sum
    from .reductions.cpu import point_reduce as point_reduce
    from .reference import matmul as matmul
