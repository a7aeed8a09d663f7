"""When a session must be stopped, kept outside of it. Pure: it is told the time."""

from dataclasses import dataclass
from typing import Final

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.spec import LimitsSpec

__all__ = ["Deadlines", "Hit"]

_WARN_SHARE: Final = 0.8


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A limit that was reached."""

    limit: str
    value: float
    cause: Cause


class Deadlines:
    """The wall-clock and idle limits of one session.

    A running tool stops the idle clock, but for `idle_seconds` at most: a tool that never ends
    ends the session after twice that time.
    """

    def __init__(self, limits: LimitsSpec, now: float) -> None:
        self._limits = limits
        self._wall = now + limits.wall_seconds
        self._warn = now + limits.wall_seconds * _WARN_SHARE
        self._alive_at = now
        self._tools: dict[str, tuple[str, float]] = {}

    def alive(self, now: float, *, pause: float = 0.0) -> None:
        """Note a sign of life, and that the next one may take `pause` seconds longer."""
        self._alive_at = now + pause

    def tool_started(self, call_id: str, name: str, now: float) -> None:
        """Stop the idle clock for this tool."""
        self._tools[call_id] = (name, now)

    def tool_ended(self, call_id: str, now: float) -> None:
        """Start the idle clock again."""
        self._tools.pop(call_id, None)
        self.alive(now)

    def look_again(self, now: float) -> float:
        """The next moment at which a limit may have been reached; signs of life that come later
        can only move it away."""
        return min(self._wall, self._idle_until(), now + self._limits.idle_seconds)

    def hit(self, now: float) -> Hit | None:
        """The limit that was reached, if any."""
        limits = self._limits
        if now >= self._wall:
            return _hit("wall_seconds", limits.wall_seconds, CauseCode.WALL_LIMIT, "worked for {} s in all")
        if now < self._idle_until():
            return None
        if not self._tools:
            return _hit(
                "idle_seconds", limits.idle_seconds, CauseCode.WORKER_TIMEOUT, "gave no sign of life for {} s"
            )
        name = min(self._tools.values(), key=lambda tool: tool[1])[0]
        return _hit(
            "idle_seconds",
            limits.idle_seconds,
            CauseCode.TOOL_TIMEOUT,
            f"waited for the tool {name} for more than twice its idle limit of {{}} s",
        )

    def warning_due(self) -> float:
        """When the session should be told that its time is running out."""
        return self._warn

    def _idle_until(self) -> float:
        seconds = self._limits.idle_seconds
        paused = min((started for _, started in self._tools.values()), default=None)
        if paused is None:
            return self._alive_at + seconds
        return max(self._alive_at, paused + seconds) + seconds


def _hit(limit: str, value: float, code: CauseCode, how: str) -> Hit:
    return Hit(
        limit=limit, value=value, cause=Cause(code=code, message="the session " + how.format(f"{value:g}"))
    )
