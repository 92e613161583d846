"""Describe a training in the line that comes before its first step."""

from __future__ import annotations

import torch
from torch import nn

from pipelines.config import ModelConfig, TrainConfig
from pipelines.data.sampler import BlockSampler, Sampler
from pipelines.model.presets import PRESETS, published_as
from pipelines.progress import counted
from pipelines.runtime.device import describe_device

from .memory import describe_memory


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters, frozen ones included."""
    return sum(parameter.numel() for parameter in model.parameters())


def describe_training(
    config: TrainConfig,
    model: nn.Module,
    train: Sampler,
    validation: BlockSampler | None,
    device: torch.device,
    sharing: int = 1,
) -> str:
    """Return a training's settings in one line; `sharing` as for `describe_memory`."""
    norms = ", synchronised batch norm" if config.sync_bn else ""
    processes = f" × {config.devices} processes{norms}" if config.devices > 1 else ""
    micro = config.micro_batch or config.local_batch
    layers = config.checkpoint_layers
    parts = [
        f"{config.label}, {describe_size(model)}",
        describe_dilation(config.model),
        f"from {config.weights}" if config.weights else "",
        f"{counted(config.freeze, 'layer')} frozen" if config.freeze else "",
        *_describe_rooms(config, train),
        _describe_validation(config, validation),
        f"recipe {config.recipe_text} ({config.model.layout} layout), "
        f"lr {config.first_lr:g}, seed {config.seed}",
        f"{describe_device(device)}{processes}",
        f"matmul precision {config.precision}" if config.precision != "32" else "",
        f"batches of {config.batch_size}, {micro} at once" if micro < config.local_batch else "",
        f"{counted(layers, 'layer')} recomputed at once" if layers else "",
        describe_memory(config, device.type, sharing),
        describe_published(config.model),
    ]
    return "; ".join(part for part in parts if part)


def describe_size(model: nn.Module) -> str:
    """Return a network's parameters, and how many of them are trained if some are not."""
    whole = count_parameters(model)
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    part = f", {trained / 1e6:.3f} M of them trained" if trained < whole else ""
    return f"{whole / 1e6:.3f} M parameters{part}"


def _describe_rooms(config: TrainConfig, sampler: Sampler) -> tuple[str, ...]:
    blocks = counted(len(sampler), "block")
    if config.synth:
        each = f"{counted(len(sampler.rooms), 'new room')} an epoch ({blocks})"
        return config.data_text, each
    area = f"test area {config.test_area}" if config.test_area else "no test area"
    return area, f"{counted(len(sampler.rooms), 'training room')} ({blocks})"


def _describe_validation(config: TrainConfig, sampler: BlockSampler | None) -> str:
    if sampler is None:
        return "no validation"
    count, most = len(sampler), config.val_blocks
    part = f" ({most:,} of {counted(count, 'block')})" if most and most < count else ""
    return f"{counted(len(sampler.rooms), 'validation room')}{part}"


def describe_dilation(config: ModelConfig) -> str:
    """Return the range of the dilation: "dilation 1–27 (ε 0.2)"."""
    widest = max(config.dilations())
    if widest == 1:
        return "dilation 1"
    return f"dilation 1–{widest}" + (f" (ε {config.epsilon:g})" if config.epsilon else "")


def describe_published(config: ModelConfig) -> str:
    """Return what was published for this network on Area 5; a dagger if it is from memory."""
    name = published_as(config)
    if name is None or PRESETS[name].published is None:
        return ""
    row = PRESETS[name]
    return f"published {row.published:.2f}{'' if row.cited else '†'} % mIoU on area 5 ({name})"
