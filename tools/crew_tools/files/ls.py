"""The tool `ls`: what lies in one folder."""

import os
import threading
from collections.abc import Mapping
from typing import Any

from pydantic import Field

from crew_plugin.host import ToolError, ToolOutput
from crew_tools.files.room import Room
from crew_tools.files.walk import Stopped
from crew_tools.params import Params, parse

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "work"]

NAME = "ls"
DESCRIPTION = """\
List one folder: folders first and with a slash, files with their size, links with their target. \
Everything is listed, ignored and hidden names too."""

_MAX_SCAN = 200_000


class LsParams(Params):
    """What to list."""

    path: str = Field(default=".", description="The folder, relative to yours; yours when left out.")
    limit: int = Field(default=500, ge=1, le=2000, description="How many entries to show.")


PARAMETERS = LsParams


def work(room: Room, arguments: Mapping[str, Any], stop: threading.Event) -> ToolOutput:
    """List the folder."""
    parsed = parse(LsParams, arguments)
    params = parsed.params
    folder = room.folder(params.path)
    try:
        names, more = _scan(str(folder), stop)
    except OSError as error:
        raise ToolError(f"cannot list {params.path!r}: {(error.strerror or str(error)).lower()}") from error
    names.sort()
    shown = [_entry(str(folder), name, is_file) for is_file, name in names[: params.limit]]
    count = f"more than {len(names):,}" if more else f"{len(names):,}"
    lines = [f"{room.shown(folder)}: {count} {'entry' if len(names) == 1 else 'entries'}", *shown]
    left = len(names) - len(shown)
    if left or more:
        lines.append(f"... {left:,}{' and more' if more else ''} more entries; use find with a pattern")
    return ToolOutput(
        text="\n".join(lines), details={"path": params.path, "entries": len(names), **parsed.details()}
    )


def _scan(folder: str, stop: threading.Event) -> tuple[list[tuple[bool, str]], bool]:
    names: list[tuple[bool, str]] = []
    with os.scandir(folder) as scan:
        for entry in scan:
            if len(names) % 256 == 0 and stop.is_set():
                raise Stopped
            if len(names) >= _MAX_SCAN:
                return names, True
            names.append((not entry.is_dir(follow_symlinks=False), entry.name))
    return names, False


def _entry(folder: str, name: str, is_file: bool) -> str:
    shown = name.encode("utf-8", "replace").decode("utf-8").replace("\n", "\\n")
    if not is_file:
        return shown + "/"
    path = os.path.join(folder, name)
    try:
        if os.path.islink(path):
            return f"{shown} -> {os.readlink(path)}"
        return f"{shown}  {os.lstat(path).st_size:,} bytes"
    except OSError:
        return shown
