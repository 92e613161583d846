"""The catalogue fetches from a server on the loopback address, which can fail in every way."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

from deepgcn_cli.__main__ import run
from pipelines import load_model
from pipelines.config import ModelConfig
from pipelines.errors import WeightsError
from pipelines.model.deepgcn import DeepGCN
from pipelines.progress import SILENT, Progress, Task
from pipelines.runs import weights
from pipelines.runs.weights import catalogue_weights
from pipelines.weights import catalogue
from pipelines.weights.catalogue import Entry, weights_file
from pipelines.weights.fetch import fetch
from pipelines.weights.published import published_state
from tests.small_disk import on_a_small_disk

CONFIG = dataclasses.replace(ModelConfig.published("dgcnn"), width=8, fusion_channels=32)


@dataclass
class Site:
    """What the server does, and what it was asked for."""

    content: bytes
    address: str = ""
    send: int | None = None  # bytes of each answer before the connection is cut; None: all
    ranges: bool = True  # whether it can go on in the middle
    sized: bool = True  # whether answers say how long they are
    wait: float = 0.0  # seconds after each kibibyte
    status: int = 200
    leads_to: str = ""  # another address, which every answer names
    asked: list[str] = field(default_factory=list)  # the Range of each request


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(released(tmp_path / "model_1.t7"))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
            found.asked.append(self.headers.get("Range", ""))
            if found.status != 200 or self.path != "/model_1.t7":
                return self.send_error(found.status if found.status != 200 else 404)
            if found.leads_to:
                self.send_response(302)
                self.send_header("Location", found.leads_to)
                return self.end_headers()
            start = int(wanted[1]) if wanted and found.ranges else 0
            if start >= len(found.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(found.content)}")
                return self.end_headers()
            body = found.content[start:]
            self.send_response(206 if start else 200)
            if found.sized:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(ConnectionError):  # a fetch that has seen enough
                for at in range(0, len(body[: found.send]), 1024):
                    self.wfile.write(body[: found.send][at : at + 1024])
                    time.sleep(found.wait)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    yield found
    server.shutdown()
    server.server_close()


def released(path: Path) -> bytes:
    """A DGCNN as its release saves it."""
    torch.manual_seed(0)
    state = published_state(DeepGCN(CONFIG).eval())
    torch.save({f"module.{name}": value for name, value in state.items()}, path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv(catalogue.PLACE, raising=False)
    return tmp_path / "cache" / "deepgcn" / "weights"


@pytest.fixture
def entry(site: Site, monkeypatch: pytest.MonkeyPatch) -> Entry:
    sha256 = hashlib.sha256(site.content).hexdigest()
    url = f"{site.address}/model_1.t7"
    about = {"test_area": "1"}
    made = Entry(
        "net", "dgcnn", "rooms", "MIT", len(site.content), sha256, (), url=url, about=about
    )
    monkeypatch.setattr(catalogue, "PUBLISHED", (made,))
    return made


def part(cache: Path) -> Path:
    return cache / ".model_1.t7.part"


def test_a_name_is_fetched_once_and_says_where_it_comes_from(
    entry: Entry, site: Site, cache: Path
) -> None:
    torch.manual_seed(0)
    expected = DeepGCN(CONFIG).state_dict()
    for _ in range(2):
        found = load_model("net").state_dict()
        assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert site.asked == [""]
    origin = catalogue_weights(entry).provenance
    assert (origin["name"], origin["trained_on"], origin["license"]) == ("net", "rooms", "MIT")
    assert origin["source_sha256"] == hashlib.sha256(site.content).hexdigest()
    assert {path.name for path in cache.iterdir()} == {"net.safetensors", ".lock"}


def test_other_content_is_refused_and_not_kept(entry: Entry, site: Site, cache: Path) -> None:
    site.content = site.content[:-1] + b"?"
    found = hashlib.sha256(site.content).hexdigest()
    with pytest.raises(WeightsError, match=f"found other content, of the SHA-256 {found}") as told:
        weights_file(entry)
    assert entry.sha256 in str(told.value)
    assert str(cache / "model_1.t7") in str(told.value)
    assert not [path for path in cache.iterdir() if path.stat().st_size]


def test_more_than_the_file_is_refused(entry: Entry, site: Site, cache: Path) -> None:
    site.content += b"more"
    for site.sized, told in (
        (True, f"found a file of {entry.size + 4:,} bytes"),
        (False, "more than"),
    ):
        with pytest.raises(WeightsError, match=told):
            weights_file(entry)
        assert not part(cache).exists()


@pytest.mark.parametrize(("sized", "kept"), [(True, 0), (False, 0), (True, 43), (True, 2000)])
def test_a_shorter_file_is_refused_and_not_gone_on_with(
    entry: Entry, site: Site, cache: Path, sized: bool, kept: int
) -> None:
    """The server has nothing after it."""
    whole, site.content, site.sized = site.content, b"?" * 43, sized
    if kept:
        cache.mkdir(parents=True)
        part(cache).write_bytes(whole[:kept])
    with pytest.raises(WeightsError, match=r"found a file of 43 bytes\.\nExpected") as told:
        weights_file(entry)
    assert "are kept" not in str(told.value)
    assert not part(cache).exists()
    site.content, site.sized = whole, True
    assert weights_file(entry).is_file()


class Counts(Progress, Task):
    """Counts the bytes that are done, and what is said."""

    def __init__(self) -> None:
        self.done = 0.0
        self.said: list[str] = []

    @contextmanager
    def task(self, name: str, total: float | None = None, unit: str = "") -> Iterator[Task]:  # noqa: ARG002
        yield self if unit == "bytes" else Task()

    def advance(self, amount: float = 1, **fields: float | str) -> None:  # noqa: ARG002
        self.done += amount

    def say(self, message: str) -> None:
        self.said.append(message)


@pytest.mark.parametrize("ranges", [True, False])
def test_bytes_that_are_fetched_again_count_once(
    entry: Entry, site: Site, cache: Path, ranges: bool
) -> None:
    cache.mkdir(parents=True)
    part(cache).write_bytes(b"?" * 2000)
    site.ranges, counts = ranges, Counts()
    weights_file(entry, counts)
    assert counts.done == entry.size


def test_a_cut_connection_goes_on_where_it_was(entry: Entry, site: Site) -> None:
    site.send = len(site.content) // 3 // 4096 * 4096
    weights_file(entry)
    assert site.asked[:3] == ["", f"bytes={site.send}-", f"bytes={2 * site.send}-"]


def test_a_server_that_cannot_go_on_gives_up_and_another_day_works(
    entry: Entry, site: Site, cache: Path
) -> None:
    site.send, site.ranges = 8192, False
    with pytest.raises(
        WeightsError, match=r"cut off; 8,192 of .* bytes are kept, and the same command"
    ):
        weights_file(entry)
    assert part(cache).read_bytes() == site.content[:8192]
    site.send, site.ranges = None, True
    assert weights_file(entry).is_file()
    assert site.asked[-1] == "bytes=8192-"


def test_a_damaged_rest_is_fetched_anew(entry: Entry, site: Site, cache: Path) -> None:
    cache.mkdir(parents=True)
    part(cache).write_bytes(b"?" * 2000)
    assert weights_file(entry).is_file()
    assert site.asked == ["bytes=2000-", ""]


KILLED = """
import sys
from pathlib import Path
from pipelines.progress import SILENT
from pipelines.weights.fetch import fetch
url, out, size, sha256 = sys.argv[1:]
fetch(url, Path(out), size=int(size), sha256=sha256, progress=SILENT)
"""


def test_a_killed_fetch_goes_on(entry: Entry, site: Site, cache: Path) -> None:
    cache.mkdir(parents=True)
    site.wait = 0.05
    out = str(cache / "model_1.t7")
    arguments = [str(entry.url), out, str(entry.size), entry.sha256]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments]) as process:
        end = time.monotonic() + 60
        while not (part(cache).is_file() and part(cache).stat().st_size):
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    kept = part(cache).stat().st_size
    assert 0 < kept < entry.size
    site.wait = 0.0
    assert weights_file(entry).is_file()
    assert site.asked[-1] == f"bytes={kept}-"


def test_a_mirror_and_a_folder(
    entry: Entry, site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = dataclasses.replace(entry, url="http://127.0.0.1:9/nowhere/model_1.t7")
    monkeypatch.setenv(catalogue.PLACE, f"{site.address}/")
    assert weights_file(away).is_file()
    weights_file(away).unlink()
    monkeypatch.setenv(catalogue.PLACE, str(tmp_path))
    (tmp_path / "model_1.t7").rename(tmp_path / "another name")
    asked = list(site.asked)
    assert weights_file(away).is_file()
    assert site.asked == asked, "a folder needs no network"
    weights_file(away).unlink()
    (tmp_path / "another name").write_bytes(b"?" * entry.size)
    with pytest.raises(WeightsError, match=f"found no file with net: .*SHA-256 {entry.sha256}"):
        weights_file(away)


def test_a_file_put_there_by_hand(entry: Entry, site: Site, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "model_1.t7").write_bytes(site.content)
    assert weights_file(dataclasses.replace(entry, url="http://127.0.0.1:9/model_1.t7")).is_file()
    assert site.asked == []


def test_only_what_was_fetched_is_deleted(
    entry: Entry, site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own file may lie in the cache, under the published name or another."""
    monkeypatch.setenv(catalogue.PLACE, str(cache))
    for name in ("model_1.t7", "mine.t7"):
        cache.mkdir(parents=True, exist_ok=True)
        (cache / name).write_bytes(site.content)
        weights_file(entry).unlink()
        assert (cache / name).read_bytes() == site.content
        (cache / name).unlink()
    assert site.asked == []


def test_places_that_cannot_be_read(
    entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(catalogue.PLACE, "~no-such-user/weights")
    with pytest.raises(WeightsError, match=r"^DEEPGCN_WEIGHTS=~no-such-user/weights: "):
        weights_file(entry)

    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setenv(catalogue.PLACE, str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(catalogue, "sha256_of", refuse)
        with pytest.raises(WeightsError, match=r"model_1.t7 cannot be read \(Permission denied\)"):
            catalogue_weights(entry)
    kept = weights_file(entry)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_file", refuse)
        assert catalogue.kept_file(entry) is None
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", refuse)
        with pytest.raises(WeightsError, match=r"net.safetensors: cannot be read \(Permission"):
            load_model(kept)


def test_no_network_says_all_that_is_needed(
    entry: Entry, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = dataclasses.replace(entry, url="http://127.0.0.1:9/model_1.t7")
    monkeypatch.setattr(catalogue, "PUBLISHED", (away,))
    assert run(["weights", "get", "net", "--quiet"]) == 1
    said = capsys.readouterr().err
    for text in (str(away.url), entry.sha256, str(cache / "model_1.t7"), catalogue.PLACE):
        assert text in said
    assert "Traceback" not in said
    assert said.count("\n") <= 3


@pytest.mark.parametrize("status", [404, 503])
def test_a_server_that_refuses(entry: Entry, site: Site, status: int) -> None:
    site.status = status
    with pytest.raises(WeightsError, match=f"the server answers {status}"):
        weights_file(entry)


@pytest.mark.parametrize("host", [70 * "a", "["])
def test_a_server_that_leads_to_no_address(entry: Entry, site: Site, host: str) -> None:
    site.leads_to = f"http://{host}/"
    with pytest.raises(WeightsError, match=rf"{entry.url}: cannot be fetched: .*\nExpected "):
        weights_file(entry)


FULL = """
import hashlib, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from pipelines.errors import WeightsError
from pipelines.progress import SILENT
from pipelines.weights.fetch import fetch

body = b"x" * (3 << 20)

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body)
        except OSError:
            pass

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
sha256 = hashlib.sha256(body).hexdigest()
url = f"http://127.0.0.1:{server.server_port}/big"
try:
    fetch(url, Path("big").absolute(), size=len(body), sha256=sha256, progress=SILENT)
except WeightsError as error:
    print(str(error).replace(chr(10), " "))
print(Path("big").exists())
"""


def test_no_space_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    disk = tmp_path / "disk"
    disk.mkdir()
    said, there = on_a_small_disk(disk, FULL).splitlines()
    assert "No space left on device" in said
    assert "expected a folder with 3,145,728 bytes to spare" in said
    assert there == "False"


def test_a_folder_where_a_file_has_to_be(entry: Entry, site: Site, cache: Path) -> None:
    for name in ("net.safetensors", "model_1.t7", ".model_1.t7.part"):
        (cache / name).mkdir(parents=True)
        with pytest.raises(WeightsError, match=rf"/{name}: found a folder.*\nRemove it, or"):
            catalogue_weights(entry)
        (cache / name).rmdir()
    assert site.asked == []


def test_two_at_once_fetch_once(
    entry: Entry, site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.wait = 0.003
    first = threading.Thread(target=catalogue_weights, args=(entry,))
    first.start()
    end = time.monotonic() + 60
    while not site.asked:
        assert time.monotonic() < end
        time.sleep(0.01)
    with monkeypatch.context() as patch:
        patch.setattr(weights, "FETCH_SECONDS", 0.0)
        with pytest.raises(WeightsError, match="another process has been fetching for 0 s"):
            catalogue_weights(entry)
    counts = Counts()
    assert catalogue_weights(entry, counts).file.is_file()
    first.join()
    assert counts.said == [f"net: waiting for another process that fetches into {cache}"]
    assert site.asked == [""]
    (cache / ".lock").unlink()
    (cache / ".lock").mkdir()
    assert catalogue_weights(entry).file.is_file(), "what is there needs no lock"


def test_the_list(entry: Entry, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["weights", "list"]) == 0
    shown = capsys.readouterr().out
    assert "to fetch" in shown
    assert run(["weights", "get", "net", "--quiet"]) == 0
    capsys.readouterr()
    assert run(["weights", "list"]) == 0
    assert "fetched" in capsys.readouterr().out
    assert fetch(str(entry.url), catalogue.cache() / entry.file, **known(entry)).is_file()


def known(entry: Entry) -> dict[str, object]:
    return {"size": entry.size, "sha256": entry.sha256, "progress": SILENT}


def test_the_catalogue_is_what_it_says(real_dir: Path) -> None:
    """The six networks of S3DIS are the files that others have of them."""
    for area in range(1, 7):
        found = catalogue.entry_of(f"dgcnn-s3dis-area{area}")
        content = (real_dir / f"dgcnn_s3dis_area{area}.t7").read_bytes()
        assert (found.size, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        assert found.about["test_area"] == str(area)
        assert found.url is not None
        assert found.url.endswith(f"/pretrained/semseg_s3dis/model_{area}.t7")


def test_what_is_inside_the_package_is_whole_and_small() -> None:
    entries = [entry for entry in catalogue.catalogue() if entry.url is None]
    files = {path.name for path in catalogue.EMBEDDED.iterdir()}
    others = {name for name in files if name.endswith(".README.md")} | {"scores.json"}
    assert files - others == {entry.file for entry in entries} != set()
    assert sum(entry.size for entry in entries) <= 12_000_000
    for entry in entries:
        assert entry.license == "MIT"
        assert re.search("(synthetic|made) rooms", entry.trained_on)
        state = load_model(entry.name).state_dict()
        values = sum(value.numel() for value in state.values())
        assert entry.size < 2.1 * values, "16 bits a value"


def test_measured_scores_are_of_the_weights_as_they_are() -> None:
    """Whoever replaces weights scores them again: python -m benchmarks.real_scans --record."""
    hashes = {entry.name: entry.sha256 for entry in catalogue.catalogue()}
    file = catalogue.EMBEDDED / catalogue.SCORES
    for name, found in json.loads(file.read_text("utf-8")).items():
        assert found["sha256"] == hashes[name]
        for score in found["scores"]:
            assert 0 < score["miou"] <= score["oa"] < 1
