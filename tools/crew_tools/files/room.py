"""The one folder that the file tools may look into."""

import difflib
import os
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from crew_plugin.host import ToolError
from crew_tools.files.sensitive import why_sensitive

__all__ = ["BINARY_PROBE", "Room"]

BINARY_PROBE = 8192
"""How many bytes at the start of a file decide whether it is text."""


@dataclass(frozen=True, slots=True)
class Room:
    """A folder, and the answer to whether a path that a model wrote lies in it."""

    root: Path

    @staticmethod
    def of(folder: str | Path) -> "Room":
        """The room of a session's folder, symlinks resolved."""
        return Room(Path(folder).resolve())

    def resolve(self, text: str) -> Path:
        """The real path of what a model wrote. Raises `ToolError` when it leads out of the room."""
        if "\0" in text:
            raise ToolError("a path cannot contain a NUL character")
        try:
            real = (self.root / text).resolve()
        except (OSError, RuntimeError) as error:
            raise ToolError(f"cannot resolve {text!r}: {_reason(error)}") from error
        if not real.is_relative_to(self.root):
            raise ToolError(
                f"{text!r} leads out of this session's folder {str(self.root)!r}; "
                "only what lies in it can be looked at"
            )
        return real

    def existing(self, text: str) -> Path:
        """Like `resolve`, for a path that must exist. Names near ones when it does not."""
        real = self.resolve(text)
        try:
            real.lstat()
        except FileNotFoundError:
            raise ToolError(self._missing(text, real)) from None
        except OSError as error:
            raise ToolError(f"cannot look at {text!r}: {_reason(error)}") from error
        return real

    def folder(self, text: str) -> Path:
        """Like `existing`, for a path that must be a folder."""
        real = self.existing(text)
        if not real.is_dir():
            raise ToolError(f"{text!r} is not a folder; use read for a file")
        return real

    def shown(self, path: Path) -> str:
        """A path as it is shown to the model: relative to the room, with forward slashes."""
        return path.relative_to(self.root).as_posix()

    def prefix(self, folder: Path) -> str:
        """What stands before the names in a folder when they are shown; empty for the room itself."""
        return "" if folder == self.root else f"{self.shown(folder)}/"

    def refusal(self, text: str, real: Path) -> str | None:
        """Why a file may not be read although it is here: it looks like it holds secrets."""
        return why_sensitive(text) or why_sensitive(self.shown(real))

    @contextmanager
    def open(self, text: str) -> Generator[BinaryIO]:
        """A regular, readable file of the room, opened so that nothing can make it hang."""
        real = self.existing(text)
        reason = self.refusal(text, real)
        if reason is not None:
            raise ToolError(f"{text!r} is not read: {reason}. Work without its content.")
        try:
            file = open_regular(real)
        except IsADirectoryError:
            raise ToolError(f"{text!r} is a folder; use ls or find") from None
        except OSError as error:
            raise ToolError(f"cannot read {text!r}: {_reason(error)}") from error
        with file:
            yield file

    def _missing(self, text: str, real: Path) -> str:
        parent = real.parent
        if not parent.is_dir():
            return f"there is no {text!r}, and no folder {self.shown(parent)!r}; use find or ls"
        try:
            names = os.listdir(parent)
        except OSError:
            names = []
        near = difflib.get_close_matches(real.name, names, n=3, cutoff=0.5)
        shown = ", ".join(repr(self.shown(parent / name)) for name in near)
        return f"there is no {text!r}; " + (f"near: {shown}" if near else "use find or ls to look for it")


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file without following a last symlink and without waiting for a fifo."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(str(path))
        if not stat.S_ISREG(mode):
            raise OSError("not a regular file (a fifo, socket or device)")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
