"""Servers that we start or reach ourselves: those that one agent has for itself."""

import os
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import anyio
from anyio.abc import TaskGroup

from crew_plugin.mcp import protocol
from crew_plugin.mcp.connection import Connection
from crew_plugin.mcp.link import NotConnected

if TYPE_CHECKING:
    from crew_plugin.models.spec import McpServerSpec

__all__ = ["OwnServer", "resolved"]

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_STOP_SECONDS: Final = 5.0
"""A server is asked to end for 2 s and terminated for 2 s before it is killed."""
_SAID: Final = 2_000
_SHOWN_SAID: Final = 300


def resolved(values: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """The values with each `${NAME}` replaced by that variable. Raises `NotConnected` without one."""

    def value_of(found: re.Match[str]) -> str:
        try:
            return environment[found[1]]
        except KeyError:
            raise NotConnected(f"it needs the environment variable {found[1]}, which is not set") from None

    return {name: _VARIABLE.sub(value_of, value) for name, value in values.items()}


class OwnServer:
    """Connects to a server that an agent's file describes. Its process sees the few variables that
    every program needs, and those that the file gives it: no key of anybody else."""

    def __init__(self, spec: "McpServerSpec", cwd: str, group: TaskGroup) -> None:
        self._spec = spec
        self._cwd = cwd
        self._group = group

    @property
    def name(self) -> str:
        """The name in the agent's file."""
        return self._spec.name

    async def connect(self) -> Connection:
        """Start the server, or reach it, and list its tools."""
        opening = _Opening()
        self._group.start_soon(self._own, opening)
        try:
            await opening.decided.wait()
        except anyio.get_cancelled_exc_class():
            opening.stop()
            raise
        if opening.connection is None:
            raise NotConnected(opening.problem)
        return opening.connection

    async def _own(self, opening: "_Opening") -> None:
        """Hold the session in one task from its start to its end, as `mcp` demands."""
        said = _Said()
        try:
            async with self._session(said) as session:
                with opening.starting:
                    await cast("Any", session).initialize()
                    connection = Connection(session, close=opening.close)
                    await connection.refresh()
                    opening.connection = connection
                    opening.decided.set()
                await opening.stopping.wait()
        except Exception as error:  # noqa: BLE001 - becomes the reason that the connection's users are told
            opening.problem = _reason(error)
        finally:
            opening.over(said.text)

    def _session(self, said: "_Said") -> AbstractAsyncContextManager[object]:
        spec = self._spec
        if spec.url is not None:
            return protocol.open_http(url=spec.url, headers=resolved(spec.headers, os.environ))
        return self._stdio(said)

    @asynccontextmanager
    async def _stdio(self, said: "_Said") -> AsyncGenerator[object]:
        spec = self._spec
        env = resolved(spec.env, os.environ)
        args = tuple(resolved({str(at): arg for at, arg in enumerate(spec.args)}, os.environ).values())
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(said.listen, reading)
                with os.fdopen(writing, "w", encoding="utf-8") as log:
                    async with protocol.open_stdio(
                        command=spec.command or "", args=args, env=env, cwd=self._cwd, log=log
                    ) as session:
                        yield session
                group.cancel_scope.cancel()
        finally:
            os.close(reading)


class _Opening:
    """One attempt to connect, and what came of it."""

    def __init__(self) -> None:
        self.decided = anyio.Event()
        self.stopping = anyio.Event()
        self.ended = anyio.Event()
        self.starting = anyio.CancelScope()
        self.connection: Connection | None = None
        self.problem = "it was stopped"

    def stop(self) -> None:
        """Have the server ended in good order."""
        self.starting.cancel()
        self.stopping.set()

    async def close(self) -> None:
        """The same, and wait for it."""
        self.stop()
        with anyio.move_on_after(_STOP_SECONDS):
            await self.ended.wait()

    def over(self, said: str) -> None:
        """Tell everybody that the server is gone, with the last that it wrote."""
        if said:
            self.problem = f"{self.problem}; it wrote: {said}"
        if self.connection is not None:
            self.connection.end(self.problem)
        self.decided.set()
        self.ended.set()


class _Said:
    """The end of what a server wrote to its standard error."""

    def __init__(self) -> None:
        self._bytes = b""

    @property
    def text(self) -> str:
        """It, on one line."""
        return " ".join(self._bytes.decode("utf-8", "replace").split())[-_SHOWN_SAID:]

    async def listen(self, descriptor: int) -> None:
        """Read until nobody can write any more."""
        while True:
            try:
                piece = os.read(descriptor, 65_536)
            except BlockingIOError:
                await anyio.wait_readable(descriptor)
                continue
            if not piece:
                return
            self._bytes = (self._bytes + piece)[-_SAID:]


def _reason(error: BaseException) -> str:
    """What went wrong, out of the groups that task groups make of it."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _SHOWN_SAID else text[: _SHOWN_SAID - 1] + "…"
