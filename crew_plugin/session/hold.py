"""When a result has to wait: work of the session still goes on in the background, or came to its end
without the session having seen how."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import anyio

from crew_plugin.host import Job, JobEnded, Session, ToolCall
from crew_plugin.session import words
from crew_plugin.session.contract import Accepted, Held, Submission
from crew_plugin.session.record import Record

__all__ = ["Hold"]

GIVEN_UP: Final = "jobs_ended"
"""Flags a result that was taken although work in the background had to be ended for it."""
_WALL_SHARE: Final = 0.7
"""Of the time that is left to the session, so much may be spent waiting."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    """A result that fits, and waits."""

    accepted: Accepted
    session: Session


class Hold:
    """Holds a result back while background jobs run, and asks for a fresh one after late output.

    Three ways lead out: the jobs end by themselves, the session ends them, or it hands in again
    while they run, which gives them up. If none is taken, the deadline is.
    """

    def __init__(self, record: Record, *, seconds: float, wall_seconds: float) -> None:
        self._record = record
        self._seconds = seconds
        self._wall = anyio.current_time() + wall_seconds
        self._untold: dict[str, JobEnded] = {}
        self._calls: dict[str, str] = {}
        """Calls under way, with their arguments."""
        self._waiting: _Waiting | None = None
        self._until = 0.0
        self._changed = anyio.Event()
        self._patient = True
        self._lost: tuple[Job, ...] = ()
        """Jobs that were ended with the engine session that was left last."""
        self.parked = False
        """The turn is over and the session waits for its jobs."""
        self.payload: Submission | None = None
        """The last result that was held: all there is if no fresh one comes."""

    # --- what happens ---

    def ended(self, event: JobEnded) -> None:
        """A job came to its end. It is no news to a session that is about to look at it."""
        if not any(event.job.id in arguments for arguments in self._calls.values()):
            self._untold[event.job.id] = event
        self._record.event("session.job_ended", {"job": event.job.id, "what": event.job.what, "ok": event.ok})

    def looked(self, calls: Sequence[ToolCall]) -> None:
        """The session asks for these calls: an ended job that one of them names is not news to it."""
        self._calls = {call.id: call.arguments for call in calls}
        for job_id in [job for job in self._untold if any(job in call.arguments for call in calls)]:
            del self._untold[job_id]

    def call_ended(self, call_id: str) -> None:
        """A call has its result."""
        self._calls.pop(call_id, None)

    def unpark(self) -> None:
        """The session was given something to do."""
        self.parked = False
        self._change()

    def left(self, session: Session) -> None:
        """This engine session is being left; what runs in it ends with it."""
        self._lost = session.jobs()

    def lost(self) -> str:
        """What to tell the session of that when it goes on."""
        jobs, self._lost = self._lost, ()
        held = self._waiting is not None
        self._unlatch()
        return words.lost_jobs(jobs, held=held) if jobs else ""

    # --- a result comes in ---

    async def judge(self, accepted: Accepted, submission: Submission, session: Session) -> Accepted | Held:
        """Whether the result can be taken now."""
        if self._untold:
            return self._refresh(submission)
        jobs = session.jobs()
        if not jobs:
            return accepted
        if self._held_in(session) is not None:
            return await self._give_up(accepted, session)
        self._waiting = _Waiting(accepted=accepted, session=session)
        self.payload = submission
        self._note("running", [job.id for job in jobs])
        return Held(text=words.held(jobs, self._time_left()))

    # --- the turn is over ---

    def settled(self, session: Session) -> Accepted | None:
        """The held result, if nothing keeps it from being taken any more."""
        if self._untold or session.jobs():
            return None
        return self._held_in(session)

    def news(self, session: Session) -> str | None:
        """What to tell the session now that its turn is over; None if there is nothing, or if a
        held result waits for more."""
        held = self._held_in(session) is not None
        if not self._untold or (held and session.jobs()):
            return None
        text = words.late_output(self._take_untold(), fresh=held)
        if held:
            self._unlatch()
        return text

    def park(self, session: Session) -> float | None:
        """Let the session wait for its jobs. Returns for how long; None if it has none."""
        jobs = session.jobs()
        if not jobs or not (self._patient or self._held_in(session)):
            return None
        seconds = self._time_left()
        self.parked = True
        self._until = anyio.current_time() + seconds
        self._record.event(
            "session.waiting", {"for": [_line(job) for job in jobs], "seconds": round(seconds, 1)}
        )
        self._change()
        return seconds

    async def expired(self, session: Session) -> Accepted | None:
        """The wait took too long: the jobs of a held result are given up for it."""
        self.parked = False
        self._record.event("session.limit_reached", {"limit": "jobs_seconds", "value": self._seconds})
        accepted = self._held_in(session)
        self._patient = False
        return None if accepted is None else await self._give_up(accepted, session)

    async def watch(self, expired: Callable[[], Awaitable[None]]) -> None:
        """Call `expired` whenever a wait has used up its time. Runs beside the session."""
        while True:
            changed = self._changed
            if not self.parked:
                await changed.wait()
                continue
            with anyio.CancelScope(deadline=self._until):
                await changed.wait()
            if self.parked and anyio.current_time() >= self._until:
                await expired()

    # --- inner parts ---

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    def _time_left(self) -> float:
        left = (self._wall - anyio.current_time()) * _WALL_SHARE
        return max(0.0, min(self._seconds, left))

    def _held_in(self, session: Session) -> Accepted | None:
        """The held result. One of an engine session that was left counts no more: its jobs were
        ended with it."""
        waiting = self._waiting
        return waiting.accepted if waiting is not None and waiting.session is session else None

    def _refresh(self, submission: Submission) -> Held:
        ended = self._take_untold()
        self.payload = submission
        self._unlatch()
        self._note("late_output", [event.job.id for event in ended])
        return Held(text=words.late_output(ended, fresh=True))

    async def _give_up(self, accepted: Accepted, session: Session) -> Accepted:
        jobs = session.jobs()
        await session.end_jobs()
        self._note("given_up", [job.id for job in jobs])
        flags = (*accepted.result.flags, GIVEN_UP) if jobs else accepted.result.flags
        given_up = Accepted(result=replace(accepted.result, flags=flags))
        if self._held_in(session) is not None:
            # It may have to wait once more, for a message that came meanwhile.
            self._waiting = _Waiting(accepted=given_up, session=session)
        return given_up

    def _take_untold(self) -> list[JobEnded]:
        taken = list(self._untold.values())
        self._untold.clear()
        return taken

    def _unlatch(self) -> None:
        self._waiting = None

    def _note(self, reason: str, jobs: Sequence[str]) -> None:
        self._record.event("result.held", {"reason": reason, "jobs": list(jobs)})


def _line(job: Job) -> str:
    return f"{job.id} {job.what}"
