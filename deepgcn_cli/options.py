"""From functions to commands, and from the fields of configurations to their options.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from pipelines.config import ModelConfig, TrainConfig
from pipelines.config.options import Option, flag_of, options_of

METAVARS = {int: "N", float: "X", str: "NAME", Path: "DIR"}

Flags: TypeAlias = dict[str, Any]  # the options that were given, by their fields' names
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, only warnings and errors.")
]


@dataclass(frozen=True)
class Command:
    """A command as typer takes it."""

    name: str
    function: Callable[..., Any]
    help: str
    examples: tuple[str, ...]
    hidden: bool = False

    def add_to(self, app: typer.Typer) -> None:
        """Add the command to the app or a group of it."""
        epilog = show_examples(*self.examples)
        app.command(self.name, help=self.help, epilog=epilog, hidden=self.hidden)(self.function)


def subcommand(
    *examples: str,
    takes: tuple[type, ...] = (),
    name: str | None = None,
    hidden: bool = False,
    **words: str,
) -> Callable[[Callable], Command]:
    """Make a command of a function; its help is the docstring and ends with `examples`.

    The options of the configurations in `takes` stand in the place of the parameter `flags`, which
    has those that were given, by their fields' names. `words` replace `{name}` in the help.
    """

    def decorate(function: Callable) -> Command:
        typed = name or function.__name__
        taken = [each for config in takes for each in parameters(config, typed)]
        help = inspect.getdoc(function) or ""
        help = help.format(**words) if words else help
        return Command(typed, _with_flags(function, taken), help, examples, hidden)

    return decorate


def _with_flags(function: Callable, taken: list[inspect.Parameter]) -> Callable:
    """Return `function` with the parameters `taken` in the place of `flags`, for typer."""

    @functools.wraps(function)
    def with_flags(**values: Any) -> Any:
        flags = {each.name: values.pop(each.name) for each in taken}
        given = {name: value for name, value in flags.items() if value not in (None, [])}
        for name, value in given.items():
            given[name] = tuple(value) if isinstance(value, list) else value
        return function(**values, flags=given) if taken else function(**values)

    own = inspect.signature(function, eval_str=True).parameters.values()
    places = [taken if each.name == "flags" else [each] for each in own]
    signature = inspect.Signature([each for some in places for each in some])
    with_flags.__signature__ = signature  # type: ignore[attr-defined]
    with_flags.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    return with_flags


def fields_of(config: type, flags: Flags) -> Flags:
    """Return those of the flags that are fields of a configuration."""
    names = {field.name for field in dataclasses.fields(config)}
    return {name: value for name, value in flags.items() if name in names}


def chosen_model(preset: str | None, changes: Flags) -> ModelConfig:
    """Return the preset's network or the published one of the given depth, changed by flags."""
    if preset is not None:
        from pipelines.model.presets import preset as find_preset

        return dataclasses.replace(find_preset(preset).config, **changes)
    return ModelConfig.published(**{"arch": ModelConfig.arch, **changes})


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
    flag = option.flag or flag_of(name, option)
    if kind is bool and default is True:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    metavar = option.metavar or METAVARS.get((*typing.get_args(kind), kind)[0])
    return option_of(help, flag, metavar, _shown(default, flag))


def _shown(default: Any, flag: str) -> str | None:
    """Return a default for the help; None for one that the help does not say or says itself."""
    if isinstance(default, bool):
        return ("on" if default else "off") if "/" in flag else None
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or None
    return None if default in (None, dataclasses.MISSING) else str(default)


def option_of(help: str, flag: str, metavar: str | None, default: object = None) -> Any:
    """Return an option that is None unless given; the help shows the default of its stage."""
    shown = help if default is None else f"{help} [default: {default}]"
    return typer.Option(flag, help=shown, show_default=False, metavar=metavar)


def show_examples(*commands: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)


RUNS = TrainConfig.runs
Runs = Annotated[Path, option_of("Folder of the runs.", "--runs", "DIR", RUNS)]
Preset = Annotated[
    str | None,
    option_of("A published network (deepgcn presets); other flags change it.", "--preset", "NAME"),
]
