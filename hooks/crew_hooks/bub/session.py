"""One conversation held by a private agent of Bub."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Any, Final, Self

import anyio
from bub.framework import BubFramework
from bub.streaming import StreamEvent
from loguru import logger

from crew_hooks.bub.clients import ClientPool
from crew_hooks.bub.compat import agent as compat
from crew_hooks.bub.compat.bridge import Bridge
from crew_hooks.bub.compat.runner import ModelFailed
from crew_hooks.bub.jobs import Jobs
from crew_hooks.bub.strays import end_strays
from crew_hooks.bub.toolset import HostTools, Toolset
from crew_plugin.engine.intime import is_ours
from crew_plugin.engine.orphans import DEPTH_VARIABLE, OWNER_VARIABLE, depth_here
from crew_plugin.errors import EngineError
from crew_plugin.host import (
    Job,
    JobEnded,
    ModelAnswered,
    ModelBusy,
    ModelRetrying,
    ModelWaiting,
    PluginActed,
    ServerNoted,
    SessionEvent,
    SessionFailed,
    SessionSpec,
    SteersTaken,
    TurnEnded,
)
from crew_plugin.mcp.link import LinkNote, LinkState
from crew_plugin.mcp.names import Access
from crew_plugin.mcp.proxy import ToolSource
from crew_plugin.models.causes import Cause
from crew_plugin.session.history import said_before

__all__ = ["SESSION_PREFIX", "BubSession"]

SESSION_PREFIX: Final = "temp/crew-"
"""Begins Bub's id of every session of ours. Bub never merges the tape of a `temp/` session."""

_QUIET_SECONDS: Final = 0.8
_SHELL_SECONDS: Final = 3.0
"""Between TERM and KILL: what Bub gives a shell, and we what left its shell."""
_LATE_SECONDS: Final = 0.2
"""The same for a process that was started while the session ended."""
_END_SECONDS: Final = 4.6
"""Beside those 3 s Bub takes up to 1 s to drain a shell's output."""
_BUSY_SECONDS: Final = 5.0
_BUSY_SHARE: Final = 1 / 3
"""How often a model that puts out its answer tells so: this share of the idle limit, if that is shorter."""
_STALL_SHARE: Final = 0.75
"""How much of the idle limit a provider may be silent before its call is made again."""


class BubSession:
    """A session of the crew inside Bub: one turn that goes on as long as the session.

    Bub would forget the history between two turns of a `temp/` session. So there is one turn:
    when a step ends without tool calls, the turn is not asked for its next event until there
    is a new prompt, which then stands in the inbox that Bub looks into before it ends a turn.
    """

    def __init__(
        self,
        framework: BubFramework,
        spec: SessionSpec,
        pool: ClientPool,
        mcp: ToolSource,
        hook_seconds: float,
        owner: str,
    ) -> None:
        """`owner` is the mark of the supervisor, for all that the session starts."""
        self._owner = owner
        self._framework = framework
        self._bridge = Bridge(framework, self, hook_seconds)
        self._spec = spec
        self._pool = pool
        self._mcp = mcp
        self._id = f"{SESSION_PREFIX}{spec.session_id}"
        self._stack = AsyncExitStack()
        self._events: asyncio.Queue[SessionEvent | None] = asyncio.Queue()
        self._inbox = _Inbox(self._taken)
        self._jobs = Jobs(self._id, self._emit)
        self._prompted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._only: frozenset[str] | None = None
        self._withdrawn: set[str] = set()
        self._left: tuple[str, ...] = ()
        self._afterwards: list[PluginActed] = []
        self._quiet = False
        self._cancelled = False
        self._busy_since = 0.0
        self._said = ""
        self._steps = sum(entry.role == "assistant" for entry in spec.history)

    # --- the port ---

    @property
    def host_session(self) -> str:
        """Bub's id of this session."""
        return self._id

    async def prompt(self, text: str) -> None:
        """Give the session its next user message."""
        self._inbox.put(text)
        self._prompted.set()

    async def steer(self, text: str) -> None:
        """Add a user message that the next model call sees."""
        self._inbox.put(text)

    def restrict(self, tools: frozenset[str], *, force: str | None = None) -> None:
        """From the next model call on, offer only these tools; `force` must be called."""
        self._only = tools
        self._offer()
        self._agent.runner.force(force)

    def withdraw(self, tool: str) -> None:
        """From the next model call on, do not offer this tool any more."""
        self._withdrawn.add(tool)
        self._offer()

    def left_running(self) -> tuple[str, ...]:
        """Tools that ignored their cancellation, and processes that outlived theirs."""
        return self._left

    def afterwards(self) -> tuple[PluginActed, ...]:
        """What other plugins did when the events were over."""
        return tuple(self._afterwards)

    def jobs(self) -> tuple[Job, ...]:
        """The shells that go on in the background."""
        return self._jobs.running()

    async def end_jobs(self) -> None:
        """End them, quietly."""
        await self._jobs.end()

    async def abort(self, cause: Cause) -> None:
        """Stop now. What resists keeps being ended when the session is left, unheard."""
        logger.debug("crew: {} is aborted: {}", self._id, cause)
        self._hush()
        task = self._cancel()
        if task is not None:
            await asyncio.wait({task}, timeout=_QUIET_SECONDS)

    async def events(self) -> AsyncIterator[SessionEvent]:
        """What happens, in order, until the session is over."""
        while (event := await self._events.get()) is not None:
            if isinstance(event, JobEnded) and not self._jobs.told(event.job):
                continue  # it was ended before its end was told
            yield event

    # --- its life ---

    async def __aenter__(self) -> Self:
        try:
            await self._open()
        except BaseException:
            await self._stack.aclose()
            raise
        self._task = asyncio.create_task(
            self._converse(), name=f"crew {self._spec.session_id}", context=compat.quiet_context()
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hush()
        closing = asyncio.create_task(self._close(), name=f"crew close {self._spec.session_id}")
        cancelled: asyncio.CancelledError | None = None
        # Shielded both ways: anyio would cancel at every turn of the loop, asyncio does once.
        with anyio.CancelScope(shield=True):
            while not closing.done():
                try:
                    await asyncio.wait({closing})
                except asyncio.CancelledError as again:
                    cancelled = again
        closing.result()
        if cancelled is not None:
            raise cancelled

    async def _open(self) -> None:
        spec = self._spec
        self._agent = compat.CrewAgent(
            self._framework,
            inbox=self._inbox,
            bridge=self._bridge,
            pool=self._pool,
            watch=self,
            system_prompt=spec.system_prompt,
            append_prompt=spec.append_prompt,
            retries=spec.limits.model_retries,
            stall_seconds=spec.limits.idle_seconds * _STALL_SHARE,
        )
        marks = {f"CREW_{name.upper()}": value for name, value in spec.identity.items()}
        self._marks = {
            **marks,
            "CREW_SESSION": spec.session_id,
            OWNER_VARIABLE: self._owner,
            DEPTH_VARIABLE: str(depth_here() + 1),
        }
        self._environment = await self._stack.enter_async_context(
            compat.owned_environment(self._bridge, self._id, spec.cwd, self._marks)
        )
        identity = {**spec.identity, "agent": spec.agent, "session": spec.session_id}
        loaded = await compat.load_state(self._bridge, self._agent, self._id, spec.cwd, identity)
        self._state: dict[str, Any] = compat.with_environment(loaded, self._environment)
        host = HostTools(self._id, spec.cwd, self._agent, self._state, self._environment, self._jobs)
        self._host_specs = host.specs(spec.host_tools)
        access = Access(allow=spec.host_tools, deny=spec.denied_tools)
        self._remote = await self._mcp.tools(access, spec.mcp_servers, spec.cwd)
        self._stack.callback(self._remote.close)
        self._toolset = Toolset(spec, self._id, self._emit, [*self._host_specs, *self._remote.specs()])
        self._agent.offer(self._toolset.tools())
        self._remote.watch(self._noted, spec.keep)

    async def _close(self) -> None:
        """End everything the session owns, within its deadline."""
        task = self._cancel()
        if task is not None:
            # At the same time: a stray that holds a shell's pipe keeps the shell from being drained.
            ending = {task, asyncio.create_task(compat.end_shells(self._id))}
            if self._environment.spawned:
                ending.add(asyncio.create_task(self._end_strays(_SHELL_SECONDS)))
            _, resisting = await asyncio.wait(ending, timeout=_END_SECONDS)
            if task in resisting:
                tools = self._toolset.running()
                self._left = tuple(f"the tool {name}" for name in tools) or ("its turn",)
                logger.warning("crew: {} resists its end; left running: {}", self._id, self._left)
            # A shell may have been started while the task was ending.
            await compat.end_shells(self._id)
            await self._bridge.save_state(self._id, self._state, self._said)
        await self._jobs.close()
        if self._environment.spawned:
            await self._end_strays(_LATE_SECONDS)
        await self._stack.aclose()
        self._agent.offer(())

    async def _end_strays(self, grace: float) -> None:
        await end_strays("CREW_SESSION", self._spec.session_id, grace=grace)

    def _cancel(self) -> asyncio.Task[None] | None:
        """Cancel the turn, once: what it does in its end is not to be cut short."""
        if self._task is not None and not self._cancelled:
            self._cancelled = True
            self._task.cancel()
        return self._task

    def _hush(self) -> None:
        if not self._quiet:
            self.broke_off()
            self._quiet = True
            self._events.put_nowait(None)

    # --- its turn ---

    async def _converse(self) -> None:
        try:
            await self._prompted.wait()
            first = "\n\n".join(self._inbox.drain())
            said = said_before(self._spec.history)
            stream = await self._agent.start(self._id, first, self._state, self._spec.model, said)
            async with aclosing(stream):
                async for event in stream:
                    await self._heard(event)
        except ModelFailed as failure:
            self._emit(SessionFailed(error=failure.error))
        except BaseException as error:  # handed to whoever reads the events
            if is_ours(error) or (self._quiet and isinstance(error, asyncio.CancelledError)):
                raise
            logger.opt(exception=error).warning("crew: {} failed", self._id)
            self._emit(SessionFailed(error=_as_engine_error(error)))
        finally:
            self._hush()

    async def _heard(self, event: StreamEvent) -> None:
        if event.kind == "tool_result":
            self._toolset.settle(event.data["tool_results"])
        elif event.kind == "final":
            if self._toolset.session_ended:
                await asyncio.Event().wait()  # until the session is left: its result was accepted
            elif not event.data.get("tool_calls") and not self._inbox:
                self._said = str(event.data.get("text") or "")
                self._emit(TurnEnded(text=str(event.data.get("text") or "")))
                await self._prompted.wait()

    def _offer(self) -> None:
        self._agent.offer(self._toolset.tools(self._only, without=self._withdrawn))

    def _emit(self, event: SessionEvent) -> None:
        if not self._quiet:
            self._events.put_nowait(event)

    def _noted(self, note: LinkNote) -> None:
        """Something happened to a server: from the next model call on, offer what it has now."""
        if note.state in (LinkState.TOOLS_CHANGED, LinkState.RECONNECTED):
            self._toolset.replace([*self._host_specs, *self._remote.specs()])
            self._offer()
        self._emit(ServerNoted(server=note.server, state=str(note.state), text=note.text))

    # --- what the bridge to other plugins tells ---

    def plugin_acted(self, note: PluginActed) -> None:
        """A plugin failed, or had a say in what the session does."""
        if self._quiet:
            self._afterwards.append(note)
        else:
            self._emit(note)

    async def call_settled(
        self, tool: str, arguments: Mapping[str, Any], plugin: str, denied: str | None
    ) -> None:
        """A plugin answered a call in the tool's place."""
        await self._toolset.settled(tool, arguments, plugin, denied)

    def call_ended(self, result: object) -> None:
        """A call of a tool is over, and other plugins have seen what came of it."""
        self._toolset.ended(result)

    def _taken(self, count: int) -> None:
        self._prompted.clear()
        self._emit(SteersTaken(count=count))

    # --- what the model runner tells ---

    def proceed(self) -> None:
        """A model call is about to be made."""
        if self._quiet:
            raise asyncio.CancelledError
        self._busy_since = time.monotonic()

    def waiting(self, ahead: int) -> None:
        """A model call waits for its turn at the provider."""
        self._emit(ModelWaiting(ahead=ahead))

    def late(self) -> bool:
        """Whether half of the session's model calls are made."""
        return self._steps * 2 >= self._spec.limits.steps

    def output(self) -> None:
        """A piece of an answer came in."""
        now = time.monotonic()
        if now - self._busy_since >= min(_BUSY_SECONDS, self._spec.limits.idle_seconds * _BUSY_SHARE):
            self._busy_since = now
            self._emit(ModelBusy(said=self._agent.runner.said))

    def broke_off(self) -> None:
        """An answer goes no further; what there is of it is not lost."""
        said = self._agent.runner.said
        if said.strip():
            self._emit(ModelBusy(said=said))

    def answered(self, answer: ModelAnswered) -> None:
        """A model call succeeded."""
        self._steps += 1
        self._toolset.expect(answer.tool_calls)
        self._emit(answer)

    def retrying(self, error: EngineError, attempt: int, delay: float) -> None:
        """A model call failed and is made again."""
        retries = self._spec.limits.model_retries
        self._emit(ModelRetrying(error=str(error), attempt=attempt, of=retries, delay=delay))


class _Inbox:
    """The texts that the next model call is to see."""

    def __init__(self, taken: Callable[[int], None]) -> None:
        self._texts: list[str] = []
        self._taken = taken

    def put(self, text: str) -> None:
        self._texts.append(text)

    def drain(self) -> list[str]:
        texts, self._texts = self._texts, []
        if texts:
            self._taken(len(texts))
        return texts

    def __len__(self) -> int:
        return len(self._texts)


def _as_engine_error(error: BaseException) -> EngineError:
    if isinstance(error, EngineError):
        return error
    return EngineError(
        "unknown", f"Bub ended the session: {str(error) or type(error).__name__}", retryable=False
    )
