"""The crew of a Bub process is built at its first use and ended with the process.

Bub has no hooks for a session's start and end: the first `load_state` of a session is its
start, and the end of `framework.running()` ends all of them.
"""

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Final, cast

from crew_plugin.errors import HostUnsupported

if TYPE_CHECKING:
    from crew_plugin.crew import Crew

__all__ = ["COMMAND_SESSION", "OUR_SESSIONS", "CrewLife", "Turns", "is_ours"]

OUR_SESSIONS: Final = "temp/crew-"
"""How the ids of our own sessions begin. Bub does not merge the tapes of `temp/` sessions."""

COMMAND_SESSION: Final = "temp/crew-command:"
"""Before the id of a session, the session in which its chat commands run while it is busy."""

_CLOSE_SECONDS: Final = 12.0
"""Shells are given 5 s to end; what is still there after this long is left to its processes."""


def is_ours(session_id: str) -> bool:
    """Whether a session is a crew's, not one of the host's user."""
    return session_id.startswith(OUR_SESSIONS)


class Turns:
    """Which sessions of the host this process has seen."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._last = ""

    def changes(self, session_id: str) -> bool:
        """Note a turn; whether the turn before it was one of another session."""
        before, self._last = self._last, session_id
        return before not in ("", session_id)

    def knows(self, session_id: str) -> bool:
        """Whether this process has had a turn of the session."""
        return session_id in self._seen

    def begins(self, session_id: str) -> bool:
        """Note a turn; whether it is the first of its session."""
        first = session_id not in self._seen
        self._seen.add(session_id)
        return first


class CrewLife:
    """Owns the one crew of a process, from its first use to the end of the host.

    The crew lives in a task of its own, so that whichever turn happens to need it first owns
    nothing of it, and a failure of it does not reach the host's main task.
    """

    def __init__(self, build: Callable[[], AbstractAsyncContextManager["Crew"]]) -> None:
        self._build = build
        self._context: contextvars.Context | None = None
        self._task: asyncio.Task[None] | None = None
        self._ready: asyncio.Future[Crew] | None = None
        self._stop: asyncio.Event | None = None

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Allow the crew to be built. On leaving, end it, quietly and in bounded time."""
        # Not the context of the turn that comes first: its reporter and its owner are that turn's.
        self._context = contextvars.copy_context()
        try:
            yield
        finally:
            self._context = None
            await self.close()

    @property
    def begun(self) -> bool:
        """Whether the crew is there, or on its way."""
        return self._task is not None and not self._task.done()

    async def ensure(self) -> "Crew":
        """The crew, built now if need be. Raises what building it raised; the next call tries again."""
        return await asyncio.shield(self.begin())

    def begin(self) -> "asyncio.Future[Crew]":
        """Build the crew without waiting for it. Raises `HostUnsupported` outside `running`."""
        if self._context is None:
            raise HostUnsupported("the crew needs a running Bub: use it inside `framework.running()`")
        if self._ready is None or self._task is None or self._task.done():
            loop = asyncio.get_running_loop()
            self._ready, self._stop = loop.create_future(), asyncio.Event()
            self._task = loop.create_task(
                self._own(self._ready, self._stop), name="crew", context=self._context.copy()
            )
        return self._ready

    async def close(self) -> None:
        """End the crew. Closing twice, or before it was ever built, does nothing."""
        task, self._task = self._task, None
        if task is None or self._stop is None:
            return
        self._stop.set()
        await _settle(task)
        self._ready = self._stop = None

    async def _own(self, ready: "asyncio.Future[Crew]", stop: asyncio.Event) -> None:
        try:
            async with self._build() as crew:
                ready.set_result(crew)
                await stop.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(
                _alone(error) if isinstance(error, Exception) else HostUnsupported("Bub is ending")
            )
            # Whoever waits gets it from the future; nobody has to be waiting any more.
            ready.exception()
            if not isinstance(error, Exception):
                raise


def _alone(error: Exception) -> Exception:
    """The one error that a group of errors is about: task groups wrap what they only pass on, and
    whoever waits for the crew knows what to say of the error itself."""
    group: object = error
    inner = cast("ExceptionGroup[Exception]", group).exceptions if isinstance(group, ExceptionGroup) else ()
    return _alone(inner[0]) if len(inner) == 1 else error


async def _settle(task: "asyncio.Task[Any]") -> None:
    """Wait for the task to end by itself, then cancel it once; never longer than the bound."""
    done, _ = await asyncio.wait({task}, timeout=_CLOSE_SECONDS)
    if not done:
        task.cancel()
        done, _ = await asyncio.wait({task}, timeout=1)
    for ended in done:
        if not ended.cancelled() and (error := ended.exception()) is not None:
            raise error
