"""Fetch a file of known content, and go on with what an earlier try left.

What arrives is appended to `.<name>.part` in the cache, so a connection that is cut off, or a
process that is killed, loses nothing. The file gets its name only when its SHA-256 is right.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.errors import WeightsError
from pipelines.files import UNFINISHED, sha256_of
from pipelines.progress import Progress, Task

if TYPE_CHECKING:
    from requests import Response

TIMEOUT = 30.0  # seconds without a byte
CHUNK = 1 << 12  # bytes, of which a cut connection loses the last


class WrongContentError(Exception):
    """What was fetched is not the file; its text says what was found."""


def fetch(url: str, out: Path, *, size: int, sha256: str, progress: Progress) -> Path:
    """Return `out`, fetched from `url` unless it is there; WeightsError: why it cannot be.

    The file has to have `size` bytes and the SHA-256 `sha256`.
    """
    import pooch
    import requests

    for place in (out, _part(out)):
        refuse_folder(place)
    pooch.get_logger().setLevel(logging.WARNING)  # it would speak in its own words
    try:
        with progress.task(f"Fetching {out.name}", total=size, unit="bytes") as task:
            download = partial(_download, out=out, size=size, sha256=sha256, task=task)
            pooch.retrieve(url, f"sha256:{sha256}", out.name, out.parent, downloader=download)
    # ValueError: of an address, perhaps one that a server leads to
    except (requests.RequestException, WrongContentError, ValueError) as error:
        raise WeightsError(
            f"{url}: cannot be fetched: {_reason(error)}{_kept(_part(out), size)}.\n"
            f"Expected {size:,} bytes with the SHA-256 {sha256}.\n"
            f"Fetch it by other means and save it as {out}, or set DEEPGCN_WEIGHTS to its folder."
        ) from error
    except OSError as error:
        raise WeightsError(
            f"{out}: cannot be written ({error.strerror}){_kept(_part(out), size)}; "
            f"expected a folder with {size:,} bytes to spare.\n"
            "Make room, or choose another cache with XDG_CACHE_HOME, and run the same again."
        ) from error
    return out


def refuse_folder(place: Path) -> None:
    """Raise WeightsError if a folder is where a file of the cache has to be."""
    if place.is_dir():
        raise WeightsError(
            f"{place}: found a folder, expected a file or nothing.\n"
            "Remove it, or choose another cache with XDG_CACHE_HOME."
        )


def _part(out: Path) -> Path:
    return out.with_name(f".{out.name}{UNFINISHED}")


def _reason(error: Exception) -> str:
    """Return an error in a few words; those of connections are nested and long."""
    if isinstance(error, WrongContentError):
        return str(error)
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    text = " ".join(str(error).split())
    if "Max retries" in text:  # requests tells of them even where it makes none
        return "no connection"
    return "the connection was cut off" if "Incomplete" in text or "cut off" in text else text


def _kept(part: Path, size: int) -> str:
    """Return how much of the file is there to go on with, or nothing."""
    done = part.stat().st_size if part.is_file() else 0
    return f"; {done:,} of {size:,} bytes are kept, and the same command goes on" if done else ""


def _download(
    url: str, temporary: str, _pooch: object, *, out: Path, size: int, sha256: str, task: Task
) -> None:
    """Write the file to `temporary`, as pooch asks for."""
    import requests

    part = _part(out)
    resumed = part.is_file()
    task.advance(part.stat().st_size if resumed else 0)
    while (before := part.stat().st_size if part.is_file() else 0) < size:
        try:
            _append(url, part, before, size, task.advance)
        except (requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            if not part.is_file() or part.stat().st_size <= before:
                raise
    if (found := sha256_of(part)) != sha256:
        part.unlink()
        if resumed:  # what was there before may be to blame
            task.advance(-size)
            return _download(url, temporary, _pooch, out=out, size=size, sha256=sha256, task=task)
        raise WrongContentError(f"found other content, of the SHA-256 {found}")
    os.replace(part, temporary)


def _append(url: str, part: Path, start: int, size: int, advance: Callable[[int], object]) -> None:
    """Append what follows byte `start` of the file; begin anew if the server gives all of it.

    WrongContentError: the server has a file of another size; nothing of it is kept.
    """
    import requests

    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        ends_before = start and response.status_code == requests.codes.range_not_satisfiable
        whole = _whole_size(response)
        if ends_before or (response.ok and whole not in (None, size)):
            part.unlink(missing_ok=True)
            found = f"at most {start:,}" if whole is None else f"{whole:,}"
            raise WrongContentError(f"found a file of {found} bytes")
        response.raise_for_status()
        goes_on = response.status_code == requests.codes.partial_content
        if start and not goes_on:
            advance(-start)
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                advance(len(chunk))
                if file.tell() > size:
                    break
    if (done := part.stat().st_size) > size:
        part.unlink()
        raise WrongContentError(f"found more than {size:,} bytes")
    if done < size:
        raise requests.ConnectionError(f"cut off after {done:,} of {size:,} bytes")


def _whole_size(response: Response) -> int | None:
    """Return the size of the file on the server, of which it may send a part; None: unknown."""
    headers = response.headers
    if total := re.search(r"/(\d+)$", headers.get("Content-Range", "")):
        return int(total[1])
    is_whole = response.status_code == 200 and "Content-Encoding" not in headers
    length = headers.get("Content-Length", "")
    return int(length) if is_whole and length.isdecimal() else None
