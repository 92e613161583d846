"""Tags and notes live in the run directory."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.errors import ConfigError, RunError
from pipelines.runs.annotations import add_tag, read_note, read_tags, remove_tag, write_note


def test_tags(tmp_path: Path) -> None:
    assert read_tags(tmp_path) == ()
    for tag in ("paper", "a-1", "paper", "größe.v2"):
        add_tag(tmp_path, tag)
    assert read_tags(tmp_path) == ("a-1", "größe.v2", "paper")
    remove_tag(tmp_path, "a-1")
    assert read_tags(tmp_path) == ("größe.v2", "paper")
    with pytest.raises(RunError, match=r"no tag 'papre'\. Did you mean 'paper'\?\nIts tags: grö"):
        remove_tag(tmp_path, "papre")


@pytest.mark.parametrize(
    "tag", ["", " ", "two words", "a/b", "..", ".hidden", "-x", "a" * 65, "a\n", "a\x00", "\udcff"]
)
def test_a_tag_is_one_word(tmp_path: Path, tag: str) -> None:
    for change in (add_tag, remove_tag):
        with pytest.raises(ConfigError, match=r"TAG: found .* expected one word"):
            change(tmp_path, tag)
    assert list(tmp_path.iterdir()) == []


def test_notes(tmp_path: Path) -> None:
    assert read_note(tmp_path) == ""
    write_note(tmp_path, "")
    write_note(tmp_path, "  two\nlines – ü ")
    assert read_note(tmp_path) == "two\nlines – ü"
    with pytest.raises(ConfigError, match="expected Unicode"):
        write_note(tmp_path, "\udcff")
    assert read_note(tmp_path) == "two\nlines – ü"
    write_note(tmp_path, " ")
    assert read_note(tmp_path) == ""
