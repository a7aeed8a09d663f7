"""What holds a session to its limits from outside of it, and makes it quiet when asked to."""

import anyio

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.session import words
from crew_plugin.session.course import Course, Reopening
from crew_plugin.session.ending import Ending
from crew_plugin.session.ladder import Closing
from crew_plugin.session.limits import Due, Hit, Rung, Standstill, TurnOver, WallNear

__all__ = ["Guard"]


class Guard:
    """Watches one session in a task of its own: no wait of the session can hold it up."""

    def __init__(self, course: Course, talking: anyio.CancelScope) -> None:
        self._course = course
        self._talking = talking
        self.silent = anyio.Event()
        """Set when the session's conversation was left."""

    async def watch(self) -> None:
        """Hold the session to its limits and stop it when asked to."""
        course = self._course
        while not course.stopping.is_set():
            now = anyio.current_time()
            due = course.deadlines.due(now)
            if due is not None:
                await self._do(due)
                continue
            with anyio.CancelScope(deadline=course.deadlines.look_again(now)):
                await course.stopping.wait()
        if course.ending is not None:
            await course.hush(course.ending.cause, "agent", self.silent)
        self._talking.cancel()

    async def _do(self, due: Due) -> None:
        course = self._course
        match due:
            case Hit(limit=limit, value=value, cause=cause):
                course.record.event("session.limit_reached", {"limit": limit, "value": value}, cause=cause)
                course.end(Ending(cause=cause, retryable=cause.code is CauseCode.WORKER_TIMEOUT))
                course.stopping.set()
            case WallNear(limit=limit):
                await course.warn(f"four fifths of the {limit:.0f} s for this task")
            case TurnOver(limit=limit):
                await self._hand_in(_turn_over(limit))
            case Standstill(tool=tool) if tool is not None:
                course.stalled(due.rung, f"waits for {tool}", due.seconds, due.limit)
                if due.rung is Rung.NUDGED:
                    await course.steer(words.slow_tool(tool, due.seconds, due.limit))
            case Standstill():
                await self._silence(due)

    async def _hand_in(self, closing: Closing) -> None:
        """Stop the turn and leave nothing but submit_result; where the engine cannot go on with a
        conversation, from its next model call on."""
        course = self._course
        reopening = course.force(closing)
        if not await course.leave(reopening) and course.session is not None and not course.over:
            course.restrict(course.session)
            await course.steer(reopening.text)

    async def _silence(self, due: Standstill) -> None:
        """The model says nothing: make its call again, at last with nothing but submit_result."""
        course = self._course
        course.stalled(due.rung, "waits for the model", due.seconds, due.limit)
        if due.rung is Rung.WARNED or course.session is None or not course.can_go_on:
            return
        message = f"no answer of the model for {due.seconds:.0f} s"
        cause = Cause(code=CauseCode.PROVIDER_TIMEOUT, message=message)
        if due.rung is Rung.NARROWED:
            why = f"No answer came from you for {due.seconds:.0f} s, and the time for one is nearly over."
            closing = Closing(limit="idle_seconds", value=due.limit, why=why, cause=cause)
            await self._hand_in(closing)
        else:
            await course.leave(Reopening(cause=cause, text=words.silent(due.seconds)))


def _turn_over(limit: float) -> Closing:
    message = f"the session worked for {limit:g} s without a pause and handed in no result"
    return Closing(
        limit="turn_seconds",
        value=limit,
        why=f"You have worked for {limit:.0f} s without a pause, which is the limit.",
        cause=Cause(code=CauseCode.TURN_LIMIT, message=message),
    )
