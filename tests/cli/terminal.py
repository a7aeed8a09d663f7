"""`crew` as a person runs it: to its end, or in a terminal with a screen to look at."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pexpect
import pyte

from tests.hosts.bub_terminal import BubHome

CREW = str(Path(sys.executable).parent / "crew")
WAIT = 60.0


def typed(home: BubHome, line: str) -> subprocess.CompletedProcess[str]:
    """Type a line into a shell in the project, as it was printed."""
    return subprocess.run(
        line,
        shell=True,
        cwd=home.project,
        env=home.env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT,
        check=False,
    )


def crew(
    home: BubHome, *arguments: str, stdin: str | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `crew` in the project to its end."""
    return subprocess.run(
        [CREW, *arguments],
        cwd=home.project,
        env={**home.env, **(env or {})},
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=WAIT,
        check=False,
    )


def document(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """The one JSON document that a command printed."""
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


@dataclass(slots=True)
class Terminal:
    """A `crew` command on a pretended terminal."""

    home: BubHome
    arguments: tuple[str, ...]
    width: int = 110
    height: int = 50
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    raw: bytearray = field(default_factory=bytearray)
    screen: pyte.HistoryScreen = field(init=False)
    _stream: pyte.ByteStream = field(init=False)
    _child: "pexpect.spawn[bytes]" = field(init=False)

    def __enter__(self) -> "Terminal":
        self.screen = pyte.HistoryScreen(self.width, self.height, history=2000, ratio=0.5)
        self._stream = pyte.ByteStream(self.screen)
        self._child = pexpect.spawn(
            CREW,
            list(self.arguments),
            cwd=str(self.home.project),
            env={**self.home.env, **self.env},
            dimensions=(self.height, self.width),
            timeout=WAIT,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._child.close(force=True)

    @property
    def pid(self) -> int:
        assert self._child.pid is not None
        return self._child.pid

    def text(self) -> str:
        """All that is and was on the screen."""
        history = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return "\n".join(line.rstrip() for line in [*history, *self.screen.display])

    def pump(self) -> None:
        """Take in what the program wrote."""
        try:
            read = self._child.read_nonblocking(65536, timeout=0.1)
        except pexpect.TIMEOUT:
            return
        self.raw += read
        self._stream.feed(read)

    def wait_for(self, wanted: str | Callable[[str], bool]) -> str:
        """Read until the text is there; fails with the screen if it never comes."""
        ready = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + WAIT
        while not ready(text := self.text()):
            assert time.monotonic() < deadline, f"{wanted!r} never appeared on:\n{text}"
            try:
                self.pump()
            except pexpect.EOF:
                assert ready(self.text()), f"crew ended before {wanted!r} appeared on:\n{self.text()}"
        return text

    def press(self, key: str) -> None:
        """Send a key, as `\\x03` for Ctrl-C."""
        self._child.send(key)

    def wait(self) -> int | None:
        """Read to the end; the exit status."""
        deadline = time.monotonic() + WAIT
        while True:
            assert time.monotonic() < deadline, f"crew did not end:\n{self.text()}"
            try:
                self.pump()
            except pexpect.EOF:
                break
        self._child.wait()
        return self._child.exitstatus


def is_alive(pid: int) -> bool:
    """Whether a process with this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
