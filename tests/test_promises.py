"""What README and docs/reliability.md say is tested, is: by tests of the names that they give."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "reliability.md").read_text("utf-8")


def test_every_test_that_is_named_exists() -> None:
    code = "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))
    defined = set(re.findall(r"def (test_\w+)", code))
    names, places = (
        set(re.findall(each, PAGE)) for each in (r"`(test_\w+)`", r"`(tests/[\w/.]+)`")
    )
    assert len(names) > 10
    assert names <= defined
    assert not [place for place in places if not (ROOT / place).exists()]


def test_every_sentence_to_rely_on_has_its_tests() -> None:
    readme = (ROOT / "README.md").read_text("utf-8").partition("## What you can rely on")[2]
    promised = re.findall(r"^- \*\*(.+?)\.\*\*", readme.partition("\n## ")[0], re.MULTILINE)
    table = re.findall(r"^\| (.+?) \| (.+) \|$", PAGE.rpartition("\n## ")[2], re.MULTILINE)
    assert [each for each, _ in table[1:]] == promised
    assert all("test" in tests for _, tests in table[1:])
