"""The released algorithm, step by step as published: what the benchmarks compare with.

Nothing is saved: a full N × N distance matrix per layer, the k·d nearest by top-k and every d-th
of them, both ends of every edge gathered, a (B, 2C, N, k) edge tensor through a 1 × 1 convolution,
ReLU and batch norm, and the largest over k. Parameters have the published names, so that
`pipelines.weights.published.from_reference(network.state_dict(), k=k)` is the same function.

Run it to check that it is (10 s on 2 cores; prints the largest difference of the logits, float64):

    python -m benchmarks.naive

Reference:
    Li, Müller, Thabet, Ghanem, DeepGCNs: Can GCNs Go as Deep as CNNs?, ICCV 2019; the layout of
    the authors' PyTorch release (convolution, activation, norm).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipelines.config import ModelConfig


def nearest(x: Tensor, count: int) -> Tensor:
    """Return the `count` nearest points (B, N, count) of every point of x (B, C, N, 1)."""
    points = x.squeeze(-1).transpose(1, 2)
    inner = -2 * torch.matmul(points, points.transpose(1, 2))
    squares = (points * points).sum(-1, keepdim=True)
    distance = squares + inner + squares.transpose(1, 2)
    return torch.topk(-distance, count).indices


def dilated(x: Tensor, k: int, dilation: int, *, epsilon: float, training: bool) -> Tensor:
    """Return edges (2, B, N, k): the chosen ones of the k·d nearest, and each point itself."""
    with torch.no_grad():
        source = nearest(x, k * dilation)
        if training and torch.rand(1).item() < epsilon:
            source = source[..., torch.randperm(k * dilation)[:k]]
        else:
            source = source[..., ::dilation]
        target = torch.arange(x.shape[2], device=x.device).view(1, -1, 1).expand_as(source)
        return torch.stack([source, target])


def gather(x: Tensor, index: Tensor) -> Tensor:
    """Return (B, C, N, k): the features x (B, C, N, 1) of the points `index` (B, N, k)."""
    batch, channels, points, _ = x.shape
    first = torch.arange(batch, device=x.device).view(-1, 1, 1) * points
    rows = x.squeeze(-1).transpose(1, 2).reshape(batch * points, channels)
    picked = rows[(index + first).reshape(-1)]
    return picked.view(*index.shape, channels).permute(0, 3, 1, 2).contiguous()


def unit(in_channels: int, out_channels: int) -> nn.Sequential:
    """Return convolution, activation, norm: elements 0, 1, 2 as in the release."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1), nn.ReLU(), nn.BatchNorm2d(out_channels)
    )


class GraphConv(nn.Module):
    """EdgeConv or MRConv on given edges."""

    def __init__(self, conv: str, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.nn = unit(2 * in_channels, out_channels)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        own, other = gather(x, edges[1]), gather(x, edges[0])
        if self.conv == "edge":
            return self.nn(torch.cat([own, other - own], dim=1)).max(-1, keepdim=True).values
        return self.nn(torch.cat([x, (other - own).max(-1, keepdim=True).values], dim=1))


def holder(name: str, layer: nn.Module) -> nn.ModuleDict:
    """Put a layer under the name it has in published weights."""
    return nn.ModuleDict({name: layer})


class NaiveDeepGCN(nn.Module):
    """The released network: features (B, N, 9) to logits (B, N, 13)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, depth = config.width, config.depth
        self.head = holder("gconv", GraphConv(config.conv, config.in_channels, width))
        self.backbone = nn.ModuleList()
        channels, total = width, width
        for _ in range(depth - 1):
            self.backbone.append(
                holder("body", holder("gconv", GraphConv(config.conv, channels, width)))
            )
            channels += width if config.arch == "densegcn" else 0
            total += channels
        self.fusion_block = unit(total, config.fusion_channels)
        self.prediction = nn.Sequential(
            unit(config.fusion_channels + total, 512),
            unit(512, 256),
            nn.Dropout(config.dropout),
            nn.Sequential(nn.Conv2d(256, config.num_classes, 1)),
        )

    def forward(self, features: Tensor) -> Tensor:
        x = features.transpose(1, 2).unsqueeze(-1)  # (B, 9, N, 1)
        outputs = [self.head["gconv"](x, self._edges(x[:, :3], 0))]
        for number, layer in enumerate(self.backbone, start=1):
            assert isinstance(layer, nn.ModuleDict)
            x = outputs[-1]
            conv = layer.get_submodule("body.gconv")
            outputs.append(self._join(conv(x, self._edges(x, number)), x))
        points = torch.cat(outputs, dim=1)
        fused = self.fusion_block(points)
        block = F.max_pool2d(fused, kernel_size=list(fused.shape[2:]))
        block = block.expand(-1, -1, points.shape[2], 1)
        logits = self.prediction(torch.cat([block, points], dim=1))
        return logits.squeeze(-1).transpose(1, 2)

    def _edges(self, x: Tensor, number: int) -> Tensor:
        dilation = self.config.dilations()[number]
        epsilon = self.config.epsilon if dilation > 1 else 0.0
        return dilated(x, self.config.k, dilation, epsilon=epsilon, training=self.training)

    def _join(self, y: Tensor, x: Tensor) -> Tensor:
        if self.config.arch == "densegcn":
            return torch.cat([x, y], dim=1)
        return y + x if self.config.arch == "resgcn" else y


def check(config: ModelConfig, points: int = 128) -> float:
    """Return how far the naive network and `DeepGCN` differ, in float64, on random points."""
    from pipelines.weights.published import from_reference

    network = NaiveDeepGCN(config).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # both signs
    own = from_reference(network.state_dict(), k=config.k, conv=config.conv, arch=config.arch)
    features = torch.rand(2, points, config.in_channels, dtype=torch.float64)
    with torch.no_grad():
        return float((network(features) - own(features)).abs().max())


def main() -> None:
    """Compare the naive network with `DeepGCN`, for every backbone and convolution."""
    torch.manual_seed(0)
    for arch in ("plaingcn", "resgcn", "densegcn"):
        for conv in ("edge", "mr"):
            config = ModelConfig.published(arch, 4, conv=conv, k=6, width=16, layout="torch")
            print(f"{arch:9s} {conv:5s} {check(config):.1e}")


if __name__ == "__main__":
    main()
