"""Bub as an engine: sessions of the crew as private agents in Bub's own process."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from bub.framework import BubFramework
from loguru import logger

from crew_hooks.bub.clients import ClientPool
from crew_hooks.bub.compat.agent import offered_tool, plugin_tool
from crew_hooks.bub.compat.runner import usual_clients
from crew_hooks.bub.mcp import BubMcp
from crew_hooks.bub.parts import import_parts
from crew_hooks.bub.session import BubSession
from crew_hooks.bub.toolset import HOST_TOOLS
from crew_plugin.config.settings import Settings
from crew_plugin.engine.orphans import owner_mark
from crew_plugin.engine.provider_gate import USUAL_CEILING, USUAL_START, ProviderGates
from crew_plugin.host import EngineCapability, ServerReport, Session, SessionSpec
from crew_plugin.mcp.names import Access, matches
from crew_plugin.mcp.proxy import McpProxy, McpTimes
from crew_plugin.models.spec import McpServerSpec
from crew_plugin.store.liveness import current_owner

__all__ = ["BubEngine", "mcp_times"]


def mcp_times(settings: Settings) -> McpTimes:
    """What the settings say about MCP servers."""
    return McpTimes(
        call_seconds=settings.mcp.call_seconds,
        connect_seconds=settings.mcp.connect_seconds,
        idle_seconds=settings.mcp.idle_seconds,
        calls={name: server.call_seconds for name, server in settings.mcp.servers.items()},
    )


class BubEngine:
    """Holds conversations in a loaded framework. All its sessions share clients and MCP servers.

    `mcp` is how long things with MCP servers may take, `gates` how many requests at once
    a provider is asked, `hook_seconds` what one hook of another plugin may take.
    """

    def __init__(
        self,
        framework: BubFramework,
        *,
        mcp: McpTimes | None = None,
        gates: ProviderGates | None = None,
        hook_seconds: float = 10.0,
    ) -> None:
        self._framework = framework
        self._hook_seconds = hook_seconds
        self._gates = gates or ProviderGates(start=USUAL_START, ceiling=USUAL_CEILING)
        self._pool = ClientPool(self._gates)
        self._bub_mcp = BubMcp(framework)
        self._mcp = McpProxy(self._bub_mcp, mcp or McpTimes())

    @property
    def name(self) -> str:
        """`bub`."""
        return "bub"

    @property
    def capabilities(self) -> frozenset[EngineCapability]:
        """Everything that an engine may be able to do."""
        return frozenset(EngineCapability)

    @property
    def servers(self) -> McpProxy:
        """The MCP servers of this process, for sessions in others."""
        return self._mcp

    @property
    def gates(self) -> ProviderGates:
        """The gates of the model providers, for sessions here and in worker processes."""
        return self._gates

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Builds the clients of the usual model, off the loop, so that no session waits for them.

        Closes the clients and ends the MCP servers of this engine on leaving, sessions first.
        """
        async with AsyncExitStack() as stack:
            # One that cannot be closed does not keep the others open.
            stack.push_async_callback(self._pool.close)
            stack.push_async_callback(self._bub_mcp.close)
            await stack.enter_async_context(self._mcp.running())
            warming = asyncio.create_task(self._warm(), name="crew clients")
            stack.push_async_callback(asyncio.wait, {warming})
            stack.callback(warming.cancel)
            yield

    async def _warm(self) -> None:
        try:
            await asyncio.to_thread(import_parts, "crew_hooks.bub.lean")
            for provider, arguments in usual_clients():
                await self._pool.get(provider, arguments)
        except Exception as error:  # noqa: BLE001 - a session that needs the client tells what is wrong
            logger.debug("crew: the clients of the usual model could not be built: {!r}", error)

    def open(self, spec: SessionSpec) -> AbstractAsyncContextManager[Session]:
        """A session, opened on entry. Leaving it ends all that it owns."""
        owner = owner_mark(current_owner())
        return BubSession(self._framework, spec, self._pool, self._mcp, self._hook_seconds, owner)

    async def available_tools(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[str, ...]:
        """Which of these names Bub can provide, in their order, wildcards expanded."""
        access = Access(allow=names, deny=denied)
        tools = await self._mcp.tools(access, servers, cwd)
        try:
            there = tools.names()
        finally:
            tools.close()
        found: list[str] = []
        for name in names:
            if name in HOST_TOOLS:
                found += [name] if all(offered_tool(bub) is not None for bub in HOST_TOOLS[name]) else []
            elif plugin_tool(name) is not None:
                found.append(name)
            else:
                found += [one for one in there if matches(name, one)]
        # Which tools of servers are denied has been decided by server: the name does not tell.
        return tuple(
            name for name in dict.fromkeys((*found, *there)) if name in there or not access.denies(name)
        )

    async def server_reports(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[ServerReport, ...]:
        """What each MCP server gives an agent that names these tools."""
        return await self._mcp.report(Access(allow=names, deny=denied), servers, cwd)
