"""The log of a detached supervisor: without secrets, and never larger than the settings say."""

import os
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TextIO

from crew_plugin.redact import Redactor

__all__ = ["BoundedLog", "CleanStream", "shorten"]

_LOOK_SECONDS: Final = 2.0


class CleanStream:
    """A text stream that takes secrets out of what is written to it."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream = stream
        self._redactor = redactor

    def write(self, text: str) -> int:
        """Write it without the secrets in it; returns the length of what was given."""
        self._stream.write(self._redactor.text(text))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class BoundedLog:
    """Drops the older half of a log whenever it has grown too large, while it is entered."""

    def __init__(self, path: Path, most: int) -> None:
        self._path = path
        self._most = most
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="crew-log", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            over = self._over.wait(_LOOK_SECONDS)
            shorten(self._path, self._most)
            if over:
                return


def shorten(path: Path, most: int) -> int:
    """Drop the older half of a file that has more than `most` bytes, in place: its writers append.
    Returns how many bytes went. What is written in that very moment can be lost."""
    try:
        with path.open("r+b") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= most:
                return 0
            file.seek(size - most // 2)
            file.readline()
            kept = file.read()
            dropped = size - len(kept)
            file.seek(0)
            file.truncate()
            file.write(f"... {dropped:,} older bytes were dropped\n".encode() + kept)
            return dropped
    except OSError:
        # A log that cannot be shortened must not end the run that it is about.
        return 0
