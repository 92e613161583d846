"""The weights that have a name: those inside this package, and published ones to fetch.

Weights of our own are files in `embedded/`, which say themselves what they are; the first of OURS
that is there is the default. `embedded/scores.json` has the scores that were measured here, also of
fetched weights; `python -m benchmarks.real_scans --record` writes it. `about` of a published entry
is recorded in the file that an import makes, as `weights.provenance` knows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.config.model import BLOCK_SIZE
from pipelines.config.options import check_choice
from pipelines.data.s3dis import CLASSES
from pipelines.errors import WeightsError, command
from pipelines.files import sha256_of
from pipelines.progress import SILENT, Progress

from .fetch import fetch, refuse_folder
from .safetensors import parse_config, read_metadata
from .sources import import_weights

EMBEDDED = Path(__file__).parent / "embedded"
LICENSE = "MIT"  # of what is in this package, unless it says otherwise
OURS = ("indoor-wide", "indoor", "indoor-large")
PLACE = "DEEPGCN_WEIGHTS"  # environment variable: a mirror's URL, or a folder with the files
SCORES = "scores.json"
NO_DEFAULT = "No weights are inside this package. Name some with --weights: deepgcn weights list"


@dataclass(frozen=True)
class KnownScore:
    """A published or measured score of an entry."""

    data: str  # what was scored
    protocol: str
    miou: float  # 0 to 1
    oa: float | None = None
    source: str = ""  # who scored it


@dataclass(frozen=True)
class Entry:
    """Weights of a name."""

    name: str
    network: str  # in short
    trained_on: str
    license: str
    size: int  # bytes of the file in the package, or of the one to fetch
    sha256: str  # of this file
    scores: tuple[KnownScore, ...] = ()
    url: str | None = None  # where it is fetched; None: inside the package
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def origin(self) -> dict[str, str]:
        """What an import of its file records, as `weights.provenance` knows it."""
        own = {"name": self.name, "trained_on": self.trained_on, "license": self.license}
        return {**own, **self.about, **({"source": self.url} if self.url else {})}

    @property
    def file(self) -> str:
        """The name of the file in the package, at the address and on a mirror."""
        return self.url.rpartition("/")[2] if self.url else f"{self.name}.safetensors"


_DGCNN = (
    "https://raw.githubusercontent.com/antao97/dgcnn.pytorch/"
    "07d534c2702905010ec9991619f552d8cacae45b/pretrained/semseg_s3dis"
)
_SIX_FOLD = KnownScore(
    "S3DIS, six folds, all six", "blocks of dgcnn.pytorch", 0.592, 0.850, "its author"
)
# Test area, SHA-256, mIoU of that area in a repetition by others.
_FOLDS = (
    (1, "16e562520eb07571ccefda0b3aff4ec2e8a1f959afce2770ab68ed4e814bcc17", 0.6919),
    (2, "05d5914144449ffe56c5ce4426c10daf0310d13fb61f1ace897e0aaca0a728d2", 0.435),
    (3, "554f87d0302471d6636d358987b9b25b45807816960049290c995389afd056dd", 0.6873),
    (4, "38d3f31f5a14afe5af3cae383256554fdc39cc9906fa993f4ddc835e638310e0", 0.5068),
    (5, "ac72b13e1cdf0e73dac356aa77a429dcd08516fb81950356e2746a7d3e58fc6e", 0.503),
    (6, "c40c61c11b89e12daf17aab93528f8741210fbc9344d8883c25430ac8e36454d", 0.756),
)
PUBLISHED: tuple[Entry, ...] = tuple(
    Entry(
        name=f"dgcnn-s3dis-area{area}",
        network="dgcnn-3 (edge, C 64, k 20)",
        trained_on=f"S3DIS without area {area}",
        license="MIT",
        size=3_965_509,
        sha256=sha256,
        scores=(
            KnownScore(f"S3DIS area {area}", "not stated", miou, source="a repetition by others"),
            _SIX_FOLD,
        ),
        url=f"{_DGCNN}/model_{area}.t7",
        about={"test_area": str(area), "classes": " ".join(CLASSES)},
    )
    for area, sha256, miou in _FOLDS
)


def catalogue() -> tuple[Entry, ...]:
    """Return all entries, those inside the package first.

    WeightsError: a file of the package is damaged.

    >>> catalogue()[-1].name
    'dgcnn-s3dis-area6'
    """
    files = (EMBEDDED / f"{name}.safetensors" for name in OURS)
    inside = (_embedded_entry(file) for file in files if file.is_file())
    measured = measured_scores()
    return tuple(
        replace(entry, scores=(*measured.get(entry.name, ()), *entry.scores))
        for entry in (*inside, *PUBLISHED)
    )


def _embedded_entry(file: Path) -> Entry:
    about = read_metadata(file)
    config, of_blocks = parse_config(about, "config")
    sides = of_blocks.get("block_size", BLOCK_SIZE), of_blocks.get("voxel", 0.0)
    network = config.label_with(*sides)
    said = about.get("trained_on", "not recorded"), about.get("license", LICENSE)
    return Entry(file.stem, network, *said, file.stat().st_size, sha256_of(file))


def measured_scores() -> dict[str, tuple[KnownScore, ...]]:
    """Return the scores that were measured here, by the name of the weights."""
    if not (file := EMBEDDED / SCORES).is_file():
        return {}
    found = json.loads(file.read_text("utf-8"))
    return {name: tuple(KnownScore(**each) for each in of["scores"]) for name, of in found.items()}


def find(name: str) -> Entry | None:
    """Return the entry of a name, if there is one."""
    return next((entry for entry in catalogue() if entry.name == name), None)


def of_file(path: Path) -> Entry | None:
    """Return the published entry whose file this is, whatever it is called, if there is one."""
    if not path.is_file():
        return None
    sha256 = sha256_of(path)
    return next((entry for entry in PUBLISHED if entry.sha256 == sha256), None)


def entry_of(name: str) -> Entry:
    """Return the entry of a name; ConfigError, with the nearest name: there is none."""
    known = {entry.name: entry for entry in catalogue()}
    check_choice("name", name, tuple(known), flag="weights")
    return known[name]


def cache() -> Path:
    """Return the user's folder for fetched weights."""
    import pooch

    return Path(pooch.os_cache("deepgcn")) / "weights"


def kept_file(entry: Entry) -> Path | None:
    """Return the file of an entry if it needs no fetching: in the package, or in the cache."""
    if entry.url is None:
        return EMBEDDED / entry.file
    kept = cache() / f"{entry.name}.safetensors"
    try:
        return kept if read_metadata(kept).get("source_sha256") == entry.sha256 else None
    except WeightsError:  # missing or damaged
        return None


def weights_file(entry: Entry, progress: Progress = SILENT) -> Path:
    """Return the file of an entry as weights of this toolkit, fetched and imported if it has to be.

    Raises:
        WeightsError: it cannot be fetched, or is not what the catalogue says.
    """
    if kept := kept_file(entry):
        return kept
    assert entry.url is not None, "weights in the package need no fetching"
    folder, place = cache(), os.environ.get(PLACE, "")
    refuse_folder(out := folder / f"{entry.name}.safetensors")
    mirrored = place.startswith(("http://", "https://"))
    fetched = None
    if place and not mirrored:
        source = _from_folder(entry, place)
    elif (source := folder / entry.file).is_file() and sha256_of(source) == entry.sha256:
        progress.say(f"{entry.name}: {source} is there")  # saved by hand, as `fetch` advises
    else:
        url = f"{place.rstrip('/')}/{entry.file}" if mirrored else entry.url
        progress.say(f"{entry.name}: fetching {entry.size / 1e6:.1f} MB from {url}")
        known = {"size": entry.size, "sha256": entry.sha256}
        fetched = source = fetch(url, source, progress=progress, **known)  # type: ignore[arg-type]
    import_weights(source, out, about=entry.origin, progress=progress)
    if fetched:
        fetched.unlink()
    return out


def _from_folder(entry: Entry, place: str) -> Path:
    """Return the file in a folder that has an entry's content, whatever it is called."""
    folder = Path(place)
    try:
        folder = folder.expanduser()
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        for path in paths:
            alike = path.is_file() and path.stat().st_size == entry.size
            if alike and sha256_of(path) == entry.sha256:
                return path
    except RuntimeError as error:  # "~name/…" of a user who is unknown
        raise WeightsError(f"{PLACE}={place}: {error}") from error
    except OSError as error:
        raise WeightsError(
            f"{PLACE}={place}: {error.filename or folder} cannot be read ({error.strerror})."
        ) from error
    raise WeightsError(
        f"{PLACE}={folder}: found {'no file' if folder.is_dir() else 'no folder'} with "
        f"{entry.name}: {entry.size:,} bytes, SHA-256 {entry.sha256}.\n"
        f"Put it there from {entry.url}, or leave {PLACE} unset to have it fetched:\n"
        f"{command('weights', 'get', entry.name)}"
    )
