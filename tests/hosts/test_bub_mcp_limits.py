"""MCP servers of Bub that come back late: what a call may take, and that others get the server then."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

import pytest
from bub_mcp.plugin import MCPPlugin

from crew_hooks.bub.engine import BubEngine
from crew_plugin.host import SessionSpec
from crew_plugin.mcp.proxy import McpTimes
from crew_plugin.models.spec import McpServerSpec
from tests.hosts.bub_engine import Host
from tests.hosts.mcp_stage import Caller, call, configure, gone, heard, http, kill, pids, plain, running

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
ALL = ("mcp__plain__*",)
SHORT = McpTimes(call_seconds=3, connect_seconds=120)
"""A call that waited for the connecting would outlast the test."""


async def goes_on(folder: Path) -> None:
    """Have the server get ready, and wait until it is asked for its tools."""
    before = len(heard(folder, "tools/list"))
    (folder / "go").touch()
    async with asyncio.timeout(30):
        while len(heard(folder, "tools/list")) == before:  # noqa: ASYNC110 - servers tell by files
            await asyncio.sleep(0.02)


async def killed(folder: Path) -> None:
    (first,) = pids(folder)
    kill(first)
    await gone(first)


async def test_a_call_ends_within_its_limit_while_its_server_is_reconnected_which_goes_on(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    configure(bub_home, {"plain": plain(folder, "wait_again")})
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=SHORT)
        async with (
            asyncio.timeout(60),
            engine.running(),
            engine.open(spec_of(host, host_tools=ALL)) as session,
            engine.open(spec_of(host, host_tools=ALL)) as other,
        ):
            await killed(folder)
            late = await asyncio.gather(*(call(each, "mcp__plain__write") for each in (session, other)))
            await goes_on(folder)
            after = await call(session, "mcp__plain__write")
        assert len(pids(folder)) == 2, "who gave up did not end the connecting"
    assert [result.ok for result in late] == [False, False]
    for result in late:
        assert "MCP server 'plain' was being reconnected" in result.text
        assert "within the 3 s of this call" in result.text
    assert after.text == "written"
    assert len(heard(folder, "tools/call")) == 1
    assert running(folder) == []


async def test_the_limit_of_a_server_of_an_agent_covers_its_reconnecting_over_http(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path, free_port: int
) -> None:
    folder = tmp_path / "plain"
    server = McpServerSpec(name="mine", url=f"http://127.0.0.1:{free_port}/mcp", call_seconds=3)
    async with hosted(Caller(), MCPPlugin) as host, asyncio.timeout(60), AsyncExitStack() as sessions:
        engine = BubEngine(host.framework, mcp=McpTimes(connect_seconds=120))
        await sessions.enter_async_context(engine.running())
        async with http(folder, free_port, "wait_again"):
            session = await sessions.enter_async_context(engine.open(spec_of(host, mcp_servers=(server,))))
        async with http(folder, free_port, "wait_again"):
            late = await call(session, "mcp__mine__write")
            await goes_on(folder)
            after = await call(session, "mcp__mine__write")
    assert not late.ok
    assert "MCP server 'mine' was being reconnected" in late.text
    assert after.text == "written"


@pytest.mark.both_engines
async def test_a_call_that_is_made_again_has_one_limit_for_all_of_it(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "plain"
    configure(bub_home, {"plain": plain(folder, "wait_again")})
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=SHORT)
        async with (
            asyncio.timeout(60),
            engine.running(),
            engine.open(spec_of(host, host_tools=ALL)) as session,
        ):
            # It changes nothing, so it is made again once the server is back: not within its limit.
            late = await call(session, "mcp__plain__die_once")
            await goes_on(folder)
            after = await call(session, "mcp__plain__die_once")
    assert not late.ok
    assert "MCP server 'plain' was being reconnected" in late.text
    assert after.text == "called die_once"
