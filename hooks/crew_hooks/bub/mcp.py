"""The MCP servers of Bub for sessions of ours: over the connections that bub-mcp has.

In a chat bub-mcp connects by itself. Without Bub's channels nothing does, so the first session that
needs a server connects it, in bub-mcp's own place, and `close` ends what was connected here. A
connection that is made anew after a loss is put there too, so the chat's own agent profits from it.
"""

import asyncio
from typing import Any

from bub.framework import BubFramework

from crew_hooks.bub.compat import mcp as compat
from crew_plugin.mcp.connection import Connection
from crew_plugin.mcp.link import Connector, NotConnected
from crew_plugin.mcp.protocol import Refused, Unsent

__all__ = ["BubMcp"]


class BubMcp:
    """Implements `HostServers` over bub-mcp; without bub-mcp there are no servers."""

    def __init__(self, framework: BubFramework) -> None:
        self._framework = framework

    async def names(self) -> tuple[str, ...]:
        """The servers that Bub is configured with."""
        servers = self._servers()
        if servers is None:
            return ()
        try:
            return tuple(await asyncio.to_thread(servers.configured))
        except (OSError, ValueError, RuntimeError):
            return ()  # bub-mcp logs it, and `crew doctor` tells

    def connector(self, name: str) -> Connector:
        """How one of them is reached."""
        return _BubConnector(self, name)

    async def close(self) -> None:
        """End the servers that were connected here; those of a chat are the chat's."""
        servers = self._servers()
        if servers is not None:
            await servers.stop()

    def servers(self) -> compat.BubServers:
        """bub-mcp's side. Raises `NotConnected` without bub-mcp."""
        servers = self._servers()
        if servers is None:
            raise NotConnected("bub-mcp is not loaded")
        return servers

    def _servers(self) -> compat.BubServers | None:
        channel = compat.mcp_channel(self._framework)
        return compat.BubServers(channel) if channel is not None else None


class _BubConnector:
    """One server. Takes over the connection that Bub has, until that one has died."""

    def __init__(self, bub: BubMcp, name: str) -> None:
        self._bub = bub
        self._name = name
        self._used: Any = None
        """The client of the last connection: once it is asked for another one, it is dead."""

    @property
    def name(self) -> str:
        """The name in Bub's configuration."""
        return self._name

    async def connect(self) -> Connection:
        """Bub's connection, or a new one in its place."""
        servers = self._bub.servers()
        await servers.settled()
        client = servers.client(self._name)
        if client is None or client is self._used:
            client = await self._new(servers)
        self._used = client
        connection = Connection(compat.session_of(client), close=lambda: servers.close(self._name, client))
        compat.on_end(client, connection.end)
        try:
            await connection.refresh()
        except BaseException as error:
            # Also if it took too long: a client that nobody has keeps its server's process.
            await connection.close()
            if isinstance(error, Unsent | Refused | ConnectionError):
                raise NotConnected(str(error)) from error
            raise
        return connection

    async def _new(self, servers: compat.BubServers) -> Any:
        configured = (await asyncio.to_thread(servers.configured)).get(self._name)
        if configured is None:
            raise NotConnected("it is not in Bub's configuration any more")
        await servers.connect(self._name, configured)
        client = servers.client(self._name)
        if client is None:
            raise NotConnected(servers.error(self._name))
        return client
