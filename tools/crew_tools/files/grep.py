"""The tool `grep`: lines that fit a regular expression."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import regex
from pydantic import Field

from crew_plugin.errors import InvalidValue
from crew_plugin.host import ToolError, ToolOutput
from crew_tools.files.globs import glob_matcher
from crew_tools.files.room import BINARY_PROBE, Room, open_regular
from crew_tools.files.walk import Walk
from crew_tools.params import Params, parse

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "work"]

NAME = "grep"
DESCRIPTION = """\
Search the text files of your folder for a regular expression, line by line. Answers with \
`path:line: text`. Start narrow (a path, a glob) and read what you found with `read`. Binary files, \
files that hold credentials and ignored files (.gitignore, .git, node_modules, caches) are left out."""

_MAX_FILE = 20 * 1024 * 1024
_MAX_SHOWN = 300
_MAX_LINE = 20_000
_MAX_TEXT = 40_000
_CHECK_EVERY = 512
_LINE_SECONDS = 2.0


class GrepParams(Params):
    """What to search for."""

    pattern: str = Field(description="A regular expression (Python syntax), or plain text with literal.")
    path: str = Field(default=".", description="A file or folder, relative to your folder.")
    glob: str | None = Field(
        default=None, description="Only files that fit, for example *.py or src/**/*.ts."
    )
    ignore_case: bool = Field(default=False, description="Ignore upper and lower case.")
    literal: bool = Field(default=False, description="Take the pattern as plain text.")
    context: int = Field(default=0, ge=0, le=20, description="Lines to show before and after each match.")
    limit: int = Field(default=100, ge=1, le=1000, description="How many matches to show.")
    include_ignored: bool = Field(default=False, description="Also search ignored files and folders.")


@dataclass(slots=True)
class _Found:
    """What is shown, and what is only counted."""

    limit: int
    context: int
    lines: list[str] = field(default_factory=list[str])
    length: int = 0
    shown: int = 0
    total: int = 0
    files: int = 0
    sensitive: int = 0
    binary: int = 0
    too_big: list[str] = field(default_factory=list[str])
    unreadable: list[str] = field(default_factory=list[str])

    @property
    def full(self) -> bool:
        return self.shown >= self.limit or self.length >= _MAX_TEXT

    def show(self, line: str) -> None:
        self.lines.append(line)
        self.length += len(line) + 1


PARAMETERS = GrepParams


def work(room: Room, arguments: Mapping[str, Any], stop: threading.Event) -> ToolOutput:
    """Search."""
    parsed = parse(GrepParams, arguments)
    params = parsed.params
    start = room.existing(params.path)
    search = _compiled(params)
    walk = Walk(room, stop, include_ignored=params.include_ignored)
    found = _Found(limit=params.limit, context=params.context)
    alone = not start.is_dir()
    if alone:
        with room.open(params.path):
            pass  # says why, when this one file may not be searched
    for path in [start] if alone else _candidates(walk, start, params):
        if not walk.check():
            break
        _search_file(walk, path, search, found)
    details = {"matches": found.total, "files": found.files, **parsed.details()}
    return ToolOutput(text="\n".join(_report(params, walk, found)), details=details)


def _compiled(params: GrepParams) -> Callable[[str, float], Any]:
    flags = regex.IGNORECASE if params.ignore_case else 0
    source = regex.escape(params.pattern) if params.literal else params.pattern
    try:
        pattern = regex.compile(source, flags)
    except (regex.error, RecursionError, OverflowError) as error:
        raise InvalidValue(
            "pattern",
            params.pattern,
            f"a valid regular expression ({error}); for plain text say literal=true",
        ) from None
    # A pattern with nested repeats can run for ages: this engine lets go of the interpreter while
    # it matches and gives up when the time is over.
    return lambda line, seconds: pattern.search(line, timeout=seconds, concurrent=True)


def _candidates(walk: Walk, start: Path, params: GrepParams) -> Iterator[Path]:
    matches = glob_matcher("glob", params.glob) if params.glob else None
    above = walk.room.prefix(start)
    for below, is_folder in walk.all(start):
        if is_folder:
            continue
        if matches is None or matches(below) or (above and matches(above + below)):
            yield start / below


def _search_file(walk: Walk, path: Path, search: Callable[[str, float], Any], found: _Found) -> None:
    shown = walk.room.shown(path)
    body = _text(walk.room, path, shown, found)
    if body is None:
        return
    before = found.total
    recent: deque[tuple[int, str]] = deque(maxlen=found.context)
    last_shown, trailing = 0, 0
    for number, line in enumerate(body.split("\n"), start=1):
        if number % _CHECK_EVERY == 0 and not walk.check():
            break
        matched = _matches(search, line, walk, f"{shown}:{number}")
        if matched:
            found.total += 1
        if matched and not found.full:
            if found.context and found.lines and (recent[0][0] if recent else number) > last_shown + 1:
                found.show("--")
            for at, text in recent:
                found.show(f"{shown}-{at}- {_cut(text, 0)}")
            found.show(f"{shown}:{number}: {_cut(line, matched.start())}")
            found.shown += 1
            last_shown, trailing = number, found.context
            recent.clear()
        elif trailing:
            found.show(f"{shown}-{number}- {_cut(line, 0)}")
            last_shown, trailing = number, trailing - 1
        else:
            recent.append((number, line))
    found.files += found.total > before


def _text(room: Room, path: Path, shown: str, found: _Found) -> str | None:
    """The file's text, or None with the reason counted."""
    try:
        real = room.resolve(shown) if path.is_symlink() else path
    except ToolError:
        return None  # a link out of the folder is not part of it
    if room.refusal(shown, real):
        found.sensitive += 1
        return None
    try:
        with open_regular(real) as file:
            body = file.read(_MAX_FILE + 1)
    except IsADirectoryError:
        return None
    except OSError:
        found.unreadable.append(shown)
        return None
    if b"\0" in body[:BINARY_PROBE]:
        found.binary += 1
        return None
    if len(body) > _MAX_FILE:
        found.too_big.append(shown)
        body = body[:_MAX_FILE]
    return body.decode("utf-8", "replace").replace("\r\n", "\n").removesuffix("\n")


def _matches(search: Callable[[str, float], Any], line: str, walk: Walk, where: str) -> Any:
    try:
        return search(line[:_MAX_LINE], min(_LINE_SECONDS, walk.seconds_left))
    except TimeoutError:
        raise ToolError(
            f"the pattern takes too long (at {where}); "
            "use one without nested repeats such as (a+)+, or plain text with literal=true"
        ) from None


def _cut(line: str, at: int) -> str:
    """The part of a long line around `at`, saying what is left out."""
    line = line.rstrip("\r")
    if len(line) <= _MAX_SHOWN:
        return line
    start = max(0, min(at - _MAX_SHOWN // 3, len(line) - _MAX_SHOWN))
    end = start + _MAX_SHOWN
    head = f"({start:,} characters) ... " if start else ""
    tail = f" ... ({len(line) - end:,} more characters)" if end < len(line) else ""
    return head + line[start:end] + tail


def _report(params: GrepParams, walk: Walk, found: _Found) -> Iterator[str]:
    if not found.total:
        yield f"no line below {params.path!r} matches {params.pattern[:200]!r}"
    yield from found.lines
    if found.total > found.shown:
        count = f"{found.total - found.shown:,}" + ("+" if walk.cut else "")
        yield f"... {count} more matches in {found.files:,} files; narrow the pattern, the path or the glob"
    if found.sensitive:
        yield f"(not searched: {found.sensitive:,} files that may hold credentials)"
    if found.too_big:
        yield f"(only the first 20 MB searched of: {', '.join(found.too_big[:5])})"
    if found.unreadable:
        yield f"(could not be read: {', '.join(found.unreadable[:5])}{_more(len(found.unreadable) - 5)})"
    if found.binary and not found.total:
        yield f"(not searched: {found.binary:,} binary files)"
    yield from walk.notes(about_ignored=not found.total)


def _more(count: int) -> str:
    return f" and {count:,} more" if count > 0 else ""
