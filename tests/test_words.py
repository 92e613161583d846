"""Words that are never right here: each has a plain one that the field uses."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
INSTEAD = {
    "lest": "so that … not",
    "farewell": "shutdown",
    "computed again": "recomputed",
    "dense products": "matrix multiplications",
    "vertex layer": "graph convolution",
    "for whoever": "for callers that",
}
FOLDERS = ("deepgcn_cli", "pipelines", "tests", "benchmarks", "examples", "docs")
TEXTS = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".md", ".txt", ".yaml", ".html") and path != Path(__file__)
)
ANY = "|".join(word.replace(" ", r"s?\s+") for word in INSTEAD)  # plurals and line ends too
PATTERN = re.compile(rf"\b({ANY})s?\b", re.IGNORECASE)


def test_the_words_are_the_field_s() -> None:
    found = []
    for path in [*TEXTS, *ROOT.glob("*.md")]:
        text = path.read_text(encoding="utf-8", errors="replace")
        # A phrase may be broken over two lines, in a comment behind its mark.
        text = re.sub(r"\n\s*(# )?", " ", text)
        found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in PATTERN.finditer(text)]
    assert not found, f"instead say {INSTEAD}"
