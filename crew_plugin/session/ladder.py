"""How a session is brought to hand in its result: warnings, reminders, the last call. Pure."""

from dataclasses import dataclass
from typing import Final

from crew_plugin.models.causes import Cause, CauseCode

__all__ = ["CloseWays", "GiveUp", "Ladder", "LastCall", "Move", "Remind", "Warn"]

FORCED_CALLS: Final = 3
"""Model calls after the step limit, each of which must call submit_result: an invalid result may
be corrected, but not for ever."""
_WARNED_FROM: Final = 10
"""Sessions with fewer model calls than this are not warned."""


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

    def __init__(self, *, limit: int, reminders: int) -> None:
        self.limit = limit
        self.reminders = reminders
        self.steps = 0
        """Model calls so far."""
        self._reminded = 0
        self._forced: int | None = None
        """Model calls since the step limit closed all ways but one."""

    def answered(self, *, works: bool, submits: bool) -> Move | None:
        """The model answered; it calls tools, submit_result among them."""
        self.steps += 1
        if self._forced is not None:
            self._forced += 1
            return None if submits else self._used_up()
        if self.steps >= self.limit:
            self._forced = 0
            return LastCall(wake=False) if works and not submits else CloseWays()
        if self.limit >= _WARNED_FROM and self.steps == self.limit * 4 // 5:
            return Warn(used=self.steps)
        return None

    def sent_back(self) -> Move | None:
        """A submitted result was not accepted."""
        if self._forced is None:
            return None
        if self._forced >= FORCED_CALLS:
            return self._used_up()
        return LastCall(wake=False) if self._forced == 0 else None

    def turn_ended(self) -> Move:
        """The model stopped and has handed in nothing."""
        if self._forced is not None:
            return self._used_up() if self._forced else LastCall(wake=True)
        if self._reminded >= self.reminders:
            message = (
                f"the session ended without calling submit_result, in spite of {self._reminded} reminders"
            )
            return GiveUp(cause=Cause(code=CauseCode.NO_RESULT, message=message))
        self._reminded += 1
        return Remind(n=self._reminded, last=self._reminded == self.reminders)

    def _used_up(self) -> GiveUp:
        message = f"the session used all its {self.limit} model calls and handed in no result"
        return GiveUp(cause=Cause(code=CauseCode.STEP_LIMIT, message=message))
