"""Bub as an engine: sessions of the crew as private agents in Bub's own process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from importlib import import_module

from bub.framework import BubFramework
from loguru import logger

from crew_hooks.bub.clients import ClientPool
from crew_hooks.bub.compat.agent import offered_tool
from crew_hooks.bub.compat.runner import usual_clients
from crew_hooks.bub.mcp import CALL_SECONDS, McpProxy
from crew_hooks.bub.session import BubSession
from crew_hooks.bub.toolset import HOST_TOOLS
from crew_plugin.host import EngineCapability, Session, SessionSpec

__all__ = ["BubEngine"]


class BubEngine:
    """Holds conversations in a loaded framework. All its sessions share clients and MCP servers.

    `mcp_seconds` is how long one call of an MCP tool may take.
    """

    def __init__(self, framework: BubFramework, *, mcp_seconds: float = CALL_SECONDS) -> None:
        self._framework = framework
        self._pool = ClientPool()
        self._mcp = McpProxy(framework, call_seconds=mcp_seconds)

    @property
    def name(self) -> str:
        """`bub`."""
        return "bub"

    @property
    def capabilities(self) -> frozenset[EngineCapability]:
        """Everything that an engine may be able to do."""
        return frozenset(EngineCapability)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Builds the clients of the usual model, off the loop, so that no session waits for them.

        Closes the clients and ends the MCP servers of this engine on leaving, sessions first.
        """
        async with AsyncExitStack() as stack:
            # One that cannot be closed does not keep the others open.
            stack.push_async_callback(self._pool.close)
            stack.push_async_callback(self._mcp.close)
            warming = asyncio.create_task(self._warm(), name="crew clients")
            stack.push_async_callback(asyncio.wait, {warming})
            stack.callback(warming.cancel)
            yield

    async def _warm(self) -> None:
        try:
            await asyncio.to_thread(import_module, "crew_hooks.bub.lean")
            for provider, arguments in usual_clients():
                await self._pool.get(provider, arguments)
        except Exception as error:  # noqa: BLE001 - a session that needs the client tells what is wrong
            logger.debug("crew: the clients of the usual model could not be built: {!r}", error)

    def open(self, spec: SessionSpec) -> AbstractAsyncContextManager[Session]:
        """A session, opened on entry. Leaving it ends all that it owns."""
        return BubSession(self._framework, spec, self._pool, self._mcp)

    async def available_tools(self, names: tuple[str, ...], cwd: str) -> tuple[str, ...]:
        """Which of these names Bub can provide, in their order, wildcards expanded."""
        found: list[str] = []
        for name in names:
            if name in HOST_TOOLS:
                found += [name] if all(offered_tool(bub) is not None for bub in HOST_TOOLS[name]) else []
            else:
                found += await self._mcp.names((name,))
        return tuple(dict.fromkeys(found))
