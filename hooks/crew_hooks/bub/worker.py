"""A worker: one session of the crew in a process of its own, held by Bub.

`python -m crew_hooks.bub.worker FD` loads Bub and serves the session of the supervisor at the other end of
that socket; a zygote forks workers that have Bub already. A worker ends when its session is left, or when its
supervisor is gone: then it ends what its session started, too.
"""

import asyncio
import base64
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from bub.framework import BubFramework
from loguru import logger

from crew_hooks.bub.clients import ClientPool
from crew_hooks.bub.session import BubSession
from crew_plugin.child import protocol
from crew_plugin.child.turns import FarGates
from crew_plugin.child.wire import Wire
from crew_plugin.host import SessionSpec, ToolContext, ToolError, ToolOutput, ToolSpec
from crew_plugin.mcp.content import Keep
from crew_plugin.mcp.link import LinkNote, LinkState
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Effect

if TYPE_CHECKING:
    from any_llm import AnyLLM

__all__ = ["load_framework", "main", "serve"]

_END_SECONDS: Final = 8.0
_ORPHANED: Final = Cause(code=CauseCode.SUPERVISOR_LOST, message="the supervisor is gone")


def load_framework() -> BubFramework:
    """Bub with all its plugins, as the environment says."""
    logger.disable("bub")
    framework = BubFramework()
    framework.load_hooks()
    return framework


def serve(
    connection: socket.socket, framework: BubFramework, built: "Mapping[str, AnyLLM] | None" = None
) -> int:
    """Serve the one session of this process; its exit code. `built` are clients of models that are
    there already."""
    return asyncio.run(_serve(connection, framework, built or {}))


def main(descriptor: int) -> int:
    """A worker that was not forked."""
    # asyncio would leave in good order, and the supervisor could not tell that nobody asked for it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return serve(socket.socket(fileno=descriptor), load_framework())


async def _serve(connection: socket.socket, framework: BubFramework, built: "Mapping[str, AnyLLM]") -> int:
    supervisor = _Supervisor(await Wire.over(connection))
    supervisor.send(protocol.Hello(version=protocol.VERSION, pid=os.getpid()))
    listening = asyncio.create_task(supervisor.listen(), name="crew supervisor")
    try:
        order = await supervisor.order()
        if order is None:
            return 0
        framework.workspace = Path(order.cwd)
        pool = ClientPool(supervisor.gates, built)
        return await _hold(supervisor, framework, order, pool)
    finally:
        listening.cancel()
        await supervisor.close()


async def _hold(
    supervisor: "_Supervisor", framework: BubFramework, order: protocol.Open, pool: ClientPool
) -> int:
    """The session from its opening to its end."""
    servers = _Served(supervisor, order.remote)
    try:
        async with framework.running():
            spec = supervisor.spec(order)
            session = BubSession(framework, spec, pool, servers, order.hook_seconds, order.owner)
            try:
                await session.__aenter__()
            except Exception as error:  # noqa: BLE001 - told to the supervisor, whose session it is
                supervisor.send(protocol.Opened(error=f"{type(error).__name__}: {error}"))
                return 1
            supervisor.send(protocol.Opened(host_session=session.host_session))
            telling = asyncio.create_task(_tell(supervisor, session), name="crew events")
            try:
                await supervisor.obey(session, servers)
            finally:
                telling.cancel()
                await session.__aexit__(None, None, None)
                acted = tuple(map(asdict, session.afterwards()))
                supervisor.send(protocol.Left(running=session.left_running(), acted=acted))
    finally:
        await pool.close()
    return 0


async def _tell(supervisor: "_Supervisor", session: BubSession) -> None:
    async for event in session.events():
        kind, data = protocol.told_of(event)
        jobs = tuple({"id": job.id, "what": job.what} for job in session.jobs())
        supervisor.send(protocol.Event(kind=kind, data=data, jobs=jobs))
    supervisor.send(protocol.Quiet())


class _Supervisor:
    """The other end: what it wants, and what it does for this process."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._control: asyncio.Queue[protocol.Control | None] = asyncio.Queue()
        self._calls: dict[int, asyncio.Future[protocol.Answer]] = {}
        self._progress: dict[int, Callable[[str], Any]] = {}
        self._made = 0
        self.gates = FarGates(wire.send)

    def send(self, message: protocol.Message) -> None:
        """Say something."""
        self._wire.send(message)

    async def close(self) -> None:
        """Let go of it."""
        await self._wire.close()

    async def listen(self) -> None:
        """Take what it says, until it is gone."""
        try:
            async for message in self._wire.messages():
                self._take(message)
        except protocol.ProtocolError as error:
            logger.warning("crew: the supervisor said {}", error)
        finally:
            self._control.put_nowait(None)
            for call in self._calls.values():
                if not call.done():
                    call.set_exception(ToolError("the supervisor is gone"))
            self.gates.lost()

    def _take(self, message: protocol.Message) -> None:
        match message:
            case protocol.Answer(id=ident):
                call = self._calls.get(ident)
                if call is not None and not call.done():
                    call.set_result(message)
            case protocol.Progressed(id=ident, text=text):
                if ident in self._progress:
                    self._progress[ident](text)
            case protocol.Queued() | protocol.Granted() | protocol.Refusing():
                self.gates.told(message)
            case protocol.Hello() | protocol.Opened() | protocol.Event() | protocol.Call():
                raise protocol.ProtocolError(f"a {message.type!r} from a supervisor")
            case (
                protocol.Cancel()
                | protocol.Acquire()
                | protocol.Release()
                | protocol.Quiet()
                | protocol.Left()
            ):
                raise protocol.ProtocolError(f"a {message.type!r} from a supervisor")
            case _:
                self._control.put_nowait(message)

    async def order(self) -> protocol.Open | None:
        """The session to be opened; None if the supervisor left."""
        message = await self._control.get()
        if isinstance(message, protocol.Open) and message.version == protocol.VERSION:
            return message
        if message is not None:
            self.send(protocol.Opened(error=f"version {protocol.VERSION} of the protocol is spoken here"))
        return None

    async def obey(self, session: BubSession, servers: "_Served") -> None:
        """Do what it says until the session is to be left."""
        while True:
            message = await self._control.get()
            match message:
                case None:
                    await session.abort(_ORPHANED)
                    return
                case protocol.Leave():
                    return
                case protocol.Say(text=text, steer=steer):
                    await (session.steer(text) if steer else session.prompt(text))
                case protocol.Restrict(tools=tools, force=force):
                    session.restrict(frozenset(tools), force=force)
                case protocol.Withdraw(tool=tool):
                    session.withdraw(tool)
                case protocol.EndJobs():
                    await session.end_jobs()
                case protocol.Abort():
                    await session.abort(protocol.cause_of(message))
                case protocol.Servers():
                    servers.changed(message)
                case _:
                    raise protocol.ProtocolError(f"a {message.type!r} in the middle of a session")

    # --- calls ---

    async def call(
        self, what: Any, *, progress: Callable[[str], Any] | None = None, **facts: Any
    ) -> protocol.Answer:
        """Have the supervisor make a call. Raises `ToolError`; cancelling goes through."""
        self._made += 1
        ident = self._made
        answer: asyncio.Future[protocol.Answer] = asyncio.get_running_loop().create_future()
        self._calls[ident] = answer
        if progress is not None:
            self._progress[ident] = progress
        self.send(protocol.Call(id=ident, what=what, **facts))
        try:
            told = await answer
        except asyncio.CancelledError:
            self.send(protocol.Cancel(id=ident))
            raise
        finally:
            del self._calls[ident]
            self._progress.pop(ident, None)
        if told.error is not None:
            raise ToolError(told.error) if told.expected else RuntimeError(told.error)
        return told

    def tool(self, facts: protocol.ToolFacts) -> ToolSpec:
        """A tool that the supervisor executes."""

        async def execute(arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
            tasks: set[asyncio.Future[None]] = set()

            def show(text: str) -> None:
                if context.progress is not None:
                    shown = asyncio.ensure_future(context.progress(text))
                    tasks.add(shown)
                    shown.add_done_callback(tasks.discard)

            answer = await self.call(
                "tool",
                progress=show,
                name=facts.name,
                arguments=dict(arguments),
                session=context.session,
                call_id=context.call_id,
            )
            return ToolOutput(text=answer.text, ends_session=answer.ends_session)

        async def unreadable(written: str) -> ToolOutput:
            answer = await self.call("unreadable", name=facts.name, text=written)
            return ToolOutput(text=answer.text, ends_session=answer.ends_session)

        return ToolSpec(
            name=facts.name,
            description=facts.description,
            parameters=facts.parameters,
            execute=execute,
            effect=protocol.effect_of(facts),
            unreadable=unreadable if facts.reads_anything else None,
        )

    def spec(self, order: protocol.Open) -> SessionSpec:
        """The session as this process holds it."""
        return SessionSpec(
            session_id=order.session_id,
            agent=order.agent,
            system_prompt=order.system_prompt,
            cwd=order.cwd,
            tools=tuple(map(self.tool, order.tools)),
            host_tools=order.host_tools,
            limits=protocol.limits_of(order),
            model=order.model,
            append_prompt=order.append_prompt,
            journal=_Journal(self),
            identity=order.identity,
            denied_tools=order.denied_tools,
            keep=self.keep,
            history=protocol.history_of(order),
        )

    async def keep(self, name: str, body: bytes) -> str:
        """Have a body kept; how it can be read."""
        return (await self.call("keep", name=name, text=base64.b64encode(body).decode("ascii"))).text


class _Journal:
    """Implements `ToolJournal`: the supervisor writes each call down before it is made here."""

    def __init__(self, supervisor: _Supervisor) -> None:
        self._supervisor = supervisor

    async def begin(self, tool: str, arguments: Mapping[str, Any], effect: Effect) -> str:
        """Write the call down; raises if it is not to be made."""
        answer = await self._supervisor.call("begin", name=tool, arguments=dict(arguments), effect=effect)
        return answer.text

    async def end(self, call_id: str, error: str | None, *, cancelled: bool = False) -> None:
        """Write down how it ended."""
        self._supervisor.send(
            protocol.Call(id=0, what="end", name=call_id, text=error or "", cancelled=cancelled)
        )

    def skip(self) -> None:
        """A call of the answer is not going to be made."""
        self._supervisor.send(protocol.Call(id=0, what="skip"))


class _Served:
    """Implements `ToolSource`: the MCP tools of the session, over the supervisor's connections."""

    def __init__(self, supervisor: _Supervisor, tools: Sequence[protocol.ToolFacts]) -> None:
        self._supervisor = supervisor
        self._facts = tuple(tools)
        self._told: Callable[[LinkNote], None] | None = None

    async def tools(self, access: object, servers: object, cwd: str) -> "_Served":
        """Those that the supervisor serves: it has looked at what the agent may use."""
        return self

    def specs(self) -> list[ToolSpec]:
        """The tools that may be called now."""
        return [self._supervisor.tool(facts) for facts in self._facts]

    def watch(self, told: Callable[[LinkNote], None], keep: Keep | None) -> None:
        """Have `told` called with what happens to the servers."""
        self._told = told

    def close(self) -> None:
        """Nothing of this process is held."""
        self._told = None

    def changed(self, news: protocol.Servers) -> None:
        """Something happened to a server."""
        self._facts = news.remote
        if self._told is not None:
            note = LinkNote(server=news.server, state=LinkState(news.state), text=news.text)
            self._told(replace(note))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
