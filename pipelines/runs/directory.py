"""The run directory: what a training writes, and how the other stages find and read it.

    runs/<name>/
        config.json           the resolved TrainConfig
        environment.json      versions, machine, commit, the store's fingerprint
        plan.json             of a planned training: its choices with their reasons
        status.json           state (running, finished, interrupted, failed), step, best_miou, …
        metrics.jsonl         one JSON object a line; "event" is "step" or "epoch"
        checkpoints/last.pt   the whole training state; last.safetensors, best.safetensors: weights
        eval/<protocol>/scores.json
        <tag>.tag, note.txt   tags and a note from the user
        tensorboard/          events
        loggers.json, wandb/  this run's ids in other loggers; W&B's own files

Everything is replaced atomically or only appended to.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipelines.config import TrainConfig
from pipelines.errors import (
    ConfigError,
    DiskFullError,
    RunError,
    TakenError,
    command,
    did_you_mean,
)
from pipelines.files import (
    DISK_FULL,
    UNFINISHED,
    atomic_bytes,
    atomic_json,
    naming,
    remove_unfinished,
)
from pipelines.serialization import fits, from_plain, to_plain

from .lock import LOCK, is_locked, lock_run

CONFIG, ENVIRONMENT, STATUS = "config.json", "environment.json", "status.json"
PLAN = "plan.json"
METRICS, CHECKPOINTS, TENSORBOARD = "metrics.jsonl", "checkpoints", "tensorboard"
STATUS_TYPES: dict[str, Any] = {
    **dict.fromkeys(("state", "created", "updated", "error"), str | None),
    **dict.fromkeys(("step", "steps_total", "epoch", "epochs_total", "best_epoch"), int | None),
    **dict.fromkeys(("best_miou", "seconds", "blocks_per_second", "data_wait"), float | None),
    "peak_memory": int | None,
}
ENVIRONMENT_TYPES: dict[str, Any] = {
    "resumed": tuple[Mapping[str, Any], ...],  # the environments of later starts
    **dict.fromkeys(("packages", "rooms", "store"), Mapping[str, Any]),
}
RECORD_TYPES: dict[str, Any] = {
    "event": str,
    **dict.fromkeys(("step", "epoch"), int),
    **dict.fromkeys(("loss", "lr", "val_miou", "val_macc", "val_oa"), float | None),
}
SCORE_TYPES: dict[str, Any] = {
    **dict.fromkeys(("oa", "macc", "miou"), float),
    "classes": tuple[str, ...],
    "iou": tuple[float | None, ...],
    "rooms": Mapping[str, Any],  # confusion matrices
}
WANTED = {
    str | None: "a text",
    **{SCORE_TYPES[name]: "a list" for name in ("classes", "iou")},
    SCORE_TYPES["rooms"]: "a JSON object",
    ENVIRONMENT_TYPES["resumed"]: "a list of JSON objects",
}
# What else is in the folder of the runs, beside names that begin with a dot.
STUDIES, INDEX = "studies", "results.db"
# Scores of weights and of six folds, and what plans have tried; a study may be called so.
FOLDERS = ("weights", "six-fold", "candidates")
OWN_NAMES = (STUDIES, *(f"{INDEX}{ending}" for ending in ("", "-wal", "-shm", "-journal")))
TRASH = ".trash"  # in the folder of the runs: where `deepgcn runs rm` moves them
CHANGING = ".changing"  # in a run directory: files in its subfolders are being written


@dataclass(frozen=True)
class Run:
    """A run directory; each property reads its file when it is used, or raises a RunError."""

    path: Path

    def __post_init__(self) -> None:
        if self.path.name in ("", ".."):  # "." and ".." name no run and nothing beside it
            object.__setattr__(self, "path", self.path.resolve())

    @property
    def name(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def config(self) -> TrainConfig:
        """The resolved configuration that the run was started with."""
        file = self.path / CONFIG
        values = _read_json(file)
        try:
            return from_plain(TrainConfig, values)
        except (ConfigError, TypeError, AttributeError) as error:
            # The JSON is intact: the version that wrote it could read these settings.
            raise RunError(
                f"{file}: found settings of another version of deepgcn or edited by hand: {error}\n"
                f"Use the version that {self.path / ENVIRONMENT} names, or train again."
            ) from error

    @property
    def status(self) -> dict[str, Any]:
        """The progress that the run's process wrote last; `state` tells whether it still runs."""
        hint = "\nDelete it: the rest of the run is intact, and a resumed run writes it anew."
        return _read_json(self.path / STATUS, STATUS_TYPES, hint=hint)

    @property
    def state(self) -> str:
        """The run's state: running, finished, interrupted or failed."""
        # A run whose status is "running" while no process holds its lock was killed.
        state = str(self.status.get("state", "interrupted"))
        return "interrupted" if state == "running" and not is_locked(self.path) else state

    @property
    def state_or_broken(self) -> str:
        """The run's state; broken if its status cannot be read."""
        try:
            return self.state
        except RunError:
            return "broken"

    @property
    def environment(self) -> dict[str, Any]:
        """Versions, machine, commit and data fingerprint of the training."""
        return _read_json(self.path / ENVIRONMENT, ENVIRONMENT_TYPES)

    @property
    def training_state(self) -> Path:
        """The file of the whole training state; missing before the first checkpoint."""
        return self.path / CHECKPOINTS / "last.pt"

    def metrics(self) -> list[dict[str, Any]]:
        """Return the records of metrics.jsonl; none if it is missing. RunError: one is damaged."""
        path = self.path / METRICS
        records = []
        for number, line in enumerate(_whole_lines(path), start=1):
            try:
                record = json.loads(line)
                whole = all(fits(RECORD_TYPES.get(n, Any), value) for n, value in record.items())
            except (ValueError, RecursionError, AttributeError):
                whole = False
            if not whole:
                raise RunError(
                    f"{path}: found a damaged record in line {number}, expected a JSON object.\n"
                    "Nothing else depends on it: delete that line."
                )
            records.append(record)
        return records

    def chosen(self, checkpoint: str) -> str:
        """Return "last" for "best" where nothing validates, so that none is best."""
        if checkpoint != "best" or self.checkpoint_path("best").is_file():
            return checkpoint
        return checkpoint if self.config.val_fraction or self.config.val_fold else "last"

    def weights(self, checkpoint: str = "best") -> Path:
        """Return the path of the "best" or "last" weights; RunError: none are saved yet.

        If nothing validated, the last are also the best.
        """
        path = self.checkpoint_path(self.chosen(checkpoint))
        if not path.is_file():
            state = self.state_or_broken
            resume = f"Resume it: {resume_command(self.path)}"
            raise RunError(
                f"{self.path}: found no {checkpoint} weights "
                f"({path.relative_to(self.path)}); the run is {state}.\n"
                f"{'Copy it again, or name another one.' if state == 'finished' else resume}"
            )
        return path

    def checkpoint_path(self, checkpoint: str) -> Path:
        """Return the path of the weights of `checkpoint`; the file may not exist yet."""
        return self.path / CHECKPOINTS / f"{checkpoint}.safetensors"

    def scores(self, protocol: str, *, whole: bool = False) -> dict[str, Any] | None:
        """Return the scores under `protocol`, or None before an evaluation.

        If they have to be `whole`, a RunError is also that some of SCORE_TYPES are missing.
        """
        path = self.path / "eval" / protocol / "scores.json"
        again = f"\nScore it again: {command('eval', self.path, '--protocol', protocol)}"
        found = _read_json(path, SCORE_TYPES, hint=again) if path.is_file() else None
        if whole and found is not None:
            missing = [name for name in SCORE_TYPES if name not in found]
            count = len(found.get("classes", ()))
            fit = len(found.get("iou", ())) == count and all(
                _is_matrix(values, count) for values in found.get("rooms", {}).values()
            )
            if missing or not fit:
                what = f"no {missing[0]}" if missing else f"scores that do not fit {count} classes"
                raise RunError(f"{path}: found {what}.{again}")
        return found

    def update_status(self, **fields: Any) -> None:
        """Change fields of status.json and keep the others."""
        before = self.status if (self.path / STATUS).is_file() else {}
        fields["updated"] = datetime.now(timezone.utc).isoformat()
        atomic_json(self.path / STATUS, {**before, **fields})


class MetricsLog:
    """A run's metrics.jsonl, open to append after its first `keep` records; the rest is dropped."""

    def __init__(self, run: Run, *, keep: int = 0) -> None:
        path = run.path / METRICS
        kept = _whole_lines(path)[:keep]
        atomic_bytes(path, b"".join(line + b"\n" for line in kept))
        self.records = len(kept)
        self._path, self._file = path, path.open("ab")

    def append(self, record: dict[str, Any]) -> None:
        """Write one record; readers see it at once."""
        with naming(self._path):
            self._file.write(json.dumps(record).encode() + b"\n")
            self._file.flush()
        self.records += 1

    def sync(self) -> None:
        """Flush all records to the disk, because a checkpoint relies on them."""
        with naming(self._path):
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _whole_lines(path: Path) -> list[bytes]:
    # What follows the last newline is a record that a killed process was writing.
    return path.read_bytes().split(b"\n")[:-1] if path.is_file() else []


def create_run(config: TrainConfig, *, environment: Mapping[str, Any]) -> Run:
    """Make the directory of a new run and write its resolved configuration and its environment.

    The errors are those of `make_directory`. If the files cannot be written, there is no directory.
    """
    run = Run(make_directory(config))
    try:
        with lock_run(run.path):
            if not _is_unbegun(run.path):
                raise _taken(run.path)
            remove_unfinished(run.path)
            now = datetime.now(timezone.utc).isoformat()
            run.update_status(state="running", created=now, step=0, epoch=0, best_miou=None)
            atomic_json(run.path / ENVIRONMENT, dict(environment))
            save_config(run, config)  # last: a directory with a configuration is a run
    except RunError:  # another process was faster
        raise
    except BaseException:
        shutil.rmtree(run.path, ignore_errors=True)
        raise
    return run


def save_config(run: Run, config: TrainConfig) -> None:
    """Write a run's configuration, under the run's own name."""
    atomic_json(run.path / CONFIG, to_plain(replace(config, name=run.name)))


def reopen(run: Run, config: TrainConfig, environment: Mapping[str, Any]) -> None:
    """Record that this process, which holds the run's lock, resumes it in `environment`."""
    for folder in (run.path, run.path / CHECKPOINTS):
        remove_unfinished(folder)
    resumed = [*run.environment.get("resumed", []), dict(environment)]
    atomic_json(run.path / ENVIRONMENT, {**run.environment, "resumed": resumed})
    save_config(run, config)
    run.update_status(state="running", error=None)


@contextmanager
def record_failure(run: Run) -> Iterator[None]:
    """Write to the run's status that the `with` block was interrupted or failed, and why."""
    try:
        yield
    except KeyboardInterrupt:
        run.update_status(state="interrupted")
        raise
    except Exception as error:
        with suppress(OSError):  # a full disk, perhaps: the error below matters more
            run.update_status(state="failed", error=str(error))
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise DiskFullError(
                f"{run.path}: cannot write: {error.strerror}. {last_checkpoint(run)}\n"
                f"Free some space, then resume it: {resume_command(run.path)}"
            ) from error
        raise


def last_checkpoint(run: Run) -> str:
    """Return a sentence about the checkpoint that the run would resume from."""
    if not run.training_state.is_file():
        return "There is no checkpoint yet."
    import torch

    # Not the status's step, which may be older if the disk was full.
    state = torch.load(run.training_state, map_location="cpu", weights_only=True, mmap=True)
    step = int(state["counters"]["step"])
    return f"The last checkpoint, {run.training_state}, is intact (step {step})."


@contextmanager
def changing(run: Run) -> Iterator[None]:
    """Let the index notice that a `with` block writes files in subfolders of the run.

    Such writes don't change the directory's modification time; creating and deleting a marker does.
    If a killed process leaves the marker, the index reads the run each time.
    """
    marker = run.path / CHANGING
    with suppress(OSError):  # no permission to write
        marker.touch()
    try:
        yield
    finally:
        with suppress(OSError):
            marker.touch()  # another process may have removed it
            marker.unlink()


def open_run(path: Path) -> Run:
    """Return the run in the directory `path`; RunError: it is missing, or holds no run."""
    if not path.is_dir():
        names = [run.name for run in find_runs(path.parent)]
        raise RunError(
            f"{path}: found no run there.{did_you_mean(path.name, names)}\n"
            "List the runs with: deepgcn runs list"
        )
    if not (path / CONFIG).is_file():
        inside = find_runs(path)
        hint = f"Did you mean {inside[-1].path}?" if inside else "Start one: deepgcn train"
        raise RunError(
            f"{path}: found no {CONFIG}, expected a run directory "
            f"(runs/<name>) made by deepgcn train.\n{hint}"
        )
    return Run(path)


def named_run(named: Path, runs_dir: Path) -> Run:
    """Return the run `named`, a name in the folder of the runs or a path; RunError: neither is."""
    for path in (runs_dir / named, named):
        if (path / CONFIG).is_file():
            return Run(path)
    is_path = named.is_dir() or len(named.parts) > 1
    return open_run(named if is_path else runs_dir / named)


def find_runs(runs_dir: Path) -> list[Run]:
    """Return the runs in a folder, oldest first; none if the folder is missing."""
    return sorted(any_runs(runs_dir), key=lambda run: (_time(run, "created"), run.name))


def any_runs(runs_dir: Path) -> list[Run]:
    """Return the runs in a folder in any order, for which none of their files is read."""
    if not is_folder(runs_dir):
        return []
    folders = (path for path in runs_dir.iterdir() if path.name != TRASH)
    return [Run(path) for path in folders if (path / CONFIG).is_file()]


def is_folder(runs_dir: Path) -> bool:
    """Return whether the folder of the runs exists; RunError: it is a file."""
    if runs_dir.exists() and not runs_dir.is_dir():
        raise RunError(f"{runs_dir}: found a file, expected the folder of the runs (--runs).")
    return runs_dir.is_dir()


def latest_finished(runs_dir: Path) -> Run:
    """Return the run that finished last; RunError: none has. Runs that are broken don't count."""
    runs = any_runs(runs_dir)
    if not runs:
        raise RunError(f"{runs_dir}: found no runs there.\nTrain one first: deepgcn train")
    finished = []
    for run in runs:
        with suppress(RunError):
            if (status := run.status).get("state") == "finished":
                finished.append((str(status.get("updated", "")), run.name, run))
    if finished:
        return max(finished)[-1]
    last = find_runs(runs_dir)[-1]
    raise RunError(
        f"{runs_dir}: found {len(runs)} run{'s' if len(runs) > 1 else ''}, none finished; "
        f"the last, {last.name}, is {last.state_or_broken}.\n"
        f"Resume it: {resume_command(last.path)}"
    )


def resume_command(path: Path) -> str:
    """Return the command that resumes the run in `path`."""
    return command("train", "--resume", path)


def make_directory(config: TrainConfig) -> Path:
    """Make the directory of a new run, by default named after its network, area and time.

    ConfigError: the name is not a plain directory name. RunError: a run of this name exists.
    """
    name, runs_dir = config.name, config.runs
    if name is None:
        name = default_name(config)
        for path in numbered(runs_dir / name):
            with suppress(FileExistsError):  # another run began within the same second
                path.mkdir(parents=True)
                return path
    path = new_path(runs_dir, name)
    path.mkdir(parents=True, exist_ok=True)
    return path


def default_name(config: TrainConfig) -> str:
    """Return the name of a run that was given none: its network, area and time."""
    arch = config.model.arch.rpartition(":")[2]  # of package.module:Class
    area = f"area{config.test_area}" if config.test_area else "all"
    data = "synth" if config.synth else area
    return f"{arch}-{config.model.depth}-{data}-{datetime.now():%Y%m%d-%H%M%S}"


def new_path(runs_dir: Path, name: str) -> Path:
    """Return the directory of a new run of this name; the errors are those of `make_directory`."""
    check_name(name, "--name", (*OWN_NAMES, *FOLDERS))
    path = runs_dir / name
    if path.exists() and not _is_unbegun(path):
        raise _taken(path)
    return path


def check_name(name: str, where: str, own: Collection[str] = OWN_NAMES) -> None:
    """Raise ConfigError unless `name` can be that of a run, or of a study and so begin a run's.

    `own` are the names that the folder of the runs has for itself.
    """
    plain = name.encode(errors="replace").decode() == name  # none in bytes that are no UTF-8
    if not name or Path(name).name != name or not plain or name in (".", ".."):
        raise ConfigError(f"{where}: found {name!r}, expected a name without slashes.")
    if name.startswith(".") or any(unicodedata.category(letter) == "Cc" for letter in name):
        raise ConfigError(
            f"{where}: found {name!r}, expected a name without control characters that does not "
            "begin with a dot."
        )
    if name in own:
        raise ConfigError(
            f"{where}: found {name!r}, which the folder of the runs has for itself.\n"
            "Give another name."
        )


def _is_unbegun(path: Path) -> bool:
    """Return whether a directory holds nothing but what a process left that was killed at once."""
    names = (STATUS, ENVIRONMENT, LOCK)
    return path.is_dir() and all(
        each.name in names or each.name.endswith(UNFINISHED) for each in path.iterdir()
    )


def _taken(path: Path) -> TakenError:
    return TakenError(
        f"{path}: exists already; nothing was changed.\n"
        f"Give another --name, or resume it: {resume_command(path)}"
    )


def numbered(path: Path) -> Iterator[Path]:
    """Yield `path`, `path-2`, `path-3`, …"""
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in itertools.count(2))


def _read_json(path: Path, types: Mapping[str, Any] = {}, *, hint: str = "") -> dict[str, Any]:
    """Return the JSON object in a file; RunError: it is missing, damaged or not of these types."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: found no such file, expected it in a run directory.") from None
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path}: found a damaged file, expected JSON: {error}.{hint}") from error
    if not isinstance(values, dict):
        raise RunError(f"{path}: found {type(values).__name__}, expected a JSON object.{hint}")
    for name, kind in types.items():
        if name in values and not fits(kind, values[name]):
            wanted = WANTED.get(kind, "a number")
            found = f"{values[name]!r:.80}"
            raise RunError(f"{path}: found {name} {found}, expected {wanted}.{hint}")
    return values


def _is_matrix(values: Any, count: int) -> bool:
    """Return whether plain values are a matrix of `count` × `count` integers."""
    hint = tuple[int, ...]
    if not isinstance(values, list) or len(values) != count:
        return False
    return all(fits(hint, row) and len(row) == count for row in values)


def _time(run: Run, field: str) -> str:
    """Return a time of status.json; without a status, the time of the configuration file."""
    try:
        return str(run.status[field])
    except (RunError, KeyError):
        stamp = (run.path / CONFIG).stat().st_mtime
        return datetime.fromtimestamp(stamp, timezone.utc).isoformat()
