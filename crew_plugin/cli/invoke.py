"""Calls a command and turns what comes out of it into an exit code."""

import errno
import json
import os
import sys
from collections.abc import Callable, Mapping
from enum import IntEnum
from importlib import import_module
from pathlib import Path
from typing import Any

from crew_plugin.cli.place import Place
from crew_plugin.cli.table import Command
from crew_plugin.errors import CallerError, CrewError, OperatorMustAct
from crew_plugin.ui.text import printable

__all__ = ["Exit", "invoke", "print_json"]


class Exit(IntEnum):
    """What the shell sees."""

    OK = 0
    FAILED = 1
    """The run failed, or something cannot work."""
    USAGE = 2
    """The call itself must change."""
    CANCELLED = 130


def invoke(command: Command, values: Mapping[str, Any]) -> int:
    """Run a command; returns its exit code. Errors are one clear line each."""
    own = dict(values)
    place = Place(project=own.pop("project"), state_dir=own.pop("state_dir"))
    debug = bool(own.pop("debug"))
    try:
        code = _call(command, place, own, debug=debug)
        sys.stdout.flush()
        return code
    except OSError as error:
        if not _nobody_reads(error):
            raise
        # The reader (`head`, a pager) has had enough, or the terminal was closed.
        _write_nowhere()
        return Exit.OK


def _call(command: Command, place: Place, own: dict[str, Any], *, debug: bool) -> int:
    function: Callable[..., int] = getattr(import_module(command.module), command.function)
    try:
        return int(function(place=place, **own))
    except KeyboardInterrupt:
        return Exit.CANCELLED
    except CrewError as error:
        if debug:
            _print_traceback()
        return _say(error, str(error), as_json=bool(own.get("json")))
    except Exception as error:
        if _nobody_reads(error):
            raise
        text = f"unexpected {type(error).__name__}: {error}"
        if debug:
            _print_traceback()
        else:
            text += f"; details: {_keep_traceback(place)}"
        return _say(error, text, as_json=bool(own.get("json")))


def print_json(document: object) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, ensure_ascii=False, indent=2))


def _say(error: Exception, text: str, *, as_json: bool) -> int:
    print(f"crew: {printable(text)}", file=sys.stderr)
    try:
        if as_json:
            print_json({"error": {"kind": type(error).__name__, "message": text}})
            sys.stdout.flush()
    except OSError as failure:
        if not _nobody_reads(failure):
            raise
        _write_nowhere()
    return Exit.USAGE if isinstance(error, CallerError) else Exit.FAILED


def _nobody_reads(error: Exception) -> bool:
    """Whether a pipe's reader, or the terminal, is gone."""
    return isinstance(error, OSError) and error.errno in (errno.EPIPE, errno.EIO)


def _write_nowhere() -> None:
    """From now on: the interpreter would complain of a reader that is gone when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.dup2(nowhere, sys.stderr.fileno())


def _print_traceback() -> None:
    import traceback

    traceback.print_exc()


def _keep_traceback(place: Place) -> Path:
    import tempfile
    import time
    import traceback

    name = f"crew-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = traceback.format_exc()
    try:
        path = place.logs() / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    except (OSError, OperatorMustAct):
        path = Path(tempfile.gettempdir()) / name
        path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
