"""The options that several commands share, and how flags become a configuration.

Every option is None unless it was given, so that its default has one home: the field of the
configuration that it is named after. The help shows that default.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.config import (
    ADAM_LR,
    ARCHS,
    CONVS,
    DEVICES,
    KNNS,
    LAYOUTS,
    PARTS,
    PRECISIONS,
    RECIPES,
    SGD_LR,
    EvalConfig,
    ModelConfig,
    TrainConfig,
)

MODERN = RECIPES["modern"]
OTHERS = tuple(part for part in PARTS if part not in MODERN)


def option(help: str, *names: str, default: object = None, metavar: str | None = None) -> Any:
    """Return a typer option that is None unless given.

    Args:
        help: what it does.
        names: how it is typed; none: as the parameter is called. To be given where the metavar is
            the parameter's name in capitals: typer 0.27 would not know the option otherwise.
        default: the configuration's default, shown in the help.
        metavar: what its value is called in the help.
    """
    shown = help if default is None else f"{help} [default: {default}]"
    return typer.Option(*names, help=shown, show_default=False, metavar=metavar)


def given(config: type, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given and are fields of the dataclass `config`."""
    names = {field.name for field in dataclasses.fields(config)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flags.items()
        if name in names and value is not None and value != []
    }


def examples(*commands: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


Data = Annotated[
    Path | None,
    option("Folder of the prepared data.", default=TrainConfig.data, metavar="DIR"),
]
Runs = Annotated[
    Path | None, option("Folder of the runs.", default=TrainConfig.runs, metavar="DIR")
]
Seed = Annotated[
    int | None, option("Seed of all randomness.", default=TrainConfig.seed, metavar="N")
]
Device = Annotated[
    str | None,
    option(f"{', '.join(DEVICES)}.", default=TrainConfig.device, metavar="NAME"),
]
InferenceBatch = Annotated[
    int | None,
    option("Blocks computed at a time.", default=EvalConfig.batch_size, metavar="N"),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, only warnings and errors.")
]

# The network, as train, ablate and bench take it; `commands_train.chosen_model` puts it together.
Arch = Annotated[
    str | None, option(f"{', '.join(ARCHS)}.", default=ModelConfig.arch, metavar="NAME")
]
Depth = Annotated[int | None, option("Layers.", default=ModelConfig.depth, metavar="L")]
Preset = Annotated[
    str | None,
    option("A published network (deepgcn presets); other flags change it.", metavar="NAME"),
]
Conv = Annotated[
    str | None,
    option(
        f"Vertex layer: {', '.join(CONVS)}, or a class of torch_geometric.nn.",
        default=ModelConfig.conv,
        metavar="NAME",
    ),
]
Width = Annotated[
    int | None,
    option(
        "Channels of a layer; of densegcn the growth rate, 32 as published.",
        default=ModelConfig.width,
        metavar="C",
    ),
]
FusionChannels = Annotated[
    int | None,
    option(
        "Channels of the fusion, and of the vector for the whole block.",
        "--fusion-channels",
        default=ModelConfig.fusion_channels,
        metavar="N",
    ),
]
Neighbors = Annotated[
    int | None,
    option(
        "Neighbours; as published 8 for densegcn, 20 for dgcnn.",
        "-k",
        default=ModelConfig.k,
        metavar="K",
    ),
]
Devices = Annotated[
    int | None,
    option(
        "Processes that share each batch: GPUs, or parts of the CPU.",
        default=TrainConfig.devices,
        metavar="N",
    ),
]
SyncBatchNorm = Annotated[
    bool | None,
    option(
        "Batch norm over the whole batch, not over each process's share.",
        "--sync-bn/--no-sync-bn",
        default="off",
    ),
]
Precision = Annotated[
    str | None,
    option(
        f"Of the dense products: {', '.join(PRECISIONS)}.",
        default=TrainConfig.precision,
        metavar="NAME",
    ),
]
MicroBatch = Annotated[
    int | None,
    option(
        "Blocks computed at once, their gradients added up. [default: as many as fit]",
        metavar="N",
    ),
]
CheckpointLayers = Annotated[
    int | None,
    option(
        "Layers computed again at once in the backward pass, for memory; 0: none. "
        "[default: only where memory is short]",
        metavar="N",
    ),
]
Threads = Annotated[int | None, option("CPU threads. [default: as PyTorch chooses]", metavar="N")]

# The rest of a training, as train and ablate take it.
Dilation = Annotated[
    bool | None,
    option("Take every d-th of the k·d nearest.", "--dilation/--no-dilation", default="on"),
]
Epsilon = Annotated[
    float | None,
    option("Probability of stochastic dilation.", default=ModelConfig.epsilon, metavar="P"),
]
Knn = Annotated[
    str | None,
    option(f"Graph: {' or '.join(KNNS)}.", default=ModelConfig.knn, metavar="NAME"),
]
Layout = Annotated[
    str | None,
    option(f"Release: {' or '.join(LAYOUTS)}.", default=ModelConfig.layout, metavar="NAME"),
]
Dropout = Annotated[
    float | None,
    option("Rate before the last layer.", default=ModelConfig.dropout, metavar="P"),
]
TestArea = Annotated[
    int | None,
    option("Area to leave out. [default: as prepared]", "--area", metavar="N"),
]
Recipe = Annotated[
    str | None,
    option(f"{', '.join(RECIPES)}.", default=TrainConfig.recipe, metavar="NAME"),
]
Without = Annotated[
    list[str] | None,
    option(
        f"Part of the recipe to leave out, repeatable; of modern: {', '.join(MODERN)}.",
        metavar="PART",
    ),
]
With = Annotated[
    list[str] | None,
    option(
        f"Part to add, repeatable: any of modern or {', '.join(OTHERS)}.", "--with", metavar="PART"
    ),
]
Epochs = Annotated[
    int | None,
    option("Passes over the training blocks.", default=TrainConfig.epochs, metavar="N"),
]
MaxSteps = Annotated[int | None, option("Stop after so many steps at the latest.", metavar="N")]
BatchSize = Annotated[
    int | None, option("Blocks a step.", default=TrainConfig.batch_size, metavar="N")
]
NumPoints = Annotated[
    int | None,
    option("Points drawn from a block.", default=TrainConfig.num_points, metavar="N"),
]
LearningRate = Annotated[
    float | None,
    option("First learning rate.", default=f"{ADAM_LR:g}, with sgd {SGD_LR:g}", metavar="X"),
]
ValFraction = Annotated[
    float | None,
    option(
        "Share of the training rooms that chooses the best checkpoint.",
        default=TrainConfig.val_fraction,
        metavar="P",
    ),
]
