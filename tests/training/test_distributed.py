"""Two processes with half a batch each take the steps of one process with the whole batch."""

from __future__ import annotations

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pipelines import kernels
from pipelines.data.store import IGNORED
from pipelines.errors import ConfigError
from pipelines.model.deepgcn import DeepGCN
from pipelines.model.layers import Norm
from pipelines.runtime.seeding import seed_step
from pipelines.training.distributed import ALONE, Processes, read_ranks
from tests.training.rank_steps import BATCHES, CASES, RATES, Blocks, build, take_steps

ROOT = Path(__file__).resolve().parents[2]
EXACT = {"rtol": 1e-9, "atol": 1e-11}  # float64: only the order of sums differs


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where two processes left what they came to."""
    folder, port = tmp_path_factory.mktemp("two"), free_port()
    command = [sys.executable, "-m", "tests.training.rank_steps", str(folder)]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = {**os.environ, **place, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank)}, cwd=ROOT)
        for rank in range(2)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    return folder


def found(two: Path, name: str, rank: int) -> dict[str, Any]:
    return torch.load(two / f"{name}.{rank}.pt", weights_only=True)


def tensors(blocks: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = Blocks().batch(0, blocks)
    return torch.from_numpy(batch.features), torch.from_numpy(batch.label).long()


def descend(model: DeepGCN) -> None:
    """Take the optimizer's step in plain words."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= RATES.lr * parameter.grad


def set_momentum(model: DeepGCN) -> None:
    for module in model.modules():
        if isinstance(module, Norm):
            module.momentum = RATES.bn_momentum


def whole_batches(name: str) -> tuple[list[float], DeepGCN]:
    """Train on the whole batches with none of the code for several processes."""
    model, _ = build(CASES[name])
    set_momentum(model.train())
    losses = []
    with kernels.use("reference"):
        for step, blocks in enumerate(BATCHES):
            seed_step(model, 0, step, rank=0)
            features, label = tensors(blocks)
            logits = model(features).flatten(0, 1)
            loss = F.cross_entropy(logits, label.flatten(), ignore_index=IGNORED)
            model.zero_grad()
            loss.backward()
            descend(model)
            losses.append(loss.item())
    return losses, model


def assert_came_to(two: Path, name: str, losses: list[float], model: DeepGCN) -> None:
    for rank in range(2):
        result = found(two, name, rank)
        np.testing.assert_allclose(result["losses"], losses, rtol=1e-10)
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(result["grads"][key], parameter.grad, **EXACT, msg=key)
        for key, value in model.state_dict().items():
            torch.testing.assert_close(result["state"][key], value, **EXACT, msg=key)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.sync_bn])
def test_with_synchronised_norms_local_batches_make_the_whole(two: Path, name: str) -> None:
    assert_came_to(two, name, *whole_batches(name))


def test_without_them_each_local_batch_has_its_own_statistics(two: Path) -> None:
    """The oracle goes through the parts one after the other and adds up their gradients."""
    model, _ = build(CASES["local norms"])
    set_momentum(model.train())
    losses = []
    with kernels.use("reference"):
        for step, blocks in enumerate(BATCHES):
            labelled = (tensors(blocks)[1] != IGNORED).sum()
            middle = -(-len(blocks) // 2)
            loss, statistics = 0.0, []
            model.zero_grad()
            for part in (blocks[:middle], blocks[middle:]):
                if not part:
                    continue
                other = copy.deepcopy(model)
                seed_step(other, 0, step, rank=0)
                features, label = tensors(part)
                logits = other(features).flatten(0, 1)
                loss_part = F.cross_entropy(
                    logits, label.flatten(), ignore_index=IGNORED, reduction="sum"
                )
                loss_part = loss_part / labelled
                loss_part.backward()
                loss += loss_part.item()
                statistics.append((len(part) / len(blocks), dict(other.named_buffers())))
                for own, its in zip(model.parameters(), other.parameters(), strict=True):
                    own.grad = its.grad if own.grad is None else own.grad + its.grad
            descend(model)
            for key, buffer in model.named_buffers():
                if buffer.is_floating_point():
                    buffer.copy_(sum(weight * its[key] for weight, its in statistics))
                else:
                    buffer.copy_(statistics[0][1][key])
            losses.append(loss)
    assert_came_to(two, "local norms", losses, model)
    assert abs(losses[0] - whole_batches("local norms")[0][0]) > 1e-3  # or this tests nothing


@pytest.mark.parametrize("name", CASES)
def test_both_processes_have_the_same_weights_to_the_bit(two: Path, name: str) -> None:
    first, second = (found(two, name, rank)["state"] for rank in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_alone_it_is_the_same_code(two: Path) -> None:
    losses = take_steps(CASES["mr"], ALONE)["losses"]
    np.testing.assert_allclose(found(two, "mr", 0)["losses"], losses, rtol=1e-10)


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_row_sums_keep_the_variance_of_far_values(shift: float) -> None:
    """In float32, where E[x²] − E[x]² of values near 1000 has no correct digit."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 3, generator=generator) * 0.1 + shift
    norm = Norm(3).train()
    norm.reduce = lambda sums: sums
    exact = F.batch_norm(x.double(), None, None, training=True).float()
    torch.testing.assert_close(norm(x), exact, rtol=0, atol=2e-3 if shift else 1e-5)


def test_gradient_of_the_row_sums() -> None:
    norm = Norm(4).double().train()
    norm.reduce = lambda sums: sums
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(norm, (x,))


TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "10.0.0.7",
    "MASTER_PORT": "29511",
}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "3",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_NODELIST": "gpu[007-008]",
    "SLURM_JOB_ID": "41234",
}


def test_without_a_launcher_there_is_one_process() -> None:
    assert read_ranks({}) == Processes()
    assert read_ranks({"WORLD_SIZE": "1", "RANK": "0"}) == Processes()
    # A job's script, in which srun has not started anything.
    job = {"SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu1", "SLURM_JOB_ID": "1"}
    assert read_ranks({**job, "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}) == Processes()


def test_torchrun() -> None:
    assert read_ranks(TORCHRUN) == Processes(5, 8, 1, 4, "10.0.0.7", 29511, "torchrun")


def test_srun() -> None:
    assert read_ranks(SRUN) == Processes(3, 8, 3, 4, "gpu007", 21_234, "srun")
    named = {**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "5000"}
    assert read_ranks(named) == Processes(3, 8, 3, 4, "head", 5000, "srun")
    # A step of two of the job's eight tasks.
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    assert read_ranks({**step, "SLURM_STEP_NODELIST": "gpu008"}).address == "gpu008"
    assert read_ranks(step).size == 2


def test_torchrun_within_a_slurm_job_counts() -> None:
    assert read_ranks({**SRUN, **TORCHRUN}).launcher == "torchrun"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("localhost", "localhost"),
        ("a1,a2", "a1"),
        ("gpu[07-09,12],login", "gpu07"),
        ("gpu[3,5]", "gpu3"),
        ("rack-1-n[010-020]-ib", "rack-1-n010-ib"),
    ],
)
def test_first_node_of_a_list(nodes: str, first: str) -> None:
    assert read_ranks({**SRUN, "SLURM_JOB_NODELIST": nodes}).address == first


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE: found 'two' in the environment"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, r"MASTER_PORT: found None in the environment"),
        ({**TORCHRUN, "RANK": "8"}, r"torchrun: found process number 8 of 8, expected 0 to 7"),
    ],
)
def test_variables_that_make_no_sense(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read_ranks(environment)
