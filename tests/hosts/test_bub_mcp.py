"""MCP tools of Bub in sessions: over one connection, and only for agents that list them."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from bub_mcp.plugin import MCPChannel, MCPPlugin

from crew_hooks.bub.compat import mcp as compat
from crew_hooks.bub.engine import BubEngine
from crew_plugin.host import SessionSpec, ToolEnded, ToolStarted, TurnEnded
from crew_plugin.mcp.proxy import McpTimes
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, turn, until

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
SERVER = Path(__file__).parent / "mcp_servers" / "arithmetic.py"


@pytest.fixture
def started(bub_home: Path, tmp_path: Path) -> Path:
    """Configures the stdio server; the folder in which it leaves a file for each start."""
    folder = tmp_path / "starts"
    folder.mkdir()
    configure(bub_home, {"arithmetic": {"command": sys.executable, "args": [str(SERVER), str(folder)]}})
    return folder


def configure(home: Path, servers: dict[str, Any]) -> None:
    (home / "mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")


def starts(folder: Path) -> list[int]:
    """The pids of the server's processes, running or not."""
    return [int(marker.stem) for marker in folder.iterdir()]


def calls(name: str, **arguments: Any) -> Play:
    return Play(Reply(calls=(ToolUse(name=name, arguments=arguments),)), Reply(text="ok"))


def ended(events: list[Any]) -> ToolEnded:
    (found,) = (event for event in events if isinstance(event, ToolEnded))
    return found


async def test_a_listed_tool_is_offered_and_called(hosted: Hosted, spec_of: SpecOf, started: Path) -> None:
    async with (
        hosted(calls("mcp__arithmetic__add", a=1, b=2), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__add",))) as session,
    ):
        events = await turn(session, "go")
    assert ended(events).text.startswith("3 by ")
    assert set(host.model.requests[0].conversation.tools) == {"mcp__arithmetic__add"}


async def test_an_agent_that_lists_none_gets_none_and_starts_no_server(
    hosted: Hosted, spec_of: SpecOf, started: Path
) -> None:
    async with (
        hosted(lambda _: Reply(text="ok"), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("bash",))) as session,
    ):
        await turn(session, "go")
    assert not [name for name in host.model.requests[0].conversation.tools if name.startswith("mcp")]
    assert starts(started) == []


async def test_many_sessions_share_one_server_process_that_ends_with_the_engine(
    hosted: Hosted, spec_of: SpecOf, started: Path
) -> None:
    def script(conversation: Conversation) -> Reply:
        if conversation.tool_results:
            return Reply(text=conversation.tool_results[0].text)
        return Reply(calls=(ToolUse(name="mcp__arithmetic__add", arguments={"a": 1, "b": 1}),))

    async with hosted(script, MCPPlugin) as host:

        async def one() -> str:
            async with host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__*",))) as session:
                await session.prompt("go")
                return (await until(session, TurnEnded))[1].text

        answers = await asyncio.gather(*(one() for _ in range(12)))
        (pid,) = starts(started)
        assert set(answers) == {f"2 by {pid}"}
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


async def test_the_connection_of_a_chat_is_used_and_left_to_it(
    hosted: Hosted, spec_of: SpecOf, started: Path
) -> None:
    async with hosted(calls("mcp__arithmetic__add", a=2, b=2), MCPPlugin) as host:
        channel = compat.mcp_channel(host.framework)
        assert isinstance(channel, MCPChannel)
        await channel.start(asyncio.Event())
        try:
            async with host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__add",))) as session:
                assert ended(await turn(session, "go")).ok
            await host.home._bub_mcp.close()
            assert len(starts(started)) == 1
            assert any(server.connected for server in channel.list().values())
        finally:
            await channel.stop()


@pytest.mark.both_engines
async def test_errors_of_a_server_are_results(hosted: Hosted, spec_of: SpecOf, started: Path) -> None:
    async with (
        hosted(calls("mcp__arithmetic__fail"), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__*",))) as session,
    ):
        events = await turn(session, "go")
    assert not ended(events).ok
    assert "the server says no" in ended(events).text
    assert events[-1] == TurnEnded(text="ok")


async def test_a_server_that_dies_is_a_result(hosted: Hosted, spec_of: SpecOf, started: Path) -> None:
    async with (
        hosted(calls("mcp__arithmetic__leave"), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__*",))) as session,
    ):
        events = await turn(session, "go")
    assert not ended(events).ok
    assert events[-1] == TurnEnded(text="ok")


@pytest.mark.both_engines
async def test_a_call_that_takes_too_long_is_a_result(hosted: Hosted, spec_of: SpecOf, started: Path) -> None:
    async with hosted(calls("mcp__arithmetic__sleep_forever"), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(call_seconds=0.3))
        spec = spec_of(host, host_tools=("mcp__arithmetic__*",))
        async with engine.running(), engine.open(spec) as session:
            events = await turn(session, "go")
    assert not ended(events).ok
    assert "did not answer within 0.3 s and was told to stop" in ended(events).text
    assert events[-1] == TurnEnded(text="ok")


async def test_a_very_long_result_is_shown_in_part(hosted: Hosted, spec_of: SpecOf, started: Path) -> None:
    async with (
        hosted(calls("mcp__arithmetic__recite", length=100_000), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__*",))) as session,
    ):
        events = await turn(session, "go")
    text = ended(events).text
    assert ended(events).ok
    assert len(text) <= 60_200
    assert text.startswith("first")
    assert text.endswith("last")
    assert "characters left out" in text
    assert "the rest was not kept" in text


async def test_aborting_ends_a_call_that_never_answers(
    hosted: Hosted, spec_of: SpecOf, started: Path
) -> None:
    async with (
        hosted(calls("mcp__arithmetic__sleep_forever"), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__*",))) as session,
    ):
        await session.prompt("go")
        await until(session, ToolStarted)
        async with asyncio.timeout(1):
            await session.abort(Cause(code=CauseCode.CALLER_CANCELLED, message="enough"))


@asynccontextmanager
async def http_server(folder: Path, port: int) -> AsyncIterator[None]:
    command = (sys.executable, str(SERVER), str(folder), str(port))
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


async def test_a_server_over_http_is_called_too(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path, free_port: int
) -> None:
    configure(bub_home, {"remote": {"url": f"http://127.0.0.1:{free_port}/mcp"}})
    async with (
        http_server(tmp_path, free_port),
        hosted(calls("mcp__remote__add", a=3, b=4), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__remote__add",))) as session,
    ):
        assert ended(await turn(session, "go")).text.startswith("7 by ")


async def test_a_pattern_expands_to_the_tools_that_are_there(hosted: Hosted, started: Path) -> None:
    async with hosted(lambda _: Reply(text="ok"), MCPPlugin) as host:
        available = await host.engine.available_tools(
            ("mcp__arithmetic__*", "mcp__other__*"), str(host.folder)
        )
    assert available == (
        "mcp__arithmetic__add",
        "mcp__arithmetic__fail",
        "mcp__arithmetic__sleep_forever",
        "mcp__arithmetic__meet",
        "mcp__arithmetic__recite",
        "mcp__arithmetic__leave",
    )


async def test_without_bub_mcp_there_are_no_such_tools(hosted: Hosted, spec_of: SpecOf) -> None:
    async with (
        hosted(lambda _: Reply(text="ok")) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__arithmetic__*",))) as session,
    ):
        assert (await turn(session, "go"))[-1] == TurnEnded(text="ok")
