"""What one process knows of the mail of its runs beside what is written down: whose session is over,
who is being woken, who wrote how often."""

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

__all__ = ["RATE_MESSAGES", "RATE_SECONDS", "Traffic"]

RATE_MESSAGES: Final = 10
RATE_SECONDS: Final = 60.0
"""At most so many messages from one task to another in so many seconds."""
_KEPT_SECONDS: Final = 2 * RATE_SECONDS
"""How long a run is remembered that has no open session and in which nothing happens."""
_KEPT_WAKES_SECONDS: Final = 3600.0
"""The same for one whose sessions were woken: there are only so many wakes."""


@dataclass(slots=True, kw_only=True)
class _Known:
    """One run."""

    used_at: float
    open: set[str] = field(default_factory=set[str])
    """Tasks with a session."""
    over: dict[str, tuple[str | None, str]] = field(default_factory=dict[str, tuple[str | None, str]])
    """Task -> the attempt whose session was its last here, and why that is over."""
    waking: set[str] = field(default_factory=set[str])
    """Tasks whose session is about to be opened again."""
    wakes: Counter[str] = field(default_factory=Counter[str])
    sent: dict[tuple[str, str], deque[float]] = field(default_factory=dict[tuple[str, str], deque[float]])

    def forgotten(self, now: float) -> bool:
        """Whether nothing of it matters any more."""
        kept = _KEPT_WAKES_SECONDS if self.wakes else _KEPT_SECONDS
        return not self.open and self.used_at < now - kept


class Traffic:
    """Kept by run; those in which nothing happens any more are forgotten."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._runs: dict[str, _Known] = {}

    def opened(self, run_id: str, key: str) -> None:
        """A session of this task begins, or is woken."""
        known = self._of(run_id)
        known.open.add(key)
        known.over.pop(key, None)
        known.waking.discard(key)

    def closed(self, run_id: str, key: str, attempt_id: str | None, reason: str, *, again: bool) -> None:
        """The session of this attempt is over; with `again` the task gets another one."""
        known = self._of(run_id)
        known.open.discard(key)
        if not again:
            known.over[key] = (attempt_id, reason)

    def over(self, run_id: str, key: str, attempt_id: str | None) -> str | None:
        """Why the session of this attempt is over; None if it is not, or was never here."""
        ended = self._of(run_id).over.get(key)
        return ended[1] if ended is not None and ended[0] in (None, attempt_id) else None

    def waking(self, run_id: str, key: str) -> bool:
        """Whether the session of this task is going to be opened again."""
        return key in self._of(run_id).waking

    def wakes(self, run_id: str, key: str) -> tuple[int, int]:
        """How often this task was woken, and how often all of the run were."""
        known = self._of(run_id)
        return known.wakes[key], known.wakes.total()

    def woken(self, run_id: str, key: str) -> None:
        """The session of this task is going to be opened again."""
        known = self._of(run_id)
        known.waking.add(key)
        known.wakes[key] += 1

    def admits(self, run_id: str, sender: str, recipient: str) -> bool:
        """Count a message of this pair; False if there were too many lately."""
        now = self._clock()
        times = self._of(run_id).sent.setdefault((sender, recipient), deque())
        while times and times[0] <= now - RATE_SECONDS:
            times.popleft()
        if len(times) >= RATE_MESSAGES:
            return False
        times.append(now)
        return True

    def _of(self, run_id: str) -> _Known:
        now = self._clock()
        known = self._runs.get(run_id)
        if known is None:
            for name in [name for name, each in self._runs.items() if each.forgotten(now)]:
                del self._runs[name]
            known = self._runs[run_id] = _Known(used_at=now)
        known.used_at = now
        return known
