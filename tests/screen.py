"""A program on a pretended terminal, with a screen to look at."""

import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pexpect
import pyte

__all__ = ["WAIT", "OnScreen"]

WAIT = 60.0
"""Seconds after which something that was to appear, or to end, never will."""


@dataclass(slots=True, kw_only=True)
class OnScreen:
    """A program between entering and leaving, which ends it."""

    command: tuple[str, ...]
    cwd: Path
    env: dict[str, str]
    width: int = 140
    height: int = 60
    raw: bytearray = field(default_factory=bytearray)
    """All that it wrote."""
    screen: pyte.HistoryScreen = field(init=False)
    _stream: pyte.ByteStream = field(init=False)
    _child: "pexpect.spawn[bytes]" = field(init=False)
    _hung_up: bool = field(init=False, default=False)

    def __enter__(self) -> Self:
        self.screen = pyte.HistoryScreen(self.width, self.height, history=2000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self._child = pexpect.spawn(
            self.command[0],
            list(self.command[1:]),
            cwd=str(self.cwd),
            env=self.env,
            dimensions=(self.height, self.width),
            timeout=WAIT,
            preexec_fn=_heeds_signals,
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._hung_up and self._child.isalive():
            self.kill()
        self._child.close(force=True)

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid

    def text(self) -> str:
        """All that is and was on the screen, what scrolled away first."""
        history = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return "\n".join(line.rstrip() for line in [*history, *self.screen.display])

    def pump(self, seconds: float = 0.1) -> None:
        """Take in what the program wrote."""
        try:
            read = self._child.read_nonblocking(65536, timeout=seconds)
        except pexpect.TIMEOUT:
            return
        self.raw += read
        self._stream.feed(read)

    def wait_for(self, wanted: str | Callable[[str], bool], *, timeout: float = WAIT) -> str:
        """Read until the text is there; fails with the screen if it never comes."""
        ready = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + timeout
        while not ready(text := self.text()):
            assert time.monotonic() < deadline, f"{wanted!r} never appeared on:\n{text}"
            try:
                self.pump()
            except pexpect.EOF:
                text = self.text()
                assert ready(text), f"it ended before {wanted!r} appeared on:\n{text}"
                break
        return text

    def say(self, line: str) -> None:
        """Type a line and press Enter."""
        self._child.send(line)
        self.pump(0.3)
        self._child.send("\r")

    def press(self, key: str) -> None:
        """Send a key, as `\\x03` for Ctrl-C."""
        self._child.send(key)

    def hang_up(self) -> None:
        """Close the terminal."""
        self._hung_up = True
        terminal: Any = self._child.ptyproc  # type: ignore[attr-defined]  # not in the stubs
        terminal.fileobj.close()
        terminal.closed = True

    def kill(self) -> None:
        """kill -9."""
        self._child.kill(9)
        self._child.wait()

    def wait(self) -> int | None:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + WAIT
        while True:
            assert time.monotonic() < deadline, f"it did not end:\n{self.text()}"
            try:
                self.pump()
            except pexpect.EOF:
                break
        self._child.wait()
        return self._child.exitstatus


def _heeds_signals() -> None:
    """As in a terminal, also where the tests run without one: `nohup` has what it starts ignore SIGHUP,
    and a shell has what it starts in the background ignore SIGINT."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
