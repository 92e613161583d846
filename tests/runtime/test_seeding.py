"""A restored random state draws what would have been drawn."""

from __future__ import annotations

import io

import torch

from pipelines.runtime.seeding import restore_rng_state, rng_state, seed_everything


def test_the_same_seed_draws_the_same() -> None:
    seed_everything(3)
    first = torch.rand(4)
    seed_everything(3)
    assert torch.equal(torch.rand(4), first)
    seed_everything(4)
    assert not torch.equal(torch.rand(4), first)


def test_a_state_survives_a_file() -> None:
    seed_everything(0)
    torch.rand(3)
    file = io.BytesIO()
    torch.save(rng_state(), file)
    expected = torch.rand(5)
    torch.rand(100)
    file.seek(0)
    restore_rng_state(torch.load(file, weights_only=True))
    assert torch.equal(torch.rand(5), expected)
