"""What happens in a session, event by event, and what follows from it."""

from collections.abc import AsyncGenerator
from typing import Final

import anyio

from crew_plugin.engine.provider_gate import SIGN_SECONDS
from crew_plugin.errors import EngineError
from crew_plugin.host import (
    EngineCapability,
    JobEnded,
    ModelAnswered,
    ModelBusy,
    ModelRetrying,
    ModelWaiting,
    PluginActed,
    ServerNoted,
    Session,
    SessionEvent,
    SessionFailed,
    SteersTaken,
    ToolEnded,
    ToolProgress,
    ToolStarted,
    TurnEnded,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.session import words
from crew_plugin.session.budget import Budget, Spent
from crew_plugin.session.course import SUBMIT, Course
from crew_plugin.session.ending import Ending
from crew_plugin.session.ladder import CloseWays, Closing, GiveUp, LastCall, Move, Remind, Warn
from crew_plugin.session.limits import Rung
from crew_plugin.session.progress import Stuck
from crew_plugin.session.prompt import letter
from crew_plugin.session.record import usage_data

__all__ = ["Listener"]

_IRC: Final = "irc"


class Listener:
    """Listens to one engine session until it is over or to be left for another."""

    def __init__(self, course: Course, session: Session) -> None:
        self._course = course
        self._session = session
        self._queued = False

    async def listen(self) -> None:
        """Take note of each event and do what follows from it."""
        events = self._session.events()
        try:
            async for event in events:
                if await self._handle(event) or self._course.reopening is not None:
                    return
        finally:
            if isinstance(events, AsyncGenerator):
                await events.aclose()

    async def _handle(self, event: SessionEvent) -> bool:
        """Take note of an event. True if the session is over."""
        course = self._course
        now = anyio.current_time()
        match event:
            case ModelAnswered():
                course.deadlines.alive(now)
                return await self._answered(event)
            case ToolEnded():
                course.deadlines.alive(now)
                return await self._tool_ended(event, now)
            case TurnEnded():
                course.deadlines.alive(now)
                course.deadlines.turn_ended(now)
                course.tally.turn_ended()
                return course.over or await self._turn_ended()
            case SessionFailed():
                self._failed(event.error)
                return True
            case ModelRetrying():
                course.deadlines.alive(now, pause=event.delay)
                self._retrying(event)
                return await self._spend()
            case JobEnded():
                course.deadlines.alive(now)
                course.jobs.ended(event)
                return course.jobs.parked and (course.over or await self._stand_by() is True)
            case ToolStarted() | ToolProgress() | ModelWaiting() | ModelBusy():
                self._sign(event, now)
            case SteersTaken() | ServerNoted() | PluginActed():
                self._note(event)
        return False

    def _sign(self, event: ToolStarted | ToolProgress | ModelWaiting | ModelBusy, now: float) -> None:
        """The session is alive; nothing follows from it."""
        course = self._course
        course.deadlines.alive(now)
        match event:
            case ToolStarted():
                course.call_began(event.call_id, event.name, now)
                course.record.event("session.tool_started", {"tool": event.name, "target": event.target})
            case ToolProgress():
                course.record.event("session.tool_progress", {"tool": event.name, "text": event.text})
            case ModelWaiting():
                course.deadlines.alive(now, pause=SIGN_SECONDS)
                self._waiting(event)
            case ModelBusy(said=said):
                course.saying = said if said.strip() else course.saying
                course.progress()

    def _note(self, event: SteersTaken | ServerNoted | PluginActed) -> None:
        """Something happened that is no sign of life of the model."""
        if isinstance(event, SteersTaken):
            self._course.taken(event.count)
        else:
            self._course.record.noted(event)

    async def _answered(self, event: ModelAnswered) -> bool:
        course = self._course
        calls = course.record.calls(event.tool_calls, course.ladder.steps + 1)
        usage = course.tally.answered(event.usage, event.model, len(calls))
        course.answered()
        self._queued = False
        course.usage += usage
        course.memory.answered()
        course.saying = ""
        if event.text.strip():
            course.last_text = event.text
        names = [call.name for call in event.tool_calls]
        move = course.ladder.answered(works=bool(names), submits=SUBMIT in names)
        course.record.entry("assistant", event.text, {"tool_calls": calls} if calls else {})
        course.progress(event.model)
        course.record.event(
            "session.model_answered",
            {"step": course.ladder.steps, "usage": usage_data(usage), "tool_calls": names},
        )
        self._note_prose(event.text, names)
        course.jobs.looked(event.tool_calls)
        course.calls_wanted(event.tool_calls)
        course.journal.announce(len(names))
        if await self._follow(move):
            return True
        # A result that is just being submitted is not cut off for the budget's sake.
        return await self._spend(due=SUBMIT not in names)

    async def _turn_ended(self) -> bool:
        """Give what was to wait for this moment, else ask for the result. True if it is over."""
        course = self._course
        messages = await course.box.after_turn()
        if messages:
            text = "\n\n".join(letter(message) for message in messages)
            await course.say(self._session, text, *(message.id for message in messages))
            return False
        if await self._goes_on():
            return False
        waits = await self._stand_by()
        return await self._follow(course.ladder.turn_ended()) if waits is None else waits

    async def _goes_on(self) -> bool:
        """Whether a text came just as the turn had ended, which only another one sends."""
        if self._course.unsent:
            await self._course.say(self._session, words.came_late())
            return True
        return False

    def _note_prose(self, text: str, calls: list[str]) -> None:
        """A text may stand for a result only if no other work was begun with it or after it."""
        gate = self._course.gate
        if gate is None:
            return
        if any(name != SUBMIT for name in calls):
            gate.turn.prose = ""
        elif text.strip():
            gate.turn.prose = text

    async def _stand_by(self) -> bool | None:
        """What follows for a session whose turn is over from its jobs in the background. True if it
        is over, None if it has none to wait for."""
        course, session = self._course, self._session
        accepted = course.jobs.settled(session)
        if accepted is not None and course.gate is not None:
            await course.gate.settle(accepted)
            return True
        news = course.jobs.news(session)
        if news is not None:
            await course.say(session, news)
            return False
        seconds = course.jobs.park(session)
        if seconds is None:
            return None
        course.wait(seconds)
        return False

    async def waited(self) -> bool:
        """The wait for jobs took too long. True if the session is over."""
        course = self._course
        accepted = await course.jobs.expired(self._session)
        if await self._goes_on():
            return False
        if accepted is None or course.gate is None:
            return await self._follow(course.ladder.turn_ended())
        await course.gate.settle(accepted)
        return True

    async def _tool_ended(self, event: ToolEnded, now: float) -> bool:
        course = self._course
        course.jobs.call_ended(event.call_id)
        course.call_ended(self._session, event.call_id, event.name, now, ok=event.ok)
        returned = course.returned() if event.name == _IRC else []
        course.record.tool_ended(event, returned)
        course.tally.tool_ended(ok=event.ok)
        course.progress()
        if event.ends_session or course.over:
            return True
        if event.name == SUBMIT and event.ok:
            return await self._budget()  # a part was kept, or the result is held
        if event.name == SUBMIT:
            return await self._follow(course.ladder.sent_back()) or await self._budget()
        if event.name != _IRC:
            course.box.worked()
        stuck = course.progressing.tool_ended(event.call_id, event.text, ok=event.ok, known=event.known)
        if stuck is not None and await self._stuck(stuck):
            return True
        self._compact_if_full()
        return False

    def _compact_if_full(self) -> None:
        """Between two steps a conversation that fills its window is shortened, unless work of the
        session goes on in the background, which the change would end."""
        course = self._course
        if course.tally.full and course.can_go_on and not self._jobs():
            share = course.tally.context / course.tally.window
            course.too_long("window", f"the conversation filled {share:.0%} of its model's context")

    def _jobs(self) -> bool:
        capable = EngineCapability.JOBS in self._course.engine.capabilities
        return capable and bool(self._session.jobs())

    def _failed(self, error: Exception) -> None:
        course = self._course
        if isinstance(error, EngineError):
            course.tally.model_failed()
            course.progress()
        overflow = isinstance(error, EngineError) and error.kind == "context_overflow"
        if overflow and course.can_go_on and course.memory.overflowed():
            course.too_long("overflow", str(error))
        else:
            course.fail(error)

    async def _follow(self, move: Move | None) -> bool:
        """Do what the ladder says. True if the session is over."""
        course = self._course
        match move:
            case Warn(used=used):
                await course.warn(f"{used} of {course.limits.steps} model calls")
            case CloseWays():
                course.restrict(self._session)
            case LastCall(wake=wake):
                await self._call_last(wake=wake)
            case Remind(n=n, last=last):
                await self._remind(n, last=last)
            case GiveUp(cause=cause):
                course.end(Ending(cause=cause))
                return True
            case None:
                pass
        return False

    async def _spend(self, *, due: bool = True) -> bool:
        """Count a request. True if the session is over for it."""
        self._course.budget.asked()
        return due and await self._budget()

    async def _budget(self) -> bool:
        course = self._course
        budget = course.budget
        match budget.due():
            case Spent.NOTICE:
                course.record.event("session.note", {"text": f"told: it has cost {budget.requests} requests"})
                await course.steer(words.budget_notice(budget.requests, budget.forced_at))
            case Spent.FORCE:
                await self._hand_in(_budget_used(budget))
            case Spent.OVER:
                course.end(Ending(cause=_budget_used(budget).cause))
                return True
            case None:
                pass
        return False

    async def _hand_in(self, closing: Closing) -> None:
        """Stop the turn and leave nothing but submit_result; without an end of the turn, where the
        engine cannot go on with a conversation."""
        course = self._course
        reopening = course.force(closing)
        if course.can_go_on:
            course.reopen(reopening)
            await course.about_to_stop("turn", closing.cause)
            if course.over:
                course.reopening = None  # a result under way arrived meanwhile
            return
        course.restrict(self._session)
        await course.steer(reopening.text)

    async def _stuck(self, stuck: Stuck) -> bool:
        """Go on to the next rung of a standstill. True if the session is over."""
        course = self._course
        limit = course.limits.stuck_steps
        cause = Cause(
            code=CauseCode.NO_PROGRESS,
            message=f"{stuck.answers} steps of the session brought nothing new; the last was {stuck.what}",
        )
        if stuck.rung is None:
            closing = course.ladder.closing
            cause = cause if closing is None else closing.cause
            course.record.event(
                "session.limit_reached", {"limit": "stuck_steps", "value": limit}, cause=cause
            )
            course.end(Ending(cause=cause))
            return True
        course.stalled(stuck.rung, stuck.what, stuck.answers, limit)
        if stuck.rung is Rung.NUDGED:
            left = max(1, limit * 3 // 4 - stuck.answers)
            await course.steer(words.repeating(stuck.answers, stuck.what, left))
        elif stuck.rung is Rung.NARROWED:
            why = f"Your last {stuck.answers} steps brought nothing new."
            course.ladder.close(Closing(limit="stuck_steps", value=limit, why=why, cause=cause))
            await self._call_last(wake=False)
        return False

    async def _call_last(self, *, wake: bool) -> None:
        course = self._course
        closing = course.ladder.closing
        assert closing is not None, "a last call has a reason"
        course.limit_reached(closing)
        course.restrict(self._session)
        text = words.last_call(closing.why, wants_data=course.wants_data)
        if wake:
            await course.say(self._session, text)
        else:
            await course.steer(text)

    async def _remind(self, n: int, *, last: bool) -> None:
        course = self._course
        of = course.ladder.reminders
        course.record.event("session.reminded", {"n": n, "of": of})
        if last:
            course.restrict(self._session)
        await course.say(self._session, words.reminder(n, of, wants_data=course.wants_data))

    def _waiting(self, event: ModelWaiting) -> None:
        self._course.progress()
        if not self._queued:
            self._queued = True
            reason = f"waiting for provider, {event.ahead} ahead"
            self._course.record.event("session.provider_wait", {"reason": reason, "ahead": event.ahead})

    def _retrying(self, event: ModelRetrying) -> None:
        self._course.tally.retrying()
        self._course.progress()
        self._course.record.event(
            "session.retrying",
            {"error": event.error, "try": event.attempt, "of": event.of, "delay": event.delay},
        )


def _budget_used(budget: Budget) -> Closing:
    message = f"the session made {budget.requests} requests and handed in no result"
    return Closing(
        limit="requests",
        value=budget.limit,
        why=f"This task has cost {budget.requests} requests, and no more are given to it.",
        cause=Cause(code=CauseCode.REQUEST_LIMIT, message=message),
    )
