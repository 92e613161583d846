"""The DeepGCN pipeline, stage by stage: plain functions over files, and the network they share.

Reading order: `config` (every option); `model` (the network) with `kernels` (its graph operations);
`scans` (any file of points) and `data` (rooms, the store, blocks); then the stages `synth`,
`prepare`, `train`, `evaluate`, `predict` and `ablate`, with `training`, `inference`, `runs` and
`reports` below them. Imports point down; CONTRIBUTING has the map.

    >>> import numpy, pipelines, torch
    >>> model = pipelines.load_model("runs/tiny")
    >>> pos, color = numpy.random.rand(500, 3), numpy.full((500, 3), 128, "uint8")
    >>> labels, probabilities = pipelines.segment(model, pos, color)
    >>> neighbours = pipelines.knn(torch.from_numpy(pos), k=16, dilation=2)  # (500, 16)
    >>> frame = pipelines.runs_frame("runs", where="arch=resgcn and depth<28")
"""

from __future__ import annotations

from collections.abc import Collection
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inference.segmentation import segment
    from .model.deepgcn import DeepGCN
    from .model.graphs import knn
    from .runs.index import runs_frame

__all__ = ["knn", "load_model", "runs_frame", "segment"]
_LATER = {
    "knn": "pipelines.model.graphs",
    "runs_frame": "pipelines.runs.index",
    "segment": "pipelines.inference.segmentation",
}


def load_model(
    run_or_weights: str | Path | None = None, *, classes: Collection[str] = ()
) -> DeepGCN:
    """Return the network of a weights file, of a run (its best one) or of a name, on the CPU.

    Its `classes` are the names of the labels that it gives.

    Args:
        run_or_weights: the file, the run's directory, or a name of the catalogue (`deepgcn weights
            list`), which is fetched if it has to be; None: the weights inside the package.
        classes: "package.module:Class" of each own convolution or architecture that the file or
            the run may have imported.

    Raises:
        RunError: the directory holds no run, or the run has no weights yet.
        WeightsError: the file cannot be read as weights, or the name is unknown.

    >>> load_model("runs/tiny").config.label
    'resgcn-3 (edge, C 16, k 6)'
    >>> load_model("runs/tiny").classes[:3]
    ('ceiling', 'floor', 'wall')
    """
    from .runs.weights import find_weights, packaged_weights

    found = packaged_weights() if run_or_weights is None else find_weights(run_or_weights)
    return found.load(classes)


def __getattr__(name: str) -> Any:
    """Import a function when it is first used, so that `import pipelines` needs no torch."""
    if name in _LATER:
        return getattr(import_module(_LATER[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
