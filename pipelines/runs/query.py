"""Conditions on runs: "arch=resgcn and miou>0.4" becomes SQL with its values kept apart.

    condition   = conjunction { "or" conjunction }
    conjunction = factor { "and" factor }
    factor      = "not" factor | "(" condition ")" | comparison
    comparison  = column ( "=" | "==" | "!=" | "<" | "<=" | ">" | ">=" | "~" ) value
    value       = a word | "quoted" | 'quoted' | none

`~` means contains, whatever the case of A to Z. Scores are from 0 to 1, or in percent: 40%. A value
that is missing is `none`; it fulfils no comparison but `= none` and `!= something`. Only names of
COLUMNS get into the SQL; whatever a person types as a value is bound to a place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipelines.errors import ConfigError, did_you_mean

from .schema import COLUMNS

Value = str | int | float | None

ALIASES = {
    **{score: f"room_{score}" for score in ("oa", "macc", "miou")},
    "run": "name",
    "area": "test_area",
}
TAG = "tag"  # of the words in `tags`, one
SCORES = tuple(name for name in COLUMNS if name.endswith(("_oa", "_macc", "_miou")))
TRUTH = {"true": 1, "on": 1, "yes": 1, "1": 1, "false": 0, "off": 0, "no": 0, "0": 0}
LONGEST, MOST, DEEPEST = 10_000, 100, 30  # characters, comparisons, parentheses and nots
_TOKEN = re.compile(
    r"""\s*(?: (?P<operator> <= | >= | != | == | [=<>~] )
            | (?P<parenthesis> [()] )
            | (?P<quoted> "[^"]*" | '[^']*' )
            | (?P<word> [^\s()"'=<>!~]+ ) )""",
    re.VERBOSE,
)
_NUMBER = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?)(%?)")


@dataclass(frozen=True)
class Token:
    """A piece of a condition: its kind (a group of _TOKEN, or "end") and text."""

    kind: str
    text: str

    def is_word(self, word: str) -> bool:
        """Whether this is the keyword `word`, in any case."""
        return self.kind == "word" and self.text.lower() == word


def parse_where(where: str | None) -> tuple[str, list[Value]]:
    """Return a condition as an SQL expression and the values for its places.

    Raises:
        ConfigError: it cannot be understood.
    """
    if where is None:
        return "1", []
    parser = _Parser(_tokens(where))
    return parser.whole(), parser.values


def parse_sort(sort: str | None) -> str:
    """Return the terms of ORDER BY for "-miou,name"; runs without a value come last.

    Raises:
        ConfigError: there is no such column.
    """
    terms = ["created", "name"]
    for item in reversed((sort or "").split(",") if sort is not None else []):
        name = _column(item.strip().removeprefix("-"), "--sort")
        falling = " DESC" if item.strip().startswith("-") else ""
        terms = [f"{name} IS NULL", f"{name}{falling}", *terms]
    return ", ".join(terms)


def parse_columns(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns that are meant; None: all.

    Raises:
        ConfigError: there is no such column, or none is named.
    """
    if names is None:
        return tuple(COLUMNS)
    return tuple(_column(name.strip(), "--columns") for name in names)


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
    if len(where) > LONGEST:
        raise ConfigError(f"--where: found {len(where)} characters, expected at most {LONGEST}.")
    try:
        where.encode()
    except UnicodeEncodeError:
        raise ConfigError(f"--where: found {where!r}, expected Unicode text.") from None
    tokens, place = [], 0
    while where[place:].strip():
        match = _TOKEN.match(where, place)
        if match is None:
            rest = where[place:].strip()
            what = "an unclosed quote" if rest[0] in "\"'" else f"{rest[0]!r}"
            raise ConfigError(f"--where: found {what} at {_shown(rest)}.\n{_EXAMPLE}")
        kind = str(match.lastgroup)
        tokens.append(Token(kind, match[kind]))
        place = match.end()
    return tokens


class _Parser:
    """A descent through the grammar above; the values gather in the order of their places."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens, self.place, self.depth = tokens, 0, 0
        self.comparisons = 0
        self.values: list[Value] = []

    @property
    def next(self) -> Token:
        """The token that is read next."""
        return self.tokens[self.place] if self.place < len(self.tokens) else Token("end", "")

    def take(self) -> Token:
        """Return the next token and go on to the one after it."""
        token = self.next
        self.place += 1
        return token

    def whole(self) -> str:
        """Read a condition that ends where the text ends."""
        sql = self.condition()
        if self.next.kind != "end":
            raise self.error("and, or, or the end")
        return sql

    def condition(self) -> str:
        terms = [self.conjunction()]
        while self.next.is_word("or"):
            self.take()
            terms.append(self.conjunction())
        return f"({' OR '.join(terms)})"

    def conjunction(self) -> str:
        factors = [self.factor()]
        while self.next.is_word("and"):
            self.take()
            factors.append(self.factor())
        return f"({' AND '.join(factors)})"

    def factor(self) -> str:
        if self.next.is_word("not"):
            self.take()
            return f"NOT {self.deeper(self.factor)}"
        if self.next == Token("parenthesis", "("):
            self.take()
            sql = self.deeper(self.condition)
            if self.next != Token("parenthesis", ")"):
                raise self.error(")")
            self.take()
            return sql
        return self.comparison()

    def deeper(self, rule: Callable[[], str]) -> str:
        """Follow a rule one level down; SQLite and Python both have their limits."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise ConfigError(f"--where: found more than {DEEPEST} levels of ( and not.")
        sql = rule()
        self.depth -= 1
        return sql

    def comparison(self) -> str:
        self.comparisons += 1
        if self.comparisons > MOST:
            raise ConfigError(f"--where: found more than {MOST} comparisons.")
        if self.next.kind != "word":
            raise self.error("a column")
        name = self.take().text
        column = TAG if name.lower() == TAG else _column(name, "--where")
        if self.next.kind != "operator":
            raise self.error(f"= != < <= > >= or ~ after {name}")
        operator = self.take().text
        if self.next.kind not in ("word", "quoted"):
            raise self.error(f"a value after {name} {operator}")
        return self.compared(column, operator, self.take())

    def compared(self, column: str, operator: str, token: Token) -> str:
        """Return the SQL of one comparison: 1 or 0, never NULL, so that `not` is its opposite."""
        if column == TAG:
            if operator not in ("=", "==", "!="):
                raise ConfigError(f"--where: found {TAG} {operator}, expected {TAG} = or !=.")
            self.values.append(f" {_text(token)} ")
            found = "instr(' ' || coalesce(tags, '') || ' ', ?)"
            return f"({found} {'=' if operator == '!=' else '>'} 0)"
        if operator == "~":
            if not COLUMNS[column].startswith("TEXT"):
                raise ConfigError(f"--where: found {column} ~, but {column} is a number.")
            self.values.append(_text(token))
            return f"(coalesce(instr(lower({column}), lower(?)), 0) > 0)"
        value = _value(column, token)
        self.values.append(value)
        if operator in ("=", "==", "!="):
            return f"({column} IS {'NOT ' if operator == '!=' else ''}?)"
        if value is None:
            raise ConfigError(f"--where: found {column} {operator} none, expected = or != there.")
        return f"coalesce({column} {operator} ?, 0)"

    def error(self, expected: str) -> ConfigError:
        """Return the error for the next token."""
        found = repr(self.next.text) if self.next.kind != "end" else "the end"
        return ConfigError(f"--where: found {found}, expected {expected}.\n{_EXAMPLE}")


def _value(column: str, token: Token) -> Value:
    """Return the value that a token means for a column.

    Raises:
        ConfigError: the column holds something else.
    """
    if token.is_word("none"):
        return None
    text, kind = _text(token), COLUMNS[column]
    if kind.startswith("TEXT"):
        return text
    if column == "dilation":
        if text.lower() not in TRUTH:
            raise ConfigError(f"--where: found dilation {text!r}, expected on or off.")
        return TRUTH[text.lower()]
    match = _NUMBER.fullmatch(text)
    if match is None or (match[2] and kind != "REAL"):
        raise ConfigError(f"--where: found {column} {_shown(text)}, expected a number.")
    number = float(match[1]) / (100 if match[2] else 1)
    if column in SCORES and abs(number) > 1:
        raise ConfigError(
            f"--where: found {column} {text}, but scores are from 0 to 1.\n"
            f"In percent: {text.rstrip('%')}%"
        )
    whole = not match[2] and match[1].lstrip("+-").isdecimal() and abs(number) < 2**53
    return int(match[1]) if whole else number


def _text(token: Token) -> str:
    return token.text[1:-1] if token.kind == "quoted" else token.text


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "…")


_EXAMPLE = 'For example: --where "arch=resgcn and (miou>0.4 or not state=finished)"'
