"""A restored random state draws what would have been drawn."""

from __future__ import annotations

import io

import torch

from pipelines.runtime.seeding import restore_rng_state, rng_state


def test_a_state_survives_a_file() -> None:
    torch.manual_seed(0)
    torch.rand(3)
    file = io.BytesIO()
    torch.save(rng_state(), file)
    expected = torch.rand(5)
    torch.rand(100)
    file.seek(0)
    restore_rng_state(torch.load(file, weights_only=True))
    assert torch.equal(torch.rand(5), expected)
