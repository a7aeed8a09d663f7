"""MCP tools of the host for sessions of ours: over the connections that bub-mcp has."""

import asyncio
import contextlib
import fnmatch
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from bub.framework import BubFramework
from bub.tools import Tool
from loguru import logger

from crew_hooks.bub import compat
from crew_plugin.host import ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.models.records import Effect
from crew_plugin.ui.text import shorten

__all__ = ["CALL_SECONDS", "McpProxy"]

PREFIX: Final = "mcp__"
CALL_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 60.0
_CLOSE_SECONDS: Final = 5.0
_SHOWN: Final = 60_000
"""Characters of a result that go to the model."""
_NOT_KEPT: Final = "not kept; call the tool again for a smaller part of it"


class _Server(Protocol):
    connected: bool
    tools: list[Tool]
    error: str | None


class _Channel(Protocol):
    """What is used of bub-mcp's `MCPChannel`."""

    async def connect(self) -> None: ...

    async def stop(self) -> None: ...

    def list(self) -> dict[str, _Server]: ...


class McpProxy:
    """Finds and calls the MCP tools that Bub is connected to.

    In a chat bub-mcp connects by itself. Without Bub's channels nothing does, so the first
    session that needs a tool connects, and `close` ends what was connected here.
    """

    def __init__(self, framework: BubFramework, *, call_seconds: float) -> None:
        self._framework = framework
        self._call_seconds = call_seconds
        self._connecting: asyncio.Task[None] | None = None
        self._ours: _Channel | None = None

    async def names(self, patterns: Sequence[str]) -> tuple[str, ...]:
        """The tools that these names and patterns (`mcp__server__*`) mean here."""
        wanted = [pattern for pattern in patterns if pattern.startswith(PREFIX)]
        channel = self._channel()
        if not wanted or channel is None:
            return ()
        await self._connected(channel)
        there = [name for name, _ in _all(channel)]
        return tuple(
            dict.fromkeys(name for pattern in wanted for name in there if fnmatch.fnmatchcase(name, pattern))
        )

    async def specs(self, patterns: Sequence[str]) -> list[ToolSpec]:
        """Tools for a session that may use what these names and patterns mean."""
        names = await self.names(patterns)
        channel = self._channel()
        found = dict(_all(channel)) if channel is not None else {}
        return [self._spec(name, found[name]) for name in names]

    async def close(self) -> None:
        """Stop the servers that were started here."""
        task, self._connecting = self._connecting, None
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
        channel, self._ours = self._ours, None
        if channel is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await channel.stop()

    def _channel(self) -> _Channel | None:
        return compat.mcp_channel(self._framework)

    async def _connected(self, channel: _Channel) -> None:
        if any(server.connected for server in channel.list().values()):
            return
        if self._connecting is None:
            if not compat.mcp_started(channel):
                self._ours = channel
            # A task of its own: it outlives the session that happens to be the first.
            self._connecting = asyncio.create_task(self._connect(channel))
        await asyncio.shield(self._connecting)

    @staticmethod
    async def _connect(channel: _Channel) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await channel.connect()
        except Exception as error:  # noqa: BLE001 - sessions go on without; the log and `doctor` tell
            logger.warning("crew: connecting the MCP servers failed: {!r}", error)

    def _spec(self, name: str, tool: Tool) -> ToolSpec:
        async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
            return ToolOutput(text=await self._call(name, arguments))

        return ToolSpec(
            name=name,
            description=tool.description,
            parameters=tool.parameters,
            execute=execute,
            effect=Effect.EXTERNAL,
        )

    async def _call(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Call the tool that has this name now, so that a reconnect is honoured."""
        channel = self._channel()
        tool = dict(_all(channel)).get(name) if channel is not None else None
        if tool is None:
            raise ToolError(f"the MCP server of {name} is not connected any more; work without it")
        try:
            async with asyncio.timeout(self._call_seconds):
                result = tool.run(**arguments)
                if inspect.isawaitable(result):
                    result = await result
        except TimeoutError as error:
            raise ToolError(f"{name} did not answer within {self._call_seconds:g} s") from error
        except Exception as error:
            said = shorten(str(error) or type(error).__name__, _SHOWN)
            raise ToolError(f"{name} failed: {said}") from error
        return shorten(tool.render(result), _SHOWN, _NOT_KEPT)


def _all(channel: _Channel) -> list[tuple[str, Tool]]:
    """Name and tool of every tool of every connected server."""
    return [
        (_name(server, tool), tool)
        for server, state in channel.list().items()
        if state.connected
        for tool in state.tools
    ]


def _name(server: str, tool: Tool) -> str:
    own = tool.name.removeprefix("mcp.").removeprefix(f"{server}_")
    return f"{PREFIX}{server}__{own}".replace(".", "_")
