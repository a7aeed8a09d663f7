"""The reference of the command line as Markdown: `python -m crew_plugin.cli.reference > docs/cli.md`."""

from crew_plugin.cli.table import COMMANDS, COMMON, Command, Param

__all__ = ["reference"]

_HEAD = """\
# The `crew` command

Made from the command table by `python -m crew_plugin.cli.reference`; a test compares. The same commands
are there as `bub crew ...` where Bub is the host.

Exit codes: 0 done, 1 the run failed or something cannot work, 2 the call itself is wrong, 130 cancelled.
Errors are one line on standard error, and with `--json` also `{"error": {"kind", "message"}}` on standard
output. Progress goes to standard error, results to standard output.
"""


def reference() -> str:
    """All commands with their parameters and an example each."""
    parts = [_HEAD, "## Options of every command\n\n" + "\n".join(_row(param) for param in COMMON) + "\n"]
    parts.extend(_section(command) for command in COMMANDS)
    return "\n".join(parts)


def _section(command: Command) -> str:
    places = " ".join(
        (param.metavar or param.name) if param.required else f"[{param.metavar or param.name}]"
        for param in command.params
        if not param.flags
    )
    usage = f"crew {command.name} {places}".strip()
    text = f"## `{usage}`\n\n{command.summary}"
    text += f" {command.more}" if command.more else ""
    rows = "\n".join(_row(param) for param in command.params)
    return f"{text}\n\n{rows}{chr(10) * 2 if rows else ''}```sh\n{command.example}\n```\n"


def _row(param: Param) -> str:
    name = ", ".join(param.flags) if param.flags else param.metavar or param.name
    if param.flags and param.kind is not bool:
        name += f" {param.metavar}"
    default = (
        f" Default: `{param.default}`." if param.default not in (None, False) and not param.required else ""
    )
    return f"- `{name}`: {param.help}{default}"


if __name__ == "__main__":
    print(reference(), end="")
