"""The Typer app of `crew`, also mounted by hosts (`bub crew`)."""

import inspect
import json as json_module
from collections.abc import Callable, Sequence
from typing import Annotated, Any, cast

import typer

from crew_plugin.cli.invoke import Exit, invoke, print_json
from crew_plugin.cli.table import COMMANDS, Command, Param

__all__ = ["build_app", "run_app"]

_UsageError = cast("type[Exception]", typer.BadParameter.__bases__[0])
"""Typer brings its own copy of Click or uses the one that is installed; this is the right one."""


def build_app() -> typer.Typer:
    """A new app with all commands of the table."""
    app = typer.Typer(
        name="crew",
        help="A crew of agents: start teams, watch them, read what they hand in.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback(invoke_without_command=True)
    def _root(
        version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
        json: Annotated[bool, typer.Option("--json", help="With --version: as JSON.")] = False,
    ) -> None:
        if version:
            from importlib.metadata import version as version_of

            number = version_of("crew-plugin")
            typer.echo(json_module.dumps({"version": number}) if json else f"crew-plugin {number}")
            raise typer.Exit

    for command in COMMANDS:
        app.command(
            command.name,
            help=f"{command.summary}\n\n{command.more}".strip(),
            short_help=command.summary,
            epilog=f"Example: {command.example}",
        )(_callback(command))
    return app


def run_app(arguments: Sequence[str], *, name: str) -> int:
    """Run a command line; returns its exit code. What cannot be understood is said by Typer, and
    with `--json` as a document, too."""
    try:
        code = build_app()(list(arguments), prog_name=name, standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        return Exit.CANCELLED
    except _UsageError as error:
        usage: Any = error
        usage.show()
        if "--json" in arguments:
            print_json({"error": {"kind": "UsageError", "message": usage.format_message()}})
        return Exit.USAGE
    return code if isinstance(code, int) else Exit.OK


def _callback(command: Command) -> Callable[..., None]:
    def call(**values: Any) -> None:
        raise typer.Exit(invoke(command, values))

    # Typer reads parameters from the signature; ours come from the table.
    call.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # functions take attributes
        [_parameter(param) for param in command.all_params]
    )
    call.__name__ = command.name
    return call


def _parameter(param: Param) -> inspect.Parameter:
    if param.flags:
        info: Any = typer.Option(*param.flags, help=param.help, metavar=param.metavar, show_default=False)
    else:
        info = typer.Argument(help=param.help, metavar=param.metavar, show_default=False)
    kind: Any = list[str] if param.kind is list else param.kind
    if param.default is None:
        kind = kind | None
    return inspect.Parameter(
        param.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if param.required else param.default,
        annotation=Annotated[kind, info],
    )
