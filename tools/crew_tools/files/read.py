"""The tool `read`: a window of a text file, with line numbers."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from pydantic import Field

from crew_plugin.host import ToolError, ToolOutput
from crew_tools.files.room import BINARY_PROBE, Room
from crew_tools.files.walk import Stopped
from crew_tools.params import Params, Parsed, parse

__all__ = ["DESCRIPTION", "NAME", "PARAMETERS", "ReadParams", "window", "work"]

NAME = "read"
DESCRIPTION = """\
Read a text file of your folder, with line numbers. Long files come in pieces: the first line \
says which lines you got and how many there are; go on with `offset`. Lines over 2,000 \
characters are cut and say so. Binary files and files that hold credentials are refused."""

_MAX_LINE = 2_000
_MAX_TEXT = 50_000
_COUNT_UP_TO = 64 * 1024 * 1024
_BLOCK = 1024 * 1024


class ReadParams(Params):
    """What to read."""

    path: str = Field(
        description="The file, relative to your folder; or `artifact:HASH` for a text of this run that was"
        " shown to you shortened."
    )
    offset: int = Field(default=1, ge=1, description="First line to show, counted from 1.")
    limit: int = Field(default=1000, ge=1, le=5000, description="How many lines to show.")


@dataclass(slots=True)
class _Window:
    """The lines that are shown, and what the reading found out on the way."""

    lines: list[str]
    last: int = 0
    """Number of the last line read."""
    full: bool = False
    """Whether the text is as long as it may be."""


PARAMETERS = ReadParams


def work(room: Room, arguments: Mapping[str, Any], stop: threading.Event) -> ToolOutput:
    """Read one window of a file."""
    parsed = parse(ReadParams, arguments)
    with room.open(parsed.params.path) as file:
        return window(file, parsed, stop)


def window(file: BinaryIO, parsed: Parsed[ReadParams], stop: threading.Event) -> ToolOutput:
    """Read one window of what is open already."""
    params = parsed.params
    head = file.read(BINARY_PROBE)
    if b"\0" in head:
        raise ToolError(f"{params.path!r} is a binary file; only text can be read")
    file.seek(0)
    shown = _read(file, params.offset, params.limit, stop)
    total = _total(file, shown.last, stop)
    size = file.tell()
    details = {"path": params.path, "total_lines": total, **parsed.details()}
    if not head:
        return ToolOutput(text=f"{params.path} is empty.", details=details)
    if not shown.lines:
        raise ToolError(f"{params.path!r} has only {shown.last:,} lines; offset {params.offset:,} is too far")
    last = params.offset + len(shown.lines) - 1
    count = f"{total:,}" if total is not None else f"more than {shown.last:,}"
    text = [f"{params.path}: lines {params.offset:,} to {last:,} of {count}", *shown.lines]
    if total is None or last < total:
        rest = f"{total - last:,} more lines" if total is not None else f"more lines ({size:,}+ bytes read)"
        text.append(f"... {rest}; go on with offset={last + 1}")
    return ToolOutput(text="\n".join(text), details=details)


def _read(file: BinaryIO, offset: int, limit: int, stop: threading.Event) -> _Window:
    window = _Window(lines=[])
    length = 0
    while not window.full and len(window.lines) < limit:
        line, dropped = _line(file, stop)
        if line is None:
            break
        window.last += 1
        if window.last < offset:
            continue
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if window.last == 1:
            text = text.removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")
        if dropped:
            text += f" ... ({dropped:,} more bytes in this line)"
        window.lines.append(f"{window.last:6d}\t{text}")
        length += len(window.lines[-1]) + 1
        window.full = length >= _MAX_TEXT
    return window


def _line(file: BinaryIO, stop: threading.Event) -> tuple[bytes | None, int]:
    """The head of the next line and how many bytes of it were left out; None at the end."""
    if stop.is_set():
        raise Stopped
    head = file.readline(_MAX_LINE)
    if not head:
        return None, 0
    dropped = 0
    piece = head
    while not piece.endswith(b"\n"):
        piece = file.readline(_BLOCK)
        if not piece:
            break
        if stop.is_set():
            raise Stopped
        dropped += len(piece.rstrip(b"\r\n"))
    return head, dropped


def _total(file: BinaryIO, last: int, stop: threading.Event) -> int | None:
    """How many lines the file has; None when it is too long to be counted."""
    total, counted, ends_open = last, 0, False
    while block := file.read(_BLOCK):
        if stop.is_set():
            raise Stopped
        total += block.count(b"\n")
        ends_open = not block.endswith(b"\n")
        counted += len(block)
        if counted > _COUNT_UP_TO:
            return None
    return total + ends_open
