"""Reading one small text file that may have been put there by somebody else."""

import os
import stat
from pathlib import Path
from typing import Final

from crew_plugin.resources.yamltext import BadText

__all__ = ["Stamp", "read_text", "stamp"]

_MAX_BYTES: Final = 256 * 1024

type Stamp = tuple[int, int, int] | None
"""Changes when a file changes; None while it is not there."""


def stamp(path: Path) -> Stamp:
    """What the file is now."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def read_text(path: Path, root: Path) -> str:
    """The text of a regular UTF-8 file inside `root`, which is canonical.

    Raises:
        BadText: if it is not such a file.
    """
    try:
        real = path.resolve(strict=True)
        if not real.is_relative_to(root):
            raise BadText(f"leads out of {root}", 0)
        # Non-blocking, so that a named pipe does not hold us.
        handle = os.open(real, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise BadText("is not a regular file", 0)
            body = file.read(_MAX_BYTES + 1)
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of symbolic links
        raise BadText(f"cannot be read: {getattr(error, 'strerror', None) or error}", 0) from None
    if len(body) > _MAX_BYTES:
        raise BadText(f"is larger than {_MAX_BYTES // 1024} KB", 0)
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body[: error.start].count(b"\n") + 1
        raise BadText(f"is not UTF-8 text: {error.reason}", line) from None
