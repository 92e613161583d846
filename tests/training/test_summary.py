"""What a run says before it starts."""

from __future__ import annotations

from pipelines.config import ModelConfig
from pipelines.model.deepgcn import DeepGCN
from pipelines.training.summary import describe_dilation, describe_published, describe_size


def test_published_scores_with_a_dagger_where_recalled() -> None:
    cited = ModelConfig.published("resgcn", 28, layout="torch")
    assert describe_published(cited) == "published 52.49 % mIoU on area 5 (resgcn-28)"
    recalled = ModelConfig.published("densegcn", 28)
    assert describe_published(recalled) == "published 51.27† % mIoU on area 5 (densegcn-28)"
    assert describe_published(ModelConfig.published("resgcn", 29)) == ""
    assert describe_published(ModelConfig.published("resgcn", 112)) == ""  # no score published


def test_dilation_range() -> None:
    assert describe_dilation(ModelConfig(depth=28)) == "dilation 1–27 (ε 0.2)"
    assert describe_dilation(ModelConfig(depth=5, epsilon=0.0)) == "dilation 1–4"
    assert describe_dilation(ModelConfig.published("plaingcn", 28)) == "dilation 1"


def test_a_frozen_network_is_as_large_as_before() -> None:
    """The first layer has a map of 2 × 9 channels to 64, its bias, and a norm of 2 × 64."""
    model = DeepGCN(ModelConfig(depth=3))
    whole = describe_size(model)
    model.freeze(1)
    first = 2 * 9 * 64 + 64 + 2 * 64
    trained = sum(each.numel() for each in model.parameters()) - first
    assert describe_size(model) == f"{whole}, {trained / 1e6:.3f} M of them trained"
