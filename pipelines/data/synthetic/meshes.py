"""Furniture as meshes: the models of Sweet Home 3D's libraries as pieces of synthetic rooms.

A library is a zip file (.sh3f) with OBJ models and a catalogue of their names and sizes. A model is
reduced to at most 1,500 triangles, since a scanner sees nothing smaller than a centimetre, and its
textures to two colours per material. Reduced models are kept in the user's cache.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipelines.errors import ConfigError
from pipelines.files import ZIP_ERRORS, atomic_write
from pipelines.progress import SILENT, Progress

from .pieces import SIZED, Piece
from .plans import Size
from .scene import MATERIAL, Material, Part, Vector
from .surface import material

MOST_MODELS = 20_000  # of a library
FORMAT = 3  # of the cache; raised whenever a model is read in another way
CATALOGUE = "PluginFurnitureCatalog.properties"
CELL = 0.008  # m: vertices of a model that are nearer to each other become one
TRIANGLES = 1500  # of a model; the cells grow until it has no more
LARGEST = 64 << 20  # bytes of one file of a library
WHOLE = 2 << 30  # bytes of all of them
PIXELS = 1 << 25  # of a texture
MATERIALS = 255  # of a model
TEXTURES = ("PNG", "JPEG", "GIF", "BMP", "TGA", "TIFF")  # for others Pillow may start a program
INDOOR = ("Bathroom", "Bedroom", "Kitchen", "Living room", "Lights", "Miscellaneous", "Office")
LEFT_OUT = re.compile(  # not of a furnished room, flat, or not what its name says
    r"railing|chimney|carpet|rug|mat\b|doormat|tatami|container|elevator|garage|plug|dimmer|bill"
    r"|ring\b|pallet|treadmill|mower|rowboat|cone|shower (stall|door|head)|island bath|mezzanine"
    r"|living room|hanging clothes|clothes hanger|table fan|puzzle|card game|window blind|lamppost"
    r"|park light|street lamp|fence",
    re.IGNORECASE,
)
CLASSES = (  # the first pattern that a name matches; the rest is clutter
    ("clutter", r"bedside|baby high|changing|wheelchair|table tennis|football|bench|lamp|tablet"),
    ("sofa", r"sofa|couch|futon"),
    ("chair", r"chair|stool|seat"),
    ("table", r"table|desk\b"),
    ("bookcase", r"bookcase|shelves"),
    ("board", r"white board"),
    ("door", r"door\b"),
    ("window", r"window"),
)
WALL = (
    r"hood|boiler|heater|upper|wall|switch|socket|intercom|smoke|clock|frame|mirror|towel|radiator"
)
CEILING = r"pendant|chandelier|ceiling|hanging light|track lights|fluorescent"
NAMES = {  # of models in the place of the built-in clutter of these names
    "bed": r"\bbed\b",
    "wardrobe": r"wardrobe|cupboard|high cabinet|screen",
    "chest": r"chest|dresser|drawers|cabinet|bedside|vanity|piano|bench|safe",
    "fridge": r"fridge|refrigerator",
    "washer": r"machine|dryer|stove|oven|furnace",
    "television": r"\btv\b|television",
    "toilet": r"toilet|bidet",
    "tub": r"\bbath|tub",
    "washstand": r"wash|vanity|sink",
    "coats": r"clothes",
}


@dataclass(frozen=True)
class Model:
    """A piece of furniture: x to its right, y to its front, z up; back, floor and middle at 0."""

    name: str
    label: str  # class of S3DIS
    place: str  # floor, wall, table or ceiling
    size: Size  # width, depth, height, m
    elevation: float  # m above the floor where it hangs
    credit: str  # author and licence
    triangles: np.ndarray  # (T, 3, 3) float32, m
    material: np.ndarray  # (T,) uint8, index into colors
    colors: np.ndarray  # (M, 2, 3) float32: two colours of each material, 0–1


PLAIN = ("name", "label", "place", "size", "elevation", "credit")
ARRAYS = ("triangles", "material", "colors")


@dataclass(frozen=True)
class Library:
    """Models to choose from; without any, rooms have built-in shapes only. It can be pickled."""

    models: list[Model] = field(default_factory=list)
    digest: str = ""  # of the libraries' files
    share: float = 0.6  # of the things that it has are taken from it

    def draw(self, name: str, rng: np.random.Generator) -> Piece | None:
        """Draw a model in the place of a built-in piece, or None: no fitting one, or by chance."""
        label, ranges, _ = SIZED[name]
        pattern = NAMES.get(name, "." if label != "clutter" else "$^")
        fitting = [
            model
            for model in self._of(label, "floor")
            if re.search(pattern, model.name, re.IGNORECASE)
            and np.all(np.array(model.size) > 0.7 * ranges[:, 0])
            and np.all(np.array(model.size) < 1.4 * ranges[:, 1])
        ]
        return self._one(fitting, rng)

    def draw_any(self, label: str, place: str, rng: np.random.Generator) -> Piece | None:
        """Draw a model of a class and a place; of clutter on the floor none that is large.

        Its origin is its middle, not its back, unless it hangs on a wall.
        """
        fitting = self._of(label, place)
        if (label, place) == ("clutter", "floor"):
            fitting = [model for model in fitting if max(model.size[:2]) < 0.95]
        piece = self._one(fitting, rng)
        if piece is None or place == "wall":
            return piece
        drop = piece.size[2] if place == "ceiling" else 0.0
        build = partial(piece.build, shift=(0.0, -piece.size[1] / 2, -drop))
        return piece._replace(build=build, elevation=0.0)

    def draw_fitted(self, label: str, size: Size, rng: np.random.Generator) -> Piece | None:
        """Draw a door or a window that fills an opening of a size."""
        piece = self._one([*self._of(label, "floor"), *self._of(label, "wall")], rng)
        return piece and piece._replace(size=size, build=partial(piece.build, size=size))

    def _of(self, label: str, place: str) -> list[Model]:
        return [m for m in self.models if m.label == label and m.place == place]

    def _one(self, fitting: list[Model], rng: np.random.Generator) -> Piece | None:
        if not fitting or rng.random() > self.share:
            return None
        model = fitting[rng.integers(len(fitting))]
        return Piece(model.label, model.size, partial(build_model, model=model), model.elevation)


def build_model(
    part: Part,
    rng: np.random.Generator,
    model: Model,
    size: Size | None = None,
    shift: Vector = (0.0, 0.0, 0.0),
) -> None:
    """Build a model, moved by `shift`, stretched to `size` or a little, in colours near its own."""
    stretch = np.array(size) / model.size if size else rng.uniform(0.94, 1.06, 3)
    tint = 2 ** rng.normal(0, 0.35) * np.exp(rng.normal(0, 0.08, 3))
    role, recolored = "sofa" if model.label == "sofa" else "furniture", rng.random() < 0.35
    looks = []
    for colors in model.colors:
        if recolored and rng.random() < 0.7:
            looks.append(material(role, rng))
            continue
        first, second = np.clip(colors * tint, 0, 1).tolist()
        seed = int(rng.integers(1 << 31))
        looks.append(Material("paint", first, second, scale=rng.uniform(0.05, 0.3), seed=seed))
    rows = np.array([(*look,) for look in looks], MATERIAL)[model.material]
    part.at(*shift).mesh(model.triangles * stretch.astype(np.float32), rows)


def load_library(folder: Path, progress: Progress = SILENT) -> Library:
    """Read the furniture libraries (.sh3f) of a folder, from the cache where they are in it.

    Models that cannot be used are left out, with a warning that counts them.

    Raises:
        ConfigError: nothing usable is there, trimesh or pillow is missing, or a file is not a
            library.
    """
    paths = sorted(folder.glob("*.sh3f"))
    if not paths:
        raise ConfigError(
            f"--furniture {folder}: found no .sh3f file, expected furniture libraries of Sweet"
            " Home 3D.\nOn Debian: apt install sweethome3d-furniture, then"
            " --furniture /usr/share/sweethome3d/furniture"
        )
    models: list[Model] = []
    digest = hashlib.sha256()
    with progress.task("Reading furniture", total=len(paths), unit="libraries") as task:
        for path in paths:
            key = _digest(path)
            digest.update(key.encode())
            models += _load(path, key, progress)
            task.advance()
    if not models:
        raise ConfigError(f"--furniture {folder}: found no usable model.\nGive another folder.")
    return Library(models, digest.hexdigest())


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _load(path: Path, key: str, progress: Progress) -> list[Model]:
    """Return the models of a library, from the cache or from the file."""
    import pooch

    cached = Path(pooch.os_cache("deepgcn")) / "furniture" / f"{key}-{FORMAT}.npz"
    try:
        return _read_cached(cached)
    except (OSError, KeyError, TypeError, ValueError, *ZIP_ERRORS):
        progress.say(
            f"{path}: its models are read once, which may take minutes, and kept in {cached.parent}"
        )
        models = read_library(path, progress)
    try:
        _write_cached(cached, models)
    except OSError as error:
        progress.warn(f"{cached}: the reduced furniture is not kept: {error.strerror}.")
    return models


def _write_cached(path: Path, models: list[Model]) -> None:
    table = [{name: getattr(model, name) for name in PLAIN} for model in models]
    arrays = {f"{i}{name}": getattr(m, name) for i, m in enumerate(models) for name in ARRAYS}
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, table=np.frombuffer(json.dumps(table).encode(), np.uint8), **arrays)


def _read_cached(path: Path) -> list[Model]:
    with np.load(path, allow_pickle=False) as kept:
        rows = json.loads(kept["table"].tobytes())
        return [
            Model(**{**row, "size": tuple(row["size"])}, **{k: kept[f"{i}{k}"] for k in ARRAYS})
            for i, row in enumerate(rows)
        ]


def read_library(path: Path, progress: Progress = SILENT) -> list[Model]:
    """Read and reduce the indoor models of a library.

    Raises:
        ConfigError: trimesh or pillow is missing, or the file is not a library.
    """
    try:
        import PIL.Image  # noqa: F401
        import trimesh  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--furniture: found no package {error.name}.\n"
            "Install it: pip install 'deepgcn[meshes]'"
        ) from None
    models, broken = [], 0
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
            catalogue = _read_catalogue(archive.read(CATALOGUE).decode("latin-1"))
            licence = catalogue.pop(0, {}).get("license", "unknown licence")
            title = f"Reading {path.stem}"
            with progress.task(title, total=len(catalogue), unit="models") as task:
                for entry in catalogue.values():
                    try:
                        label = class_of(entry)
                        models += [_read_model(archive, entry, label, licence)] if label else []
                    except Exception:  # a file of a stranger, read by a parser that trusts it
                        broken += 1
                    task.advance()
    except (OSError, KeyError, ValueError, *ZIP_ERRORS) as error:
        raise ConfigError(
            f"{path}: found {error}, expected a furniture library: a zip file with {CATALOGUE}."
        ) from None
    if broken:
        found = len(models) + broken
        progress.warn(f"{path}: {broken} of {found} models cannot be read and are left out.")
    return models


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse an archive whose files are too large; what is read is never more than declared."""
    sizes = [item.file_size for item in archive.infolist()]
    if max(sizes, default=0) > LARGEST or sum(sizes) > WHOLE:
        raise ConfigError(
            f"{path}: found files of {max(sizes):,} bytes, {sum(sizes):,} in all; expected at most"
            f" {LARGEST:,} and {WHOLE:,}."
        )


def _read_catalogue(text: str) -> dict[int, dict[str, str]]:
    """Return the entries of a catalogue by number; what belongs to the whole library is entry 0.

    It is a file of properties as Java reads them: a backslash joins lines, or stands before a
    character, or "u" and its code.
    """
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for line in re.sub(r"\\\r?\n[ \t]*", "", text).splitlines():
        found = re.match(r"(\w{1,40})(?:#(\d{1,9}))?[ \t]*[=:](.*)", line)
        if found:
            value = re.sub(
                r"\\u([0-9a-fA-F]{4})|\\(.)",
                lambda escaped: chr(int(escaped[1], 16)) if escaped[1] else escaped[2],
                found[3].strip()[:500],
            )
            entries[int(found[2] or 0)][found[1]] = value
            if len(entries) > MOST_MODELS:
                raise ValueError(f"more than {MOST_MODELS:,} models")
    return entries


def class_of(entry: dict[str, str]) -> str | None:
    """Return the class of S3DIS that a catalogue's entry belongs to, None if it is not used.

    >>> class_of({"name": "Desk", "category": "Office", "width": "120", "depth": "60"})
    'table'
    """
    name, category, (width, depth, height) = entry["name"], entry.get("category", ""), _size(entry)
    if LEFT_OUT.search(name) or not 0.06 <= max(width, depth, height) <= 4:
        return None
    labels = (label for label, pattern in CLASSES if re.search(pattern, name, re.IGNORECASE))
    label = next(labels, "clutter")
    if category == "Doors and windows":
        return label if label in ("door", "window") else None
    if category not in INDOOR and not (category == "Exterior" and label in ("chair", "table")):
        return None
    if label in ("door", "window"):  # of a cabinet, a shower
        return "clutter"
    armchair = re.search("armchair", name, re.IGNORECASE) and category != "Office"
    return "sofa" if label == "chair" and armchair and min(width, depth) > 0.75 else label


def _size(entry: dict[str, str]) -> Size:
    """Return the width, depth and height of an entry, m."""
    width, depth, height = (float(entry.get(n, 0)) / 100 for n in ("width", "depth", "height"))
    return width, depth, height


def _read_model(archive: zipfile.ZipFile, entry: dict[str, str], label: str, licence: str) -> Model:
    """Read and reduce one model; anything may be wrong with it."""
    import trimesh
    from trimesh.resolvers import ZipResolver

    inside = PurePosixPath(entry["model"].lstrip("/"))
    folder = "" if inside.parent == PurePosixPath() else f"{inside.parent}/"
    beside = [i for i in archive.infolist() if i.filename.startswith(folder) and not i.is_dir()]
    if sum(item.file_size for item in beside) > LARGEST:
        raise ValueError("its folder is too large")
    files = {i.filename[len(folder) :]: io.BytesIO(archive.read(i)) for i in beside}
    content, resolver = files[inside.name], ZipResolver(archive=files)
    if len({*re.findall(rb"usemtl[^\r\n]*", content.getvalue())}) > MATERIALS:
        raise ValueError("too many materials")  # on which trimesh would take minutes
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of textures and materials
        loaded: Any = trimesh.load(content, file_type="obj", resolver=resolver, process=False)
        parts = list(loaded.geometry.values()) if hasattr(loaded, "geometry") else [loaded]
        colors = np.stack([_colors(part) for part in parts]).astype(np.float32)
    corners = np.concatenate([part.vertices[part.faces] for part in parts])  # (T, 3, 3)
    owner = np.repeat(np.arange(len(parts)), [len(part.faces) for part in parts])
    size = _size(entry)
    corners = _place_in(corners, entry, size)
    if not (np.isfinite(corners).all() and min(size) > 0.001 and len(parts) < 256):
        raise ValueError("no size, no position, or too many parts")
    triangles, kept = _reduce(corners)
    place, elevation = _where(entry, label, size)
    credit = f"{entry.get('creator', 'unknown author')}, {licence}"
    arrays = triangles.astype(np.float32), owner[kept].astype(np.uint8), colors
    return Model(entry["name"], label, place, size, elevation, credit, *arrays)


def _place_in(corners: np.ndarray, entry: dict[str, str], size: Size) -> np.ndarray:
    """Return triangles in metres, in the model's frame. An OBJ file has y up, z to the front."""
    if "modelRotation" in entry:
        corners = corners @ np.array(entry["modelRotation"].split(), float).reshape(3, 3).T
    corners = corners[..., [0, 2, 1]] * (-1, 1, 1)
    low, high = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    return (corners - low) * (np.array(size) / np.maximum(high - low, 1e-9)) - (size[0] / 2, 0, 0)


def _reduce(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merge vertices in the same cell of a grid; return what is left (T, 3, 3), and which (T,)."""
    cell = CELL
    while True:
        key = np.round(triangles / cell).astype(np.int64)
        corner = (key[..., 0] << 40) + (key[..., 1] << 20) + key[..., 2]
        flat = (corner == np.roll(corner, 1, axis=1)).any(axis=1)
        _, first = np.unique(np.sort(corner, axis=1), axis=0, return_index=True)
        kept = np.setdiff1d(first, np.flatnonzero(flat))
        if len(kept) <= TRIANGLES:
            return (key * cell)[kept], kept
        cell *= 1.3


def _colors(part: Any) -> np.ndarray:
    """Return two colours (2, 3) of a part's material: its texture's mean and how far it varies."""
    look = getattr(part.visual, "material", None)
    image, tone = getattr(look, "image", None), getattr(look, "diffuse", None)
    if image is not None and image.format in TEXTURES and image.width * image.height <= PIXELS:
        small = np.asarray(image.convert("RGB").resize((16, 16)), float).reshape(-1, 3) / 255
        mean, spread = small.mean(axis=0), small.std(axis=0)
        return np.clip([mean - spread, mean + spread], 0, 1)
    tone = np.full(3, 0.6) if tone is None else np.asarray(tone, float)[:3] / 255
    return np.stack([tone * 0.95, np.minimum(1, tone * 1.05)])


def _where(entry: dict[str, str], label: str, size: Size) -> tuple[str, float]:
    """Return where a model belongs (floor, wall, table or ceiling) and how high it hangs, m."""
    name, elevation = entry["name"], float(entry.get("elevation", 0)) / 100
    if label == "clutter" and re.search(CEILING, name, re.IGNORECASE):
        return "ceiling", 0.0
    if elevation > 0.3 or (label == "clutter" and re.search(WALL, name, re.IGNORECASE)):
        return "wall", min(elevation, 2.0) or 1.2
    if label == "clutter" and max(size) < 0.55 and size[2] < 0.5:
        return "table", 0.0
    return "floor", 0.0
