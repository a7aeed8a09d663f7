"""What holds a session to its limits from outside of it, and makes it quiet when asked to."""

import logging
from typing import Final

import anyio

from crew_plugin.models.causes import CauseCode
from crew_plugin.session.course import Course
from crew_plugin.session.ending import Ending

__all__ = ["Guard"]

QUIET_SECONDS: Final = 0.5
"""How long an engine may take to obey before its session is left."""

logger = logging.getLogger(__name__)


class Guard:
    """Watches one session in a task of its own: no wait of the session can hold it up."""

    def __init__(self, course: Course, talking: anyio.CancelScope) -> None:
        self._course = course
        self._talking = talking
        self._warned = False
        self.silent = anyio.Event()
        """Set when the session's conversation was left."""

    async def watch(self) -> None:
        """Hold the session to its limits and stop it when asked to."""
        course = self._course
        while not course.stopping.is_set():
            now = anyio.current_time()
            hit = course.deadlines.hit(now)
            if hit is not None:
                course.record.event(
                    "session.limit_reached", {"limit": hit.limit, "value": hit.value}, cause=hit.cause
                )
                course.end(Ending(cause=hit.cause, retryable=hit.cause.code is CauseCode.WORKER_TIMEOUT))
                break
            if not self._warned and now >= course.deadlines.warning_due():
                self._warned = True
                await course.warn(f"four fifths of the {course.limits.wall_seconds:.0f} s for this task")
            due = course.deadlines.look_again(now)
            if not self._warned:
                due = min(due, course.deadlines.warning_due())
            with anyio.CancelScope(deadline=due):
                await course.stopping.wait()
        await self._quiet()

    async def _quiet(self) -> None:
        session, ending = self._course.session, self._course.ending
        if session is not None and ending is not None:
            with anyio.move_on_after(QUIET_SECONDS):
                try:
                    await session.abort(ending.cause)
                except Exception:
                    logger.warning(
                        "session %s did not let itself be aborted; it is left instead",
                        self._course.context.attempt.session_id,
                        exc_info=True,
                    )
                else:
                    await self.silent.wait()
        self._talking.cancel()
