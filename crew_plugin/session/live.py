"""One live session from its prompt to its outcome."""

import logging
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Final

import anyio

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.errors import Fenced
from crew_plugin.host import (
    Engine,
    EngineCapability,
    ModelAnswered,
    ModelBusy,
    ModelRetrying,
    Session,
    SessionEvent,
    SessionFailed,
    SessionSpec,
    SteersTaken,
    ToolEnded,
    ToolStarted,
    TurnEnded,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import MessageState, Usage
from crew_plugin.models.states import AttemptState, SessionKind
from crew_plugin.session import words
from crew_plugin.session.contract import Ended, ResultContract
from crew_plugin.session.ending import Ending, ending_of, last_write, outcome_of
from crew_plugin.session.gate import Gate
from crew_plugin.session.journal import Journal
from crew_plugin.session.ladder import CloseWays, GiveUp, Ladder, LastCall, Move, Remind, Warn
from crew_plugin.session.limits import Deadlines
from crew_plugin.session.mail import MailRoom
from crew_plugin.session.material import artifact_of
from crew_plugin.session.prepare import Prepared, contract_of, folder_of, prepare
from crew_plugin.session.record import Entry, Record, usage_data
from crew_plugin.session.scope import SessionScope, Toolbox
from crew_plugin.store.writer import StoreWriter

__all__ = ["LiveSession"]

QUIET_SECONDS: Final = 0.5
"""How long an engine may take to obey before its session is left."""
CLEANUP_SECONDS: Final = 5.0
"""How long the last writes of a cancelled session may take."""
_SUBMIT: Final = "submit_result"
_IRC: Final = "irc"
_CALLER_CANCELLED: Final = Cause(code=CauseCode.SHUTDOWN, message="whoever ran the session was cancelled")

logger = logging.getLogger(__name__)


class LiveSession:
    """Runs one attempt as a session of an engine. `run` is called once."""

    def __init__(
        self,
        context: AttemptContext,
        *,
        engine: Engine,
        writer: StoreWriter,
        toolbox: Toolbox,
        room: MailRoom,
        reminders: int,
    ) -> None:
        self._context = context
        self._engine = engine
        self._writer = writer
        self._toolbox = toolbox
        self._limits = context.step.limits
        self._ladder = Ladder(limit=self._limits.steps, reminders=reminders)
        self._record = Record(context, writer)
        self._journal = Journal(self._record, context.lease, context.attempt.id)
        self._box = room.box(context.run.id, context.task.key)
        self._deadlines = Deadlines(self._limits, anyio.current_time())
        self._talking = anyio.CancelScope()
        self._stop = anyio.Event()
        self._silent = anyio.Event()
        self._session: Session | None = None
        self._gate: Gate | None = None
        self._ending: Ending | None = None
        self._fenced: Fenced | None = None
        self._given: deque[tuple[str, ...]] = deque()
        """For each text the session was given and no model has seen: the messages in it."""
        self._last_text = ""
        self._usage = Usage()
        self._wants_data = False
        self._warned = False

    async def run(self) -> Outcome:
        """Execute the attempt. Raises `Fenced`; any other failure is an outcome."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_record)
                group.start_soon(self._guard)
                with self._talking:
                    await self._talk()
                self._silent.set()
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            self._end(Ending(cause=_CALLER_CANCELLED, stopped=True))
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._conclude()
            raise
        outcome = await self._conclude()
        if self._fenced is not None:
            raise self._fenced
        return outcome

    def stop(self, cause: Cause) -> None:
        """Make `run` return soon. A result that was accepted stays accepted."""
        self._end(Ending(cause=cause, stopped=True))
        self._stop.set()

    async def steer(self, text: str, *messages: str) -> bool:
        """Add a user message for the next model call. False if there will be none."""
        session = self._session
        if session is None or self._over or EngineCapability.STEER not in self._engine.capabilities:
            return False
        self._given.append(messages)
        self._record.entry("user", text, {"steer": True, "messages": list(messages)})
        await session.steer(text)
        return True

    @property
    def _over(self) -> bool:
        accepted = self._gate is not None and self._gate.accepted is not None
        return accepted or self._ending is not None

    # --- the conversation ---

    async def _talk(self) -> None:
        try:
            contract = await contract_of(self._context)
            spec, prepared = await self._prepare(contract)
            async with self._engine.open(spec) as session:
                await self._open(session, spec, prepared)
                try:
                    await self._listen(session)
                finally:
                    self._session = self._box.deliver = None
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            self._fail(error)
        if not self._over:
            self._fail(RuntimeError(f"the engine {self._engine.name} ended the session without a word"))

    async def _prepare(self, contract: ResultContract) -> tuple[SessionSpec, Prepared]:
        context, step = self._context, self._context.step
        agent = context.spec.agents[step.agent]
        cwd = folder_of(context)
        self._wants_data = contract.schema is not None
        self._gate = Gate(
            context=context,
            contract=contract,
            record=self._record,
            ended=self._contract_ended,
            failed=self._fail,
        )
        scope = SessionScope(
            context=context,
            tools=agent.tools,
            cwd=cwd,
            schema=contract.schema,
            gate=self._gate,
            mail=self._box,
            read_artifact=self._read_artifact,
        )
        tools = tuple(self._journal.wrapped(tool) for tool in self._toolbox(scope))
        ours = [tool.name for tool in tools]
        wanted = tuple(name for name in agent.tools if name not in ours)
        theirs = await self._engine.available_tools(wanted, cwd) if wanted else ()
        prepared = await prepare(context, self._writer, self._box, [*ours, *theirs])
        spec = SessionSpec(
            session_id=context.attempt.session_id,
            agent=agent.name,
            system_prompt=prepared.prompt.system,
            cwd=cwd,
            tools=tools,
            host_tools=theirs,
            limits=self._limits,
            model=context.attempt.model_asked,
            append_prompt=agent.append_prompt,
            journal=self._journal,
            identity={"run": context.run.id, "task": context.task.key, "role": step.role},
        )
        return spec, prepared

    async def _read_artifact(self, ref: str) -> bytes:
        run_id = self._context.run.id
        return await self._writer.read(lambda store: artifact_of(store, run_id, ref))

    async def _open(self, session: Session, spec: SessionSpec, prepared: Prepared) -> None:
        context = self._context
        self._record.add(
            lambda store: store.open_session(
                context.lease,
                context.attempt.id,
                host_session=session.host_session,
                prompt=prepared.artifact,
            )
        )
        self._record.event(
            "session.opened",
            {
                "kind": SessionKind.LIVE,
                "agent": spec.agent,
                "model": spec.model,
                "tools": [*(tool.name for tool in spec.tools), *spec.host_tools],
            },
        )
        await self._say(session, prepared.prompt.first, *(message.id for message in prepared.mail))
        self._session = session
        await self._box.open(self.steer)

    async def _say(self, session: Session, text: str, *messages: str) -> None:
        self._given.append(messages)
        self._record.entry("user", text)
        await session.prompt(text)

    async def _listen(self, session: Session) -> None:
        events = session.events()
        try:
            async for event in events:
                if await self._handle(session, event):
                    return
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def _handle(self, session: Session, event: SessionEvent) -> bool:
        """Take note of an event. True if the session is over."""
        now = anyio.current_time()
        self._deadlines.alive(now)
        match event:
            case ModelAnswered():
                return await self._answered(session, event)
            case ToolEnded():
                return await self._tool_ended(session, event, now)
            case TurnEnded():
                return self._over or await self._follow(session, self._ladder.turn_ended())
            case SessionFailed():
                self._fail(event.error)
                return True
            case ToolStarted():
                self._deadlines.tool_started(event.call_id, event.name, now)
                self._record.event("session.tool_started", {"tool": event.name, "target": event.target})
            case ModelRetrying():
                self._deadlines.alive(now, pause=event.delay)
                self._retrying(event)
            case SteersTaken():
                self._taken(event.count)
            case ModelBusy():
                pass
        return False

    async def _answered(self, session: Session, event: ModelAnswered) -> bool:
        self._usage += event.usage
        if event.text.strip():
            self._last_text = event.text
        names = [call.name for call in event.tool_calls]
        move = self._ladder.answered(works=bool(names), submits=_SUBMIT in names)
        calls = [asdict(call) for call in event.tool_calls]
        self._record.entry("assistant", event.text, {"tool_calls": calls} if calls else {})
        self._record.progress(self._usage, self._ladder.steps, event.model)
        self._record.event(
            "session.model_answered",
            {"step": self._ladder.steps, "usage": usage_data(event.usage), "tool_calls": names},
        )
        self._journal.announce(len(names))
        return await self._follow(session, move)

    async def _tool_ended(self, session: Session, event: ToolEnded, now: float) -> bool:
        self._deadlines.tool_ended(event.call_id, now)
        self._record.entry("tool", event.text, {"call_id": event.call_id, "name": event.name, "ok": event.ok})
        self._record.event(
            "session.tool_ended", {"tool": event.name, "ok": event.ok, "ms": round(event.milliseconds, 1)}
        )
        self._record.progress(self._usage, self._ladder.steps, None)
        if event.ends_session or self._over:
            return True
        if event.name == _SUBMIT:
            return await self._follow(session, self._ladder.sent_back())
        if event.name != _IRC:
            self._box.worked()
        return False

    async def _follow(self, session: Session, move: Move | None) -> bool:
        """Do what the ladder says. True if the session is over."""
        match move:
            case Warn(used=used):
                await self._warn(f"{used} of {self._limits.steps} model calls")
            case CloseWays():
                self._restrict(session)
            case LastCall(wake=wake):
                await self._call_last(session, wake=wake)
            case Remind(n=n, last=last):
                await self._remind(session, n, last=last)
            case GiveUp(cause=cause):
                self._end(Ending(cause=cause))
                return True
            case None:
                pass
        return False

    async def _call_last(self, session: Session, *, wake: bool) -> None:
        limit = self._limits.steps
        self._record.event("session.limit_reached", {"limit": "steps", "value": limit})
        self._restrict(session)
        text = words.last_call(limit, wants_data=self._wants_data)
        if wake:
            await self._say(session, text)
        else:
            await self.steer(text)

    async def _remind(self, session: Session, n: int, *, last: bool) -> None:
        of = self._ladder.reminders
        self._record.event("session.reminded", {"n": n, "of": of})
        if last:
            self._restrict(session)
        await self._say(session, words.reminder(n, of, wants_data=self._wants_data))

    def _restrict(self, session: Session) -> None:
        capabilities = self._engine.capabilities
        if EngineCapability.RESTRICT_TOOLS in capabilities:
            force = _SUBMIT if EngineCapability.FORCE_RESULT in capabilities else None
            session.restrict(frozenset({_SUBMIT}), force=force)

    def _retrying(self, event: ModelRetrying) -> None:
        self._record.event(
            "session.retrying",
            {"error": event.error, "try": event.attempt, "of": event.of, "delay": event.delay},
        )

    def _taken(self, count: int) -> None:
        """Texts became part of a model call: the messages in them are read."""
        for _ in range(min(count, len(self._given))):
            for message_id in self._given.popleft():
                self._record.add(_settles(message_id))

    async def _warn(self, what: str) -> None:
        if await self.steer(words.time_warning(what)):
            self._record.event("session.note", {"text": f"warned: it has used {what}"})

    # --- the ends ---

    def _end(self, ending: Ending) -> None:
        """The first ending counts."""
        self._ending = self._ending or ending

    def _contract_ended(self, ended: Ended) -> None:
        self._end(Ending(cause=ended.cause, kept=ended.kept))

    def _fail(self, error: Exception) -> None:
        """Something that the session cannot go on after."""
        if isinstance(error, Fenced):
            self._fenced = error
        self._end(ending_of(error))
        self._stop.set()

    async def _keep_record(self) -> None:
        try:
            await self._record.keep_writing()
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            self._fail(error)

    async def _guard(self) -> None:
        """Hold the session to its limits and stop it when asked to."""
        while not self._stop.is_set():
            now = anyio.current_time()
            hit = self._deadlines.hit(now)
            if hit is not None:
                self._record.event(
                    "session.limit_reached", {"limit": hit.limit, "value": hit.value}, cause=hit.cause
                )
                self._end(Ending(cause=hit.cause, retryable=hit.cause.code is CauseCode.WORKER_TIMEOUT))
                break
            if not self._warned and now >= self._deadlines.warning_due():
                self._warned = True
                await self._warn(f"four fifths of the {self._limits.wall_seconds:.0f} s for this task")
            due = self._deadlines.look_again(now)
            if not self._warned:
                due = min(due, self._deadlines.warning_due())
            with anyio.CancelScope(deadline=due):
                await self._stop.wait()
        await self._quiet()

    async def _quiet(self) -> None:
        session, ending = self._session, self._ending
        if session is not None and ending is not None:
            with anyio.move_on_after(QUIET_SECONDS):
                try:
                    await session.abort(ending.cause)
                except Exception:
                    logger.warning(
                        "session %s did not let itself be aborted; it is left instead",
                        self._context.attempt.session_id,
                        exc_info=True,
                    )
                else:
                    await self._silent.wait()
        self._talking.cancel()

    async def _conclude(self) -> Outcome:
        """Write down the end, and say what it is."""
        ending = self._ending
        closes_mail = self._box.close(self._closed_because())
        if self._fenced is not None:
            return Outcome(state=AttemptState.FAILED)
        if ending is not None:
            self._record.entry("note", f"The session ended: {ending.cause.message}")
        self._record.progress(self._usage, self._ladder.steps, None)
        self._record.event("session.closed", {"steps": self._ladder.steps, "usage": usage_data(self._usage)})
        entries = [self._record.rest(), closes_mail]
        try:
            left = await self._writer.run(
                lambda store: last_write(store, self._context, ending, self._last_text, entries)
            )
        except Fenced as error:
            self._fenced = error
            return Outcome(state=AttemptState.FAILED)
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            return Outcome(state=AttemptState.FAILED, cause=(ending or ending_of(error)).cause)
        return outcome_of(ending, left, touched_the_world=self._journal.touched_the_world)

    def _closed_because(self) -> str:
        if self._ending is None:
            return f"{self._context.task.key} has handed in its result"
        return f"the session of {self._context.task.key} ended: {self._ending.cause.message}"


def _settles(message_id: str) -> Entry:
    return lambda store: store.settle_message(message_id, MessageState.READ)
