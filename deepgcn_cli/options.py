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
from pipelines.config.options import Option, flag_of, option, options_of

from .display import Answer, print_answer
from .progress import open_progress

METAVARS = {int: "N", float: "X", str: "NAME", Path: "DIR"}

Command: TypeAlias = Callable[[typer.Typer], Any]  # adds itself to the app or a group of it
Flags: TypeAlias = dict[str, Any]  # the options that were given, by their fields' names
ModelFlags: TypeAlias = Annotated[Flags, ModelConfig]
TrainFlags: TypeAlias = Annotated[Flags, TrainConfig]
JSON = option(False, "Print the result as JSON.", flag="--json")
QUIET = option(False, "No progress, only warnings and errors.", flag="--quiet -q")
RUNS = option(TrainConfig.runs, "Folder of the runs.", "DIR")
PRESET = option(None, "A network of deepgcn presets; other flags change it.", "NAME")


def subcommand(
    *examples: str, name: str | None = None, hidden: bool = False, **words: str
) -> Callable[[Callable], Command]:
    """Make a command of a function; its help is the docstring and ends with `examples`.

    A parameter is declared as a configuration's field is. One that is a configuration stands for
    its options, and `Annotated[Flags, Config]` for the dictionary of those that were given. A
    parameter `progress` makes `--quiet`. An Answer is printed, as JSON with `--json`. `words`
    replace `{name}` in the help.
    """

    def decorate(function: Callable) -> Command:
        typed = name or function.__name__
        help = inspect.getdoc(function) or ""
        help = help.format(**words) if words else help
        called, end = _for_typer(function, typed), show_examples(*examples)
        return lambda app: app.command(typed, help=help, epilog=end, hidden=hidden)(called)

    return decorate


def _for_typer(function: Callable, command: str) -> Callable:
    """Return `function` with a command's options instead of the arguments built from them."""
    own = inspect.signature(function, eval_str=True)
    typed: list[Parameter] = []
    made: dict[str, tuple[Callable, list[str]]] = {}
    for each in own.parameters.values():
        config = (each.annotation, *typing.get_args(each.annotation))[-1]
        if isinstance(config, type) and dataclasses.is_dataclass(config):
            taken = list(parameters(config, command))
            make = config if config is each.annotation else dict
            made[each.name] = (make, [one.name for one in taken])
            typed += taken
        elif each.name != "progress":
            typed.append(_parameter(each.name, each.annotation, each.default))
    if own.return_annotation is Answer:
        typed.append(_parameter("as_json", bool, JSON))
    if "progress" in own.parameters:
        typed.append(_parameter("quiet", bool, QUIET))

    @functools.wraps(function)
    def called(**values: Any) -> None:
        given = {name: value for name, value in values.items() if value not in (None, [])}
        for name, value in given.items():
            given[name] = tuple(value) if isinstance(value, list) else value
        progress = open_progress(quiet=given.get("quiet", False))
        arguments: dict[str, Any] = {}
        for each in own.parameters.values():
            if each.name == "progress":
                arguments["progress"] = progress
            elif each.name in made:
                make, names = made[each.name]
                arguments[each.name] = make(
                    **{name: given[name] for name in names if name in given}
                )
            else:
                arguments[each.name] = given.get(each.name, each.default.default)
        answer = function(**arguments)
        if answer is not None:
            print_answer(answer, progress, as_json=given.get("as_json", False))

    called.__signature__ = inspect.Signature(typed)  # type: ignore[attr-defined]
    called.__annotations__ = {each.name: each.annotation for each in typed}
    return called


def chosen_model(preset: str | None, changes: Flags) -> ModelConfig:
    """Return the preset's network or the published one of the given depth, changed by flags."""
    if preset is not None:
        from pipelines.model.presets import preset as find_preset

        return dataclasses.replace(find_preset(preset).config, **changes)
    return ModelConfig.published(**{"arch": ModelConfig.arch, **changes})


def parameters(config: type, command: str) -> Iterator[Parameter]:
    """Yield the parameters of a command that are options of a configuration."""
    hints = typing.get_type_hints(config)
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name in options_of(config, command):
        yield _parameter(name, hints[name], fields[name])


def _parameter(name: str, hint: Any, field: dataclasses.Field) -> Parameter:
    """Return the option or argument of a field for typer; None is its value unless given."""
    about: Option = field.metadata["option"]
    kind, joint = _kind(hint), " or " if len(about.choices) == 2 else ", "
    help = about.help.replace("{}", joint.join(about.choices))
    needed = field.default is field.default_factory is dataclasses.MISSING
    if about.flag == "":
        metavar = about.metavar or ""
        needed = not metavar.startswith("[")
        info = typer.Argument(metavar=metavar.strip("[]"), help=help)
    else:
        flag = about.flag or flag_of(name, about)
        if kind is bool and field.default is True:
            flag = f"{flag}/--no-{flag.removeprefix('--')}"
        default = _shown(field.default, flag)
        help = help if default is None else f"{help} [default: {default}]"
        shown = about.metavar or METAVARS.get((*typing.get_args(kind), kind)[0])
        info = typer.Option(*flag.split(), help=help, show_default=False, metavar=shown)
    return Parameter(
        name,
        Parameter.KEYWORD_ONLY,
        default=Parameter.empty if needed else None,
        annotation=Annotated[kind if needed else kind | None, info],
    )


def _kind(hint: Any) -> Any:
    """Return what typer reads for a field: a list for several, texts for NAME=VALUE pairs."""
    if isinstance(hint, types.UnionType):
        (hint,) = (each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        return list[typing.get_args(hint)[0]]  # type: ignore[misc]
    return list[str] if typing.get_origin(hint) is Mapping else hint


def _shown(default: Any, flag: str) -> str | None:
    """Return a default for the help; None for one that the help does not say or says itself."""
    if isinstance(default, bool):
        return ("on" if default else "off") if "/" in flag else None
    if isinstance(default, tuple):
        return ", ".join(map(str, default)) or None
    return None if default in (None, dataclasses.MISSING) else str(default)


def show_examples(*commands: str) -> str:
    """Return the end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {command}" for command in commands)
