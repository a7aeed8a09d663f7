"""Which supervisors are gone: their process is, or the count of their renewals stands still.

A count is compared with itself, on the clock of whoever looks: no two clocks are. Whoever slept and
wakes up sees an old count for a moment, so it takes a whole lease of looking before one is expired.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from crew_plugin.models.records import Owner, RunRecord
from crew_plugin.store.liveness import owner_alive

__all__ = ["Abandoned", "LeaseWatch"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Abandoned:
    """A run whose supervisor is gone."""

    run: RunRecord
    still: int | None
    """The count of renewals that stood for the time of a lease; None where the process is dead."""

    @property
    def how(self) -> str:
        """How that shows, for a person."""
        pid = self.run.owner.pid if self.run.owner else 0
        if self.still is None:
            return f"its process {pid} is gone"
        return f"its process {pid} lives and has stopped renewing its lease"


class LeaseWatch:
    """Looks at runs again and again; remembers how long each count has stood."""

    def __init__(self, seconds: float, *, alive: Callable[[Owner], bool] = owner_alive) -> None:
        """`seconds` is the time of a lease."""
        self._seconds = seconds
        self._alive = alive
        self._seen: dict[str, tuple[int, int, float]] = {}
        """By run: its epoch, its count, and since when that was seen to stand."""

    def look(self, runs: Iterable[RunRecord], now: float) -> list[Abandoned]:
        """Those of these runs whose supervisor is gone. `now` is a reading of a monotonic clock."""
        gone: list[Abandoned] = []
        seen: dict[str, tuple[int, int, float]] = {}
        for run in runs:
            if run.owner is None:
                continue
            epoch, count, since = self._seen.get(run.id, (-1, -1, now))
            if (epoch, count) != (run.epoch, run.renewals):
                since = now
            seen[run.id] = (run.epoch, run.renewals, since)
            if not self._alive(run.owner):
                gone.append(Abandoned(run=run, still=None))
            elif now - since >= self._seconds:
                gone.append(Abandoned(run=run, still=run.renewals))
        self._seen = seen
        return gone
