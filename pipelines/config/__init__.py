"""Every option once, in frozen dataclasses (standard library only).

A field carries its default, its help, its bounds or choices and what it shapes (`options`). The
command line turns flags into one of these, a stage takes one and nothing else, and a run saves its
own as `config.json`.
"""

from .choices import AREAS, DEVICES, FRAMES, PROTOCOLS, SEED, STUDIES
from .data import PrepareConfig, SynthConfig
from .inference import EvalConfig, PredictConfig
from .model import ARCHS, BLOCK_SIZE, CONVS, LAYOUTS, POINTS, ModelConfig
from .studies import AblateConfig, BenchConfig, PlanConfig
from .train import TrainConfig

__all__ = [
    "ARCHS",
    "AREAS",
    "BLOCK_SIZE",
    "CONVS",
    "DEVICES",
    "FRAMES",
    "LAYOUTS",
    "POINTS",
    "PROTOCOLS",
    "SEED",
    "STUDIES",
    "AblateConfig",
    "BenchConfig",
    "EvalConfig",
    "ModelConfig",
    "PlanConfig",
    "PredictConfig",
    "PrepareConfig",
    "SynthConfig",
    "TrainConfig",
]
