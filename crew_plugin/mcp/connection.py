"""One open connection to a server: calls end with it, and it says why it ended."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import anyio

from crew_plugin.mcp import protocol
from crew_plugin.mcp.content import Answer, RemoteTool

__all__ = ["Connection"]


class Connection:
    """Speaks through a session of `mcp` that somebody else owns and closes with `close`.

    Listens to the server from the start: that it has other tools may be said right after the first
    list of them, before anybody has this connection.
    """

    def __init__(self, session: object, *, close: Callable[[], Awaitable[None]]) -> None:
        self._session = session
        self._close = close
        self._over = anyio.Event()
        self.reason = ""
        """Why it ended, once it has."""
        self.tools: tuple[RemoteTool, ...] = ()
        self._told: Callable[[], None] | None = None
        self._outdated = False
        protocol.on_message(session, self._heard)

    @property
    def alive(self) -> bool:
        """Whether nobody has noticed an end yet."""
        return not self._over.is_set()

    def end(self, reason: str) -> None:
        """Note that the connection is over. What is under way on it fails; the first reason counts."""
        if self.alive:
            self.reason = reason
            self._over.set()

    def on_changed(self, told: Callable[[], None]) -> None:
        """Have `told` called when the server says that it has other tools now; at once if it said so
        since they were read."""
        self._told = told
        if self._outdated:
            told()

    def _heard(self, message: object) -> None:
        if protocol.tools_changed(message):
            self._outdated = True
            if self._told is not None:
                self._told()

    async def refresh(self) -> None:
        """Read the list of tools anew. Raises what `protocol.list_tools` raises."""
        self._outdated = False
        self.tools = await self._while_alive(protocol.list_tools(self._session))

    async def call(self, tool: str, arguments: Mapping[str, Any], progress: protocol.Progress) -> Answer:
        """Call a tool. Raises what `protocol.call` raises."""
        if not self.alive:
            raise protocol.Unsent(self.reason)
        return await self._while_alive(protocol.call(self._session, tool, arguments, progress))

    async def close(self) -> None:
        """End it, and the server's process if it has one."""
        self.end("it was closed")
        await self._close()

    async def _while_alive[T](self, work: Awaitable[T]) -> T:
        """The work's result; `ConnectionError` as soon as the connection is over, because a session
        that broke does not tell those who wait for an answer of it."""
        results: list[T] = []
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            group.start_soon(self._watch, group.cancel_scope)
            try:
                results.append(await work)
            except Exception as error:  # noqa: BLE001 - raised again outside, not wrapped by the group
                failure = error
            group.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if not results:
            raise ConnectionError(self.reason)
        return results[0]

    async def _watch(self, scope: anyio.CancelScope) -> None:
        await self._over.wait()
        scope.cancel()
