"""Parses plain calls of the light commands without Typer, whose import costs more than they do.

Anything it does not know for certain (help, an unknown option, a missing argument) it leaves to the
Typer app, which is made from the same table and words the errors.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from crew_plugin.cli.table import Command, Param, Value, find_command

__all__ = ["QuickCall", "parse"]


@dataclass(frozen=True, slots=True)
class QuickCall:
    """A light command with the values of all its parameters."""

    command: Command
    values: dict[str, Value]


def parse(arguments: Sequence[str]) -> QuickCall | None:
    """The call, or None if Typer must look at it."""
    command = find_command(arguments[0]) if arguments else None
    if command is None or not command.light:
        return None
    options = {flag: param for param in command.all_params for flag in param.flags}
    places = [param for param in command.params if not param.flags]
    values: dict[str, Value] = {param.name: param.default for param in command.all_params}
    rest = iter(arguments[1:])
    for word in rest:
        if not word.startswith("-"):
            if not places:
                return None
            values[places.pop(0).name] = word
            continue
        flag, equals, text = word.partition("=")
        param = options.get(flag)
        given = text if equals else None
        if param is not None and param.kind is not bool and not equals:
            given = next(rest, None)
        if param is None or not _set(values, param, given):
            return None
    if any(param.required and values[param.name] == param.default for param in command.params):
        return None
    return QuickCall(command, values)


def _set(values: dict[str, Value], param: Param, given: str | None) -> bool:
    if param.kind is bool:
        values[param.name] = True
        return given is None
    if given is None:
        return False
    if param.kind is int:
        if not given.isdecimal():
            return False
        values[param.name] = int(given)
        return True
    values[param.name] = given
    return True
