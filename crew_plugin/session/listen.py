"""What happens in a session, event by event, and what follows from it."""

from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Final

import anyio

from crew_plugin.errors import EngineError
from crew_plugin.host import (
    EngineCapability,
    JobEnded,
    ModelAnswered,
    ModelBusy,
    ModelRetrying,
    Session,
    SessionEvent,
    SessionFailed,
    SteersTaken,
    ToolEnded,
    ToolStarted,
    TurnEnded,
)
from crew_plugin.session import words
from crew_plugin.session.course import SUBMIT, Course
from crew_plugin.session.ending import Ending
from crew_plugin.session.ladder import CloseWays, GiveUp, LastCall, Move, Remind, Warn
from crew_plugin.session.prompt import letter
from crew_plugin.session.record import usage_data

__all__ = ["Listener"]

_IRC: Final = "irc"


class Listener:
    """Listens to one engine session until it is over or to be left for another."""

    def __init__(self, course: Course, session: Session) -> None:
        self._course = course
        self._session = session

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
        course.deadlines.alive(now)
        match event:
            case ModelAnswered():
                return await self._answered(event)
            case ToolEnded():
                return await self._tool_ended(event, now)
            case TurnEnded():
                course.tally.turn_ended()
                return course.over or await self._turn_ended()
            case SessionFailed():
                self._failed(event.error)
                return True
            case ToolStarted():
                course.deadlines.tool_started(event.call_id, event.name, now)
                course.record.event("session.tool_started", {"tool": event.name, "target": event.target})
            case ModelRetrying():
                course.deadlines.alive(now, pause=event.delay)
                self._retrying(event)
            case SteersTaken():
                course.taken(event.count)
            case ModelBusy():
                course.progress()
            case JobEnded():
                pass
        return False

    async def _answered(self, event: ModelAnswered) -> bool:
        course = self._course
        calls = [asdict(call) for call in event.tool_calls]
        usage = course.tally.answered(event.usage, event.model, len(calls))
        course.usage += usage
        course.memory.answered()
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
        course.journal.announce(len(names))
        return await self._follow(move)

    async def _turn_ended(self) -> bool:
        """Give what was to wait for this moment, else ask for the result. True if it is over."""
        course = self._course
        messages = await course.box.after_turn()
        if not messages:
            return await self._follow(course.ladder.turn_ended())
        text = "\n\n".join(letter(message) for message in messages)
        await course.say(self._session, text, *(message.id for message in messages))
        return False

    async def _tool_ended(self, event: ToolEnded, now: float) -> bool:
        course = self._course
        course.deadlines.tool_ended(event.call_id, now)
        course.record.entry(
            "tool", event.text, {"call_id": event.call_id, "name": event.name, "ok": event.ok}
        )
        course.record.event(
            "session.tool_ended", {"tool": event.name, "ok": event.ok, "ms": round(event.milliseconds, 1)}
        )
        course.tally.tool_ended(ok=event.ok)
        course.progress()
        if event.ends_session or course.over:
            return True
        if event.name == SUBMIT:
            return await self._follow(course.ladder.sent_back())
        if event.name != _IRC:
            course.box.worked()
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

    async def _call_last(self, *, wake: bool) -> None:
        course = self._course
        limit = course.limits.steps
        course.record.event("session.limit_reached", {"limit": "steps", "value": limit})
        course.restrict(self._session)
        text = words.last_call(limit, wants_data=course.wants_data)
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

    def _retrying(self, event: ModelRetrying) -> None:
        self._course.tally.retrying()
        self._course.progress()
        self._course.record.event(
            "session.retrying",
            {"error": event.error, "try": event.attempt, "of": event.of, "delay": event.delay},
        )
