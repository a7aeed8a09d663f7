"""bub-mcp's connections, and what is private about them: connecting one server, and hearing its end.

bub-mcp connects all servers at once, waits for a list of tools without a limit, and never connects
again. `bounded` puts a limit on each server for Bub's own start too.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownArgumentType=false, reportUnknownVariableType=false

import asyncio
import contextlib
import sys
from collections.abc import Callable
from typing import Any, Final

import anyio

__all__ = ["BubServers", "bounded", "mcp_channel", "on_end", "session_of"]

_CLOSE_SECONDS: Final = 6.0


def mcp_channel(framework: Any) -> Any | None:
    """bub-mcp's connections (an `MCPChannel`), None where bub-mcp is not loaded."""
    for _, plugin in framework.plugin_manager.list_name_plugin():
        manager = getattr(plugin, "_manager", None)
        if type(manager).__module__ == "bub_mcp.plugin" and hasattr(manager, "list"):
            return manager
    return None


def bounded(framework: Any, seconds: float) -> None:
    """Have bub-mcp give up a server that is not ready within this time, so that one that hangs
    does not keep the tools of all others from everybody."""
    channel = mcp_channel(framework)
    if channel is None or getattr(channel, "_crew_bounded", False):
        return
    _repair(channel)
    connect = channel._connect_server

    async def connect_server(name: str, config: dict[str, Any]) -> Any:
        try:
            async with asyncio.timeout(seconds):
                return await connect(name, config)
        except TimeoutError:
            return sys.modules[type(channel).__module__].MCPServerState(
                error=f"it did not get ready within {seconds:g} s"
            )

    channel._connect_server = connect_server
    channel._crew_bounded = True


class BubServers:
    """The servers of one `MCPChannel`."""

    def __init__(self, channel: Any) -> None:
        _repair(channel)
        self._channel = channel

    def configured(self) -> dict[str, dict[str, Any]]:
        """The servers that Bub is configured with. Reads a file."""
        servers: dict[str, dict[str, Any]] = self._channel._read_mcp_servers()
        return servers

    async def settled(self) -> None:
        """Wait until Bub has done with connecting, if it ever began."""
        task = self._channel._bootstrap_task
        if task is not None:
            await asyncio.wait({task})

    def client(self, name: str) -> Any | None:
        """The client of a connected server."""
        state = self._channel._servers.get(name)
        return state.client if state is not None and state.connected else None

    def error(self, name: str) -> str:
        """Why a server is not connected."""
        state = self._channel._servers.get(name)
        return (state.error if state is not None else None) or "it could not be connected"

    async def connect(self, name: str, config: dict[str, Any]) -> None:
        """Connect one server, in the place of whatever connection it had.

        A task of its own, cancelled once if this is cancelled: what bub-mcp does in its end must
        not be cut short, or a process is left behind.
        """
        task = asyncio.create_task(self._connect(name, config), name=f"crew connects {name}")
        try:
            await asyncio.wait({task})
        finally:
            if not task.done():
                task.cancel()
                await _finished(task)
        task.result()

    async def _connect(self, name: str, config: dict[str, Any]) -> None:
        channel = self._channel
        owned = channel._bootstrap_task is not None
        state = await channel._connect_server(name, config)
        if owned and channel._bootstrap_task is None:
            # Bub stopped its servers meanwhile, and nobody would stop this one.
            await _close(state.client)
            return
        before, channel._servers[name] = channel._servers.get(name), state
        if before is not None and before.client is not state.client:
            await _close(before.client)

    async def close(self, name: str, client: Any) -> None:
        """Close a client, and forget it if it is the server's newest."""
        state = self._channel._servers.get(name)
        if state is not None and state.client is client:
            state.client, state.connected = None, False
        task = asyncio.create_task(_close(client), name=f"crew closes {name}")
        await _finished(task)

    async def stop(self) -> None:
        """Close what was connected here, where Bub itself never began to connect."""
        if self._channel._bootstrap_task is None:
            task = asyncio.create_task(self._channel.stop(), name="crew stops MCP servers")
            await _finished(task)


def _repair(channel: Any) -> None:
    """Have bub-mcp close the transport of a client whose session failed. fastmcp leaves it open
    then, and with it the server's process."""
    if getattr(channel, "_crew_repaired", False):
        return
    channel._close_client = _close
    channel._crew_repaired = True


async def _close(client: Any) -> None:
    """End a client and its process."""
    if client is None:
        return
    for close in (client.close, client.transport.close):
        with contextlib.suppress(Exception):
            await close()


async def _finished(task: "asyncio.Task[Any]") -> None:
    """Wait for a task however often this is cancelled, but not for ever."""
    loop = asyncio.get_running_loop()
    until = loop.time() + _CLOSE_SECONDS
    cancelled: asyncio.CancelledError | None = None
    # Shielded both ways: anyio would cancel at every turn of the loop, asyncio does once.
    with anyio.CancelScope(shield=True):
        while not task.done() and loop.time() < until:
            try:
                await asyncio.wait({task}, timeout=until - loop.time())
            except asyncio.CancelledError as error:
                cancelled = error
    if cancelled is not None:
        raise cancelled


def session_of(client: Any) -> object:
    """The session of `mcp` behind a client."""
    return client.session


def on_end(client: Any, told: Callable[[str], None]) -> None:
    """Have `told` called with the reason when the client's session or its transport ends."""

    def ended(task: "asyncio.Task[Any]") -> None:
        told(_why(task))

    transport = getattr(client.transport, "transport", client.transport)
    tasks = (client._session_state.session_task, getattr(transport, "_connect_task", None))
    for task in tasks:
        if task is not None:
            task.add_done_callback(ended)


def _why(task: "asyncio.Task[Any]") -> str:
    error = None if task.cancelled() else task.exception()
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{str(error) or type(error).__name__}" if error is not None else "it was closed"
