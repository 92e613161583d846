"""The frame of a scan: its floor, and the extent that its coordinates are divided by.

The published rule takes the lowest point for the floor and the farthest for the extent, so that one
stray point moves both, and with them what the network sees of every other point. The robust rule
leaves out points that lie far from everything else, by their number and distance, and duplicates
piled on one place. A scan without such points has the published frame.

Space is cut into cells of 6.25 cm, and these make cubes of four cells an edge. Occupied cells whose
cubes are the same or touch are one piece.
The frame begins as the box around the piece of the most cells, and takes in each other piece that
is near for its size: at most REACH·√n cells away, where n is the number of its cells, and so √n
the side of the surface that they are. What is then outside of the box is stray. If less than nine
tenths of the cells are in the frame and in pieces of some size, the points are too thin for such
cells, which are doubled. Points that are piled on one place are stray anywhere: in a block they
would be drawn in place of the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from pipelines.errors import DatasetError
from pipelines.progress import counted

LARGEST = float(np.finfo(np.float32).max)
LARGEST_GROUND = 4e6  # m²; its cells of 0.5 m take 128 MB
CELL = 0.0625  # m
JOIN = 4  # cells along the edge of a cube; points in cubes that touch are one piece
REACH = 6  # cells between the frame and one more cell that it takes in
FEW = 10  # cells; smaller pieces are no surface
KEPT = 0.9  # least fraction of the occupied cells in the frame, and in no such piece
MOST_CELLS = 1 << 22  # occupied; more are doubled, so that the memory is bounded
CHUNK = 1 << 20  # points handled at a time
SAMPLE = 10_000  # points by which the middle and the piles are found
SPREAD = 0.95  # fraction of the sample's coordinates that are nearer than half of FARTHEST
PILE = 100  # times that a place comes in the sample where others come once
# A cell is one integer of three fields, of which none overflows when a neighbour's step is added.
BITS = 21
FARTHEST = (1 << (BITS - 1)) - 2  # cells from the middle; points farther off count as that far
PASSES = {"published": 2, "robust": 3}  # in which a rule reads all points
Read = Callable[[slice], np.ndarray]  # some points' coordinates, (n, 3) float64, NaN if unknown


@dataclass(frozen=True)
class Frame:
    """The box in which coordinates are normalised, in the scan's own unit."""

    low: np.ndarray  # (3,) float64; its z is the floor
    high: np.ndarray  # (3,) float64
    scale: float = 1.0  # metres per unit
    piles: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))  # (K, 3) float64, places

    @property
    def origin(self) -> np.ndarray:
        """The low corner, (3,) float64, m."""
        return self.low * self.scale

    @property
    def extent(self) -> np.ndarray:
        """The box along x, y and z, (3,) float32, m."""
        return self.local(self.high)

    def local(self, points: np.ndarray) -> np.ndarray:
        """Return points (…, 3) float64 in metres from the low corner, float32."""
        # Differences are taken in float64, so points far from the origin keep their precision.
        with np.errstate(over="ignore", invalid="ignore"):
            away = (points - self.low) * self.scale
        return np.clip(away, -LARGEST, LARGEST).astype(np.float32)

    def stray(self, local: np.ndarray) -> np.ndarray:
        """Tell which points are stray, (N,) bool, for `local` (N, 3) of `locate`."""
        found = np.zeros(len(local), bool)
        for axis, most in zip(local.T, self.extent, strict=True):
            found |= (axis < 0) | (axis > most)  # neither is true of NaN
        for pile in self.local(self.piles):
            found |= (local == pile).all(axis=1)
        return found


def locate(
    count: int, read: Read, rule: str = "robust", scale: float = 1.0
) -> tuple[np.ndarray, Frame]:
    """Return points in metres from the low corner of their frame (N, 3) float32, and that frame.

    A point is NaN, and no part of the frame, if any coordinate is not finite; if all are, the frame
    is 0.

    Args:
        count: N.
        read: returns the coordinates of some of them, (n, 3) float64, in the scan's unit.
        rule: "published" or "robust".
        scale: metres per unit.

    >>> pos = np.concatenate([np.random.rand(5000, 3), [[0.5, 0.5, -3]]])
    >>> local, frame = locate(len(pos), pos.__getitem__)
    >>> frame.low.round(1), frame.stray(local).sum()
    (array([0., 0., 0.]), np.int64(1))
    """
    box, piles = None, np.empty((0, 3))
    if rule == "robust":
        box, piles = _robust_box(count, read, CELL / scale)
    frame = Frame(*(box or _box(_parts(count, read))), scale, piles)
    local = np.empty((count, 3), np.float32)
    for part in _slices(count):
        points = read(part)
        local[part] = frame.local(points)
        local[part][~np.isfinite(points).all(axis=1)] = np.nan
    return local, frame


def left_out(count: int, of: int) -> str:
    """Say that stray points do not count for the frame."""
    return (
        f"{count:,} of {counted(of, 'point')} left out of the frame (floor and extent), far from "
        "all others or piled on one place"
    )


def check_ground(where: object, count: int, read: Read, frame: Frame, advice: str) -> None:
    """Raise DatasetError, naming `where` and the points that lie far away, if a frame is too large.

    `count` and `read` are as of `locate`. An axis without extent counts 1 m, the block that covers
    it.
    """
    extent = frame.extent
    if max(float(extent[0]), 1.0) * max(float(extent[1]), 1.0) <= LARGEST_GROUND:
        return
    shown = " × ".join(f"{size:.3g}" for size in extent)
    raise DatasetError(
        f"{where}: found an extent of {shown}{_far_points(count, read, frame)}, expected metres, "
        f"at most {LARGEST_GROUND / 1e6:.0f} km² of ground.\n{advice}"
    )


def _far_points(count: int, read: Read, frame: Frame) -> str:
    """Say which points of a frame lie far from the larger part of them, if any do."""
    box = _robust_box(count, read, CELL / frame.scale, kept=0.5)[0] or (frame.low, frame.high)
    far = []
    for part in _slices(count):
        points = read(part)
        within = ((points >= frame.low) & (points <= frame.high)).all(axis=1)
        far.append(within & ((points < box[0]) | (points > box[1])).any(axis=1))
    rows = np.flatnonzero(np.concatenate(far))
    if not len(rows):
        return ""
    first = ", ".join(f"{value:.10g}" for value in read(slice(rows[0], rows[0] + 1))[0])
    return (
        f" ({len(rows):,} of {counted(count, 'point')} far from the others, the first at index "
        f"{rows[0]}: {first})"
    )


def _slices(count: int) -> Iterator[slice]:
    return (slice(start, min(start + CHUNK, count)) for start in range(0, count, CHUNK))


def _parts(count: int, read: Read) -> Iterator[np.ndarray]:
    """Yield the finite points, (n, 3) each."""
    for each in _slices(count):
        part = read(each)
        finite = np.isfinite(part).all(axis=1)
        yield part if finite.all() else part[finite]


def _box(parts: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for part in parts:
        for axis, values in enumerate(part.T):  # much faster than part.min(axis=0)
            low[axis] = min(low[axis], values.min(initial=np.inf))
            high[axis] = max(high[axis], values.max(initial=-np.inf))
    return (low, high) if np.isfinite(low).all() else (np.zeros(3), np.zeros(3))


def _robust_box(
    count: int, read: Read, side: float, kept: float = KEPT
) -> tuple[tuple[np.ndarray, np.ndarray] | None, np.ndarray]:
    """Return the low and high corner of all points that are not stray, and the places of piles.

    The corners are None if no point is stray. At least the fraction `kept` of the cells, whose
    first side is `side`, is in that box.
    """
    sample = read(slice(0, None, -(-count // SAMPLE)))
    sample = sample[np.isfinite(sample).all(axis=1)]
    if not len(sample):
        return None, sample
    places, times = np.unique(sample, axis=0, return_counts=True)
    middle = np.sort(places, axis=0)[len(places) // 2]  # not a mean of two, which overflows
    piles = places[times >= PILE * np.median(times)]
    spread = np.sort(np.abs(places / 4 - middle / 4), axis=None)  # the whole may overflow
    side = max(side, spread[int(SPREAD * spread.size)] / (FARTHEST / 8))

    def parts() -> Iterator[np.ndarray]:
        for part in _parts(count, read):
            for pile in piles:
                part = part[(part != pile).any(axis=1)]
            yield part

    cells, doubled = _occupied(parts(), middle, side)
    while (box := _frame_cells(_unpack(cells), kept)) is None:
        cells, doubled = _halved(cells), doubled + 1
    low, high, all_inside = box
    if all_inside and not len(piles):
        return None, piles

    def inside() -> Iterator[np.ndarray]:
        for part in parts():
            cell = _cells(part, middle, side) >> doubled
            yield part[((cell >= low) & (cell <= high)).all(axis=1)]

    return _box(inside()), piles


def _cells(points: np.ndarray, middle: np.ndarray, side: float) -> np.ndarray:
    """Return the cell of each point, (n, 3) int64, not negative."""
    with np.errstate(over="ignore"):  # infinite is as far as FARTHEST
        away = np.clip(np.floor((points - middle) / side), -FARTHEST, FARTHEST)
    return away.astype(np.int64) + (1 << (BITS - 1))


def _pack(cells: np.ndarray) -> np.ndarray:
    return (cells[:, 0] << 2 * BITS) | (cells[:, 1] << BITS) | cells[:, 2]


def _unpack(keys: np.ndarray) -> np.ndarray:
    return np.stack([keys >> 2 * BITS, keys >> BITS, keys], axis=1) & ((1 << BITS) - 1)


def _halved(keys: np.ndarray) -> np.ndarray:
    """Return the cells of twice the side that are occupied."""
    return _distinct(_pack(_unpack(keys) >> 1))


def _distinct(keys: np.ndarray) -> np.ndarray:
    """Return the sorted distinct keys; 100 times as fast as `np.unique`, which hashes them."""
    keys = np.sort(keys)
    return keys[np.diff(keys, prepend=-1) != 0]


def _occupied(
    parts: Iterator[np.ndarray], middle: np.ndarray, side: float
) -> tuple[np.ndarray, int]:
    """Return the occupied cells, packed and sorted, and how often their side was doubled."""
    doubled, found = 0, np.empty(0, np.int64)
    for part in parts:
        more = _distinct(_pack(_cells(part, middle, side) >> doubled))
        found = _distinct(np.concatenate([found, more]))
        while len(found) > MOST_CELLS:
            found, doubled = _halved(found), doubled + 1
    return found, doubled


def _frame_cells(cells: np.ndarray, kept: float) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Return the first and last cell (3,) of the frame, and whether all cells (M, 3) are within.

    None if the points are too thin for such cells.
    """
    piece = _pieces(cells)
    order = np.argsort(piece, kind="stable")
    starts = np.flatnonzero(np.diff(piece[order], prepend=-1))
    lows = np.minimum.reduceat(cells[order], starts)
    highs = np.maximum.reduceat(cells[order], starts)
    size = np.bincount(piece)
    low, high = lows[size.argmax()], highs[size.argmax()]
    while True:
        between = np.maximum(0, np.maximum(lows - high, low - highs) - 1)
        near = np.linalg.norm(between, axis=1) <= REACH * np.sqrt(size)
        new = lows[near].min(axis=0), highs[near].max(axis=0)
        if (new[0] == low).all() and (new[1] == high).all():
            break
        low, high = new
    thin = size[near & (size >= FEW)].sum() < kept * len(cells)
    return None if thin and len(size) > 1 else (low, high, bool(near.all()))


def _pieces(cells: np.ndarray) -> np.ndarray:
    """Return the number of each cell's piece, (M,)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    cubes, cube = np.unique(_pack(cells // JOIN), return_inverse=True)
    pairs = []
    for step in range(14, 27):  # half of a cube's 26 neighbours
        x, y, z = step // 9 - 1, step // 3 % 3 - 1, step % 3 - 1
        other = cubes + ((x << 2 * BITS) + (y << BITS) + z)
        at = np.minimum(np.searchsorted(cubes, other), len(cubes) - 1)
        touching = np.flatnonzero(cubes[at] == other)
        pairs.append(np.stack([touching, at[touching]]))
    rows, columns = np.concatenate(pairs, axis=1)
    links = coo_array((np.ones(len(rows), bool), (rows, columns)), shape=(len(cubes),) * 2)
    return connected_components(links, directed=False)[1][cube]
