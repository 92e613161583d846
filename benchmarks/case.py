"""One measurement of the naive network, as `pipelines.bench` does it for ours.

`deepgcn bench` starts it; by hand:

    python -m benchmarks.case '{"model": {"depth": 7}, "work": "forward", "batch_size": 1,
        "num_points": 4096, "device": "cpu", "threads": 2, "repeats": 5}'
"""

from __future__ import annotations

from torch import Tensor

from benchmarks.naive import NaiveDeepGCN, dilated
from pipelines.bench import main
from pipelines.config import ModelConfig


def naive_search(x: Tensor, config: ModelConfig) -> Tensor:
    """Find the middle layer's neighbours by top-k over the whole distance matrix."""
    dilation = config.dilations()[config.depth // 2]
    columns = x.transpose(1, 2).unsqueeze(-1)
    return dilated(columns, config.k, dilation, epsilon=0.0, training=False)


if __name__ == "__main__":
    main(NaiveDeepGCN, naive_search)
