"""What the tests of MCP servers inside Bub share: the plain server, and sessions that call it."""

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil

from crew_plugin.host import Session, SessionEvent, ToolEnded, TurnEnded
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_engine import until

PLAIN = Path(__file__).parent / "mcp_servers" / "plain.py"


def configure(home: Path, servers: dict[str, Any]) -> None:
    """Has Bub use these servers."""
    (home / "mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")


def plain(folder: Path, mode: str = "ok") -> dict[str, Any]:
    """How the plain server is started on stdio."""
    folder.mkdir(exist_ok=True)
    return {"command": sys.executable, "args": ["-I", str(PLAIN), str(folder), mode]}


def pids(folder: Path) -> list[int]:
    """The processes that were started, oldest first, running or not."""
    return [int(path.stem) for path in sorted(folder.glob("*.pid"), key=lambda path: path.stat().st_mtime_ns)]


def running(folder: Path) -> list[int]:
    """Those of them that run."""
    return [pid for pid in pids(folder) if _runs(pid)]


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def heard(folder: Path, method: str) -> list[dict[str, Any]]:
    """The messages of this method that a server got."""
    log = folder / "messages.log"
    lines = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    return [message for line in lines if (message := json.loads(line)).get("method") == method]


class Caller:
    """A script that calls what the prompts name: `tool {"a": 1}`."""

    def __call__(self, conversation: Conversation) -> Reply:
        last = conversation.messages[-1]
        if last["role"] != "user":
            return Reply(text="ok")
        name, _, arguments = str(last["content"]).partition(" ")
        return Reply(calls=(ToolUse(name=name, arguments=json.loads(arguments or "{}")),))


async def call(session: Session, tool: str, **arguments: Any) -> ToolEnded:
    """Have the session's model call a tool; how that ended."""
    return ended(await turn(session, tool, **arguments))


async def turn(session: Session, tool: str, **arguments: Any) -> list[SessionEvent]:
    """The same; all events of the turn."""
    await session.prompt(f"{tool} {json.dumps(arguments)}")
    return (await until(session, TurnEnded))[0]


def ended(events: list[SessionEvent]) -> ToolEnded:
    """The one call that ended."""
    (found,) = (event for event in events if isinstance(event, ToolEnded))
    return found


async def gone(pid: int) -> None:
    """Wait for a process to end."""
    async with asyncio.timeout(10):
        await asyncio.to_thread(_gone, pid)


def _gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
        psutil.Process(pid).wait(10)


@asynccontextmanager
async def http(folder: Path, port: int, mode: str = "ok") -> AsyncIterator[None]:
    """The plain server over HTTP."""
    await asyncio.to_thread(folder.mkdir, exist_ok=True)
    command = (sys.executable, "-I", str(PLAIN), str(folder), mode, str(port))
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(20):
            await asyncio.to_thread(_wait_for_port, port)
        yield
    finally:
        process.kill()
        await process.wait()


def _wait_for_port(port: int) -> None:
    while True:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return


def kill(pid: int) -> None:
    """As hard as it goes."""
    os.kill(pid, 9)
