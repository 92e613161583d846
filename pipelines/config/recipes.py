"""The recipes of a training, and the parts that they are made of (standard library only)."""

from __future__ import annotations

from collections.abc import Collection

from pipelines.errors import ConfigError

# Each is an entry of `data.augment.AUGMENTATIONS`; they are applied in this order.
AUGMENTATIONS = (
    *("crop", "thin", "elastic", "rotate", "tilt", "flip", "scale", "jitter"),  # shape
    *("contrast", "color-shift", "color-drop"),
)
# Of each of these a recipe has one at most, or the published one. Losses and schedules are
# functions of `training.recipe`, in its tables of the same names.
OPTIMIZERS = ("adamw", "sgd")
LOSSES = ("smoothing",)
SCHEDULES = ("cosine", "warm-up")
FROM_WEIGHTS = ("frozen-norm", "wise-ft")  # only a training that starts from weights can have these
# All that a recipe can be made of.
PARTS = (
    *("balance", "resample"),  # which blocks and points are drawn
    *AUGMENTATIONS,  # what is done to them
    *(*LOSSES, *OPTIMIZERS, *SCHEDULES, "clip", "ema", *FROM_WEIGHTS),  # the optimisation
)
# "paper" is the published one: Adam, each block's points drawn once, no augmentation.
# "modern" is now what it was in version 0.1, whose runs did not save their parts. When it changes,
# it gets a tuple of its own: this one has to stay.
MODERN_0_1 = (
    *("balance", "resample", "rotate", "flip", "scale", "jitter", "contrast", "color-drop"),
    *("smoothing", "adamw", "cosine", "clip", "ema"),
)
# "scans" is for labelling scans of other scanners than those of the training: rooms cut off, thin,
# bent, tilted and in other colours, each block as often as it occurs.
SCANS = (
    *("resample", *AUGMENTATIONS),
    *("smoothing", "adamw", "cosine", "clip", "ema"),
)
RECIPES: dict[str, tuple[str, ...]] = {"paper": (), "modern": MODERN_0_1, "scans": SCANS}
ADAM_LR = 1e-3  # as published
SGD_LR = 0.1  # DGCNN's PyTorch release trains with SGD at 100 times its rate for Adam


def parts_of(recipe: str, without: Collection[str], extra: Collection[str]) -> tuple[str, ...]:
    """Return the parts of a recipe as it is used, in the order of PARTS; check that they fit."""
    for part in without:
        if part not in RECIPES[recipe]:
            raise ConfigError(
                f"--without: found {part!r}, which recipe {recipe} does not have.\n"
                f"Its parts: {', '.join(RECIPES[recipe]) or 'none'}."
            )
    wanted = {*RECIPES[recipe], *extra} - {*without}
    for what, names in {"optimizer": OPTIMIZERS, "loss": LOSSES, "schedule": SCHEDULES}.items():
        found = [name for name in names if name in wanted]
        if len(found) > 1:
            raise ConfigError(
                f"--with: found {' and '.join(found)}, expected one {what}.\n"
                f"Leave one out, as with: --without {found[0]} --with {found[1]}"
            )
    return tuple(part for part in PARTS if part in wanted)
