"""One way to name weights: a file, a run, or a name of the catalogue."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from pipelines.config import ModelConfig
from pipelines.data.custom import spread_colors
from pipelines.data.s3dis import CLASSES, parse_colors
from pipelines.data.store import IGNORED, Store
from pipelines.errors import RunError, WeightsError, did_you_mean
from pipelines.files import sha256_of
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, counted
from pipelines.runtime.lock import hold_lock
from pipelines.weights import catalogue
from pipelines.weights.catalogue import Entry
from pipelines.weights.provenance import STARTED_FROM, history, provenance
from pipelines.weights.safetensors import load_weights, read_metadata

from .directory import CHECKPOINTS, CONFIG, Run, find_runs, latest_finished, open_run
from .lock import LOCK
from .resume import room_checksums

FETCH_SECONDS = 600.0  # to wait for another process that fetches
AGAIN = "Export or import the weights again."


@dataclass(frozen=True)
class NamedWeights:
    """A weights file of this toolkit that was named in some way."""

    name: str  # of the run, of the catalogue, or as `_name_of` the file
    file: Path
    run: Run | None = None  # that trained them, if a run was named
    listed: bool = False  # in the catalogue

    @property
    def argument(self) -> str:
        """What names them on a command line; a name finds them in the catalogue alone."""
        if self.listed:
            return self.name
        return str(self.run.path if self.run else self.file)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """What stands in the file beside the tensors."""
        return read_metadata(self.file)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the file."""
        return sha256_of(self.file)

    def unseen_areas(self, store: Store, *, before: bool = False) -> set[int]:
        """Return a store's areas that neither this training nor one before it has had.

        Of other data than the store's, only a run's rooms are compared; of S3DIS, the store has to
        be the whole. With `before`, only the trainings before this one count.
        """
        areas, known = set(store.areas), self.provenance
        if self.run is not None:  # the files of the first runs don't say what data it was
            known = {**self.run.environment.get("store", {}), **known}
            if not before and known.get("fingerprint") != store.fingerprint:
                areas -= self._trained_areas(store)
        whole = store.published_rooms == len(store.rooms())
        for found in history(known.get(STARTED_FROM, {}) if before else known):
            s3dis = whole and str(found.get("trained_on")).startswith("S3DIS without area")
            if s3dis or found.get("fingerprint") == store.fingerprint:
                areas = {area for area in areas if str(area) == found.get("test_area")}
        return areas

    def _trained_areas(self, store: Store) -> set[int]:
        """Return the areas of other data that hold a room which the run was trained on."""
        assert self.run is not None
        had, left_out = self.run.environment.get("rooms", {}), self.run.config.test_area
        trained = {str(mark) for name, mark in had.items() if f"Area_{left_out}/" not in name}
        now = room_checksums(store)
        return {
            room.area for room in store.rooms() if now[f"Area_{room.area}/{room.name}"] in trained
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """The name and hash of the weights, and where they come from."""
        return {"name": self.name, "sha256": self.sha256} | provenance(self.metadata)

    def load(self, classes: Collection[str] = ()) -> DeepGCN:
        """Return the network; `classes` as for `load_weights`, also for a run."""
        trained = self.run.config if self.run else None
        model = load_weights(self.file, classes=classes)
        model.classes = self.class_names(model.config.num_classes)
        if trained is not None:
            # The first runs' files do not say it.
            model.num_points, model.block_size = trained.num_points, trained.block_side
            model.voxel = trained.voxel_side
        return model

    def load_for_points(self, classes: Collection[str] = ()) -> DeepGCN:
        """Return the network as `load` does; WeightsError: it is not of a block's points."""
        model = self.load(classes)
        if (channels := model.config.in_channels) != ModelConfig.in_channels:
            raise WeightsError(
                f"{self.file}: found a network of points with {channels} channels, expected "
                f"{ModelConfig.in_channels}: position, colour, and position in the room.\n"
                "Use other weights."
            )
        return model

    def class_names(self, count: int) -> tuple[str, ...]:
        """Return the names of the `count` classes that the network predicts.

        Weights that name none are of S3DIS if they have as many classes; else the classes are
        numbered. WeightsError: the file names more or fewer, or one twice.
        """
        if named := self.named_classes:
            if not len(named) == len({*named}) == count:
                raise WeightsError(
                    f"{self.file}: found {counted(len(named), 'name')} ({len({*named})} different) "
                    f"of classes, expected {count}, as the network has outputs.\n{AGAIN}"
                )
            return named
        numbered = (f"class_{number}" for number in range(count))
        return CLASSES if count == len(CLASSES) else tuple(numbered)

    @property
    def named_classes(self) -> tuple[str, ...]:
        """The classes that the file names, if any."""
        return tuple(self.metadata.get("classes", "").split())

    def palette(self, count: int) -> tuple[tuple[str, ...], tuple[tuple[int, ...], ...]]:
        """Return the names and colours of the `count` classes that the network predicts."""
        if count > IGNORED:  # a label is a byte, and this one means none
            raise WeightsError(
                f"{self.file}: found a network of {count} classes, expected at most {IGNORED}.\n"
                "Use other weights, or label from Python: pipelines.segment"
            )
        classes, written = self.class_names(count), self.metadata.get("class_colors", "")
        try:
            known = written or count == len(CLASSES)
            colors = parse_colors(written) if known else spread_colors(count)
        except ValueError:
            colors = ()
        fits = all(len(color) == 3 and max(color) <= 255 for color in colors)
        if len(colors) != count or not fits:
            raise WeightsError(
                f"{self.file}: found {counted(len(colors), 'colour')} of classes, expected {count} "
                f"of three bytes.\n{AGAIN}"
            )
        return classes, colors


def weights_of(run: Run, checkpoint: str = "best") -> NamedWeights:
    """Return the weights of a run; RunError: it has none yet."""
    return NamedWeights(run.name, run.weights(checkpoint), run)


def find_weights(
    named: str | Path,
    runs: Path = Path("runs"),
    *,
    checkpoint: str = "best",
    progress: Progress = SILENT,
) -> NamedWeights:
    """Return the weights that are named: a file, a run (by folder or name), or of the catalogue.

    Weights of the catalogue that are neither in the package nor in the user's cache are fetched.

    Raises:
        RunError: the run has no weights yet, or the folder holds no run.
        WeightsError: nothing has this name, or the weights cannot be fetched.

    >>> find_weights("dgcnn-s3dis")
    Traceback (most recent call last):
    pipelines.errors.WeightsError: dgcnn-s3dis: found no such weights file, ... Did you mean ...
    """
    if not str(named):
        raise WeightsError("weights: found an empty name, expected a file, a run or a name.")
    path = Path(named)
    try:
        if path.is_file():
            return NamedWeights(_name_of(path), path)
    except OSError as error:
        name = str(named)
        short = f"{name[:80]}…" if len(name) > 80 else name
        raise WeightsError(f"{short}: {error.strerror}.") from error
    for folder in (runs / path, path):
        if (folder / CONFIG).is_file():
            return weights_of(Run(folder), checkpoint)
    if entry := catalogue.find(str(named)):
        return catalogue_weights(entry, progress)
    if path.is_dir():
        if files := sorted(path.glob("*.safetensors")):
            raise WeightsError(
                f"{path}: found a folder that is no run, expected a run or a weights file.\n"
                f"Did you mean {files[0]}?"
            )
        open_run(path)  # says what it holds instead of a run
    known = [*(run.name for run in find_runs(runs)), *(e.name for e in catalogue.catalogue())]
    raise WeightsError(
        f"{named}: found no such weights file, no such run in {runs}, and no such name in the "
        f"catalogue.{did_you_mean(str(named), known)}\n"
        "See what there is: deepgcn weights list, deepgcn runs list"
    )


def _name_of(file: Path) -> str:
    """Return the name of a file without its suffix, after that of the run whose checkpoint it is.

    All runs have files of the same names.
    """
    folder = file.resolve().parent
    is_checkpoint = folder.name == CHECKPOINTS and (folder.parent / CONFIG).is_file()
    return f"{folder.parent.name}/{file.stem}" if is_checkpoint else file.stem


def distinctly_named(weights: Sequence[NamedWeights]) -> list[NamedWeights]:
    """Return weights that are used together; of several files of one name, each gets its path."""
    files: dict[str, set[Path]] = {}
    for each in weights:
        files.setdefault(each.name, set()).add(each.file.resolve())
    return [
        replace(each, name=each.argument) if len(files[each.name]) > 1 else each for each in weights
    ]


def catalogue_weights(entry: Entry, progress: Progress = SILENT) -> NamedWeights:
    """Return weights of the catalogue, fetched if they have to be, by one process at a time."""
    if kept := catalogue.kept_file(entry):
        return NamedWeights(entry.name, kept, listed=True)
    folder = catalogue.cache()
    text = f"{entry.name}: waiting for another process that fetches into {folder}"
    wait = partial(progress.say, text)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = hold_lock(folder / LOCK, shared=False, seconds=FETCH_SECONDS, wait=wait)
        with lock as held:
            if not held:
                raise WeightsError(
                    f"{folder}: another process has been fetching for {FETCH_SECONDS:g} s.\n"
                    "Wait until it has finished, and run the same again."
                )
            return NamedWeights(entry.name, catalogue.weights_file(entry, progress), listed=True)
    except OSError as error:
        raise WeightsError(
            f"{folder}: cannot be written ({error.strerror}), expected the user's cache.\n"
            "Choose another one with XDG_CACHE_HOME."
        ) from error


def weights_in_package() -> list[NamedWeights]:
    """Return the weights inside the package; the first are used if none are named."""
    entries = (entry for entry in catalogue.catalogue() if entry.url is None)
    return [
        NamedWeights(entry.name, catalogue.weights_file(entry), listed=True) for entry in entries
    ]


def packaged_weights() -> NamedWeights:
    """Return the weights inside the package that are used if none are named.

    WeightsError: there are none.
    """
    if found := weights_in_package():
        return found[0]
    raise WeightsError(catalogue.NO_DEFAULT)


def default_weights(runs: Path, progress: Progress = SILENT) -> NamedWeights:
    """Return the weights to use if none are named: of the latest finished run, else the package's.

    RunError: there are neither.
    """
    try:
        run = latest_finished(runs)
    except RunError as error:
        try:
            found = packaged_weights()
        except WeightsError as other:
            if find_runs(runs):  # the last one can be resumed
                raise RunError(f"{error}\n{other}") from error
            raise RunError(
                f"Found neither a run in {runs} nor weights in this package.\n"
                "Train a network (deepgcn train), or name weights with --weights: a file, or a "
                "name from deepgcn weights list."
            ) from error
        trained_on = found.metadata.get("trained_on", "what is not recorded")
        progress.say(
            f"{found.name}: the weights inside this package, as {runs} has no finished run; "
            f"trained on {trained_on}. More about them: deepgcn weights list"
        )
        return found
    progress.say(f"{run.path}: the latest finished run")
    return weights_of(run)
