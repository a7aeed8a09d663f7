"""Writing to a terminal or a pipe that perhaps nobody reads: in a thread, so that no run waits for it."""

import io
import os
import queue
import threading
import time
from typing import Final, TextIO

__all__ = ["Pen"]

_MOST: Final = 1_000_000
"""Characters that wait to be written; what comes on top is left out."""
_LOOK_SECONDS: Final = 0.01


class Pen(io.TextIOBase):
    """Takes text as the stream would, and returns at once. A stream that is gone swallows what comes.

    Takes no locks: it may be used in a signal handler that has interrupted it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding or "utf-8"
        self._shown = stream.isatty()
        self._queue: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._given = 0
        self._written = 0
        self._left_out = 0
        self._over = False
        self._thread: threading.Thread | None = None

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute there
        """The stream's."""
        return self._encoding

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._shown

    @property
    def idle(self) -> bool:
        """Whether everything is written, and more would be."""
        return not self._over and self._given == self._written

    def write(self, text: str) -> int:
        """Hand it to the thread."""
        size = len(text)
        if self._over or self._given - self._written > _MOST:
            self._left_out += not self._over
            return size
        if self._left_out:
            text, self._left_out = f"({self._left_out} pieces were left out: nobody read)\n{text}", 0
        self._given += len(text)
        self._queue.put(text)
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="crew-pen", daemon=True)
            self._thread.start()
        return size

    def settle(self, seconds: float) -> None:
        """Wait until everything is written, but not longer than this; then write nothing more."""
        deadline = time.monotonic() + seconds
        while self._given != self._written and not self._over and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        self._over = True

    def _serve(self) -> None:
        while True:
            text = self._queue.get()
            rest = text.replace("\n", os.linesep).encode(self._encoding, errors="replace")
            try:
                while rest and not self._over:
                    rest = rest[os.write(self._descriptor, rest) :]
            except OSError:
                self._over = True  # the terminal is gone; the run is not about the terminal
            self._written += len(text)
