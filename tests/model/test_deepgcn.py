"""Properties of the whole network that do not follow from its code."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from pipelines.config import ModelConfig
from pipelines.errors import ConfigError
from pipelines.model.blocks import dense_columns
from pipelines.model.deepgcn import DeepGCN

SMALL = ModelConfig(depth=4, width=8, k=4, dropout=0.0, fusion_channels=16)


def build(config: ModelConfig = SMALL, **changes: object) -> DeepGCN:
    torch.manual_seed(1)
    return DeepGCN(dataclasses.replace(config, **changes)).double()


def features(points: int = 40, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.rand(batch, points, 9, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("layout", ["paper", "torch"])
@pytest.mark.parametrize("arch", ["plaingcn", "resgcn", "densegcn", "dgcnn"])
def test_permuting_points_permutes_logits(arch: str, layout: str) -> None:
    model = build(arch=arch, layout=layout, depth=3).eval()
    x = features()
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(x)[:, order], model(x[:, order]))


def test_blocks_of_a_batch_do_not_see_each_other_in_evaluation() -> None:
    model = build().eval()
    x = features(batch=3)
    torch.testing.assert_close(model(x)[2:], model(x[2:]))


def test_zeroed_convolutions_make_the_residual_backbone_an_identity() -> None:
    model = build(layout="paper").eval()
    with torch.no_grad():
        for layer in list(model.layers)[1:]:
            layer.mlp[0].norm.weight.zero_()
            layer.mlp[0].norm.bias.zero_()
        outputs = model.backbone(features())
    for output in outputs[1:]:
        assert torch.equal(output, outputs[0])
    assert outputs[0].abs().max() > 0


def test_zeroed_convolutions_make_the_plain_backbone_zero() -> None:
    model = build(arch="plaingcn", layout="paper").eval()
    with torch.no_grad():
        model.layers[1].mlp[0].norm.weight.zero_()
        model.layers[1].mlp[0].norm.bias.zero_()
        outputs = model.backbone(features())
    assert outputs[1].abs().max() == 0


@pytest.mark.parametrize("layout", ["paper", "torch"])
def test_dense_fusion_equals_the_explicit_concatenation(layout: str) -> None:
    model = build(arch="densegcn", layout=layout).eval()
    x = features()
    pieces = model.backbone(x)
    outputs = []
    for number in range(4):
        upto = list(pieces[: number + 1])
        outputs += upto[::-1] if layout == "paper" else upto
    whole = torch.cat(outputs, dim=-1)
    fused = model.fusion(whole).max(dim=1, keepdim=True).values.expand(-1, x.shape[1], -1)
    first, second = model.prediction
    expected = model.classifier(second(first(torch.cat([fused, whole], dim=-1))))
    torch.testing.assert_close(model(x), expected)


def test_dense_columns_of_three_layers_by_hand() -> None:
    assert dense_columns(3, 1, "paper").tolist() == [0, 1, 0, 2, 1, 0]
    assert dense_columns(3, 1, "torch").tolist() == [0, 0, 1, 0, 1, 2]


def test_epsilon_zero_is_deterministic_in_training() -> None:
    model = build(epsilon=0.0).train()
    assert torch.equal(model(features()), model(features()))


def test_dropout_acts_in_training_only() -> None:
    model = build(epsilon=0.0, dropout=0.5)
    model.train()
    assert not torch.equal(model(features()), model(features()))
    model.eval()
    assert torch.equal(model(features()), model(features()))


def test_every_parameter_gets_a_gradient() -> None:
    for conv in ("edge", "mr", "sage", "sage-n", "gin"):
        model = build(conv=conv).train()
        model(features()).square().sum().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing, conv


@pytest.mark.parametrize("layout", ["paper", "torch"])
@pytest.mark.parametrize("conv", ["edge", "mr", "sage", "gin"])
def test_frozen_norms_train_as_inference_computes(conv: str, layout: str) -> None:
    """Logits are those of evaluation, and gradients the differences of their sum of squares."""
    model, x = build(conv=conv, layout=layout, depth=3, epsilon=0.0), features()
    for norm in model.modules():
        if isinstance(norm, torch.nn.BatchNorm1d):
            norm.running_mean.uniform_(-0.2, 0.2)
            norm.running_var.uniform_(0.5, 2.0)
    wanted = model.eval()(x)
    model.freeze_norm()
    logits = model.train()(x)
    torch.testing.assert_close(logits, wanted)
    logits.square().sum().backward()
    step, generator = 1e-8, torch.Generator().manual_seed(4)
    for name, weight in model.named_parameters():
        way = torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
        sums = []
        for sign in (1, -2):
            weight.data.add_(way, alpha=sign * step)
            sums.append(model(x).square().sum().item())
        weight.data.add_(way, alpha=step)
        found = (weight.grad * way).sum().item()
        assert found == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=1e-3, abs=1e-3), name


def test_widest_neighbourhood_may_be_the_whole_block_but_no_more() -> None:
    model = build().eval()
    assert model(features(points=12)).shape == (2, 12, 13)
    with pytest.raises(ConfigError, match=r"takes neighbours from the 12 nearest points.*11"):
        model(features(points=11))
    with pytest.raises(ConfigError, match=r"takes neighbours from the 12 nearest points.*11"):
        model.backbone(features(points=11))


@pytest.mark.parametrize("checkpoint_layers", [0, 2])
@pytest.mark.parametrize("layout", ["paper", "torch"])
def test_without_colors_every_point_is_grey(layout: str, checkpoint_layers: int) -> None:
    """As the same network computes for grey points, gradients included."""
    blind, seeing = (build(layout=layout, rgb=rgb, epsilon=0.0) for rgb in (False, True))
    seeing.load_state_dict(blind.state_dict())
    blind.checkpoint_layers = checkpoint_layers
    x = features()
    grey = x.clone()
    grey[..., 3:6] = 0.5
    assert not torch.allclose(seeing(x), seeing(grey))
    found, expected = blind(x), seeing(grey)
    torch.testing.assert_close(found, expected)
    for logits in (found, expected):
        logits.square().sum().backward()
    for one, other in zip(blind.parameters(), seeing.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert torch.equal(blind.backbone(x)[-1], blind.backbone(grey)[-1])


def test_only_a_network_whose_input_has_colors_can_go_without() -> None:
    with pytest.raises(ConfigError, match="--no-rgb: found 3 channels"):
        build(rgb=False, in_channels=3)


def test_wrong_shape_is_reported() -> None:
    with pytest.raises(ConfigError, match=r"found features of shape \(2, 40, 6\)"):
        build()(features()[..., :6])


def test_dgcnn_is_edgeconv_only() -> None:
    with pytest.raises(ConfigError, match="DGCNN is EdgeConv only"):
        build(arch="dgcnn", conv="mr")


@pytest.mark.parametrize("layout", ["paper", "torch"])
def test_initial_weights_follow_the_layout(layout: str) -> None:
    model = build(layout=layout, width=64, depth=3)
    linear = model.layers[2].mlp[0].linear
    fan_in, fan_out = 128, 64
    expected = (2 / (fan_in + fan_out)) ** 0.5 if layout == "paper" else (2 / fan_in) ** 0.5
    assert linear.weight.std().item() == pytest.approx(expected, rel=0.05)
    assert linear.bias.abs().max() == 0


def test_from_reference_can_be_imported_from_its_earlier_module() -> None:
    from pipelines.model.weights import from_reference
    from pipelines.weights.published import from_reference as current

    assert from_reference is current
