"""Pages ask for nothing and run their own scripts only."""

from __future__ import annotations

import base64
import hashlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pipelines.reports.tables import render_page
from pipelines.reports.viewer import write_viewer

EVIL = "</script><script>alert(1)</script>"


class Outline(HTMLParser):
    """The policy of a page, its scripts, and where it asks for something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.policy, self.scripts, self.asks = "", list[str](), list[str]()
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("http-equiv") == "Content-Security-Policy":
            self.policy = found["content"] or ""
        if tag == "script" and "type" not in found:  # others are data
            assert self.policy, "a script before the policy"
            self._in_script = True
        self.asks += [v or "" for k, v in attrs if k in ("src", "href", "action", "srcset")]
        assert not any(name.startswith("on") for name in found), "no policy lets it run"

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts.append(data)


def report(folder: Path) -> str:
    picture = folder / "a.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n")
    return render_page("study.html", EVIL, [picture], tables=[])


def viewer(folder: Path) -> str:
    pos, color = np.zeros((2, 3)), np.zeros((2, 3), np.uint8)
    names = {"classes": (EVIL,), "class_colors": ((0, 0, 0),), "title": EVIL}
    write_viewer(folder / "v.html", pos, color, **names, summary={EVIL: EVIL})
    return (folder / "v.html").read_text("utf-8")


@pytest.mark.parametrize("made", [report, viewer])
def test_only_its_own_scripts_run_and_nothing_is_asked_for(made, tmp_path: Path) -> None:
    page = Outline(made(tmp_path))
    rules = dict(rule.split(" ", 1) for rule in page.policy.split("; "))
    digests = {hashlib.sha256(script.encode()).digest() for script in page.scripts}
    allowed = {base64.b64decode(word[8:-1]) for word in rules.pop("script-src").split()}
    assert allowed == digests
    assert len(digests) == len(page.scripts) > 0
    assert rules == {
        **dict.fromkeys(("default-src", "base-uri", "form-action"), "'none'"),
        "style-src": "'unsafe-inline'",
        "img-src": "data:",
    }
    assert all(asked.startswith("data:") for asked in page.asks)
