"""How the fields of a configuration become the options of a command.

An option is None unless it was given, so that its default has one home: the field. The help shows
that default.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from pipelines.config import TrainConfig
from pipelines.config.options import Option, flag_of, options_of

METAVARS = {int: "N", float: "X", str: "NAME", Path: "DIR"}

Flags: TypeAlias = dict[str, Any]  # the options that were given, by their fields' names
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, only warnings and errors.")
]


def takes(*configs: type, command: str | None = None) -> Callable[[Callable], Callable]:
    """Let a command have the options of some configurations in the place of its `flags`.

    The command is called with those that were given, by their fields' names.

    Args:
        configs: dataclasses of `pipelines.config`.
        command: its name; None: as the function is called.
    """

    def decorate(function: Callable) -> Callable:
        name = command or function.__name__
        taken = [each for config in configs for each in parameters(config, name)]
        own = inspect.signature(function, eval_str=True).parameters.values()

        @functools.wraps(function)
        def with_flags(**values: Any) -> Any:
            flags = {each.name: values.pop(each.name) for each in taken}
            return function(**values, flags=given(flags))

        places = [taken if each.name == "flags" else [each] for each in own]
        signature = inspect.Signature([each for some in places for each in some])
        with_flags.__signature__ = signature  # type: ignore[attr-defined]
        with_flags.__annotations__ = {
            each.name: each.annotation for each in signature.parameters.values()
        }
        return with_flags

    return decorate


def parameters(config: type, command: str) -> Iterator[inspect.Parameter]:
    """Yield the parameters of a command that are options of a configuration."""
    hints = typing.get_type_hints(config)
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    for name, option in options_of(config, command).items():
        kind = _kind(hints[name])
        info = _typer_info(name, option, kind, defaults[name])
        needed = option.flag == "" and not (option.metavar or "").startswith("[")
        yield inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if needed else None,
            annotation=Annotated[kind if needed else kind | None, info],
        )


def _kind(hint: Any) -> Any:
    """Return what typer reads for a field: a list for several, texts for NAME=VALUE pairs."""
    if isinstance(hint, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        return list[typing.get_args(hint)[0]]  # type: ignore[misc]
    return list[str] if typing.get_origin(hint) is Mapping else hint


def _typer_info(name: str, option: Option, kind: Any, default: Any) -> Any:
    """Return what typer needs to know of an option or argument."""
    joint = " or " if len(option.choices) == 2 else ", "
    help = option.help.replace("{}", joint.join(option.choices))
    if option.flag == "":
        return typer.Argument(metavar=(option.metavar or "").strip("[]"), help=help)
    typed = option.flag or flag_of(name, option)
    if kind is bool and default is True:
        typed = f"{typed}/--no-{typed.removeprefix('--')}"
    shown = _shown(default, typed)
    metavar = option.metavar or METAVARS.get((*typing.get_args(kind), kind)[0])
    return typer.Option(
        typed,
        help=f"{help} [default: {shown}]" if shown else help,
        show_default=False,
        metavar=metavar,
    )


def _shown(default: Any, typed: str) -> str:
    """Return a default for the help; nothing for one that the help does not say or says itself."""
    if isinstance(default, bool):
        return ("on" if default else "off") if "/" in typed else ""
    if isinstance(default, tuple):
        return ", ".join(map(str, default))
    return "" if default in (None, dataclasses.MISSING) else str(default)


def given(flags: Mapping[str, Any]) -> Flags:
    """Return the flags that were given."""
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in flags.items()
        if value is not None and value != []
    }


def fields_of(config: type, flags: Flags) -> Flags:
    """Return those of the flags that are fields of a configuration."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in flags.items() if name in names}


def examples(*commands: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


def option(help: str, *names: str, default: object = None, metavar: str | None = None) -> Any:
    """Return an option that no configuration has; it is None unless given."""
    shown = help if default is None else f"{help} [default: {default}]"
    return typer.Option(*names, help=shown, show_default=False, metavar=metavar)


Runs = Annotated[
    Path | None, option("Folder of the runs.", "--runs", default=TrainConfig.runs, metavar="DIR")
]
