"""A `bub` in a terminal of its own, with a screen to look at, and its model server beside it."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Queue

import pexpect
import pyte

from crew_plugin.testing.conversation import Conversation, Script
from crew_plugin.testing.model_server import ScriptedModelServer

__all__ = ["BubHome", "BubTerminal", "Model", "run_bub", "scripted_model"]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
WAIT = 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BubHome:
    """An empty project and an empty home of Bub, pointed at a model."""

    project: Path
    home: Path
    base_url: str | None

    @classmethod
    def make(cls, folder: Path, base_url: str | None) -> "BubHome":
        project, home = folder / "project", folder / "bub-home"
        for path in (project, home):
            path.mkdir(parents=True, exist_ok=True)
        (project / "app.py").write_text(
            'PASSWORD = "hunter2"\n\n\ndef login(name, password):\n    return password == PASSWORD\n',
            encoding="utf-8",
        )
        return cls(project=project, home=home, base_url=base_url)

    @property
    def env(self) -> dict[str, str]:
        """What Bub is started with: nothing of the person who runs the tests."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "TMPDIR") if key in os.environ}
        env = {
            **kept,
            "HOME": str(self.home),
            "BUB_HOME": str(self.home / "bub"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "hooks"), str(ROOT / "tools")]),
            "TERM": "xterm-256color",
            "NO_PROXY": "127.0.0.1,localhost",
            "PROMPT_TOOLKIT_NO_CPR": "1",
        }
        if self.base_url is not None:
            env |= {"BUB_MODEL": "openai:scripted", "BUB_API_KEY": "test", "BUB_API_BASE": self.base_url}
        return env


def run_bub(home: BubHome, *arguments: str, timeout: float = WAIT) -> subprocess.CompletedProcess[str]:
    """Run `bub` to its end."""
    return subprocess.run(
        [str(BIN / "bub"), *arguments],
        cwd=home.project,
        env=home.env,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=timeout,
        check=False,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model server that runs in a thread beside a test that has no event loop."""

    server: ScriptedModelServer
    loop: asyncio.AbstractEventLoop

    @property
    def base_url(self) -> str:
        return self.server.base_url

    def release(self) -> None:
        """Send what was held back."""
        self.loop.call_soon_threadsafe(self.server.release)

    @property
    def asked(self) -> list[Conversation]:
        """Every request so far."""
        return [request.conversation for request in list(self.server.requests)]


@contextmanager
def scripted_model(script: Script, *, latency: float = 0.0) -> Iterator[Model]:
    """A scripted model server on loopback; what is held back at the end is let go."""
    ready: Queue[Model] = Queue()
    done = threading.Event()

    async def serve() -> None:
        async with ScriptedModelServer(script, latency=latency) as server:
            ready.put(Model(server=server, loop=asyncio.get_running_loop()))
            await asyncio.to_thread(done.wait)

    with ThreadPoolExecutor(1) as pool:
        served = pool.submit(asyncio.run, serve())
        try:
            yield ready.get(timeout=10)
        finally:
            done.set()
            served.result(20)


@dataclass(slots=True)
class BubTerminal:
    """`bub chat` on a screen of 140 by 60."""

    home: BubHome
    arguments: tuple[str, ...] = ("chat",)
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    screen: pyte.HistoryScreen = field(
        default_factory=lambda: pyte.HistoryScreen(140, 60, history=2000, ratio=0.5)
    )
    _stream: pyte.ByteStream = field(init=False)
    _child: "pexpect.spawn[bytes]" = field(init=False)

    def __enter__(self) -> "BubTerminal":
        self._stream = pyte.ByteStream(self.screen)
        self._child = pexpect.spawn(
            str(BIN / "bub"),
            list(self.arguments),
            cwd=str(self.home.project),
            env={**self.home.env, **self.env},
            dimensions=(60, 140),
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
        """All that was ever on the screen, what scrolled away first."""
        history = [
            "".join(line[column].data for column in range(self.screen.columns))
            for line in self.screen.history.top
        ]
        return "\n".join(line.rstrip() for line in [*history, *self.screen.display])

    def pump(self, seconds: float = 0.1) -> None:
        """Take in what the program wrote."""
        try:
            self._stream.feed(self._child.read_nonblocking(65536, timeout=seconds))
        except pexpect.TIMEOUT:
            return

    def wait_for(self, wanted: str | Callable[[str], bool], *, timeout: float = WAIT) -> str:
        """Read until the text is there; fails with the screen if it never comes."""
        ready = wanted if callable(wanted) else lambda text: wanted in text
        deadline = time.monotonic() + timeout
        while not ready(text := self.text()):
            if time.monotonic() > deadline:
                raise AssertionError(f"{wanted!r} never appeared on:\n{text}")
            try:
                self.pump()
            except pexpect.EOF:
                raise AssertionError(f"bub ended before {wanted!r} appeared on:\n{self.text()}") from None
        return text

    def say(self, line: str) -> None:
        """Type a line and press Enter."""
        self._child.send(line)
        self.pump(0.3)
        self._child.send("\r")

    def press(self, key: str) -> None:
        """Send a key, as `\\x03` for Ctrl-C."""
        self._child.send(key)

    def kill(self) -> None:
        """kill -9."""
        self._child.kill(9)
        self._child.wait()

    def quit(self) -> int | None:
        """Leave by `,quit`; the exit status."""
        self.say(",quit")
        deadline = time.monotonic() + WAIT
        while self._child.isalive():
            assert time.monotonic() < deadline, f"bub did not leave:\n{self.text()}"
            try:
                self.pump()
            except pexpect.EOF:
                break
        self._child.wait()
        return self._child.exitstatus
