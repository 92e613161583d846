"""Start a training from weights: which ones, whether they fit, what is taken over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch.nn import functional as F

from pipelines.config import ModelConfig, TrainConfig
from pipelines.config.model import TENSORLESS
from pipelines.config.recipes import FROM_WEIGHTS
from pipelines.data import statistics
from pipelines.data.sampler import Sampler
from pipelines.data.store import Store
from pipelines.data.synthetic.stream import SyntheticSampler, describe_stream
from pipelines.errors import ConfigError, RunError
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, counted
from pipelines.runs.weights import NamedWeights, find_weights

CLASSIFIER = "classifier."  # its tensors' names begin so
# Linear maps of all layers' outputs, (C', D); the columns of later layers come last.
MAPS_OF_ALL = ("fusion.linear.weight", "prediction.0.linear.weight")
# Architectures whose first layers are the same at every depth; DGCNN's last one differs.
DEEPENED = ("plaingcn", "resgcn", "densegcn")


def start_config(
    named: str,
    model: Mapping[str, Any],
    training: Mapping[str, Any],
    own_classes: Collection[str] = (),
) -> TrainConfig:
    """Return a training from named weights, with settings of their network changed by `model`.

    Its blocks are theirs unless `training` says otherwise. The weights may have the classes that
    `model` names, and `own_classes`.
    """
    runs = training.get("runs", TrainConfig.runs)
    network = find_weights(named, runs).load((*named_classes(model), *own_classes))
    own = {"block_size": network.block_size, "voxel": network.voxel, **training}
    return TrainConfig(model=network.config.changed(**model), weights=named, **own)


def named_classes(settings: Mapping[str, Any]) -> list[str]:
    """Return the own classes that settings of a network name.

    >>> named_classes({"conv": "own:Conv", "k": 8})
    ['own:Conv']
    """
    return [each for each in map(settings.get, ("arch", "conv")) if each and ":" in each]


def resolve_start(config: TrainConfig, progress: Progress = SILENT) -> TrainConfig:
    """Return `config` with the hash of the weights that it starts from.

    Sides of blocks and voxels that are left at the default stand for those of the weights, and so
    does a network, unless both sides are set, as `start_config` has them: then a network that is
    the published one is asked for.

    Raises:
        ConfigError: the network is another one than the weights'.
        RunError, WeightsError: the weights cannot be found or read.
    """
    if config.weights is None or config.weights_sha256 is not None:
        # The second: a run's own configuration.
        return dataclasses.replace(config, block_size=config.block_side, voxel=config.voxel_side)
    weights = find_weights(config.weights, config.runs, progress=progress)
    model, classes = config.model, config.model.num_classes
    network = weights.load_for_points(model.own_classes)
    theirs, size = network.config, config.block_size or network.block_size
    voxel = network.voxel if config.voxel is None else config.voxel
    settled = config.block_size is not None and config.voxel is not None
    if not settled and model == ModelConfig(num_classes=classes):
        model = dataclasses.replace(theirs, num_classes=classes)
    check_network(weights.argument, theirs, model)
    if theirs.depth < config.freeze <= model.depth:
        raise ConfigError(
            f"--freeze: found {config.freeze}, expected at most {theirs.depth}, the layers of "
            f"{weights.name}: those that follow them have yet to learn."
        )
    for part in FROM_WEIGHTS:
        if model.depth > theirs.depth and part in config.parts:
            raise ConfigError(
                f"--with {part}: found {counted(model.depth - theirs.depth, 'layer')} that "
                f"{weights.name} does not have, expected the layers that it has.\n"
                f"Leave --with {part} out, of a plan with --without {part}, or --depth."
            )
    sha256 = weights.sha256
    return dataclasses.replace(
        config, model=model, block_size=size, voxel=voxel, weights_sha256=sha256
    )


def check_network(name: str, theirs: ModelConfig, wanted: ModelConfig) -> None:
    """Raise ConfigError, with the differences, unless weights fit the network.

    All but the classifier has to be as in the weights; more layers may follow theirs.
    """
    deeper = theirs.arch in DEEPENED and wanted.depth > theirs.depth
    differing = [
        f"{field.name} {getattr(wanted, field.name)} instead of {getattr(theirs, field.name)}"
        for field in dataclasses.fields(ModelConfig)
        if field.name not in TENSORLESS
        and getattr(theirs, field.name) != getattr(wanted, field.name)
        and not (field.name == "depth" and deeper)
    ]
    if differing:
        deepen = (
            f"\nA --depth above {theirs.depth} is allowed: more layers then follow theirs."
            if theirs.arch in DEEPENED
            else ""
        )
        raise ConfigError(
            f"--weights {name}: found a network of {theirs.label}, asked for one with "
            f"{', '.join(differing)}.\n"
            "To train that of the weights, leave out the preset and the options that ask for "
            f"another; to train from nothing, leave out --weights.{deepen}"
        )


def open_start(config: TrainConfig) -> NamedWeights | None:
    """Return the weights that a resolved configuration starts from, if any.

    RunError: their file has changed since.
    """
    if config.weights is None:
        return None
    weights = find_weights(config.weights, config.runs)
    if weights.sha256 != config.weights_sha256:
        raise RunError(
            f"{weights.file}: found weights of the SHA-256 {weights.sha256[:12]}, expected those "
            f"that the training was set up with, {str(config.weights_sha256)[:12]}.\n"
            "Put them back, or start a new run: deepgcn train --weights …"
        )
    return weights


def keeps_classifier(weights: NamedWeights, classes: Sequence[str], count: int) -> bool:
    """Return whether the classifier of weights of `count` outputs predicts these classes.

    Weights that name no classes are believed if the number is the same.
    """
    return count == len(classes) and weights.named_classes in ((), tuple(classes))


def check_halfway(config: TrainConfig, store: Store) -> None:
    """Raise ConfigError if the data has other classes than the weights that are kept halfway."""
    weights = open_start(config)
    assert weights is not None, "wise-ft is refused without them"
    count = weights.load(config.model.own_classes).config.num_classes
    if not keeps_classifier(weights, store.classes, count):
        theirs = ", ".join(weights.class_names(count))
        raise ConfigError(
            f"--with wise-ft: found the classes {', '.join(store.classes)}, expected those of "
            f"{weights.name}, as nothing lies halfway to a new classifier: {theirs}.\n"
            "Leave it out, of a plan with --without wise-ft."
        )


def start_from(model: DeepGCN, weights: NamedWeights, classes: Sequence[str]) -> None:
    """Put weights into a new network, except for a classifier of other classes.

    Layers that follow those of the weights keep their initialisation. As the maps of all layers'
    outputs are 0 for theirs, the network computes what that of the weights does, and yet they
    learn, so that a trained network can grow deeper (Chen et al., Net2Net, ICLR 2016, do likewise
    with identities).
    """
    source = weights.load(model.config.own_classes)
    state = source.state_dict()
    if not keeps_classifier(weights, classes, source.config.num_classes):
        state = {name: v for name, v in state.items() if not name.startswith(CLASSIFIER)}
    own = model.state_dict()
    for name in MAPS_OF_ALL:
        state[name] = F.pad(state[name], (0, own[name].shape[1] - state[name].shape[1]))
    model.load_state_dict(state, strict=False)


def describe_start(
    weights: NamedWeights, config: TrainConfig, store: Store, progress: Progress
) -> None:
    """Say what a training takes over from weights, and what they have seen already."""
    network = weights.load(config.model.own_classes)
    count = network.config.num_classes
    for noun, theirs, ours in (
        ("blocks", network.block_size, config.block_side),
        ("voxels", network.voxel, config.voxel_side),
    ):
        if theirs != ours:
            progress.say(
                f"{weights.name}: was trained on {noun} of {theirs:g} m; this training has "
                f"{noun} of {ours:g} m"
            )
    if more := config.model.depth - network.config.depth:
        progress.say(
            f"{weights.name}: {counted(more, 'layer')} more after its {network.config.depth}, "
            "without an effect at the first step"
        )
    if not keeps_classifier(weights, store.classes, count):
        progress.say(
            f"{weights.name}: its classifier of {count} classes is replaced by a new one "
            f"of {len(store.classes)}: {', '.join(store.classes)}"
        )
    if config.test_area and config.test_area not in weights.unseen_areas(store):
        progress.warn(
            f"{weights.name}: was trained on area {config.test_area} of this data, so the run's "
            "test area will not be unseen."
        )


def trained_on(config: TrainConfig, store: Store, sampler: Sampler, blocks: int) -> dict[str, str]:
    """Return what a training's weights record of its data, of which they have seen some blocks."""
    if isinstance(sampler, SyntheticSampler):
        text, seen = describe_stream(config, store, blocks), sampler.statistics
    else:
        areas = [str(area) for area in store.areas if area != config.test_area]
        noun = "area" if len(areas) == 1 else "areas"
        text = f"{store.path.resolve().name}, {noun} {', '.join(areas)}"
        seen = statistics.of_rooms(store, [r for r in store.rooms() if r.area != config.test_area])
    found = statistics.summarize(seen) if seen else {}
    if config.synth and "-" in str(config.density):
        found.pop("density", None)  # the median of a range would make what lies in it seem unlike
    like = {statistics.SUMMARY: json.dumps(found)} if found else {}
    text += f" (fingerprint {store.fingerprint[:12]})"
    return {
        "trained_on": f"{text}, recipe {config.recipe_text}, seed {config.seed}",
        "test_area": str(config.test_area),
        "fingerprint": store.fingerprint,
        **like,
    }
