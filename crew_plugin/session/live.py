"""One live session from its prompt to its outcome."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import anyio

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.errors import Fenced
from crew_plugin.host import Engine, EngineCapability, Session, SessionSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.facts import ModelTable
from crew_plugin.models.mail import MessageRecord
from crew_plugin.models.records import TranscriptEntry
from crew_plugin.models.states import AttemptState
from crew_plugin.session import words
from crew_plugin.session.asking import Asking
from crew_plugin.session.contract import ResultContract
from crew_plugin.session.course import Course, Reopening
from crew_plugin.session.ending import Ending, Left, ending_of, last_write, outcome_of
from crew_plugin.session.equip import Equipment
from crew_plugin.session.gate import Gate
from crew_plugin.session.guard import Guard
from crew_plugin.session.listen import Listener
from crew_plugin.session.mail import MailRoom
from crew_plugin.session.memory import Memory
from crew_plugin.session.prepare import Prepared, contract_of, folder_of, prepare, prepare_again
from crew_plugin.session.prompt import letter
from crew_plugin.session.record import usage_data
from crew_plugin.session.scope import ResultRules, SessionScope, Toolbox
from crew_plugin.session.shorten import shortened
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["LiveSession"]

CLEANUP_SECONDS: Final = 5.0
"""How long the last writes of a cancelled session may take."""
_CALLER_CANCELLED: Final = Cause(code=CauseCode.SHUTDOWN, message="whoever ran the session was cancelled")


class LiveSession:
    """Runs one attempt as a session of an engine. `run` is called once.

    The engine session may be left and opened again on the way, with what was said before: the
    attempt, its limits, its counters and its transcript stay the same.
    """

    def __init__(
        self,
        context: AttemptContext,
        *,
        engine: Engine,
        writer: StoreWriter,
        toolbox: Toolbox,
        room: MailRoom,
        rules: ResultRules,
        table: ModelTable,
    ) -> None:
        self._context = context
        self._engine = engine
        self._writer = writer
        self._toolbox = toolbox
        self._rules = rules
        self._course = Course(context, engine=engine, writer=writer, room=room, rules=rules, table=table)
        self._talking = anyio.CancelScope()
        self._course.box.retried = self._retried
        self._course.box.over = lambda: self._course.over
        self._guard = Guard(self._course, self._talking)
        self._listener: Listener | None = None

    async def run(self) -> Outcome:
        """Execute the attempt. Raises `Fenced`; any other failure is an outcome."""
        course = self._course
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_record)
                group.start_soon(self._guard.watch)
                group.start_soon(course.jobs.watch, self._waited_long_enough)
                with self._talking:
                    await self._talk()
                self._guard.silent.set()
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            course.end(Ending(cause=_CALLER_CANCELLED, stopped=True))
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._conclude()
            raise
        outcome = await self._conclude()
        if course.fenced is not None:
            raise course.fenced
        return outcome

    def stop(self, cause: Cause) -> None:
        """Make `run` return soon. A result that was accepted stays accepted."""
        self._course.end(Ending(cause=cause, stopped=True))
        self._course.stopping.set()

    async def interrupt(self, cause: Cause, message: MessageRecord | None = None) -> bool:
        """Stop model call and tools under way, and go on with the conversation, told of it and given
        the message. False if there is nothing to stop or to go on with."""
        text = words.interrupted(cause.message, "" if message is None else letter(message))
        messages = () if message is None else (message.id,)
        return await self._course.leave(Reopening(cause=cause, text=text, messages=messages))

    async def steer(self, text: str, *messages: str) -> bool:
        """Add a user message for the next model call. False if there will be none."""
        return await self._course.steer(text, *messages)

    # --- the conversation ---

    async def _talk(self) -> None:
        course = self._course
        try:
            contract = await contract_of(self._context)
            spec, prepared = await self._prepare(contract)
            again = await self._hold(spec, prepared)
            while again is not None:
                again = await self._hold_again(spec, again)
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            course.fail(error)
        if not course.over:
            course.fail(RuntimeError(f"the engine {self._engine.name} ended the session without a word"))

    async def _hold(self, spec: SessionSpec, prepared: Prepared) -> Reopening | None:
        """The first engine session. Returns what to go on with, if there is to be another."""

        async def begin(session: Session) -> None:
            self._opened(session, spec, prepared)
            await self._listen(session, prepared.prompt.first, tuple(message.id for message in prepared.mail))

        return await self._holding(spec, begin)

    async def _holding(
        self, spec: SessionSpec, begin: Callable[[Session], Awaitable[None]]
    ) -> Reopening | None:
        """One engine session. Returns what to go on with, if there is to be another."""
        course = self._course
        session: Session | None = None
        try:
            with anyio.CancelScope() as hold:
                async with self._engine.open(spec) as session:
                    course.hold, course.left = hold, anyio.Event()
                    await begin(session)
        finally:
            course.engine_left(session)
        reopening, course.reopening = course.reopening, None
        return None if course.over else reopening

    async def _hold_again(self, spec: SessionSpec, reopening: Reopening) -> Reopening | None:
        """A further engine session, which knows what was said before."""
        course = self._course
        course.cut_off(reopening.cause.message)
        if reopening.compacts:
            reopening = await self._shorter(spec, reopening)
        history = reopening.history
        if history is None:
            history = course.memory.said(await self._transcript())
        if await self._has_result():
            return None

        async def begin(session: Session) -> None:
            for name in course.withdrawn:
                session.withdraw(name)
            if reopening.only_submit or course.restricted:
                course.restrict(session)
            course.record.event("session.reopened", {"entries": len(history)}, cause=reopening.cause)
            told = "\n\n".join(text for text in (reopening.text, course.jobs.lost()) if text)
            await self._listen(session, told, (*course.untaken(), *reopening.messages))

        return await self._holding(replace(spec, history=history), begin)

    async def _transcript(self) -> list[TranscriptEntry]:
        session_id = self._context.attempt.session_id
        return await self._course.record.write(lambda store: store.read_transcript(session_id))

    async def _shorter(self, spec: SessionSpec, reopening: Reopening) -> Reopening:
        """Shorten the conversation, keep the whole of it, and tell the session of both."""
        course = self._course
        return await shortened(course, spec, reopening, await self._transcript())

    async def _listen(self, session: Session, first: str, messages: tuple[str, ...]) -> None:
        course = self._course
        await course.say(session, first, *messages)
        course.session = session
        try:
            await course.box.open(course.steer)
            self._listener = Listener(course, session)
            await self._listener.listen()
        finally:
            self._listener = None
            if EngineCapability.JOBS in self._engine.capabilities:
                course.jobs.left(session)
            course.session = course.box.deliver = None
            course.deadlines.turn_ended(anyio.current_time())
            course.left.set()

    async def _waited_long_enough(self) -> None:
        """Its jobs in the background took longer than it may wait."""
        try:
            over = self._listener is not None and await self._listener.waited()
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            self._course.fail(error)
        else:
            if over:
                self._course.stopping.set()

    async def _has_result(self) -> bool:
        """Whether a submit that was cut off has reached the disk all the same."""
        attempt_id = self._context.attempt.id
        attempt = await self._course.record.write(lambda store: store.load_attempt(attempt_id))
        if attempt.result_id is not None:
            self._course.settled = True
        return self._course.over

    async def _prepare(self, contract: ResultContract) -> tuple[SessionSpec, Prepared]:
        context, step, course = self._context, self._context.step, self._course
        agent = context.spec.agents[step.agent]
        cwd = folder_of(context)
        equipment = Equipment(context=context, engine=self._engine, writer=self._writer)
        course.wants_data = contract.schema is not None
        course.gate = Gate(
            context=context,
            contract=contract,
            record=course.record,
            ended=course.contract_ended,
            failed=course.fail,
            holds=course.holds,
            over=course.ended,
        )
        scope = SessionScope(
            context=context,
            tools=equipment.ours,
            cwd=cwd,
            schema=contract.schema,
            data_kind=contract.kind,
            gate=course.gate,
            rules=self._rules,
            mail=course.box,
            asks=Asking(course, self._writer),
            read_artifact=equipment.read_artifact,
        )
        tools = tuple(course.journal.wrapped(tool) for tool in self._toolbox(scope))
        ours = [tool.name for tool in tools]
        wanted = tuple(name for name in agent.tools if name not in ours)
        theirs = await equipment.theirs(wanted, cwd)
        if context.goes_on:
            prepared = await prepare_again(context, self._writer, course.box)
        else:
            prepared = await prepare(context, self._writer, course.box, [*ours, *theirs])
        course.memory = Memory(prepared.history, after=prepared.known)
        course.journal.touched_the_world = prepared.touched_the_world
        contract.remember(prepared.parts)
        spec = SessionSpec(
            session_id=context.attempt.session_id,
            agent=agent.name,
            system_prompt=prepared.prompt.system,
            cwd=cwd,
            tools=tools,
            # Patterns too: a server may come to have more tools that they mean.
            host_tools=(*theirs, *(name for name in wanted if "*" in name)),
            denied_tools=agent.deny_tools,
            mcp_servers=agent.mcp_servers,
            keep=equipment.keep,
            history=prepared.history,
            limits=course.limits,
            model=context.attempt.model_asked,
            append_prompt=agent.append_prompt,
            journal=course.journal,
            identity={"run": context.run.id, "task": context.task.key, "role": step.role},
        )
        return spec, prepared

    def _opened(self, session: Session, spec: SessionSpec, prepared: Prepared) -> None:
        context, record = self._context, self._course.record
        record.add(
            lambda store: store.open_session(
                context.lease,
                context.attempt.id,
                host_session=session.host_session,
                prompt=prepared.artifact,
            )
        )
        record.event(
            "session.opened",
            {
                "kind": context.attempt.kind,
                "agent": spec.agent,
                "model": spec.model,
                "tools": [
                    *(tool.name for tool in spec.tools),
                    *(name for name in spec.host_tools if "*" not in name),
                ],
            },
        )

    # --- the end ---

    async def _keep_record(self) -> None:
        try:
            await self._course.record.keep_writing()
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            self._course.fail(error)

    async def _conclude(self) -> Outcome:
        """Write down the end, and say what it is."""
        course = self._course
        ending, record = course.last_ending(), course.record
        again = self._retried()
        closes_mail = course.box.close(self._closed_because(), again=again)
        if course.fenced is not None:
            return Outcome(state=AttemptState.FAILED)
        course.cut_off("the session ended" if ending is None else ending.cause.message)
        if ending is not None:
            record.entry("note", f"The session ended: {ending.cause.message}")
        course.progress()
        record.event("session.closed", {"steps": course.ladder.steps, "usage": usage_data(course.usage)})
        rest = record.rest()

        def write(store: RunStore) -> Left:
            rest(store)
            left = last_write(store, self._context, ending, course.last_words)
            if not again or left.result is not None:
                closes_mail(store)
            return left

        try:
            left = await self._writer.run(write)
        except Fenced as error:
            course.fenced = error
            return Outcome(state=AttemptState.FAILED)
        except Exception as error:  # noqa: BLE001 - becomes the attempt's outcome
            return Outcome(state=AttemptState.FAILED, cause=(ending or ending_of(error)).cause)
        await course.box.tell_senders()
        return outcome_of(ending, left, touched_the_world=course.journal.touched_the_world)

    def _retried(self) -> bool:
        """Whether another attempt follows, which finds in its prompt what this one was told."""
        ending = self._course.last_ending()
        if ending is None or self._course.fenced is not None or self._context.again is None:
            return False
        outcome = outcome_of(ending, Left(), touched_the_world=self._course.journal.touched_the_world)
        return self._context.again(outcome)

    def _closed_because(self) -> str:
        ending = self._course.ending
        if ending is None:
            return f"{self._context.task.key} has handed in its result"
        again = "; it is tried again, and told of your messages" if self._retried() else ""
        return f"the session of {self._context.task.key} ended: {ending.cause.message}{again}"
