"""The MCP tools of sessions: looked up at every call, over connections that all sessions share."""

from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup

from crew_plugin.host import ServerReport, ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.mcp.connection import Connection
from crew_plugin.mcp.content import Keep, RemoteTool, render
from crew_plugin.mcp.link import Connector, Link, LinkNote, LinkState, NotConnected
from crew_plugin.mcp.names import Access, ServerAccess, server_prefix, tool_name
from crew_plugin.mcp.protocol import Refused, Unsent
from crew_plugin.mcp.servers import OwnServer
from crew_plugin.models.records import Effect

if TYPE_CHECKING:
    from crew_plugin.models.spec import McpServerSpec

__all__ = ["HostServers", "McpProxy", "McpTimes", "SessionTools", "ToolSource", "ToolsOfServers"]

_END_SECONDS: Final = 7.0
_WORD: Final = 160


class HostServers(Protocol):
    """The servers that the host has connections to, or would open them."""

    async def names(self) -> tuple[str, ...]:
        """Their names. Starts nothing."""
        ...

    def connector(self, name: str) -> Connector:
        """How one of them is reached: over the host's own connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class McpTimes:
    """How long things with servers may take."""

    call_seconds: float = 60.0
    connect_seconds: float = 20.0
    idle_seconds: float = 300.0
    """A server of one agent that no session of it uses is ended after this."""
    calls: Mapping[str, float] | None = None
    """Other limits for the calls of single servers of the host, by name."""


class ToolsOfServers(Protocol):
    """The MCP tools of one session."""

    def specs(self) -> list[ToolSpec]:
        """Those that may be called now."""
        ...

    def watch(self, told: Callable[[LinkNote], None], keep: Keep | None) -> None:
        """Have `told` called with what happens to the servers; what cannot be shown goes to `keep`."""
        ...

    def close(self) -> None:
        """Let go of the servers."""
        ...


class ToolSource(Protocol):
    """Where sessions get MCP tools from: connections of this process, or its supervisor's."""

    async def tools(self, access: Access, servers: "Sequence[McpServerSpec]", cwd: str) -> ToolsOfServers:
        """The tools that `access` allows."""
        ...


@dataclass(slots=True, kw_only=True)
class _Bond:
    """A link, and what is known about its use."""

    link: Link
    own: bool
    call_seconds: float
    users: int = 0
    releases: int = 0


class McpProxy:
    """All links of a process. Use it inside `running`, which ends what was started here."""

    def __init__(self, host: HostServers, times: McpTimes) -> None:
        self._host = host
        self._times = times
        self._bonds: dict[object, _Bond] = {}
        self._group: TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Own the connections. On leaving, servers of agents are ended; the host's are the host's."""
        failure: Exception | None = None
        async with anyio.create_task_group() as group:
            self._group = group
            try:
                yield
            except Exception as error:  # noqa: BLE001 - raised again outside, not wrapped by the group
                failure = error
            finally:
                with anyio.move_on_after(_END_SECONDS, shield=True):
                    async with anyio.create_task_group() as ending:
                        for bond in self._bonds.values():
                            if bond.own:
                                ending.start_soon(bond.link.disconnect)
                self._bonds.clear()
                self._group = None
                group.cancel_scope.cancel()
        if failure is not None:
            raise failure

    async def tools(self, access: Access, servers: "Sequence[McpServerSpec]", cwd: str) -> "SessionTools":
        """The tools that `access` allows, of the host's servers and of the agent's own. Waits for the
        servers that are concerned, each within its limit. Close what is returned."""
        there = await self._host.names() if access.allow or servers else ()
        rights = ServerAccess(access, own=[spec.name for spec in servers], host=there)
        bonds, clashes = self._concerned(rights, servers, there, cwd)
        for bond in bonds:
            bond.users += 1
        tools = SessionTools(self, bonds, rights, clashes)
        try:
            async with anyio.create_task_group() as group:
                for bond in bonds:
                    group.start_soon(_try, bond.link)
        except BaseException:
            tools.close()
            raise
        return tools

    async def report(
        self, access: Access, servers: "Sequence[McpServerSpec]", cwd: str
    ) -> tuple[ServerReport, ...]:
        """What each server that is concerned gives, and what of it is denied. Connects to them."""
        tools = await self.tools(access, servers, cwd)
        try:
            return tools.report()
        finally:
            tools.close()

    def release(self, bond: _Bond) -> None:
        """Note that a session does not use this link any more."""
        bond.users -= 1
        bond.releases += 1
        if bond.own and not bond.users and self._group is not None:
            self._group.start_soon(self._end_unused, bond, bond.releases)

    async def _end_unused(self, bond: _Bond, releases: int) -> None:
        await anyio.sleep(self._times.idle_seconds)
        if not bond.users and bond.releases == releases:
            await bond.link.disconnect()

    def _concerned(
        self, rights: ServerAccess, servers: "Sequence[McpServerSpec]", there: Sequence[str], cwd: str
    ) -> tuple[list[_Bond], list[LinkNote]]:
        bonds = [self._own(spec, cwd) for spec in servers]
        own = {server_prefix(spec.name): spec.name for spec in servers}
        taken = dict(own)
        clashes: list[LinkNote] = []
        for name in there:
            prefix = server_prefix(name)
            if prefix in taken:
                whose = "the agent's own server" if prefix in own else "server"
                text = f"the host's server {name!r} is hidden by {whose} {taken[prefix]!r} of the same name"
                clashes.append(LinkNote(server=name, state=LinkState.FAILED, text=text))
                continue
            taken[prefix] = name
            if rights.concerns(name):
                bonds.append(self._hosts(name))
        return bonds, clashes

    def _own(self, spec: "McpServerSpec", cwd: str) -> _Bond:
        # The same description in the same folder is the same server, whoever's agent names it.
        key = (spec.model_dump_json(), cwd)
        if key not in self._bonds:
            link = self._link(OwnServer(spec, cwd, self._running()))
            seconds = spec.call_seconds or self._times.call_seconds
            self._bonds[key] = _Bond(link=link, own=True, call_seconds=seconds)
        return self._bonds[key]

    def _hosts(self, name: str) -> _Bond:
        if name not in self._bonds:
            seconds = (self._times.calls or {}).get(name, self._times.call_seconds)
            link = self._link(self._host.connector(name))
            self._bonds[name] = _Bond(link=link, own=False, call_seconds=seconds)
        return self._bonds[name]

    def _link(self, connector: Connector) -> Link:
        return Link(connector, self._running(), connect_seconds=self._times.connect_seconds)

    def _running(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError("MCP servers are only reached inside `running`")
        return self._group


class SessionTools:
    """The MCP tools of one session, as they are now."""

    def __init__(
        self, proxy: McpProxy, bonds: Sequence[_Bond], rights: ServerAccess, clashes: Sequence[LinkNote]
    ) -> None:
        self._proxy = proxy
        self._bonds = tuple(bonds)
        self._rights = rights
        self._clashes = tuple(clashes)
        self._keep: Keep | None = None
        self._unlisten: list[Callable[[], None]] = []

    def watch(self, told: Callable[[LinkNote], None], keep: Keep | None) -> None:
        """Have `told` called with what happens to the servers, what is so already first; bodies that
        a model cannot be shown go to `keep`."""
        self._keep = keep
        self._unlisten += [bond.link.listen(told) for bond in self._bonds]
        for note in (*self._clashes, *self._doubles()):
            told(note)
        for bond in self._bonds:
            if bond.link.connection is None:
                told(LinkNote(server=bond.link.server, state=bond.link.state, text=bond.link.reason))

    def close(self) -> None:
        """Let go of the servers."""
        for unlisten in self._unlisten:
            unlisten()
        self._unlisten = []
        bonds, self._bonds = self._bonds, ()
        for bond in bonds:
            self._proxy.release(bond)

    def names(self) -> tuple[str, ...]:
        """What may be called now."""
        return tuple(self._found())

    def specs(self) -> list[ToolSpec]:
        """The tools that may be called now."""
        return [self._spec(name, bond, tool) for name, (bond, tool) in self._found().items()]

    def report(self) -> tuple[ServerReport, ...]:
        """What is known of each server."""
        found = self._found()
        return tuple(self._report(bond, found) for bond in self._bonds) + tuple(
            ServerReport(name=note.server, own=False, state="hidden", reason=note.text)
            for note in self._clashes
        )

    def _report(self, bond: _Bond, found: Mapping[str, tuple[_Bond, RemoteTool]]) -> ServerReport:
        tools = _tools_of(bond)
        names = [name for name, _ in tools]
        denied = [name for name, tool in tools if self._rights.denies(bond.link.server, tool.name)]
        return ServerReport(
            name=bond.link.server,
            own=bond.own,
            state=str(bond.link.state),
            reason=bond.link.reason,
            tools=tuple(name for name in dict.fromkeys(names) if name in found and found[name][0] is bond),
            denied=tuple(dict.fromkeys(denied)),
            offered=len(names),
        )

    def _found(self) -> dict[str, tuple[_Bond, RemoteTool]]:
        found: dict[str, tuple[_Bond, RemoteTool]] = {}
        for bond, tool in self._permitted():
            found.setdefault(tool_name(bond.link.server, tool.name), (bond, tool))
        return found

    def _permitted(self) -> Iterable[tuple[_Bond, RemoteTool]]:
        for bond in self._bonds:
            for tool in bond.link.tools:
                if self._rights.permits(bond.link.server, tool.name):
                    yield bond, tool

    def _doubles(self) -> Iterable[LinkNote]:
        """Tools that nobody can call, because another one has their name."""
        seen: dict[str, tuple[_Bond, RemoteTool]] = {}
        for bond, tool in self._permitted():
            name = tool_name(bond.link.server, tool.name)
            other, first = seen.setdefault(name, (bond, tool))
            if other is not bond:
                theirs = f"the tool {first.name!r} of {other.link.server!r}"
                text = f"its tool {tool.name!r} and {theirs} are both called {name}: the latter is used"
            elif first.name != tool.name:
                text = f"its tools {first.name!r} and {tool.name!r} are both called {name}: use the first"
            else:
                continue
            yield LinkNote(server=bond.link.server, state=LinkState.TOOLS_CHANGED, text=text)

    def _spec(self, name: str, bond: _Bond, tool: RemoteTool) -> ToolSpec:
        async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
            return ToolOutput(text=await self._call(name, bond, tool.name, arguments, context))

        return ToolSpec(
            name=name,
            description=tool.description,
            parameters=tool.parameters,
            execute=execute,
            effect=Effect.PURE if tool.read_only else Effect.EXTERNAL,
        )

    async def _call(
        self, name: str, bond: _Bond, original: str, arguments: Mapping[str, Any], context: ToolContext
    ) -> str:
        """Call over the connection that there is now. A call that got nowhere is made once more, and
        so is a lost one if the server said that the tool changes nothing. All of that within the one
        limit of a call."""
        link, deadline = bond.link, anyio.current_time() + bond.call_seconds
        for again in (False, True):
            connection, tool = await self._ready(name, bond, original, deadline)
            try:
                with anyio.fail_after(deadline - anyio.current_time()):
                    answer = await connection.call(original, arguments, _shown(context))
            except TimeoutError as error:
                raise ToolError(
                    f"{name}: MCP server {link.server!r} did not answer within {bond.call_seconds:g} s and "
                    "was told to stop. It may have done part of the work; look before you call it again"
                ) from error
            except Unsent as error:
                link.lost(connection, str(error))
                if again:
                    raise ToolError(_gone(name, link, str(error))) from error
            except OSError as error:
                link.lost(connection, str(error))
                if again or not tool.read_only:
                    raise ToolError(
                        f"{name}: the connection to MCP server {link.server!r} was lost during the call "
                        f"({error}). Whether it took effect is unknown and it was not repeated: check "
                        "before you call it again. The next call connects again"
                    ) from error
            except Refused as error:
                raise ToolError(f"{name}: MCP server {link.server!r} refused the call: {error}") from error
            else:
                text = await render(answer, name, self._keep)
                with anyio.CancelScope(deadline=deadline):  # there is an answer: it is given in any case
                    await link.listed()
                if answer.failed:
                    raise ToolError(f"{name} failed: {text}")
                return text
        raise AssertionError("the second attempt returns or raises")

    async def _ready(
        self, name: str, bond: _Bond, original: str, deadline: float
    ) -> tuple[Connection, RemoteTool]:
        link = bond.link
        try:
            # Who gives up here leaves the connecting to the link, which goes on for later calls.
            with anyio.fail_after(deadline - anyio.current_time()):
                connection = await link.ready()
        except TimeoutError as error:
            raise ToolError(
                f"{name}: MCP server {link.server!r} was being reconnected and was not ready within the "
                f"{bond.call_seconds:g} s of this call. Nothing was done. It is still being reconnected: "
                "go on without it, or try again later"
            ) from error
        except NotConnected as error:
            raise ToolError(_gone(name, link, str(error))) from error
        tool = next((tool for tool in connection.tools if tool.name == original), None)
        if tool is None:
            there = ", ".join(tool.name for tool in connection.tools) or "none"
            raise ToolError(f"MCP server {link.server!r} has no tool {original!r} any more; it has: {there}")
        return connection, tool


def _tools_of(bond: _Bond) -> list[tuple[str, RemoteTool]]:
    return [(tool_name(bond.link.server, tool.name), tool) for tool in bond.link.tools]


def _gone(name: str, link: Link, reason: str) -> str:
    return (
        f"{name}: MCP server {link.server!r} is not connected: {reason}. Nothing was done. Go on "
        "without it, or try again later"
    )


def _shown(context: ToolContext) -> Callable[[float, float | None, str | None], Any]:
    async def show(done: float, of: float | None, word: str | None) -> None:
        if context.progress is not None:
            amount = f"{done:g} of {of:g}" if of else f"{done:g}"
            text = " ".join((word or "").split())[:_WORD]
            await context.progress(f"{amount}: {text}" if text else amount)

    return show


async def _try(link: Link) -> None:
    with suppress(NotConnected):
        await link.ready()
