"""The other processes of a training: what rank 1 and above do.

    python -m pipelines.training.follow

is how `--devices` starts them; under torchrun and srun `deepgcn train` comes here by itself. They
know nothing but where rank 0 is, which tells them what to train. They write no file, and speak
only when something goes wrong that rank 0 cannot see.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path

from pipelines import kernels
from pipelines.config import TrainConfig
from pipelines.data.store import Store
from pipelines.errors import DatasetError, DeepGCNError
from pipelines.progress import SILENT
from pipelines.runs.directory import Run
from pipelines.runtime.device import cpu_threads, device_of, pick_device
from pipelines.runtime.interruption import watch_for_interruption
from pipelines.serialization import from_plain
from pipelines.train import arrange_memory, open_samplers

from .distributed import EverywhereError, ProcessLostError, connected, meet
from .loop import Training
from .placement import find_place
from .steps import explain_out_of_memory
from .workers import STOPPED, Leader


def follow() -> int:
    """Take part in the training that rank 0 directs; return the exit code of this process.

    Raises:
        DeepGCNError: something that this process alone has met, or rank 0 is lost.
        KeyboardInterrupt: a signal came to one of the processes; rank 0 has saved the run.
    """
    place = find_place()
    processes = meet(place)
    orders = processes.hear("orders")
    config: TrainConfig = from_plain(TrainConfig, orders["config"])
    store = Store.open(config.data)
    if store.fingerprint != orders["fingerprint"]:
        raise DatasetError(
            f"{config.data}: process {place.rank} found other data there than process 0.\n"
            "Give a folder that all machines see with --data."
        )
    device = device_of(place, pick_device(config.device))
    with ExitStack() as stack:
        stack.enter_context(kernels.use(orders["kernels"]))
        stack.enter_context(cpu_threads(config.threads))
        arrange_memory(config, device.type, processes)
        samplers = open_samplers(config, store, processes=processes)
        run = Run(Path(processes.hear("run")))
        interruption = stack.enter_context(watch_for_interruption())
        stack.enter_context(explain_out_of_memory(config))
        stack.enter_context(connected(processes, device))
        try:
            training = Training(
                config, run, samplers, store, device, interruption, SILENT, processes
            )
            training.check_start()
            training.accumulation.trials = orders["trials"]
            if not training.finished:
                training.run_to_end()
        except EverywhereError:
            return 1  # rank 0 has met it too, and says it
    return 0


def main() -> int:
    """Follow the process that started this one."""
    leader = Leader()
    try:
        return follow()
    except KeyboardInterrupt:
        return STOPPED
    except ProcessLostError as error:
        # If rank 0 is there, it has lost the same process, and says so.
        return _fail(error) if leader.fell_silent else 1
    except DeepGCNError as error:
        return _fail(error)


def _fail(error: DeepGCNError) -> int:
    sys.stderr.write(f"Error: process {os.environ['RANK']}: {error}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
