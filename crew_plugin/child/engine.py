"""An engine whose sessions live in worker processes."""

import asyncio
import base64
import fnmatch
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final, Protocol

import anyio
import anyio.abc

from crew_plugin.child import protocol
from crew_plugin.child.nursery import Nursery, Worker
from crew_plugin.child.turns import Turns
from crew_plugin.child.wire import Wire
from crew_plugin.engine.orphans import OWNER_VARIABLE, end_marked, owner_mark
from crew_plugin.engine.provider_gate import ProviderGates
from crew_plugin.errors import CrewError, HostUnsupported, WorkerLost
from crew_plugin.host import (
    EngineCapability,
    Job,
    JobEnded,
    PluginActed,
    ServerReport,
    Session,
    SessionEvent,
    SessionFailed,
    SessionSpec,
    ToolContext,
    ToolError,
    ToolOutput,
    ToolSpec,
)
from crew_plugin.mcp.link import LinkNote
from crew_plugin.mcp.names import Access
from crew_plugin.mcp.proxy import McpProxy, SessionTools
from crew_plugin.models.causes import Cause
from crew_plugin.models.records import Effect
from crew_plugin.models.spec import McpServerSpec
from crew_plugin.store.liveness import current_owner

__all__ = ["ChildEngine", "HomeEngine"]

HELLO_SECONDS: Final = 60.0
"""How long a worker may take to say that it is there: one that is not forked loads the host."""
OPEN_SECONDS: Final = 60.0
QUIET_SECONDS: Final = 0.8
"""How long a worker that is stopped may take to tell what it was saying."""
LEAVE_SECONDS: Final = 6.0
"""How long a worker may take to leave its session: its shells are given 5 s."""
_GRACE_SECONDS: Final = 2.0


class HomeEngine(Protocol):
    """The engine of the supervisor's own process: what a worker may use is known there."""

    @property
    def name(self) -> str: ...

    @property
    def capabilities(self) -> frozenset[EngineCapability]: ...

    @property
    def servers(self) -> McpProxy: ...

    @property
    def gates(self) -> ProviderGates: ...

    async def available_tools(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[str, ...]: ...

    async def server_reports(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[ServerReport, ...]: ...


class ChildEngine:
    """Implements `Engine`: each session has a process of its own, with the environment of this one but
    for what is denied. The crew's own tools, the journal and MCP servers stay here."""

    def __init__(
        self,
        home: HomeEngine,
        nursery: Nursery,
        *,
        denied_variables: Sequence[str] = (),
        hook_seconds: float = 10.0,
    ) -> None:
        self._home = home
        self._nursery = nursery
        self._denied = tuple(denied_variables)
        self._hook_seconds = hook_seconds

    @property
    def name(self) -> str:
        """The name of the engine that works in the workers."""
        return self._home.name

    @property
    def capabilities(self) -> frozenset[EngineCapability]:
        """What that engine can do."""
        return self._home.capabilities

    def open(self, spec: SessionSpec) -> AbstractAsyncContextManager[Session]:
        """A session in a new worker, which ends with it."""
        return self._open(spec)

    @asynccontextmanager
    async def _open(self, spec: SessionSpec) -> AsyncGenerator[Session]:
        environment = self._environment(spec)
        access = Access(allow=spec.host_tools, deny=spec.denied_tools)
        remote = await self._home.servers.tools(access, spec.mcp_servers, spec.cwd)
        try:
            worker = await self._nursery.start(environment, spec.cwd)
            wire = await Wire.over(worker.connection)
            session = _ChildSession(spec, worker, wire, remote, self._home.gates)
            failure: Exception | None = None
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(session.serve)
                    try:
                        await session.begin(self._hook_seconds)
                        yield session
                    except Exception as error:  # noqa: BLE001 - raised again below, not wrapped by the group
                        failure = error
                    finally:
                        with anyio.CancelScope(shield=True):
                            await session.leave()
                        group.cancel_scope.cancel()
            finally:
                self._nursery.gone(worker)
            if failure is not None:
                raise failure
        finally:
            remote.close()

    async def available_tools(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[str, ...]:
        """Which of these names a worker can have."""
        return await self._home.available_tools(names, cwd, denied=denied, servers=servers)

    async def server_reports(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[ServerReport, ...]:
        """What each MCP server gives an agent in a worker: the same, through this process."""
        return await self._home.server_reports(names, cwd, denied=denied, servers=servers)

    def _environment(self, spec: SessionSpec) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in self._denied)
        }
        marks = {f"CREW_{name.upper()}": value for name, value in spec.identity.items()}
        return {
            **kept,
            **marks,
            "CREW_SESSION": spec.session_id,
            OWNER_VARIABLE: owner_mark(current_owner()),
        }


class _ChildSession:
    """One session, as the supervisor has it."""

    def __init__(
        self, spec: SessionSpec, worker: Worker, wire: Wire, remote: SessionTools, gates: ProviderGates
    ) -> None:
        self._spec = spec
        self._worker = worker
        self._wire = wire
        self._remote = remote
        self._turns = Turns(gates, wire.send)
        self._tools = {tool.name: tool for tool in spec.tools}
        self._served: dict[str, ToolSpec] = {}
        self._events: asyncio.Queue[SessionEvent | None] = asyncio.Queue()
        self._hello, self._opened, self._gone = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._silent = asyncio.Event()
        self._refused: Exception | None = None
        self._jobs: tuple[Job, ...] = ()
        self._ended_jobs: set[str] = set()
        self._left: tuple[str, ...] | None = None
        self._acted: tuple[PluginActed, ...] = ()
        self._stopped = self._quiet = False
        self._calls: dict[int, anyio.CancelScope] = {}
        self._id = ""

    # --- the port ---

    @property
    def host_session(self) -> str:
        """The host's id of this session, in the worker."""
        return self._id

    async def prompt(self, text: str) -> None:
        """Give the session its next user message."""
        self._wire.send(protocol.Say(text=text))

    async def steer(self, text: str) -> None:
        """Add a user message that the next model call sees."""
        self._wire.send(protocol.Say(text=text, steer=True))

    def restrict(self, tools: frozenset[str], *, force: str | None = None) -> None:
        """From the next model call on, offer only these tools."""
        self._wire.send(protocol.Restrict(tools=tuple(sorted(tools)), force=force))

    def withdraw(self, tool: str) -> None:
        """From the next model call on, do not offer this tool any more."""
        self._wire.send(protocol.Withdraw(tool=tool))

    def jobs(self) -> tuple[Job, ...]:
        """The background jobs, as the worker told of them last."""
        return self._jobs

    async def end_jobs(self) -> None:
        """End them, quietly."""
        self._ended_jobs |= {job.id for job in self._jobs}
        self._jobs = ()
        self._wire.send(protocol.EndJobs())

    def left_running(self) -> tuple[str, ...]:
        """What did not let itself be ended."""
        return self._left or ()

    def afterwards(self) -> tuple[PluginActed, ...]:
        """What other plugins did when its events were over."""
        return self._acted

    async def abort(self, cause: Cause) -> None:
        """Stop now, and hear its last words. What resists is ended with its process when the session is
        left."""
        self._stopped = True
        self._wire.send(protocol.Abort(code=cause.code, message=cause.message))
        with anyio.move_on_after(QUIET_SECONDS):
            await self._silent.wait()
        self._hush()

    async def events(self) -> AsyncIterator[SessionEvent]:
        """What happens, in order, until the session is over."""
        while (event := await self._events.get()) is not None:
            if isinstance(event, JobEnded) and event.job.id in self._ended_jobs:
                continue  # it was ended before its end was told
            yield event

    # --- its life ---

    async def begin(self, hook_seconds: float) -> None:
        """Have the worker open it. Raises `WorkerLost` and what opening it raised there."""
        await self._until(self._hello, HELLO_SECONDS, "did not say that it is there")
        self._serve_tools()
        self._wire.send(
            protocol.open_message(
                self._spec,
                tuple(map(protocol.facts_of, self._served.values())),
                owner=owner_mark(current_owner()),
                hook_seconds=hook_seconds,
            )
        )
        await self._until(self._opened, OPEN_SECONDS, "did not open its session")
        self._remote.watch(self._noted, self._spec.keep)

    async def leave(self) -> None:
        """End the session, its process, and whatever that left running."""
        self._hush()
        self._wire.send(protocol.Leave())
        with anyio.move_on_after(LEAVE_SECONDS):
            await self._gone.wait()
        await self._wire.close()
        clean = self._left is not None
        await asyncio.to_thread(self._end_processes, clean=clean)
        if self._left is None:
            self._left = ()

    def _end_processes(self, *, clean: bool) -> None:
        """Off the loop: looking at every process of the machine takes a moment. A worker that left in
        good order has ended its shells itself."""
        if _runs(self._worker.pid) and not clean:
            _kill(self._worker.pid)
        if not clean:
            end_marked("CREW_SESSION", self._spec.session_id, grace=_GRACE_SECONDS, but=self._worker.pid)

    async def serve(self) -> None:
        """Listen to the worker until it is gone."""
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as calls:
                try:
                    async for message in self._wire.messages():
                        self._take(message, calls)
                except protocol.ProtocolError as error:
                    failure = error
                calls.cancel_scope.cancel()
        finally:
            self._turns.give_back()
            self._gone.set()
            self._silent.set()
        if not self._quiet and not self._stopped:  # nobody asked it to leave, in good order or not
            with anyio.move_on_after(_GRACE_SECONDS):
                await self._worker.ended.wait()
            lost = failure or WorkerLost(self._worker.pid, self._worker.how)
            self._refused = self._refused or lost
            self._events.put_nowait(SessionFailed(error=lost))
        self._events.put_nowait(None)
        self._hello.set()
        self._opened.set()

    def _take(self, message: protocol.Message, calls: anyio.abc.TaskGroup) -> None:
        match message:
            case protocol.Hello(version=version):
                if version != protocol.VERSION:
                    text = f"it speaks version {version} of the protocol, not {protocol.VERSION}"
                    raise protocol.ProtocolError(text)
                self._hello.set()
            case protocol.Opened(host_session=ident, error=error):
                self._id = ident
                if error is not None:
                    self._refused = HostUnsupported(f"the worker could not open its session: {error}")
                self._opened.set()
            case protocol.Event(kind=kind, data=data, jobs=jobs):
                known = (Job(id=job["id"], what=job["what"]) for job in jobs)
                self._jobs = tuple(job for job in known if job.id not in self._ended_jobs)
                if not self._quiet:
                    self._events.put_nowait(protocol.event_of(kind, data))
            case protocol.Quiet():
                self._silent.set()
            case protocol.Left(running=running, acted=acted):
                self._left = running
                told = (protocol.event_of("PluginActed", note) for note in acted)
                self._acted = tuple(note for note in told if isinstance(note, PluginActed))
            case _:
                self._asked(message, calls)

    def _asked(self, message: protocol.Message, calls: anyio.abc.TaskGroup) -> None:
        """A call of the worker, or the end of its interest in one."""
        match message:
            case protocol.Call(id=0, what="skip"):
                # At once: it is about the order of calls.
                if self._spec.journal is not None:
                    self._spec.journal.skip()
            case protocol.Call():
                calls.start_soon(self._make, message)
            case protocol.Cancel(id=ident):
                if ident in self._calls:
                    self._calls[ident].cancel()
            case protocol.Acquire():
                calls.start_soon(self._turns.wait, self._turns.joined(message))
            case protocol.Release():
                self._turns.release(message)
            case _:
                raise protocol.ProtocolError(f"a {message.type!r} from a worker")

    async def _until(self, event: asyncio.Event, seconds: float, what: str) -> None:
        with anyio.move_on_after(seconds) as limit:
            await event.wait()
        if limit.cancelled_caught:
            raise WorkerLost(self._worker.pid, f"{what} within {seconds:g} s")
        if self._refused is not None:
            raise self._refused

    def _hush(self) -> None:
        if not self._quiet:
            self._quiet = True
            self._events.put_nowait(None)

    # --- what the worker asks for ---

    async def _make(self, call: protocol.Call) -> None:
        if not call.id:
            await self._answer(call)  # nobody waits for it
            return
        with anyio.CancelScope() as scope:
            self._calls[call.id] = scope
            try:
                self._wire.send(await self._answer(call))
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if scope.cancel_called or (task is not None and task.cancelling()):
                    raise
                # Nobody cancelled it from here: it happened inside of the tool.
                what = f"{call.name} was cancelled before it was done"
                self._wire.send(protocol.Answer(id=call.id, error=what))
            finally:
                del self._calls[call.id]

    async def _answer(self, call: protocol.Call) -> protocol.Answer:
        try:
            output = await self._carry_out(call)
        except (ToolError, CrewError) as error:
            return protocol.Answer(id=call.id, error=str(error))
        except Exception as error:  # noqa: BLE001 - told to the worker, whose session it is
            return protocol.Answer(id=call.id, error=f"{type(error).__name__}: {error}", expected=False)
        return protocol.Answer(id=call.id, text=output.text, ends_session=output.ends_session)

    async def _carry_out(self, call: protocol.Call) -> ToolOutput:
        journal = self._spec.journal
        match call.what:
            case "tool":
                return await self._tool(call.name).execute(call.arguments, self._context(call))
            case "unreadable":
                unreadable = self._tool(call.name).unreadable
                if unreadable is None:
                    raise ToolError(f"{call.name} takes only JSON objects")
                return await unreadable(call.text)
            case "keep":
                if self._spec.keep is None:
                    raise ToolError("nothing is kept for this session")
                return ToolOutput(text=await self._spec.keep(call.name, base64.b64decode(call.text)))
            case "begin" if journal is not None:
                return ToolOutput(text=await journal.begin(call.name, call.arguments, Effect(call.effect)))
            case "end" if journal is not None:
                await journal.end(call.name, call.text or None, cancelled=call.cancelled)
            case _:
                pass
        return ToolOutput(text="")

    def _tool(self, name: str) -> ToolSpec:
        """A tool that this session may call: whatever else a worker asks for is not there."""
        tool = self._tools.get(name) or self._served.get(name)
        if tool is None:
            raise ToolError(f"this session has no tool {name!r}")
        return tool

    def _context(self, call: protocol.Call) -> ToolContext:
        async def progress(text: str) -> None:
            self._wire.send(protocol.Progressed(id=call.id, text=text))

        return ToolContext(session=call.session, call_id=call.call_id, progress=progress)

    # --- MCP servers ---

    def _serve_tools(self) -> None:
        self._served = {tool.name: tool for tool in self._remote.specs()}

    def _noted(self, note: LinkNote) -> None:
        self._serve_tools()
        self._wire.send(
            protocol.Servers(
                server=note.server,
                state=str(note.state),
                text=note.text,
                remote=tuple(map(protocol.facts_of, self._served.values())),
            )
        )


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def _kill(pid: int) -> None:
    import signal

    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)
