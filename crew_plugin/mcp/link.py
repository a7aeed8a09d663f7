"""The lasting link to one server: connected when needed, once for all, again after it was lost.

States: a link is idle until its first use, then connected; a connection that is lost is made anew
by the next call. A server that dies again and again is left alone for a while, with the reason.
"""

import logging
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from crew_plugin.mcp.connection import Connection
from crew_plugin.mcp.content import RemoteTool
from crew_plugin.mcp.protocol import Unsent

__all__ = ["Connector", "Link", "LinkNote", "LinkState", "NotConnected"]

logger = logging.getLogger(__name__)

_PAUSES: Final = (0.0, 0.2, 1.0)
"""Before each attempt of a reconnect."""
_COOL_SECONDS: Final = 15.0
"""After a failed connect, calls are refused at once for this long."""
_LOSSES: Final = 5
_WINDOW_SECONDS: Final = 600.0
"""So many losses in so long a time, and the server is given up for as long again."""
_CLOSE_SECONDS: Final = 6.0
_LIST_SECONDS: Final = 2.0
_AGAIN_SECONDS: Final = 0.5
"""Before tools are read once more, if reading them brought nothing: some servers say after every list
that they have changed."""


class NotConnected(Exception):
    """There is no connection, and none will be made now. The text says why."""


class LinkState(StrEnum):
    """What is known of a server's connection."""

    IDLE = "idle"
    """Not connected, because nobody needs it."""
    CONNECTED = "connected"
    LOST = "lost"
    """It died; the next call connects again."""
    FAILED = "failed"
    """It could not be connected."""
    GIVEN_UP = "given_up"
    """It died too often."""
    RECONNECTED = "reconnected"
    """Connected again after a loss. Only ever told, then it is `connected`."""
    TOOLS_CHANGED = "tools_changed"
    """It has other tools now. Only ever told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkNote:
    """Something that happened to the connection of a server."""

    server: str
    state: LinkState
    text: str


class Connector(Protocol):
    """How one server is reached."""

    @property
    def name(self) -> str:
        """The server's name."""
        ...

    async def connect(self) -> Connection:
        """A connection whose tools were listed. Raises `NotConnected`; cancelling leaves nothing open."""
        ...


class Link:
    """One server for all sessions. Its connection belongs to the task group, not to a session."""

    def __init__(self, connector: Connector, group: TaskGroup, *, connect_seconds: float) -> None:
        self._connector = connector
        self._group = group
        self._connect_seconds = connect_seconds
        self._connection: Connection | None = None
        self._flight: anyio.Event | None = None
        self._losses: deque[float] = deque(maxlen=_LOSSES)
        self._refused_until = 0.0
        self._listeners: list[Callable[[LinkNote], None]] = []
        self._relisting: anyio.Event | None = None
        self._stale = False
        self.state = LinkState.IDLE
        self.reason = ""
        """Why it is not connected, or was last not."""
        self.tools: tuple[RemoteTool, ...] = ()
        """What it listed last. They stay while it is lost: calling one connects again."""

    @property
    def server(self) -> str:
        """The server's name."""
        return self._connector.name

    @property
    def connection(self) -> Connection | None:
        """The connection there is, without making one."""
        return self._connection

    def listen(self, told: Callable[[LinkNote], None]) -> Callable[[], None]:
        """Have `told` called with what happens, until the returned function is called."""
        self._listeners.append(told)
        return lambda: self._listeners.remove(told)

    async def ready(self) -> Connection:
        """The connection; it is made if there is none, once for all who wait.

        Raises:
            NotConnected: if it cannot be made, or is not tried now. Says why.
        """
        connection = self._connection
        if connection is not None and connection.alive:
            return connection
        if connection is not None:
            self.lost(connection, connection.reason)
        if anyio.current_time() < self._refused_until:
            raise NotConnected(self.reason)
        if self._flight is None:
            self._flight = anyio.Event()
            self._group.start_soon(self._connect, self._flight)
        await self._flight.wait()
        if self._connection is None:
            raise NotConnected(self.reason)
        return self._connection

    def lost(self, connection: Connection, reason: str) -> None:
        """Note that this connection broke. Who finds out a second time changes nothing."""
        if connection is not self._connection:
            return
        self._connection = None
        connection.end(reason)
        self._group.start_soon(_closed, connection)
        now = anyio.current_time()
        self._losses.append(now)
        self.state, self.reason = LinkState.LOST, reason
        self._tell(LinkState.LOST, reason)
        if len(self._losses) == _LOSSES and now - self._losses[0] < _WINDOW_SECONDS:
            self._refused_until = now + _WINDOW_SECONDS
            self._losses.clear()
            self.reason = (
                f"it was lost {_LOSSES} times in {_WINDOW_SECONDS / 60:g} minutes (last: {reason}) and is "
                f"left alone for {_WINDOW_SECONDS / 60:g} minutes"
            )
            self.state = LinkState.GIVEN_UP
            self._tell(LinkState.GIVEN_UP, self.reason)

    async def disconnect(self) -> None:
        """Close the connection that nobody needs any more. The next use connects again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self.state = LinkState.IDLE
            await _closed(connection)

    async def _connect(self, landed: anyio.Event) -> None:
        again = self.state not in (LinkState.IDLE, LinkState.CONNECTED)
        try:
            for pause in _PAUSES if self.state is LinkState.LOST else _PAUSES[:1]:
                await anyio.sleep(pause)
                if await self._connected_now(again):
                    return
            self._refused_until = anyio.current_time() + _COOL_SECONDS
            self.state = LinkState.FAILED
            self._tell(LinkState.FAILED, self.reason)
        finally:
            self._flight = None
            landed.set()

    async def _connected_now(self, again: bool) -> bool:
        try:
            with anyio.fail_after(self._connect_seconds):
                connection = await self._connector.connect()
        except NotConnected as error:
            self.reason = str(error)
            return False
        except TimeoutError:
            self.reason = f"it did not get ready within {self._connect_seconds:g} s"
            return False
        except Exception as error:  # noqa: BLE001 - becomes the reason that the server's users are told
            self.reason = f"{type(error).__name__}: {error}"
            return False
        self._connection, self.state, self.reason = connection, LinkState.CONNECTED, ""
        self.tools = connection.tools
        self._stale = False
        connection.on_changed(lambda: self._list_again(connection))
        if again:
            self._tell(LinkState.RECONNECTED, f"connected again, {len(connection.tools)} tools")
        return True

    def _list_again(self, connection: Connection) -> None:
        """Read the tools anew; what changes meanwhile is read once more."""
        if connection is not self._connection:
            return
        self._stale = True
        if self._relisting is None:
            self._relisting = anyio.Event()
            self._group.start_soon(self._relist, self._relisting)

    async def listed(self) -> None:
        """Wait a moment for tools that are just being read anew, so that the next step has them."""
        if self._relisting is not None:
            with anyio.move_on_after(_LIST_SECONDS):
                await self._relisting.wait()

    async def _relist(self, done: anyio.Event) -> None:
        try:
            # Also after one that failed, and if there is another connection by now: that the tools
            # changed may have been said meanwhile, and is not said again.
            while self._stale and self._connection is not None:
                self._stale = False
                if not await self._read_tools(self._connection) and self._stale:
                    await anyio.sleep(_AGAIN_SECONDS)
        finally:
            self._relisting = None
            done.set()

    async def _read_tools(self, connection: Connection) -> bool:
        """Whether that brought anything new."""
        try:
            with anyio.fail_after(self._connect_seconds):
                await connection.refresh()
        except (Unsent, ConnectionError) as error:
            self.lost(connection, str(error))
            return False
        except Exception as error:  # noqa: BLE001 - told to the server's users; the tools stay as they were
            if connection is self._connection:
                why = str(error) or f"no list within {self._connect_seconds:g} s"
                self._tell(LinkState.TOOLS_CHANGED, f"its tools changed but it does not list them: {why}")
            return False
        if connection is not self._connection or connection.tools == self.tools:
            return False
        before, self.tools = self.tools, connection.tools
        self._tell(LinkState.TOOLS_CHANGED, _difference(before, self.tools))
        return True

    def _tell(self, state: LinkState, text: str) -> None:
        note = LinkNote(server=self.server, state=state, text=text)
        for told in tuple(self._listeners):
            told(note)


def _difference(then: Sequence[RemoteTool], now: Sequence[RemoteTool]) -> str:
    before, after = {tool.name for tool in then}, {tool.name for tool in now}
    new, gone = sorted(after - before), sorted(before - after)
    parts = [f"new: {', '.join(new)}"] if new else []
    parts += [f"gone: {', '.join(gone)}"] if gone else []
    return "; ".join(parts) or "the same tools, described anew"


async def _closed(connection: Connection) -> None:
    with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
        try:
            await connection.close()
        except Exception:
            logger.warning("a connection to an MCP server could not be closed", exc_info=True)
