"""How one live session stands: what its parts share, and how they speak to its model."""

import logging
from collections import deque
from dataclasses import dataclass, replace
from typing import Final

import anyio

from crew_plugin.engine.ports import AttemptContext
from crew_plugin.errors import Fenced
from crew_plugin.host import Engine, EngineCapability, Session, ToolCall
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.facts import ModelTable
from crew_plugin.models.records import TranscriptEntry
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.session import words
from crew_plugin.session.budget import Budget
from crew_plugin.session.contract import Accepted, Ended, Held, Submission
from crew_plugin.session.ending import Ending, ending_of
from crew_plugin.session.gate import Gate
from crew_plugin.session.health import Tally
from crew_plugin.session.hold import Hold
from crew_plugin.session.journal import Journal
from crew_plugin.session.ladder import Closing, Ladder
from crew_plugin.session.limits import Deadlines, Rung
from crew_plugin.session.mail import MailRoom
from crew_plugin.session.memory import Memory
from crew_plugin.session.progress import Progress
from crew_plugin.session.record import Record
from crew_plugin.session.scope import ResultRules
from crew_plugin.store.writer import StoreWriter

__all__ = ["SUBMIT", "Course", "Reopening"]

SUBMIT: Final = "submit_result"
QUIET_SECONDS: Final = 0.8
"""How long an engine may take to obey before its session is left."""
_LEAST_WALL: Final = 0.1
"""The share of its time that a session has in any case after its process was lost."""
_VERDICT_SECONDS: Final = 0.25
"""How long a result that is being judged is waited for, and the disk, before something is stopped."""

logger = logging.getLogger(__name__)


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
    messages: tuple[str, ...] = ()
    """What of its prompt is mail."""

    def and_then(self, more: "Reopening") -> "Reopening":
        """The same for two reasons."""
        return replace(
            self,
            text="\n\n".join(filter(None, [self.text, more.text])),
            only_submit=self.only_submit or more.only_submit,
            compacts=self.compacts or more.compacts,
            messages=(*self.messages, *more.messages),
        )


class Course:
    """The state of one live session. Its parts change it; nothing here waits for a model."""

    def __init__(
        self,
        context: AttemptContext,
        *,
        engine: Engine,
        writer: StoreWriter,
        room: MailRoom,
        rules: ResultRules,
        table: ModelTable,
    ) -> None:
        self.context = context
        self.engine = engine
        # An attempt that goes on counts from where it was; a new one stands at nothing.
        before = context.attempt
        self.limits = _limits_left(context)
        self.ladder = Ladder(limit=self.limits.steps, reminders=rules.reminders, steps=before.steps)
        self.record = Record(context, writer)
        self.journal = Journal(self.record, context.lease, before.id)
        self.box = room.box(
            context.run.id, context.task.key, attempt_id=context.attempt.id, wake=context.wake
        )
        self.box.pause = self.wait
        self.tally = Tally(table, model=before.model_asked, before=before.counts)
        self.memory = Memory()
        self.jobs = Hold(self.record, seconds=rules.jobs_seconds, wall_seconds=self.limits.wall_seconds)
        self.deadlines = Deadlines(self.limits, anyio.current_time())
        self.budget = Budget(self.limits.requests, requests=before.usage.calls + before.counts.retries)
        self.progressing = Progress(self.limits.stuck_steps, ignored=frozenset({SUBMIT}))
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
        self.saying = ""
        """The text of an answer that never became whole."""
        self.usage = before.usage
        self.wants_data = False
        self.restricted = False
        """Nothing but submit_result is offered any more."""
        self.hold: anyio.CancelScope | None = None
        """Ends the engine session that is open."""
        self.left = anyio.Event()
        """Set when nobody listens to that session any more."""
        self.running_on: list[str] = []
        """What did not let itself be ended."""
        self.withdrawn: set[str] = set()
        """Tools that were taken away."""
        self._timed_out: set[str] = set()
        self._calls: dict[str, tuple[str, float | None]] = {}
        """Calls without an end: the tool, and when it began."""
        self._told: Closing | None = None
        self._given: deque[tuple[str, ...]] = deque()
        """For each text the session was given and has not sent yet: the messages in it."""
        self._asked: list[tuple[str, ...]] = []
        """The same for those in a model call that has not been answered."""
        self._behind = 0
        """Texts that engine sessions before this one were given and that no model has answered."""
        self._returned: list[str] = []
        """Messages in results of calls that no model call has been answered with."""

    @property
    def over(self) -> bool:
        """Whether a result was accepted, or there will be none."""
        accepted = self.gate is not None and self.gate.accepted is not None
        return accepted or self.settled or self.ending is not None

    @property
    def can_go_on(self) -> bool:
        """Whether the conversation can be taken up in a new engine session."""
        return not self.over and EngineCapability.HISTORY in self.engine.capabilities

    @property
    def last_words(self) -> str:
        """What it said last, whole or not."""
        if not self.saying.strip():
            return self.last_text
        return "\n\n".join(filter(None, [self.last_text, words.broken_off(self.saying)]))

    # --- the ends ---

    def end(self, ending: Ending) -> None:
        """The first ending counts."""
        self.ending = self.ending or ending

    def contract_ended(self, ended: Ended) -> None:
        """The contract allows no further submits."""
        self.end(Ending(cause=ended.cause, kept=ended.kept))

    def ended(self) -> Ended | None:
        """The end, for a submit that comes after it."""
        return None if self.ending is None else Ended(cause=self.ending.cause, kept=self.ending.kept)

    async def holds(self, accepted: Accepted, submission: Submission) -> Accepted | Held:
        """Whether a result that fits can be taken now."""
        if self.session is None:
            return accepted
        return await self.jobs.judge(accepted, submission, self.session)

    def fail(self, error: Exception) -> None:
        """Something that the session cannot go on after."""
        if isinstance(error, Fenced):
            self.fenced = error
        self.end(ending_of(error))
        self.stopping.set()

    def too_long(self, because: str, message: str) -> None:
        """Go on with a shorter conversation."""
        cause = Cause(code=CauseCode.CONTEXT_FULL, message=message)
        self.reopen(Reopening(cause=cause, text="", compacts=because))

    def reopen(self, reopening: Reopening) -> None:
        """Leave the engine session soon and go on in a new one."""
        self.reopening = reopening if self.reopening is None else self.reopening.and_then(reopening)

    def progress(self, model: str | None = None) -> None:
        """Note how far the session is; this is its heartbeat, too."""
        self.record.progress(self.usage, self.ladder.steps, model, self.tally.counts)

    # --- stopping ---

    async def about_to_stop(self, scope: str, cause: Cause) -> None:
        """Put down why something is stopped before it is, and let a result under way arrive."""
        self.record.event("session.stopping", {"scope": scope}, cause=cause)
        if self.gate is not None:
            with anyio.move_on_after(_VERDICT_SECONDS):
                await self.gate.judged()
        await self.record.flush(_VERDICT_SECONDS)

    async def leave(self, reopening: Reopening) -> bool:
        """Stop the turn and go on in a new engine session; False if there is nothing to go on with.
        For whoever does not listen to the session himself."""
        if self.session is None or self.hold is None or not self.can_go_on:
            return False
        hold, left, under_way = self.hold, self.left, self.reopening is not None
        self.reopen(reopening)
        if under_way:
            return True
        await self.hush(reopening.cause, "turn", left)
        if not left.is_set():
            hold.cancel()
        return not self.over

    async def hush(self, cause: Cause, scope: str, quiet: anyio.Event) -> None:
        """Make the engine session quiet, if it obeys in time."""
        with anyio.move_on_after(QUIET_SECONDS):
            await self.about_to_stop(scope, cause)
            if self.session is None:
                return
            try:
                await self.session.abort(cause)
            except Exception:
                logger.warning(
                    "session %s did not let itself be aborted; it is left instead",
                    self.context.attempt.session_id,
                    exc_info=True,
                )
            else:
                await quiet.wait()

    def force(self, closing: Closing) -> Reopening:
        """Close all ways but submit_result; returns how the session goes on."""
        self.ladder.close(closing)
        self.budget.forced()
        self.limit_reached(closing)
        text = words.last_call(closing.why, wants_data=self.wants_data)
        return Reopening(cause=closing.cause, text=text, only_submit=True)

    def limit_reached(self, closing: Closing) -> None:
        """Put down once which limit closed the ways."""
        if self._told is not closing:
            self._told = closing
            self.record.event(
                "session.limit_reached",
                {"limit": closing.limit, "value": closing.value},
                cause=closing.cause,
            )

    def engine_left(self, session: Session | None) -> None:
        """The engine session was left; what plugins did meanwhile and what still runs of it is noted."""
        self.hold = None
        for note in session.afterwards() if session is not None else ():
            self.record.noted(note)
        running = session.left_running() if session is not None else ()
        if not running:
            return
        self.running_on += running
        self.record.event("session.left_running", {"what": list(running)})
        if self.reopening is not None:
            what = ", ".join(running)
            message = f"the turn was stopped ({self.reopening.cause.message}), and {what} did not stop"
            self.end(Ending(cause=Cause(code=CauseCode.TOOL_TIMEOUT, message=message)))

    def last_ending(self) -> Ending | None:
        """How it ended, with what still runs, and a result that was held to the end."""
        ending = self.ending
        if ending is None:
            return None
        if ending.kept is None and self.jobs.payload is not None:
            ending = replace(ending, kept=self.jobs.payload)
        if not self.running_on:
            return ending
        message = f"{ending.cause.message}; still running: {', '.join(self.running_on)}"
        return replace(ending, cause=replace(ending.cause, message=message), retryable=False)

    # --- tool calls ---

    def calls_wanted(self, calls: tuple[ToolCall, ...]) -> None:
        """The model wants these made."""
        self._calls |= {call.id: (call.name, None) for call in calls}
        self.progressing.answered(calls)

    def call_began(self, call_id: str, name: str, now: float) -> None:
        """A call is under way."""
        self._calls[call_id] = (name, now)
        self.deadlines.tool_started(call_id, name, now)

    def call_ended(self, session: Session, call_id: str, name: str, now: float, *, ok: bool) -> None:
        """A call has its result. A tool that used up its time twice is taken away."""
        self._calls.pop(call_id, None)
        if not self.deadlines.tool_ended(call_id, now) or ok:
            return
        limit = self.limits.tool_seconds
        rung = Rung.NARROWED if name in self._timed_out else Rung.NUDGED
        self.stalled(rung, f"{name} was stopped", limit, limit)
        if rung is Rung.NARROWED:
            self.withdrawn.add(name)
            session.withdraw(name)
        self._timed_out.add(name)

    def cut_off(self, why: str) -> None:
        """No call is under way any more: each gets an end, so that none is left without a result."""
        for call_id, (name, began) in self._calls.items():
            text = f"[Cut off: {why}. Whether it took effect is not known; look before you repeat it.]"
            if began is None:
                text = f"[Not made: {why}.]"
            self.record.entry("tool", text, {"call_id": call_id, "name": name, "ok": False})
            if began is not None:
                milliseconds = round((anyio.current_time() - began) * 1000, 1)
                self.record.event("session.tool_ended", {"tool": name, "ok": False, "ms": milliseconds})
        self._calls.clear()
        self.journal.cut_off(why)

    def stalled(self, rung: str, what: str, value: float, limit: float) -> None:
        """Put down that the session stands still."""
        data = {"rung": str(rung), "what": what, "value": round(value, 1), "limit": limit}
        self.record.event("session.stalled", data)

    # --- what is said to the model ---

    async def say(self, session: Session, text: str, *messages: str) -> None:
        """Give the session its next prompt, and begin a turn."""
        self._given.append(messages)
        self.deadlines.turn_began(anyio.current_time())
        self.jobs.unpark()
        self.record.entry("user", text, {"messages": list(messages)} if messages else None)
        await session.prompt(text)

    async def steer(self, text: str, *messages: str) -> bool:
        """Add a user message for the next model call. False if there will be none."""
        session = self.session
        if session is None or self.over or EngineCapability.STEER not in self.engine.capabilities:
            return False
        self._given.append(messages)
        self.record.entry("user", text, {"steer": True, "messages": list(messages)})
        if self.jobs.parked:
            # There is no next model call by itself: the session stands by for its jobs.
            self.jobs.unpark()
            self.deadlines.turn_began(anyio.current_time())
            await session.prompt(text)
        else:
            await session.steer(text)
        return True

    async def warn(self, what: str) -> None:
        """Say that a limit is near."""
        if not self.jobs.parked and await self.steer(words.time_warning(what)):
            self.record.event("session.note", {"text": f"warned: it has used {what}"})

    def taken(self, count: int) -> None:
        """Texts became part of a model call."""
        for _ in range(min(count, len(self._given))):
            messages = self._given.popleft()
            self._asked.append(messages)
            for message_id in messages:
                self.box.seen(message_id)

    def returned(self) -> list[str]:
        """The messages that a call returned as its result."""
        messages = [message.id for message in self.box.returned()]
        self._returned += messages
        return messages

    def answered(self) -> None:
        """The model answered: the messages in what it was asked are read. A call that fails has read
        none."""
        for messages in (*self._asked, self._returned):
            self.record.read(*messages)
        self._asked.clear()
        self._returned.clear()
        self._behind = 0

    def wait(self, seconds: float) -> None:
        """The session is going to wait for so long, and is none the less alive."""
        self.deadlines.alive(anyio.current_time(), pause=seconds)

    @property
    def untaken_texts(self) -> int:
        """How many of the texts it was given, the last ones, no model has answered."""
        return self._behind + len(self._asked) + len(self._given)

    @property
    def unsent(self) -> bool:
        """Whether it was given a text that no model call has begun with."""
        return bool(self._given)

    def untaken(self) -> tuple[str, ...]:
        """The messages in texts that no model has answered. They stand in the transcript, so the prompt
        of the next engine session brings them along."""
        given = (self._returned, *self._asked, *self._given)
        self._behind = self.untaken_texts
        messages = tuple(message for each in given for message in each)
        self._returned.clear()
        self._asked.clear()
        self._given.clear()
        return messages

    def restrict(self, session: Session) -> None:
        """Leave the session nothing but submit_result, and demand it where that is possible."""
        capabilities = self.engine.capabilities
        self.restricted = True
        self.journal.only = frozenset({SUBMIT})
        if self.gate is not None:
            self.gate.turn.last = True
        if EngineCapability.RESTRICT_TOOLS in capabilities:
            force = SUBMIT if EngineCapability.FORCE_RESULT in capabilities else None
            session.restrict(frozenset({SUBMIT}), force=force)


def _limits_left(context: AttemptContext) -> LimitsSpec:
    """The limits of a session; one that goes on has what is left of its time. Both moments were
    noted by the process that it was in."""
    limits = context.step.limits
    if not context.goes_on:
        return limits
    spent = max(0.0, context.attempt.last_activity_at - context.attempt.started_at)
    left = max(limits.wall_seconds - spent, limits.wall_seconds * _LEAST_WALL)
    return limits.model_copy(update={"wall_seconds": left})
