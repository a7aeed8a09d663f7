"""The `crew` command. Importing this is cheap; commands are loaded when they run."""

import sys

__all__ = ["main"]


def main() -> None:
    """The `crew` script."""
    from crew_plugin.cli.quick import parse

    quick = parse(sys.argv[1:])
    if quick is not None:
        from crew_plugin.cli.invoke import invoke

        sys.exit(invoke(quick.command, quick.values))

    from crew_plugin.cli.app import run_app

    sys.exit(run_app(sys.argv[1:], name="crew"))
