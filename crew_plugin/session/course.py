"""How one live session stands: what its parts share, and how they speak to its model."""

from collections import deque
from dataclasses import dataclass

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import Fenced
from crew_plugin.host import Engine, EngineCapability, Session
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.facts import ModelTable
from crew_plugin.models.records import MessageState, TranscriptEntry, Usage
from crew_plugin.session import words
from crew_plugin.session.contract import Ended
from crew_plugin.session.ending import Ending, ending_of
from crew_plugin.session.gate import Gate
from crew_plugin.session.health import Tally
from crew_plugin.session.journal import Journal
from crew_plugin.session.ladder import Ladder
from crew_plugin.session.limits import Deadlines
from crew_plugin.session.mail import MailRoom
from crew_plugin.session.memory import Memory
from crew_plugin.session.record import Entry, Record
from crew_plugin.store.writer import StoreWriter

__all__ = ["SUBMIT", "Course", "Reopening"]

SUBMIT = "submit_result"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reopening:
    """Why a session goes on in a new engine session, and how that one begins."""

    cause: Cause
    text: str
    """Its prompt, after what was said before."""
    only_submit: bool = False
    """Offer nothing but submit_result."""
    history: tuple[TranscriptEntry, ...] | None = None
    """What was said before; None for all of it."""
    compacts: str = ""
    """`window` or `overflow` where what was said before is too long: it is shortened, and the
    prompt says so."""


class Course:
    """The state of one live session. Its parts change it; nothing here waits for a model."""

    def __init__(
        self,
        context: AttemptContext,
        *,
        engine: Engine,
        writer: StoreWriter,
        room: MailRoom,
        reminders: int,
        table: ModelTable,
    ) -> None:
        self.context = context
        self.engine = engine
        self.limits = context.step.limits
        self.ladder = Ladder(limit=self.limits.steps, reminders=reminders)
        self.record = Record(context, writer)
        self.journal = Journal(self.record, context.lease, context.attempt.id)
        self.box = room.box(context.run.id, context.task.key, wake=context.wake)
        self.box.pause = self.wait
        self.tally = Tally(table, model=context.attempt.model_asked)
        self.memory = Memory()
        self.deadlines = Deadlines(self.limits, anyio.current_time())
        self.session: Session | None = None
        """The engine session that takes texts now."""
        self.gate: Gate | None = None
        self.ending: Ending | None = None
        self.fenced: Fenced | None = None
        self.reopening: Reopening | None = None
        """Set when the engine session is to be left for a new one."""
        self.stopping = anyio.Event()
        """Set when the guard is to make it quiet."""
        self.settled = False
        """Its result was found on the disk although nobody was told of it."""
        self.last_text = ""
        self.usage = Usage()
        self.wants_data = False
        self.restricted = False
        """Nothing but submit_result is offered any more."""
        self._given: deque[tuple[str, ...]] = deque()
        """For each text the session was given and no model has seen: the messages in it."""

    @property
    def over(self) -> bool:
        """Whether a result was accepted, or there will be none."""
        accepted = self.gate is not None and self.gate.accepted is not None
        return accepted or self.settled or self.ending is not None

    @property
    def can_go_on(self) -> bool:
        """Whether the conversation can be taken up in a new engine session."""
        return not self.over and EngineCapability.HISTORY in self.engine.capabilities

    # --- the ends ---

    def end(self, ending: Ending) -> None:
        """The first ending counts."""
        self.ending = self.ending or ending

    def contract_ended(self, ended: Ended) -> None:
        """The contract allows no further submits."""
        self.end(Ending(cause=ended.cause, kept=ended.kept))

    def fail(self, error: Exception) -> None:
        """Something that the session cannot go on after."""
        if isinstance(error, Fenced):
            self.fenced = error
        self.end(ending_of(error))
        self.stopping.set()

    def too_long(self, because: str, message: str) -> None:
        """Go on with a shorter conversation."""
        cause = Cause(code=CauseCode.CONTEXT_FULL, message=message)
        self.reopening = Reopening(cause=cause, text="", compacts=because)

    def progress(self, model: str | None = None) -> None:
        """Note how far the session is; this is its heartbeat, too."""
        self.record.progress(self.usage, self.ladder.steps, model, self.tally.counts)

    # --- what is said to the model ---

    async def say(self, session: Session, text: str, *messages: str) -> None:
        """Give the session its next prompt, and begin a turn."""
        self._given.append(messages)
        self.record.entry("user", text)
        await session.prompt(text)

    async def steer(self, text: str, *messages: str) -> bool:
        """Add a user message for the next model call. False if there will be none."""
        session = self.session
        if session is None or self.over or EngineCapability.STEER not in self.engine.capabilities:
            return False
        self._given.append(messages)
        self.record.entry("user", text, {"steer": True, "messages": list(messages)})
        await session.steer(text)
        return True

    async def warn(self, what: str) -> None:
        """Say that a limit is near."""
        if await self.steer(words.time_warning(what)):
            self.record.event("session.note", {"text": f"warned: it has used {what}"})

    def taken(self, count: int) -> None:
        """Texts became part of a model call: the messages in them are read."""
        for _ in range(min(count, len(self._given))):
            for message_id in self._given.popleft():
                self.box.seen(message_id)
                self.record.add(_settles(message_id))

    def wait(self, seconds: float) -> None:
        """The session is going to wait for so long, and is none the less alive."""
        self.deadlines.alive(anyio.current_time(), pause=seconds)

    def untaken(self) -> tuple[str, ...]:
        """The messages in texts that no model has seen. They stand in the transcript, so the prompt
        of the next engine session brings them along."""
        messages = tuple(message for given in self._given for message in given)
        self._given.clear()
        return messages

    def restrict(self, session: Session) -> None:
        """Leave the session nothing but submit_result, and demand it where that is possible."""
        capabilities = self.engine.capabilities
        self.restricted = True
        if EngineCapability.RESTRICT_TOOLS in capabilities:
            force = SUBMIT if EngineCapability.FORCE_RESULT in capabilities else None
            session.restrict(frozenset({SUBMIT}), force=force)


def _settles(message_id: str) -> Entry:
    return lambda store: store.settle_message(message_id, MessageState.READ)
