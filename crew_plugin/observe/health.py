"""How sessions and supervisors are doing: thresholds and ratings. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from crew_plugin.models.records import Counts

__all__ = ["STALLED_SECONDS", "Heartbeats", "Rating", "Verdict", "rate", "silence_limit", "worst"]

QUIET_SECONDS: Final = 60.0
"""Without a sign of life for so long a session is called quiet."""
STUCK_SHARE: Final = 0.75
"""With so much of its idle limit gone without a sign of life it is called stuck: soon it is ended."""
BURST: Final = 5
"""So many failures among the last ten tool and model calls are a burst."""
FULL_SHARE: Final = 0.9
"""From here on a context is called full: a compaction did not help, or is not possible."""
STALLED_SECONDS: Final = 10.0
"""A supervisor renews its lease every 2 s; when the count stands still for so long, it is stalled."""


class Rating(StrEnum):
    """How a session is doing, from good to bad."""

    HEALTHY = "healthy"
    """It showed signs of life a moment ago, or is where it should be."""
    QUIET = "quiet"
    """No sign of life for a minute. A long tool call or a slow model, mostly."""
    FULL = "full"
    """Its conversation fills nine tenths of its model's context."""
    ERRORING = "erroring"
    """At least five of its last ten tool and model calls failed."""
    STUCK = "stuck"
    """Three quarters of the time that it may be silent are over."""


_ORDER: Final = tuple(Rating)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A rating and what it rests on."""

    rating: Rating
    why: tuple[str, ...] = ()


def rate(counts: Counts, *, silent: float, limit: float) -> Verdict:
    """The rating of a session that is under way: silent for so many seconds of those that it may be.
    Everything that is wrong is named; the worst of it is the rating."""
    found: list[tuple[Rating, str]] = []
    if silent >= limit * STUCK_SHARE:
        found.append((Rating.STUCK, f"silent for {silent:.0f} of at most {limit:.0f} s"))
    elif silent >= QUIET_SECONDS:
        found.append((Rating.QUIET, f"no sign of life for {silent:.0f} s"))
    if counts.recent_errors >= BURST:
        found.append((Rating.ERRORING, f"{counts.recent_errors} of the last {counts.recent} calls failed"))
    if counts.window and counts.context >= counts.window * FULL_SHARE:
        found.append((Rating.FULL, f"its context is {counts.context / counts.window:.0%} full"))
    rating = worst([each for each, _ in found])
    return Verdict(rating=rating, why=tuple(text for _, text in found))


def worst(ratings: "list[Rating]") -> Rating:
    """The worst of these; healthy if there are none."""
    return max(ratings, key=_ORDER.index, default=Rating.HEALTHY)


class Heartbeats:
    """Watches the renewals of supervisors on the watcher's own monotonic clock: no two clocks are
    compared, and a supervisor whose process lives but whose loop stands still is found out."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, int, float]] = {}

    def note(self, run_id: str, epoch: int, renewals: int, now: float) -> float:
        """Look once. Returns for how many seconds the count has stood still, as far as was watched."""
        before = self._seen.get(run_id)
        if before is None or before[:2] != (epoch, renewals):
            self._seen[run_id] = (epoch, renewals, now)
            return 0.0
        return now - before[2]


def silence_limit(limits: Mapping[str, float], *, in_tool: bool) -> float:
    """How long a session may be silent by its limits: a tool has a time of its own."""
    return limits.get("tool_seconds", 600.0) if in_tool else limits.get("idle_seconds", 300.0)
