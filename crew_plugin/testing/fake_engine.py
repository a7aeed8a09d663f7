"""An engine without a model: a script answers, tools really run.

It keeps the contract of `crew_plugin.host.Engine` with nothing in between, so a test of whatever
uses an engine needs no provider, no host and no network. The scripts are those of the scripted
model server.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import inf
from time import perf_counter
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from crew_plugin.errors import EngineError, EngineErrorKind
from crew_plugin.host import (
    EngineCapability,
    Job,
    JobEnded,
    ModelAnswered,
    ModelRetrying,
    PluginActed,
    ServerReport,
    Session,
    SessionEvent,
    SessionFailed,
    SessionSpec,
    SteersTaken,
    ToolCall,
    ToolContext,
    ToolEnded,
    ToolError,
    ToolOutput,
    ToolStarted,
    TurnEnded,
)
from crew_plugin.models.causes import Cause
from crew_plugin.models.records import Effect, Usage
from crew_plugin.models.spec import McpServerSpec
from crew_plugin.session.history import Said, said_before
from crew_plugin.session.limits import UNTIMED
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse

__all__ = ["FakeEngine", "FakeSession", "HostTool"]

HostTool = Callable[[Mapping[str, Any]], Awaitable[str]]
"""A tool of the pretended host: gets the arguments, returns the text. A call with `background` goes
on as a job of the session, which `bash_kill` ends."""
_KILL = "bash_kill"

_FAULTS: Mapping[Fault, tuple[EngineErrorKind, bool]] = {
    Fault.RATE_LIMIT: ("rate_limit", True),
    Fault.SERVER_ERROR: ("overloaded", True),
    Fault.BROKEN_STREAM: ("network", True),
    Fault.HALF_TOOL_CALL: ("network", True),
    Fault.UNAUTHORIZED: ("auth", False),
    Fault.BAD_REQUEST: ("bad_request", False),
    Fault.CONTEXT_OVERFLOW: ("context_overflow", False),
}


@dataclass(kw_only=True)
class FakeEngine:
    """Holds conversations with a script. `sessions` keeps every session that was opened."""

    script: Script
    host_tools: Mapping[str, HostTool] = field(default_factory=dict[str, HostTool])
    name: str = "fake"
    capabilities: frozenset[EngineCapability] = frozenset(EngineCapability)
    ignores_abort: bool = False
    """Pretend to be an engine that hangs when it is told to stop."""
    open_error: Exception | None = None
    sessions: "list[FakeSession]" = field(default_factory=list["FakeSession"])

    @asynccontextmanager
    async def open(self, spec: SessionSpec) -> AsyncGenerator[Session]:
        """A session of this engine."""
        if self.open_error is not None:
            raise self.open_error
        session = FakeSession(engine=self, spec=spec)
        self.sessions.append(session)
        failure: Exception | None = None
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(session.converse)
                group.start_soon(session.keep_jobs)
                try:
                    yield session
                except Exception as error:  # noqa: BLE001 - raised again outside, not wrapped by the group
                    failure = error
                finally:
                    group.cancel_scope.cancel()
        finally:
            session.close()
        if failure is not None:
            raise failure

    async def available_tools(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[str, ...]:
        """Those of `names` that the pretended host has. It reaches no servers."""
        return tuple(name for name in names if name in self.host_tools and name not in denied)

    async def server_reports(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: tuple[McpServerSpec, ...] = (),
    ) -> tuple[ServerReport, ...]:
        """None: it reaches no servers."""
        return ()


class FakeSession:
    """One conversation with the script. `messages` is what a provider would have been sent."""

    def __init__(self, *, engine: FakeEngine, spec: SessionSpec) -> None:
        self.engine = engine
        self.spec = spec
        self.left = False
        self.aborted: Cause | None = None
        said = said_before(spec.history)
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "content": spec.system_prompt},
            *(message for one in said for message in _messages(one)),
        ]
        self.offered: frozenset[str] = frozenset(tool.name for tool in spec.tools) | frozenset(
            name for name in spec.host_tools if name in engine.host_tools
        )
        if "bash" in self.offered:
            self.offered |= {_KILL}
        self.known = self.offered
        self.forced: str | None = None
        self._pending: list[str] = []
        self._prompted = anyio.Event()
        self._scope = anyio.CancelScope()
        self._jobs: dict[str, tuple[Job, anyio.CancelScope]] = {}
        self._started = 0
        self._wanted: list[tuple[Job, anyio.CancelScope, ToolUse]] = []
        self._wants = anyio.Event()
        self._calls = sum(one.role == "assistant" for one in said)
        streams = anyio.create_memory_object_stream[SessionEvent](inf)
        self._send: MemoryObjectSendStream[SessionEvent] = streams[0]
        self._receive: MemoryObjectReceiveStream[SessionEvent] = streams[1]

    @property
    def host_session(self) -> str:
        """The pretended host's id of the session."""
        return f"fake/{self.spec.session_id}"

    async def prompt(self, text: str) -> None:
        """Take the next user message."""
        self._pending.append(text)
        self._prompted.set()

    async def steer(self, text: str) -> None:
        """Take a user message for the next model call."""
        self._pending.append(text)

    def restrict(self, tools: frozenset[str], *, force: str | None = None) -> None:
        """Offer only these tools from now on."""
        self.offered = self.offered & tools
        self.forced = force

    def withdraw(self, tool: str) -> None:
        """Do not offer this tool any more."""
        self.offered -= {tool}

    def left_running(self) -> tuple[str, ...]:
        """Nothing: a tool of the pretended host is ended by its cancellation."""
        return ()

    def afterwards(self) -> tuple[PluginActed, ...]:
        """Nothing: the pretended host has no other plugins."""
        return ()

    def jobs(self) -> tuple[Job, ...]:
        """The jobs whose end was not told."""
        return tuple(job for job, _ in self._jobs.values())

    async def end_jobs(self) -> None:
        """End all jobs, quietly."""
        for _, scope in self._jobs.values():
            scope.cancel()
        self._jobs.clear()

    async def keep_jobs(self) -> None:
        """Run the jobs that are started, until cancelled."""
        async with anyio.create_task_group() as group:
            while True:
                await self._wants.wait()
                self._wants = anyio.Event()
                for one in self._wanted:
                    group.start_soon(self._run_job, *one)
                self._wanted.clear()

    async def _run_job(self, job: Job, scope: anyio.CancelScope, use: ToolUse) -> None:
        with scope:
            try:
                text, ok = await self.engine.host_tools[use.name](use.arguments), True
            except ToolError as error:
                text, ok = str(error), False
            self._emit(JobEnded(job=job, text=text, ok=ok))

    def _start_job(self, use: ToolUse) -> str:
        self._started += 1
        job = Job(id=f"job-{self._started}", what=str(use.arguments.get("command", use.name)))
        scope = anyio.CancelScope()
        self._jobs[job.id] = (job, scope)
        self._wanted.append((job, scope, use))
        self._wants.set()
        return f"Shell started, shell_id: {job.id}"

    def _kill_job(self, use: ToolUse) -> str:
        found = self._jobs.pop(str(use.arguments.get("shell_id")), None)
        if found is None:
            raise ToolError("there is no such job")
        found[1].cancel()
        return f"{found[0].id} was ended"

    async def abort(self, cause: Cause) -> None:
        """Stop."""
        self.aborted = cause
        if not self.engine.ignores_abort:
            self._scope.cancel()

    async def events(self) -> AsyncIterator[SessionEvent]:
        """What happens."""
        async for event in self._receive:
            if isinstance(event, JobEnded) and self._jobs.pop(event.job.id, None) is None:
                continue  # it was ended before its end was told
            yield event

    def close(self) -> None:
        """Be over: nothing happens in this session any more."""
        self.left = True
        self._send.close()
        self._receive.close()

    async def converse(self) -> None:
        """Answer prompts until the session is left, aborted, or has failed."""
        with self._send, self._scope:
            try:
                while True:
                    await self._prompted.wait()
                    self._prompted = anyio.Event()
                    if await self._turn():
                        return
            except Exception as error:  # noqa: BLE001 - handed to whoever reads the events
                self._emit(SessionFailed(error=error))

    def _emit(self, event: SessionEvent) -> None:
        self._send.send_nowait(event)

    async def _turn(self) -> bool:
        """Model calls until the model calls no tool. True if a tool ended the session."""
        while True:
            if self._pending:
                self.messages += [{"role": "user", "content": text} for text in self._pending]
                self._emit(SteersTaken(count=len(self._pending)))
                self._pending.clear()
            reply = await self._ask()
            calls = self._answered(reply)
            if not calls and not self._pending:
                self._emit(TurnEnded(text=reply.text))
                return False
            for call, use in calls:
                if await self._call(call.id, use):
                    return True

    async def _ask(self) -> Reply:
        retries = self.spec.limits.model_retries
        for number in range(1, retries + 2):
            await checkpoint()
            reply = self.engine.script(self._conversation())
            if reply.delay:
                await anyio.sleep(reply.delay)
            if reply.held or reply.fault in (Fault.STALL, Fault.STALLED_STREAM):
                await anyio.sleep_forever()
            if reply.fault is None:
                return reply
            kind, retryable = _FAULTS[reply.fault]
            error = EngineError(kind, f"the script answered with {reply.fault}", retryable=retryable)
            if not retryable or number > retries:
                raise error
            self._emit(ModelRetrying(error=str(error), attempt=number, of=retries, delay=reply.retry_after))
            await anyio.sleep(reply.retry_after)
        raise AssertionError("unreachable")

    def _conversation(self) -> Conversation:
        self._calls += 1
        schemas: dict[str, Mapping[str, Any]] = {tool.name: tool.parameters for tool in self.spec.tools}
        return Conversation(
            messages=tuple(self.messages),
            tools={name: schemas.get(name, {}) for name in self.offered},
            model=self.spec.model or "fake",
            forced=self.forced,
            number=self._calls,
        )

    def _answered(self, reply: Reply) -> list[tuple[ToolCall, ToolUse]]:
        calls = [
            (
                ToolCall(
                    id=f"call-{self._calls}-{place}", name=use.name, arguments=json.dumps(use.arguments)
                ),
                use,
            )
            for place, use in enumerate(reply.calls)
        ]
        message: dict[str, Any] = {"role": "assistant", "content": reply.text}
        if calls:
            message["tool_calls"] = [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments},
                }
                for call, _ in calls
            ]
        self.messages.append(message)
        usage = reply.usage or Usage(input=10, output=5)
        self._emit(
            ModelAnswered(
                text=reply.text,
                tool_calls=tuple(call for call, _ in calls),
                usage=Usage(
                    input=usage.input, output=usage.output, cached=usage.cached, calls=1, cost=usage.cost
                ),
                model=self.spec.model or "fake",
            )
        )
        return calls

    async def _call(self, call_id: str, use: ToolUse) -> bool:
        self._emit(ToolStarted(call_id=call_id, name=use.name))
        begun = perf_counter()
        seconds = None if use.name in UNTIMED else self.spec.limits.tool_seconds
        output = ToolOutput(text=f"{use.name} was stopped after {seconds} s")
        try:
            with anyio.move_on_after(seconds) as limit:
                output = await self._run_tool(call_id, use)
            ok = not limit.cancelled_caught
        except ToolError as error:
            ok, output = False, ToolOutput(text=str(error))
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": output.text})
        self._emit(
            ToolEnded(
                call_id=call_id,
                name=use.name,
                text=output.text,
                ok=ok,
                milliseconds=(perf_counter() - begun) * 1000,
                ends_session=output.ends_session,
                known=use.name in self.known,
            )
        )
        return output.ends_session

    async def _run_tool(self, call_id: str, use: ToolUse) -> ToolOutput:
        if use.name not in self.offered:
            if self.spec.journal is not None:
                self.spec.journal.skip()
            raise ToolError(f"there is no tool {use.name!r}; known: {', '.join(sorted(self.offered))}")
        for tool in self.spec.tools:
            if tool.name == use.name:
                context = ToolContext(session=self.host_session, call_id=call_id)
                return await tool.execute(use.arguments, context)
        return ToolOutput(text=await self._run_host_tool(use))

    async def _host(self, use: ToolUse) -> str:
        if use.name == _KILL:
            return self._kill_job(use)
        if use.arguments.get("background"):
            return self._start_job(use)
        return await self.engine.host_tools[use.name](use.arguments)

    async def _run_host_tool(self, use: ToolUse) -> str:
        journal = self.spec.journal
        if journal is None:
            return await self._host(use)
        entry = await journal.begin(use.name, use.arguments, Effect.EXTERNAL)
        try:
            text = await self._host(use)
        except ToolError as error:
            await journal.end(entry, str(error))
            raise
        except anyio.get_cancelled_exc_class():
            await journal.end(entry, None, cancelled=True)
            raise
        await journal.end(entry, None)
        return text


def _messages(said: Said) -> list[dict[str, Any]]:
    """An earlier message as a provider would be sent it."""
    if not said.calls:
        return [{"role": said.role, "content": said.text}]
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in said.calls
    ]
    results = [{"role": "tool", "tool_call_id": call.id, "content": call.result} for call in said.calls]
    return [{"role": said.role, "content": said.text, "tool_calls": calls}, *results]
