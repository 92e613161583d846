"""PyTorch files: tensors come in, code does not run."""

from __future__ import annotations

import collections
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines.errors import WeightsError
from pipelines.weights.pytorch import read_torch

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}


class Code:
    """What an attacker saves: unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_tensors_come_back(tmp_path: Path, key: str | None, zipped: bool) -> None:
    path = tmp_path / "w.pth"
    state = collections.OrderedDict(STATE)
    content = state if key is None else {key: state, "epoch": 3, "name": "mine"}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    found, facts = read_torch(path)
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], value) for name, value in STATE.items())
    assert facts == ({} if key is None else {"epoch": "3", "name": "mine"})


@pytest.mark.parametrize("best", [np.float64(0.525), np.float32(0.5), 0.25, -np.inf])
def test_the_release_saves_its_best_score_as_a_numpy_number(tmp_path: Path, best: Any) -> None:
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(2))])
    path = tmp_path / "w.pth"
    content = {
        "epoch": 7,
        "state_dict": STATE,
        "optimizer_state_dict": optimizer.state_dict(),
        "scheduler_state_dict": torch.optim.lr_scheduler.StepLR(optimizer, 20).state_dict(),
        "best_value": best,
    }
    torch.save(content, path)
    found, facts = read_torch(path)
    assert list(found) == list(STATE)
    assert float(facts["best_value"]) == best


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_not_run(tmp_path: Path, zipped: bool) -> None:
    made, path = tmp_path / "made", tmp_path / "w.pth"
    content = {"state_dict": STATE, "epoch": Code(made)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=rf"w\.pth: its pickle calls {os.name}\.mkdir: code"):
        read_torch(path)
    path.write_bytes(pickle.dumps(Code(made)))
    with pytest.raises(WeightsError, match="cannot be read as a PyTorch file"):
        read_torch(path)
    assert not made.exists()


def test_a_whole_model_is_code_too(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(WeightsError, match="Linear: code") as caught:
        read_torch(path)
    assert "save model.state_dict() alone" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ([torch.zeros(1)], "found a list"),
        ({}, "found a dictionary with 0 keys"),
        ({"state_dict": {}, "epoch": 1}, r"with 2 keys \(state_dict, epoch\)"),
        (torch.zeros(3), "found a Tensor"),
    ],
)
def test_no_named_tensors(tmp_path: Path, content: Any, told: str) -> None:
    path = tmp_path / "w.pth"
    torch.save(content, path)
    with pytest.raises(WeightsError, match=told):
        read_torch(path)


def test_an_archive_that_would_grow_is_refused(tmp_path: Path) -> None:
    stored, packed = tmp_path / "w.pth", tmp_path / "packed.pth"
    torch.save({"a": torch.zeros(100_000)}, stored)
    with zipfile.ZipFile(stored) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(WeightsError, match="its parts claim 40"):
        read_torch(packed)


@pytest.mark.parametrize("zipped", [True, False])
def test_numbers_that_are_not_in_the_file_are_refused(tmp_path: Path, zipped: bool) -> None:
    path, number = tmp_path / "w.pth", torch.zeros(1)

    def save(state: dict[str, torch.Tensor]) -> None:
        torch.save(state, path, _use_new_zipfile_serialization=zipped)

    save({"a": number.expand(10**6, 18)})
    with pytest.raises(WeightsError, match=r"w\.pth: its tensors claim 18,000,000 numbers"):
        read_torch(path)
    save({f"a{place}": torch.zeros(1000) for place in range(3)})
    read_torch(path)
    shared = torch.zeros(100_000)
    save({"a": shared, "b": shared})  # as dgcnn.pytorch has every norm under two names
    read_torch(path)
    save({f"a{place}": shared for place in range(100)})
    with pytest.raises(WeightsError, match="claim 10,000,000 numbers"):
        read_torch(path)
    save({"a": number, "b": torch.zeros(3, 4, device="meta")})
    with pytest.raises(WeightsError, match=r"w\.pth: found only the shape of 'b'"):
        read_torch(path)


def test_empty_and_other_files(tmp_path: Path) -> None:
    (tmp_path / "empty.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match="cannot be read as a PyTorch file: EOFError"):
        read_torch(tmp_path / "empty.pth")
    for text in ("just some text", "Lorem ipsum"):
        (tmp_path / "text.pth").write_text(text)
        with pytest.raises(WeightsError, match=r"not written by torch.save\.\nExpected what torch"):
            read_torch(tmp_path / "text.pth")


@pytest.mark.parametrize("version", ["2.4.0", "2.5.1+cu121", "1.13"])
def test_a_pytorch_that_could_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    path = tmp_path / "w.pth"
    torch.save(STATE, path)
    monkeypatch.setattr(torch, "__version__", version)
    with pytest.raises(WeightsError, match=r"cannot read such a file safely.\n.*torch>=2\.6"):
        read_torch(path)


@given(st.data())
def test_a_damaged_file_is_a_clear_error_or_tensors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "w.pth"
    zipped = data.draw(st.booleans())
    torch.save({"state_dict": STATE}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    path.write_bytes(whole[:at] if cut else whole[:at] + b"\xff" + whole[at + 1 :])
    message, found = outcome(path)
    assert message is None or message.startswith(str(path))
    assert all(isinstance(value, torch.Tensor) for value in found.values())


def outcome(path: Path) -> tuple[str | None, dict[str, torch.Tensor]]:
    """The refusal's message, or the tensors; any other exception fails the test."""
    try:
        return None, read_torch(path)[0]
    except WeightsError as error:
        return str(error), {}
