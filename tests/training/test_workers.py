"""How a training's processes are launched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipelines.training import workers


def test_workers_have_the_time_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch kills them 30 s after a signal unless the settings say otherwise."""
    seen: list[Any] = []

    def elastic_launch(settings: Any, work: Callable[..., Any]) -> Callable[..., list[int]]:
        assert work is workers._work
        seen.append(settings.shutdown_timeout)
        return lambda *_: [7]

    monkeypatch.setattr(workers, "elastic_launch", elastic_launch)
    assert workers.launch(2, 1, int) == 7
    assert seen == [workers.SAVING]
