"""A `bub` in a terminal of its own, with a screen to look at, and its model server beside it."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

from crew_plugin.testing.conversation import Conversation, Script
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.screen import WAIT, OnScreen

__all__ = ["BubHome", "BubTerminal", "Model", "run_bub", "scripted_model"]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


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
            # A host of its own for each run takes seconds; what is said of it is tested on its own.
            "CREW_RUNTIME__BACKGROUND": "host",
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


class BubTerminal(OnScreen):
    """`bub chat` on a screen of 140 by 60."""

    def __init__(
        self, home: BubHome, arguments: tuple[str, ...] = ("chat",), *, env: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(
            command=(str(BIN / "bub"), *arguments), cwd=home.project, env={**home.env, **(env or {})}
        )

    def quit(self) -> int | None:
        """Leave by `,quit`; the exit status."""
        self.say(",quit")
        return self.wait()
