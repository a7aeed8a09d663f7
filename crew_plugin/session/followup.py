"""One further conversation of a session that has ended: it reads its mail and answers it.

Its task and its result stay what they are. What it says goes by mail; if it writes to nobody, its
last words are passed on to whoever woke it, and so is the news that it failed.
"""

import logging
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import Fenced, NotAllowed
from crew_plugin.host import (
    Engine,
    ModelAnswered,
    ModelRetrying,
    PluginActed,
    ServerNoted,
    Session,
    SessionEvent,
    SessionFailed,
    SessionSpec,
    SteersTaken,
    ToolEnded,
    ToolError,
    ToolStarted,
    TurnEnded,
)
from crew_plugin.models.facts import ModelTable
from crew_plugin.models.mail import MessageKind, MessageRecord
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.models.records import TranscriptEntry, Usage
from crew_plugin.session import words
from crew_plugin.session.compact import cut
from crew_plugin.session.contract import Submission, Verdict
from crew_plugin.session.equip import Equipment
from crew_plugin.session.history import HISTORY_CHARS
from crew_plugin.session.journal import Journal
from crew_plugin.session.mail import MailRoom
from crew_plugin.session.prepare import folder_of
from crew_plugin.session.prompt import letter, system_of
from crew_plugin.session.record import Record, usage_data
from crew_plugin.session.scope import SessionScope, Toolbox
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter

__all__ = ["FollowUp"]

CLEANUP_SECONDS: Final = 5.0
"""How long the last writes may take when the run ends over it."""
_SUBMIT: Final = "submit_result"
_IRC: Final = "irc"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Past:
    """What the session was before."""

    system: str
    history: tuple[TranscriptEntry, ...]
    left_out: int
    mail: tuple[MessageRecord, ...]


class _Closed:
    """Where nothing can be handed in any more."""

    async def submit(self, submission: Submission) -> Verdict:
        """Nothing is taken."""
        raise ToolError("your result was handed in before; answer with irc")

    async def refuse(self, problem: str, written: str = "") -> Verdict:
        """Nothing is taken."""
        return await self.submit(Submission())


class _Answering:
    """Asks nobody: the task has ended, and there is nothing that an answer could change."""

    async def ask(
        self, text: str, *, choices: tuple[str, ...], seconds: float | None, default: str | None
    ) -> QuestionRecord:
        """Nobody is asked."""
        raise NotAllowed("your task has ended; answer with irc, and say there what you would have to know")


class FollowUp:
    """Holds the conversation. `run` is called once."""

    def __init__(
        self,
        context: AttemptContext,
        *,
        engine: Engine,
        writer: StoreWriter,
        toolbox: Toolbox,
        room: MailRoom,
        table: ModelTable,
    ) -> None:
        self._table = table
        self._model = context.attempt.model_asked
        self._context = context
        self._engine = engine
        self._writer = writer
        self._toolbox = toolbox
        self._policy = room.policy
        self._room = room
        self._record = Record(context, writer)
        self._journal = Journal(self._record, context.lease, context.attempt.id)
        self._box = room.box(
            context.run.id, context.task.key, attempt_id=context.attempt.id, wake=context.wake, woken=True
        )
        self._session: Session | None = None
        self._given: list[tuple[str, ...]] = []
        self._asked: list[str] = []
        """Messages in a model call that has not been answered."""
        self._steps = 0
        self._usage = Usage()
        self._last_text = ""
        self._failure = ""
        self._stopped = False
        """With the run: its failure is nothing that whoever has an answer of it needs to know."""
        self._fenced: Fenced | None = None

    async def run(self) -> None:
        """Read the mail and answer it. Raises `Fenced`; any other failure is told to who asked."""
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_record)
                await self._talk()
                group.cancel_scope.cancel()
        except anyio.get_cancelled_exc_class():
            self._stopped = not self._failure
            self._failure = self._failure or "it was stopped, as the run was"
            with anyio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._conclude()
            raise
        await self._conclude()
        if self._fenced is not None:
            raise self._fenced

    async def _talk(self) -> None:
        seconds = self._policy.follow_up_seconds
        try:
            with anyio.move_on_after(seconds) as limit:
                past = await self._writer.run(self._look)
                self._box.heard(past.mail)
                if self._box.heard_of:
                    await self._converse(past)
            if limit.cancelled_caught:
                self._failure = f"it did not come to an end within {seconds:g} s"
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            self._fail(error)

    def _look(self, store: RunStore) -> _Past:
        context = self._context
        session_id = context.attempt.session_id
        prompt = store.load_session(session_id).prompt
        entries = store.read_transcript(session_id)
        if prompt is None or not entries:
            raise LookupError("there is no transcript of its session")
        made = cut(entries, HISTORY_CHARS)
        return _Past(
            system=system_of(store.read_artifact(prompt.sha256).decode("utf-8", "replace")),
            history=made.kept,
            left_out=made.left_out,
            mail=tuple(store.take_messages(context.run.id, context.task.key)),
        )

    async def _converse(self, past: _Past) -> None:
        context = self._context
        self._record.event(
            "session.woken",
            {"by": sorted(self._box.heard_of), "mail": len(past.mail), "entries": len(past.history)},
        )
        spec = await self._spec(past)
        text = words.woken(
            context.task.state,
            "\n\n".join(letter(message) for message in past.mail),
            left_out=past.left_out,
        )
        async with self._engine.open(spec) as session:
            await self._say(session, text, past.mail)
            self._session = session
            try:
                await self._box.open(self._steer)
                await self._listen(session)
            finally:
                # What comes from here on is for the next conversation.
                self._session, self._box.deliver, self._box.leaving = None, None, True
        for note in session.afterwards():
            self._record.noted(note)

    async def _spec(self, past: _Past) -> SessionSpec:
        context, step = self._context, self._context.step
        agent = context.spec.agents[step.agent]
        cwd = folder_of(context)
        equipment = Equipment(context=context, engine=self._engine, writer=self._writer)
        scope = SessionScope(
            context=context,
            tools=equipment.ours,
            cwd=cwd,
            schema=None,
            gate=_Closed(),
            asks=_Answering(),
            mail=self._box,
            read_artifact=equipment.read_artifact,
        )
        tools = tuple(self._journal.wrapped(tool) for tool in self._toolbox(scope) if tool.name != _SUBMIT)
        ours = [tool.name for tool in tools]
        wanted = tuple(name for name in agent.tools if name not in ours)
        theirs = await equipment.theirs(wanted, cwd)
        return SessionSpec(
            session_id=context.attempt.session_id,
            agent=agent.name,
            system_prompt=past.system,
            cwd=cwd,
            tools=tools,
            host_tools=(*theirs, *(name for name in wanted if "*" in name)),
            denied_tools=agent.deny_tools,
            mcp_servers=agent.mcp_servers,
            keep=equipment.keep,
            limits=step.limits,
            model=context.attempt.model_asked,
            append_prompt=agent.append_prompt,
            journal=self._journal,
            identity={"run": context.run.id, "task": context.task.key, "role": step.role},
            history=past.history,
        )

    # --- the conversation ---

    async def _say(self, session: Session, text: str, mail: Sequence[MessageRecord]) -> None:
        self._given.append(tuple(message.id for message in mail))
        self._record.entry("user", text)
        await session.prompt(text)

    async def _steer(self, text: str, *messages: str) -> bool:
        if self._session is None:
            return False
        self._given.append(messages)
        self._record.entry("user", text, {"steer": True, "messages": list(messages)})
        await self._session.steer(text)
        return True

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
        """Take note of an event. True if the conversation is over."""
        match event:
            case ModelAnswered():
                return self._answered(event)
            case ToolEnded():
                self._tool_ended(event)
            case TurnEnded():
                return not await self._more(session)
            case SessionFailed():
                self._fail(event.error)
                return True
            case ToolStarted():
                self._record.event("session.tool_started", {"tool": event.name, "target": event.target})
            case ModelRetrying():
                self._record.event(
                    "session.retrying",
                    {"error": event.error, "try": event.attempt, "of": event.of, "delay": event.delay},
                )
            case SteersTaken():
                self._taken(event.count)
            case PluginActed() | ServerNoted():
                self._record.noted(event)
            case _:
                pass
        return False

    def _answered(self, event: ModelAnswered) -> bool:
        self._steps += 1
        self._record.read(*self._asked)
        self._asked.clear()
        usage = replace(event.usage, cost=self._table.cost_of(event.usage, event.model, self._model))
        self._usage += usage
        if event.text.strip():
            self._last_text = event.text
        names = [call.name for call in event.tool_calls]
        calls = self._record.calls(event.tool_calls, self._steps)
        self._record.entry("assistant", event.text, {"tool_calls": calls} if calls else {})
        self._record.event(
            "session.model_answered",
            {"step": self._steps, "usage": usage_data(usage), "tool_calls": names},
        )
        context = self._context
        self._record.add(
            lambda store: store.add_usage(context.lease, context.attempt.id, usage=usage, steps=1)
        )
        self._journal.announce(len(names))
        if names and self._steps > self._policy.follow_up_steps:
            self._failure = f"it used all {self._policy.follow_up_steps} model calls of this conversation"
            return True
        return False

    def _tool_ended(self, event: ToolEnded) -> None:
        returned = [message.id for message in self._box.returned()] if event.name == _IRC else []
        self._asked += returned
        self._record.tool_ended(event, returned)
        if event.name != _IRC:
            self._box.worked()

    async def _more(self, session: Session) -> bool:
        """Whether there is more mail, which the session has now."""
        messages = await self._box.after_turn()
        if messages:
            await self._say(session, "\n\n".join(letter(message) for message in messages), messages)
        elif self._given:
            # It came just as the turn had ended: only another one sends it.
            await self._say(session, words.came_late(), ())
            return True
        return bool(messages)

    def _taken(self, count: int) -> None:
        for _ in range(min(count, len(self._given))):
            for message_id in self._given.pop(0):
                self._box.seen(message_id)
                self._asked.append(message_id)

    # --- the end ---

    def _fail(self, error: Exception) -> None:
        if isinstance(error, Fenced):
            self._fenced = error
        elif not self._failure:
            logger.warning("a further conversation of %s failed", self._context.task.key, exc_info=error)
        self._failure = self._failure or f"it failed: {error}"

    async def _keep_record(self) -> None:
        try:
            await self._record.keep_writing()
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            self._fail(error)

    async def _conclude(self) -> None:
        """Write down the end, and tell who woke it what they were not told."""
        context, key = self._context, self._context.task.key
        self._box.leaving = True
        if self._failure:
            self._journal.cut_off(self._failure)
        if self._fenced is None:
            self._note_end()
        rest = self._record.rest()

        def write(store: RunStore) -> list[MessageRecord]:
            rest(store)
            return [
                store.send_message(
                    context.run.id,
                    sender=key,
                    recipient=waker,
                    kind=MessageKind.RELAY,
                    body=self._relay(),
                    hops=hops + 1,
                )
                for waker, hops in self._wakers(store).items()
            ]

        relays: list[MessageRecord] = []
        try:
            if self._fenced is None:
                relays = await self._writer.run(write)
                for relay in relays:
                    await self._room.hand_over(relay)
        except Fenced as error:
            self._fenced = error
        finally:
            # Only now: a session that waits for this one is to get the relay, not the news of the end.
            told = {relay.recipient for relay in relays}
            closes = self._box.close(f"the further conversation of {key} has ended", told=told)
        if self._fenced is None:
            await self._writer.run(closes)
            await self._box.tell_senders()

    def _note_end(self) -> None:
        if self._failure:
            self._record.entry("note", f"The conversation ended: {self._failure}")
        if self._steps or self._failure:
            outcome = "failed" if self._failure else "answered" if self._box.answered else "relayed"
            self._record.event(
                "session.rested",
                {"outcome": outcome, "steps": self._steps, "usage": usage_data(self._usage)},
            )

    def _wakers(self, store: RunStore) -> dict[str, int]:
        """Who is owed a word, with the hop count of their last one. A failure of its own is told to all,
        also to those that it has answered; and any to those whose mail nobody came to read."""
        owed, answered = dict(self._box.heard_of), self._box.answered
        if not self._failure or self._stopped:
            owed = {waker: hops for waker, hops in owed.items() if waker not in answered}
        if self._failure:
            for message in store.list_messages(self._context.run.id, unread_by=self._context.task.key):
                if message.kind not in (MessageKind.RELAY, MessageKind.FOLLOW_UP):
                    owed.setdefault(message.sender, message.hops)
        return owed

    def _relay(self) -> str:
        context = self._context
        return words.relay(
            context.task.key,
            self._last_text,
            failure=self._failure,
            where=f"run {context.run.id}, task {context.task.key}",
        )
