"""Drive a headless Chromium over its debugging pipe, with the standard library alone."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

fcntl = pytest.importorskip("fcntl", reason="the browser is driven over POSIX pipes")
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--remote-debugging-pipe",
)
SOFTWARE_GL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
WITHOUT_GL = ("--disable-gpu", "--disable-3d-apis")
PATIENCE = 60.0  # seconds for a page or an answer


def chromium_or_skip() -> str:
    """Return the browser's program; skip the test where there is none."""
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip("no Chromium here: install the package chromium to run the browser tests")
    return found


class Page:
    """One page: evaluates JavaScript, presses keys and buttons, takes pictures.

    Attributes:
        complaints: console errors, warnings and exceptions, as text.
        requests: addresses that the page asked for.
    """

    def __init__(self, sending: int, receiving: int) -> None:
        self._sending, self._receiving = sending, receiving
        self._rest, self._number, self._session = b"", 0, ""
        self.complaints: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def open(self, address: str, width: int = 1000, height: int = 640) -> None:
        """Load an address and wait until the document is complete and any viewer in it is ready."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=address)
        self.wait(
            "document.readyState === 'complete' && location.href !== 'about:blank'"
            " && document.documentElement.dataset.state !== 'loading'"
        )

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression; a promise is awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"{expression}: not in {PATIENCE} s"
            time.sleep(0.05)

    def settle(self) -> None:
        """Wait until what was asked for is drawn and the camera rests."""
        self.evaluate("new Promise(done => setTimeout(() => requestAnimationFrame(done), 300))")

    def click(self, selector: str) -> None:
        """Click on an element."""
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self.settle()

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send a mouse event: mousePressed, mouseMoved, mouseReleased, mouseWheel."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def press(self, key: str, modifiers: int = 0) -> None:
        """Press and release a key; modifiers: 8 is Shift."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=modifiers)
        self.settle()

    def picture(self, path: Path | None = None) -> np.ndarray:
        """Return the page as (H, W, 3) uint8; also as a PNG file if `path` is given."""
        from PIL import Image

        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if path:
            path.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._sending, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._receiving, 1 << 20)
            assert part, "the browser ended"
            self._rest += part
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, parameters = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.complaints.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled":
            if parameters["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded":
            entry = parameters["entry"]
            # SwiftShader says how slow it is when a picture is taken; that is no fault of the page.
            if entry["level"] in ("error", "warning") and "GPU stall" not in entry["text"]:
                self.complaints.append(entry["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])


@contextmanager
def open_browser(*options: str) -> Iterator[Page]:
    """Start a browser with an empty profile and yield its page; end it afterwards."""
    program = chromium_or_skip()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *OPTIONS, *options, f"--user-data-dir={profile}", "about:blank"]
        process, sending, receiving = _start(command)
        try:
            yield Page(sending, receiving)
        finally:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
            os.close(sending)
            os.close(receiving)


def _start(command: list[str]) -> tuple[int, int, int]:
    """Start a program that reads file 3 and writes file 4; return its id and our two ends."""
    reading, sending = os.pipe()
    receiving, writing = os.pipe()
    # Above 4, so that putting one in its place does not close the other.
    theirs = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (reading, writing)]
    actions = [
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_DUP2, theirs[0], 3),
        (os.POSIX_SPAWN_DUP2, theirs[1], 4),
    ]
    process = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
    for end in (reading, writing, *theirs):
        os.close(end)
    return process, sending, receiving
