"""The `crew` command. Importing this is cheap; commands are loaded when they run."""

import os
import sys

__all__ = ["main"]


def main() -> None:
    """The `crew` script."""
    _open_streams()
    from crew_plugin.cli.quick import parse

    quick = parse(sys.argv[1:])
    if quick is not None:
        from crew_plugin.cli.invoke import invoke

        sys.exit(invoke(quick.command, quick.values))

    from crew_plugin.cli.app import run_app

    sys.exit(run_app(sys.argv[1:], name="crew"))


def _open_streams() -> None:
    """What a shell has closed (`crew run >&-`) leads nowhere: else the next file that is opened, which may
    be the store, would be written to in its place."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for good
