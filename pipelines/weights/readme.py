"""The README beside exported weights: where they come from and how to use them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

import torch

from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN

from .safetensors import describe

FORMS = {
    ".safetensors": "tensors, as safetensors",
    ".pth": "tensors, as torch.save writes them",
    ".pt2": "the computation for one block, for torch.export.load",
    ".onnx": "the computation for one block, as ONNX",
}
CHANNELS = {
    "paper": "x, y from the block's centre and z from the floor (m)",
    "torch": "x, y, z from the mean of the block's points, scaled into [-1, 1]",
}
PAST = ("run", "checkpoint", "step", "test_area", "source", "source_sha256", "release")


def readme_text(
    out: Path, model: DeepGCN, facts: Mapping[str, str], names: str, share: float | None
) -> str:
    """Return what a person needs to know of an exported file.

    Args:
        out: the file; its suffix is one of FORMS.
        model: the network.
        facts: what its weights say of themselves, with `exported_from`, `sha256`.
        names: of the tensors, "own" or "published".
        share: of a computation, how many labels agree, 0 to 1; None for tensors.
    """
    config = model.config
    classes = facts.get("classes", "").replace(" ", ", ") or "not recorded"
    lines = [
        f"# {out.name}\n",
        f"{describe(config)}, {FORMS[out.suffix]}.\n",
        f"- from: {facts['exported_from']}, SHA-256 {facts['sha256']}",
        *(f"- {name.replace('_', ' ')}: {facts[name]}" for name in PAST if name in facts),
        f"- written by: deepgcn weights export, PyTorch {torch.__version__}, "
        f"Python {platform.python_version()}",
        f"- classes, in the order of the outputs: {classes}",
        f"- channels: {CHANNELS[config.layout]}; r, g, b (0 to 1); "
        "x, y, z divided by the room's extent",
        f"- network: {config}",
        *(_of_tensors(config, names) if share is None else _of_computation(model, share)),
    ]
    return "\n".join(lines) + "\n"


def _of_computation(model: DeepGCN, share: float) -> list[str]:
    points, config = model.num_points, model.config
    return [
        f"- input: features (1, {points}, {config.in_channels}); "
        f"output: logits (1, {points}, {config.num_classes})",
        f"- checked: {share:.2%} of a random block's points get the network's own labels",
    ]


def _of_tensors(config: ModelConfig, names: str) -> list[str]:
    if names == "own":
        return []
    told = ["- names: those of the published PyTorch code"]
    if config.arch == "dgcnn" or config.layout == "torch":
        return told
    return [
        *told,
        "- **layout paper**: this network normalises before the activation and finds its first "
        "graph in channels 6 to 8. The published PyTorch code does neither, so there these "
        "weights give other results; `deepgcn weights import` reads them back exactly.",
    ]
