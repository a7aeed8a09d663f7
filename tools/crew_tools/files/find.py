"""The tool `find`: files and folders by name."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from crew_plugin.host import ToolOutput
from crew_tools.files.globs import glob_matcher
from crew_tools.files.room import Room
from crew_tools.files.walk import Walk
from crew_tools.params import Params, parse

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "work"]

NAME = "find"
DESCRIPTION = """\
Find files and folders by name. A pattern without a slash matches names at any depth (`*.py`); \
with one it matches the path (`src/**/test_*.py`). Ignored files (.gitignore, .git, node_modules, \
virtual environments, caches) are left out unless you ask for them."""


class FindParams(Params):
    """What to find."""

    pattern: str = Field(description="A glob: *, ?, [abc], {a,b}, and ** for any number of folders.")
    path: str = Field(default=".", description="Where to look, relative to your folder.")
    type: Literal["any", "file", "folder"] = Field(default="any", description="What to look for.")
    limit: int = Field(default=200, ge=1, le=2000, description="How many paths to show.")
    include_ignored: bool = Field(default=False, description="Also look at ignored files and folders.")


PARAMETERS = FindParams


def work(room: Room, arguments: Mapping[str, Any], stop: threading.Event) -> ToolOutput:
    """Find."""
    parsed = parse(FindParams, arguments)
    params = parsed.params
    start = room.folder(params.path)
    walk = Walk(room, stop, include_ignored=params.include_ignored)
    lines, total = _search(walk, start, params)
    if not lines:
        lines.append(f"nothing below {params.path!r} matches {params.pattern!r}")
    elif total > len(lines):
        lines.append(f"... {total - len(lines):,} more; narrow the pattern or raise limit")
    lines.extend(walk.notes(about_ignored=not total))
    return ToolOutput(text="\n".join(lines), details={"found": total, **parsed.details()})


def _search(walk: Walk, start: Path, params: FindParams) -> tuple[list[str], int]:
    matches = glob_matcher("pattern", params.pattern)
    above = walk.room.prefix(start)
    lines: list[str] = []
    total = 0
    for below, is_folder in walk.all(start):
        if params.type != "any" and is_folder != (params.type == "folder"):
            continue
        if matches(below) or (above and matches(above + below)):
            total += 1
            if len(lines) < params.limit:
                lines.append(above + below + ("/" if is_folder else ""))
    return lines, total
