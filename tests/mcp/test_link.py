"""A link whose server answers late: which list of tools it has in the end.

No real server can be made to answer at just these moments, so the sessions here are scripted.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import mcp.types as types
import pytest

from crew_plugin.mcp.connection import Connection
from crew_plugin.mcp.link import Link, LinkNote, LinkState

pytestmark = pytest.mark.anyio

CHANGED = types.ServerNotification(
    types.ToolListChangedNotification(method="notifications/tools/list_changed")
)


async def _ignored(message: object) -> None:
    """What `mcp` does with messages that nobody listens to."""


class Scripted:
    """A session that lists what it is told to, when it is told to: also after its connection ended."""

    def __init__(self, *tools: str) -> None:
        self.tools = tools
        self.lists = 0
        self.asked, self.answer = anyio.Event(), anyio.Event()
        self.answer.set()
        self._message_handler = _ignored

    def hold(self) -> None:
        """Do not answer until `answer` is set."""
        self.asked, self.answer = anyio.Event(), anyio.Event()

    async def list_tools(self) -> types.ListToolsResult:
        self.lists += 1
        found = [types.Tool(name=name, inputSchema={"type": "object"}) for name in self.tools]
        self.asked.set()
        with anyio.CancelScope(shield=True):
            await self.answer.wait()
        return types.ListToolsResult(tools=found)

    async def change(self, *tools: str) -> None:
        """Have other tools, and say so."""
        self.tools = tools
        await self._message_handler(CHANGED)


class Server:
    """Connects to one session after the other."""

    name = "scripted"

    def __init__(self, *sessions: Scripted) -> None:
        self._sessions = iter(sessions)

    async def connect(self) -> Connection:
        connection = Connection(next(self._sessions), close=anyio.lowlevel.checkpoint)
        await connection.refresh()
        return connection


@asynccontextmanager
async def linked(*sessions: Scripted) -> AsyncGenerator[tuple[Link, list[LinkNote]]]:
    notes: list[LinkNote] = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            link = Link(Server(*sessions), group, connect_seconds=10)
            link.listen(notes.append)
            await link.ready()
            yield link, notes
            await link.disconnect()


def names(link: Link) -> list[str]:
    return [tool.name for tool in link.tools]


async def settled(link: Link) -> None:
    """Wait until no list is being read."""
    while link._relisting is not None:  # pyright: ignore[reportPrivateUsage]  # `listed` gives up
        await link.listed()


async def test_a_list_of_a_lost_connection_that_comes_late_is_not_taken() -> None:
    first, second = Scripted("old"), Scripted("new")
    async with linked(first, second) as (link, notes):
        first.hold()
        await first.change("stale")
        await first.asked.wait()
        assert link.connection is not None
        link.lost(link.connection, "it died")
        await link.ready()
        first.answer.set()
        await settled(link)
        assert names(link) == ["new"]
    assert [note.state for note in notes] == [LinkState.LOST, LinkState.RECONNECTED]


async def test_what_a_new_connection_says_while_a_list_of_the_lost_one_is_awaited_is_heard() -> None:
    first, second = Scripted("old"), Scripted("new")
    async with linked(first, second) as (link, notes):
        first.hold()
        await first.change("stale")
        await first.asked.wait()
        assert link.connection is not None
        link.lost(link.connection, "it died")
        await link.ready()
        await second.change("newer")
        first.answer.set()
        await settled(link)
        assert names(link) == ["newer"]
    assert notes[-1].text == "new: newer; gone: new"


async def test_a_change_that_is_said_while_tools_are_read_has_them_read_once_more() -> None:
    session = Scripted("old")
    async with linked(session) as (link, notes):
        session.hold()
        await session.change("first")
        await session.asked.wait()
        await session.change("second")
        session.answer.set()
        await settled(link)
        assert names(link) == ["second"]
    assert [note.text for note in notes] == ["new: first; gone: old", "new: second; gone: first"]


async def test_a_change_that_is_said_before_the_connection_is_there_is_not_lost() -> None:
    session = Scripted("old")
    session.hold()
    async with anyio.create_task_group() as group:

        async def change() -> None:
            await session.asked.wait()
            await session.change("new")
            session.answer.set()

        group.start_soon(change)
        async with linked(session) as (link, _):
            await settled(link)
            assert names(link) == ["new"]


async def test_a_server_that_says_with_every_list_that_it_changed_is_not_told_of_again_and_again() -> None:
    class Restless(Scripted):
        async def list_tools(self) -> Any:
            listed = await super().list_tools()
            if self.lists < 4:
                await self.change(*self.tools)
            return listed

    session = Restless("same")
    async with linked(session) as (link, notes):
        await settled(link)
        assert names(link) == ["same"]
    assert session.lists == 4
    assert notes == []
