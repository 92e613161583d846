"""Conditions on runs: "arch=resgcn and miou>0.4" becomes SQL with its values kept apart.

    condition  = operand { ("and" | "or") operand }
    operand    = "not" operand | "(" condition ")" | comparison
    comparison = column ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value
    value      = a word | "quoted" | 'quoted' | none

`not` binds closest, then `and`, as in SQL, so the operators are passed on in their order. `~` means
contains, ignoring the case of A to Z. Scores are from 0 to 1, or in percent: 40%. A missing value
is `none`; it satisfies no comparison but `= none` and `!= something`. Only names of COLUMNS get
into the SQL; every value that a person types is bound to a placeholder.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipelines.errors import ConfigError, did_you_mean

Value = str | int | float | None

# The columns of the index, in the order of `runs export`; docs/runs.md says what each one means.
COLUMNS = {
    "name": "TEXT PRIMARY KEY",
    **dict.fromkeys(("state", "created", "arch"), "TEXT"),
    "depth": "INTEGER",
    "conv": "TEXT",
    **dict.fromkeys(("width", "k"), "INTEGER"),
    **dict.fromkeys(("layout", "recipe"), "TEXT"),
    **dict.fromkeys(("test_area", "num_points"), "INTEGER"),
    **dict.fromkeys(("block_size", "voxel"), "REAL"),
    **dict.fromkeys(("batch_size", "seed", "epoch", "step"), "INTEGER"),
    **dict.fromkeys(("seconds", "val_miou"), "REAL"),
    **dict.fromkeys(("room_oa", "room_macc", "room_miou"), "REAL"),
    **dict.fromkeys(("block_s1_oa", "block_s1_macc", "block_s1_miou"), "REAL"),
    **dict.fromkeys(("block_s05_oa", "block_s05_macc", "block_s05_miou"), "REAL"),
    **dict.fromkeys(("error", "status", "updated", "preset", "knn", "parts"), "TEXT"),
    **dict.fromkeys(("knn_every", "knn_until"), "INTEGER"),
    "spatial": "TEXT",
    **dict.fromkeys(("dilation", "rgb"), "INTEGER"),
    **dict.fromkeys(("epsilon", "dropout", "lr"), "REAL"),
    **dict.fromkeys(("epochs", "max_steps", "best_epoch", "parameters"), "INTEGER"),
    "blocks_per_second": "REAL",
    "peak_memory": "INTEGER",
    **dict.fromkeys(("device", "hardware", "data", "tags", "note"), "TEXT"),
    "stamp": "INTEGER",
}
ALIASES = {
    **{score: f"room_{score}" for score in ("oa", "macc", "miou")},
    "run": "name",
    "area": "test_area",
}
TAG = "tag"  # of the words in `tags`, one
SCORES = tuple(name for name in COLUMNS if name.endswith(("_oa", "_macc", "_miou")))
TRUTH = {"true": 1, "on": 1, "yes": 1, "1": 1, "false": 0, "off": 0, "no": 0, "0": 0}
LONGEST, MOST = 5_000, 50  # characters; parentheses and nots: what SQLite's parser can take
EXAMPLE = 'For example: --where "arch=resgcn and (miou>0.4 or not state=finished)"'
_TOKEN = re.compile(
    r"""\s*(?: (?P<operator> <= | >= | != | == | [=<>~] )
            | (?P<parenthesis> [()] )
            | (?P<quoted> "[^"]*" | '[^']*' )
            | (?P<word> [^\s()"'=<>!~]+ ) )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)(%?)")


class Token(NamedTuple):
    """A piece of a condition: its kind, a group of _TOKEN or "end", and its text."""

    kind: str
    text: str

    def is_word(self, *words: str) -> bool:
        """Return whether this is one of the keywords `words`, in upper or lower case."""
        return self.kind == "word" and self.text.lower() in words


END = Token("end", "")


def parse_where(where: str | None) -> tuple[str, list[Value]]:
    """Return a condition as an SQL expression and the values of its placeholders.

    Examples:
        >>> parse_where("arch=resgcn and miou>40%")
        ('((arch IS ?) AND coalesce(room_miou > ?, 0))', ['resgcn', 0.4])
    """
    if where is None:
        return "1", []
    tokens = iter(_tokens(where))
    sql: list[str] = []
    values: list[Value] = []
    opened = prefixes = 0
    while True:
        token = next(tokens)
        while token.is_word("not") or token == ("parenthesis", "("):
            opened += token.text == "("
            sql.append("(" if token.text == "(" else "NOT ")
            prefixes += 1
            if prefixes > MOST:
                raise ConfigError(f"--where: found more than {MOST} of ( and not.")
            token = next(tokens)
        comparison, value = _comparison(token, tokens)
        sql.append(comparison)
        values.append(value)
        token = next(tokens)
        while opened and token == ("parenthesis", ")"):
            opened -= 1
            sql.append(")")
            token = next(tokens)
        if token is END and not opened:
            return f"({''.join(sql)})", values
        if not token.is_word("and", "or"):
            raise _unexpected(token, ")" if opened else "and, or, or the end")
        sql.append(f" {token.text.upper()} ")


def parse_sort(sort: str | None) -> str:
    """Return the terms of ORDER BY for "-miou,name"; runs without a value come last."""
    terms = []
    for item in map(str.strip, sort.split(",") if sort is not None else []):
        name = _column(item.removeprefix("-"), "--sort")
        terms += [f"{name} IS NULL", f"{name}{' DESC' if item.startswith('-') else ''}"]
    return ", ".join([*terms, "created", "name"])


def parse_columns(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns of the index that `names` mean, each once; None: all."""
    found = (_column(name.strip(), "--columns") for name in (COLUMNS if names is None else names))
    return tuple(dict.fromkeys(found))


def _column(name: str, flag: str) -> str:
    found = ALIASES.get(name.lower(), name.lower())
    if found not in COLUMNS:
        known = (*COLUMNS, *ALIASES)
        raise ConfigError(
            f"{flag}: found the unknown column {name!r}.{did_you_mean(name, known)}\n"
            f"Columns: {', '.join(sorted(known))}."
        )
    return found


def _tokens(where: str) -> list[Token]:
    """Split a condition, with two END after the last token."""
    if len(where) > LONGEST:
        raise ConfigError(f"--where: found {len(where)} characters, expected at most {LONGEST}.")
    try:
        where.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"--where: found {where!r}, expected Unicode text.") from None
    tokens, place = [], 0
    while rest := where[place:].strip():
        match = _TOKEN.match(where, place)
        if match is None:
            what = "an unclosed quote" if rest[0] in "\"'" else repr(rest[0])
            raise ConfigError(f"--where: found {what} at {rest!r:.40}.\n{EXAMPLE}")
        kind = str(match.lastgroup)
        tokens.append(Token(kind, match[kind]))
        place = match.end()
    return [*tokens, END, END]


def _comparison(name: Token, tokens: Iterator[Token]) -> tuple[str, Value]:
    """Return SQL that is 1 or 0, never NULL, so that `not` is its opposite; and its value."""
    if name.kind != "word":
        raise _unexpected(name, "a column")
    column = TAG if name.is_word(TAG) else _column(name.text, "--where")
    sign, given = next(tokens), next(tokens)
    operator = sign.text
    if sign.kind != "operator":
        raise _unexpected(sign, f"= != < <= > >= or ~ after {name.text}")
    if given.kind not in ("word", "quoted"):
        raise _unexpected(given, f"a value after {name.text} {operator}")
    text = given.text[1:-1] if given.kind == "quoted" else given.text
    equality = {"=": "", "==": "", "!=": "NOT "}.get(operator)
    if column == TAG:
        if equality is None:
            raise ConfigError(f"--where: found {TAG} {operator}, expected {TAG} = or !=.")
        found = "instr(' ' || coalesce(tags, '') || ' ', ?) > 0"
        return f"({equality}{found})", f" {text} "
    if operator == "~":
        if not COLUMNS[column].startswith("TEXT"):
            raise ConfigError(f"--where: found {column} ~, but {column} is a number.")
        return f"(coalesce(instr(lower({column}), lower(?)), 0) > 0)", text
    value = None if given.is_word("none") else _value(column, text)
    if equality is not None:
        return f"({column} IS {equality}?)", value
    if value is None:
        raise ConfigError(f"--where: found {column} {operator} none, expected = or != there.")
    return f"coalesce({column} {operator} ?, 0)", value


def _unexpected(token: Token, expected: str) -> ConfigError:
    found = "the end" if token is END else repr(token.text)
    return ConfigError(f"--where: found {found}, expected {expected}.\n{EXAMPLE}")


def _value(column: str, text: str) -> Value:
    """Convert a text to a value of a column; ConfigError: the column holds something else."""
    kind = COLUMNS[column]
    if kind.startswith("TEXT"):
        return text
    if column == "dilation":
        if text.lower() not in TRUTH:
            raise ConfigError(f"--where: found dilation {text!r}, expected on or off.")
        return TRUTH[text.lower()]
    match = _NUMBER.fullmatch(text)
    if match is None or (match[2] and kind != "REAL"):
        raise ConfigError(f"--where: found {column} {text!r:.40}, expected a number.")
    number = float(match[1]) / (100 if match[2] else 1)
    if column in SCORES and abs(number) > 1:
        raise ConfigError(
            f"--where: found {column} {text}, but scores are from 0 to 1.\n"
            f"In percent: {text.rstrip('%')}%"
        )
    whole = not match[2] and match[1].lstrip("+-").isdecimal() and abs(number) < 2**53
    return int(match[1]) if whole else number
