"""What happens in a session, event by event, and what follows from it."""

from collections.abc import AsyncGenerator
from dataclasses import asdict
from typing import Final

import anyio

from crew_plugin.host import (
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
                return course.over or await self._follow(course.ladder.turn_ended())
            case SessionFailed():
                course.fail(event.error)
                return True
            case ToolStarted():
                course.deadlines.tool_started(event.call_id, event.name, now)
                course.record.event("session.tool_started", {"tool": event.name, "target": event.target})
            case ModelRetrying():
                course.deadlines.alive(now, pause=event.delay)
                self._retrying(event)
            case SteersTaken():
                course.taken(event.count)
            case ModelBusy() | JobEnded():
                pass
        return False

    async def _answered(self, event: ModelAnswered) -> bool:
        course = self._course
        course.usage += event.usage
        if event.text.strip():
            course.last_text = event.text
        names = [call.name for call in event.tool_calls]
        move = course.ladder.answered(works=bool(names), submits=SUBMIT in names)
        calls = [asdict(call) for call in event.tool_calls]
        course.record.entry("assistant", event.text, {"tool_calls": calls} if calls else {})
        course.record.progress(course.usage, course.ladder.steps, event.model)
        course.record.event(
            "session.model_answered",
            {"step": course.ladder.steps, "usage": usage_data(event.usage), "tool_calls": names},
        )
        course.journal.announce(len(names))
        return await self._follow(move)

    async def _tool_ended(self, event: ToolEnded, now: float) -> bool:
        course = self._course
        course.deadlines.tool_ended(event.call_id, now)
        course.record.entry(
            "tool", event.text, {"call_id": event.call_id, "name": event.name, "ok": event.ok}
        )
        course.record.event(
            "session.tool_ended", {"tool": event.name, "ok": event.ok, "ms": round(event.milliseconds, 1)}
        )
        course.record.progress(course.usage, course.ladder.steps, None)
        if event.ends_session or course.over:
            return True
        if event.name == SUBMIT:
            return await self._follow(course.ladder.sent_back())
        if event.name != _IRC:
            course.box.worked()
        return False

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
        self._course.record.event(
            "session.retrying",
            {"error": event.error, "try": event.attempt, "of": event.of, "delay": event.delay},
        )
