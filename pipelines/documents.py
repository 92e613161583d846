"""Documents that others may have written, as plain values: YAML within limits.

A few hundred bytes of YAML can stand for gigabytes, as an alias repeats what it refers to, and a
tag can ask for other types. So nesting, size and tags are checked before any value is made.
"""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import ConfigError

LARGEST = 1 << 19  # bytes
MOST_VALUES = 50_000
DEEPEST = 32  # levels of nesting
EXPANDED = 1 << 21  # characters, with what aliases repeat
LONGEST_NUMBER = 100  # digits
LONGEST_NAME = 255  # characters, of a file too
TAG = "tag:yaml.org,2002:"
PLAIN = {TAG + kind for kind in ("map", "seq", "str", "int", "float", "bool", "null", "merge")}


def read_yaml(path: Path, flag: str) -> Any:
    """Return what a YAML file holds: mappings, lists, texts, numbers, booleans and None.

    Aliases and merges are followed, tags are refused, and a date is a text. Texts are `composed`.

    Raises:
        ConfigError: the file is missing, which names the option `flag`, too large, or not of this
            kind of YAML.

    >>> size = Path("grid.yaml").write_text("base: &b {k: 4}\\nother: {<<: *b, depth: 7}")
    >>> read_yaml(Path("grid.yaml"), "--grid")["other"]
    {'k': 4, 'depth': 7}
    """
    import yaml

    if not path.is_file():
        raise ConfigError(f"{flag}: found no file {path}, expected one in YAML.")
    if (size := path.stat().st_size) > LARGEST:
        raise ConfigError(f"{path}: found {size:,} bytes, expected YAML of at most {LARGEST:,}.")
    try:
        return _plain(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, LookupError, OSError) as error:
        shown = " ".join(str(error).split())[:200]
        if "alias" in shown or "'?'" in shown:
            shown += "\nPut patterns that begin with * or ? in quotes."
        raise ConfigError(f"{path}: cannot be read as YAML: {shown}") from error


def shown(value: Any) -> str:
    """Return a value for a message, shortened.

    >>> shown(None), shown([1] * 1000)
    ('nothing', '[1, 1, 1, 1, 1, 1, ...]')
    """
    return "nothing" if value is None else reprlib.repr(value)


def composed(text: str) -> str:
    """Return a name with each letter as one sign: macOS writes ü in names as u and two dots.

    Longer texts stay as they are: composing takes time with the square of a text's marks.

    >>> len("u\\u0308"), len(composed("u\\u0308"))
    (2, 1)
    """
    return text if len(text) > LONGEST_NAME else unicodedata.normalize("NFC", text)


def _plain(text: str) -> Any:
    import yaml

    # libyaml is many times faster; wheels have it on all platforms.
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    _check_events(yaml.parse(text, Loader=kind))
    loader = kind(text)
    loader.yaml_implicit_resolvers = {
        first: [(tag, form) for tag, form in forms if tag in PLAIN]
        for first, forms in kind.yaml_implicit_resolvers.items()
    }
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, {}, loader.construct_object)
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _check_events(events: Any) -> None:
    """Raise ValueError if a document has more values or levels than these limits."""
    depth = 0
    for number, event in enumerate(events):
        kind = type(event).__name__
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if number > MOST_VALUES:
            raise ValueError(f"found more than {MOST_VALUES:,} values and brackets")
        if depth > DEEPEST:
            raise ValueError(
                f"found more than {DEEPEST} levels in line {event.start_mark.line + 1}"
            )


def _check_node(
    node: Any, known: dict[int, tuple[int, int] | None], construct: Callable[[Any], Any]
) -> tuple[int, int]:
    """Return how many characters a node stands for, and how many levels; ValueError: too many.

    `known` has the nodes before it, and None for those around it. `construct` makes a node's value.
    """
    where = f"in line {node.start_mark.line + 1}"
    if id(node) in known:
        if (found := known[id(node)]) is None:
            raise ValueError(f"found a value within itself {where}")
        return found
    known[id(node)] = None
    if node.tag not in PLAIN:
        raise ValueError(f"found the tag {node.tag.removeprefix(TAG)[:40]!r} {where}")
    is_text = node.id == "scalar"
    if is_text and node.tag != f"{TAG}str" and len(node.value) > LONGEST_NUMBER:
        raise ValueError(f"found a number of {len(node.value):,} digits {where}")
    below = () if is_text else node.value
    if is_text:
        node.value = composed(node.value)
    if node.id == "mapping":
        below = [each for pair in node.value for each in pair]
    inside = [_check_node(each, known, construct) for each in below]
    size = 1 + (len(node.value) if is_text else 0) + sum(size for size, _ in inside)
    depth = 1 + max((depth for _, depth in inside), default=0)
    if size > EXPANDED or depth > DEEPEST:
        raise ValueError(f"found aliases that repeat too much {where}")
    if node.id == "mapping":
        _check_keys([key for key, _ in node.value if key.id == "scalar"], construct)
    known[id(node)] = size, depth
    return size, depth


def _check_keys(keys: list[Any], construct: Callable[[Any], Any]) -> None:
    """Raise ValueError for a key that is there twice: PyYAML would take the last one's value.

    So are 1 and "1", as labels are read as texts. The keys that a merge brings may be repeated.
    """
    seen: dict[Any, int] = {}
    for key in keys:
        if key.tag == f"{TAG}merge":
            continue
        value, line = construct(key), key.start_mark.line + 1
        same = {value, str(value), key.value}
        if found := [seen[each] for each in same if each in seen]:
            raise ValueError(
                f"found the key {key.value[:40]!r} in line {found[0]} and again in line {line}, "
                "expected each key once"
            )
        seen |= dict.fromkeys(same, line)
