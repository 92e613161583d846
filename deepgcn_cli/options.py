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
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from pipelines.config import ModelConfig, TrainConfig
from pipelines.config.options import Option, flag_of, options_of

from .display import Answer, print_answer
from .progress import open_progress

METAVARS = {int: "N", float: "X", str: "NAME", Path: "DIR"}

Command: TypeAlias = Callable[[typer.Typer], Any]  # adds itself to the app or a group of it
Flags: TypeAlias = dict[str, Any]  # the options that were given, by their fields' names
ModelFlags: TypeAlias = Annotated[Flags, ModelConfig]
TrainFlags: TypeAlias = Annotated[Flags, TrainConfig]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, only warnings and errors.")
]


def subcommand(
    *examples: str, name: str | None = None, hidden: bool = False, **words: str
) -> Callable[[Callable], Command]:
    """Make a command of a function; its help is the docstring and ends with `examples`.

    A parameter that is a configuration stands for its options, and `Annotated[Flags, Config]` for
    the dictionary of those that were given. A parameter `progress` makes `--quiet`. An Answer is
    printed, as JSON with `--json`. `words` replace `{name}` in the help.
    """

    def decorate(function: Callable) -> Command:
        typed = name or function.__name__
        help = inspect.getdoc(function) or ""
        help = help.format(**words) if words else help
        called, end = _for_typer(function, typed), show_examples(*examples)
        return lambda app: app.command(typed, help=help, epilog=end, hidden=hidden)(called)

    return decorate


def _for_typer(function: Callable, command: str) -> Callable:
    """Return `function` with the options of a command in the place of what is made of them."""
    own = inspect.signature(function, eval_str=True)
    options: list[Parameter] = []
    made: dict[str, tuple[Callable, list[Parameter]]] = {}
    for each in own.parameters.values():
        config = (each.annotation, *typing.get_args(each.annotation))[-1]
        if isinstance(config, type) and dataclasses.is_dataclass(config):
            taken = list(parameters(config, command))
            made[each.name] = (config if config is each.annotation else dict, taken)
            options += taken
        elif each.name != "progress":
            options.append(each)
    if own.return_annotation is Answer:
        options.append(_keyword("as_json", Json, default=False))
    if "progress" in own.parameters:
        options.append(_keyword("quiet", Quiet, default=False))

    @functools.wraps(function)
    def called(*, as_json: bool = False, quiet: bool = False, **values: Any) -> None:
        for name, (make, taken) in made.items():
            flags = {each.name: values.pop(each.name) for each in taken}
            given = {flag: value for flag, value in flags.items() if value not in (None, [])}
            for flag, value in given.items():
                given[flag] = tuple(value) if isinstance(value, list) else value
            values[name] = make(**given)
        progress = open_progress(quiet=quiet)
        if "progress" in own.parameters:
            values["progress"] = progress
        answer = function(**values)
        if answer is not None:
            print_answer(answer, progress, as_json=as_json)

    called.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in options}
    return called


def _keyword(name: str, kind: Any, default: Any = Parameter.empty) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


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
        if needed:
            yield _keyword(name, Annotated[kind, info])
        else:
            yield _keyword(name, Annotated[kind | None, info], default=None)


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
