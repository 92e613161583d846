"""Which process this one is, from what launchers leave in the environment."""

from __future__ import annotations

import pytest

from pipelines.errors import ConfigError
from pipelines.training.placement import Place, find_place, first_node

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
    "SLURM_LOCALID": "3",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_NODELIST": "gpu[007-008]",
    "SLURM_JOB_ID": "41234",
}


def test_without_a_launcher_a_process_is_alone() -> None:
    assert find_place({}) == Place()
    assert find_place({"WORLD_SIZE": "1", "RANK": "0"}) == Place()
    # An allocation in which srun has not started anything.
    assert find_place({"SLURM_NTASKS": "8", "SLURM_JOB_NODELIST": "gpu1"}) == Place()


def test_torchrun() -> None:
    assert find_place(TORCHRUN) == Place(5, 8, 1, 4, "10.0.0.7", 29511, "torchrun")


def test_srun() -> None:
    assert find_place(SRUN) == Place(3, 8, 3, 4, "gpu007", 21_234, "srun")
    named = {**SRUN, "MASTER_ADDR": "head", "MASTER_PORT": "5000"}
    assert find_place(named) == Place(3, 8, 3, 4, "head", 5000, "srun")
    # A step of two of the job's eight tasks.
    step = {**SRUN, "SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    assert find_place({**step, "SLURM_STEP_NODELIST": "gpu008"}).address == "gpu008"
    assert find_place(step).size == 2


def test_torchrun_within_a_slurm_job_counts() -> None:
    assert find_place({**SRUN, **TORCHRUN}).launcher == "torchrun"


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
    assert first_node(nodes) == first


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
        find_place(environment)
