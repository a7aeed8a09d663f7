"""How a session is brought to hand in its result: warnings, reminders, the last call. Pure."""

from dataclasses import dataclass
from typing import Final

from crew_plugin.models.causes import Cause, CauseCode

__all__ = ["CloseWays", "Closing", "GiveUp", "Ladder", "LastCall", "Move", "Remind", "Warn"]

GRACE: Final = 5
"""Answers after all ways but submit_result were closed: an invalid result may be corrected, and a
model may need to be told twice, but not for ever."""
_WARNED_FROM: Final = 10
"""Sessions with fewer model calls than this are not warned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Why nothing but submit_result is left."""

    limit: str
    """The limit that was reached."""
    value: float
    why: str
    """For the model: a sentence."""
    cause: Cause
    """Of the session's end, if it hands in nothing now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warn:
    """Tell the session that its limit is near."""

    used: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseWays:
    """Leave only submit_result, and say nothing yet: a result may be on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCall:
    """Leave only submit_result and say why."""

    wake: bool
    """The session has stopped and must be prompted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remind:
    """Ask for the result; `last` leaves only submit_result."""

    n: int
    last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUp:
    """The session is over without a result."""

    cause: Cause


Move = Warn | CloseWays | LastCall | Remind | GiveUp


class Ladder:
    """Is told what a session does and says what to do about it."""

    def __init__(self, *, limit: int, reminders: int, steps: int = 0) -> None:
        self.limit = limit
        self.reminders = reminders
        self.steps = steps
        """Model calls so far."""
        self.closing: Closing | None = None
        """Why all ways but one are closed; None while they are open."""
        self._reminded = 0
        self._since = 0
        """Answers since they were closed."""

    def close(self, closing: Closing) -> None:
        """All ways but submit_result are closed. The first reason counts."""
        self.closing = self.closing or closing

    def answered(self, *, works: bool, submits: bool) -> Move | None:
        """The model answered; it calls tools, submit_result among them."""
        self.steps += 1
        if self.closing is not None:
            self._since += 1
            return GiveUp(cause=self.closing.cause) if self._since >= GRACE and not submits else None
        if self.steps >= self.limit:
            self.close(_steps_used(self.limit))
            return LastCall(wake=False) if works and not submits else CloseWays()
        if self.limit >= _WARNED_FROM and self.steps == self.limit * 4 // 5:
            return Warn(used=self.steps)
        return None

    def sent_back(self) -> Move | None:
        """A submitted result was not accepted."""
        if self.closing is None:
            return None
        if self._since >= GRACE:
            return GiveUp(cause=self.closing.cause)
        return LastCall(wake=False) if self._since == 0 else None

    def turn_ended(self) -> Move:
        """The model stopped and has handed in nothing."""
        if self.closing is not None:
            return GiveUp(cause=self.closing.cause) if self._since >= GRACE else LastCall(wake=True)
        if self._reminded >= self.reminders:
            message = (
                f"the session ended without calling submit_result, in spite of {self._reminded} reminders"
            )
            return GiveUp(cause=Cause(code=CauseCode.NO_RESULT, message=message))
        self._reminded += 1
        return Remind(n=self._reminded, last=self._reminded == self.reminders)


def _steps_used(limit: int) -> Closing:
    message = f"the session used all its {limit} model calls and handed in no result"
    return Closing(
        limit="steps",
        value=limit,
        why=f"You have used all {limit} model calls of this task.",
        cause=Cause(code=CauseCode.STEP_LIMIT, message=message),
    )
