"""Running statistics from sums, against PyTorch's own batch norm over the values themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipelines.model.layers import Norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
def test_statistics_from_sums_are_those_of_batch_norm(momentum: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    expected = nn.BatchNorm1d(5, momentum=momentum, dtype=dtype)
    found = Norm(5, momentum=momentum, dtype=dtype)
    for count in (7, 20, 3):
        x = 3 + 2 * torch.randn(count, 5, dtype=dtype)
        sums = x.double().sum(0), x.double().square().sum(0)
        torch.testing.assert_close(
            found.by_moments(x, count, *sums), expected(x), rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(found.state_dict(), expected.state_dict(), rtol=1e-5, atol=1e-5)
    assert int(found.num_batches_tracked) == 3
