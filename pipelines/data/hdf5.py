"""Read HDF5 files, and write them so that a full disk is an error rather than a crash.

HDF5 keeps what it could not write and tries again when the program ends, which then crashes. So it
writes to a file object of ours. The first write that fails raises its OSError; those that follow,
and those of closing, are not tried, and HDF5 is told that they succeeded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from pipelines.files import atomic_write

DEFLATED = 1032  # bytes that one of an HDF5 file can hold at most


@contextmanager
def atomic_hdf5(path: Path, libver: str | None = None) -> Iterator[h5py.File]:
    """Yield a new HDF5 file that is written whole or not at all; OSError: it cannot be written.

    `libver` is h5py's: None for a file that old versions read, "latest" for a faster one.

    >>> with atomic_hdf5(Path("a.h5")) as file:
    ...     data = file.create_dataset("data", data=[1, 2, 3])
    >>> h5py.File("a.h5")["data"][2]
    np.int64(3)
    """
    with atomic_write(path) as temporary, _Disk(temporary, "w+") as disk:
        with h5py.File(disk, "w", libver=libver) as file:
            try:
                yield file
            finally:
                disk.closing = True
        if disk.failure:
            raise disk.failure


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file for reading.

    It is not locked, because some network file systems have no locks, and what `atomic_hdf5` has
    written is never changed.
    """
    return h5py.File(path, "r", locking=False)


def own_array(group: h5py.Group, name: str, most: int = DEFLATED) -> h5py.Dataset:
    """Return an array of numbers that is in the file itself, and not larger than it can hold.

    ValueError: it is a link, lies in other files, or declares more than `most` times its bytes in
    the file, as of chunks that were never written, or of zeros that are to fill the memory.
    """
    array = group[name]
    own = isinstance(group.get(name, getlink=True), h5py.HardLink)
    if not own or not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
        raise ValueError(f"{name} is no array of this file")
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} is no array of numbers")
    if array.nbytes > most * array.id.get_storage_size():
        raise ValueError(f"{name} of shape {array.shape} is cut off or packed too much")
    return array


def own_values(group: h5py.Group, name: str) -> np.ndarray:
    """Return the values of an `own_array` that is not packed, as `atomic_hdf5` writes them."""
    values: np.ndarray = own_array(group, name, most=1)[()]
    return values


def own_number(item: h5py.Group, name: str) -> Any:
    """Return the value of an attribute that is a number or an array of numbers.

    ValueError: it is of another type. The HDF5 library need not return from a damaged text.
    """
    if item.attrs.get_id(name).dtype.kind not in "fiu":
        raise ValueError(f"the attribute {name} is no number")
    return item.attrs[name]


class _Disk(io.FileIO):
    """A file of which one write fails at most, and none while HDF5 closes it.

    Nor does one fail afterwards: if a signal ends the work, HDF5 lets go of its objects later than
    Python closes the file.
    """

    closing = False
    failure: OSError | None = None

    def write(self, content: Any) -> int:
        """Write all of `content`, unless a write has failed before; return its size."""
        left = memoryview(content)
        size = left.nbytes
        while left and self.failure is None and not self.closed:
            with self._noted():
                left = left[super().write(left) :]
        return size

    def truncate(self, size: int | None = None) -> int:
        """Set the file's size, unless a write has failed before."""
        if self.failure is None and not self.closed:
            with self._noted():
                super().truncate(size)
        return self.tell() if size is None else size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place in the file, if it is open; return the place."""
        return offset if self.closed else super().seek(offset, whence)

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = error
            if not self.closing:
                raise
