"""When a session must be told, narrowed or stopped, kept outside of it. Pure: it is told the time."""

from dataclasses import dataclass
from enum import StrEnum
from math import inf
from typing import Final

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.spec import LimitsSpec

__all__ = ["UNTIMED", "Deadlines", "Due", "Hit", "Rung", "Standstill", "TurnOver", "WallNear"]

_WALL_NEAR: Final = 0.8
_GRACE_SECONDS: Final = 6.0
"""How much longer than its limit a tool may take to let itself be stopped: a shell is asked to end
and killed after 3 s."""
UNTIMED: Final = frozenset({"submit_result", "irc", "ask"})
"""What they wait for, others, has a limit of its own."""


class Rung(StrEnum):
    """How far a standstill has gone."""

    WARNED = "warned"
    NUDGED = "nudged"
    NARROWED = "narrowed"


_IDLE_RUNGS: Final = ((0.5, Rung.WARNED), (0.8, Rung.NUDGED), (0.9, Rung.NARROWED))
_TOOL_RUNGS: Final = ((0.5, Rung.WARNED), (0.8, Rung.NUDGED))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A limit that ends the session."""

    limit: str
    value: float
    cause: Cause


@dataclass(frozen=True, slots=True, kw_only=True)
class Standstill:
    """Nothing has happened for a share of a limit."""

    rung: Rung
    tool: str | None
    """The tool that is waited for; None for the model."""
    seconds: float
    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOver:
    """The turn has lasted as long as it may, for the first time."""

    limit: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WallNear:
    """The session has used most of its time."""

    limit: float


Due = Hit | Standstill | TurnOver | WallNear


@dataclass(slots=True)
class _Call:
    """A tool call under way."""

    name: str
    started: float
    rungs: int = 0


class Deadlines:
    """The clocks of one session. A running tool stops the idle clock: it has its own."""

    def __init__(self, limits: LimitsSpec, now: float) -> None:
        self._limits = limits
        self._wall = now + limits.wall_seconds
        self._wall_near: float = now + limits.wall_seconds * _WALL_NEAR
        self._alive_at = now
        self._idle_rungs = 0
        self._turn: float | None = None
        self._turns_over = 0
        self._calls: dict[str, _Call] = {}

    def alive(self, now: float, *, pause: float = 0.0) -> None:
        """Note a sign of life, and that the next one may take `pause` seconds longer."""
        self._alive_at = now + pause
        self._idle_rungs = 0

    def put_off(self, seconds: float) -> None:
        """The session waits for an answer: move every clock by so many seconds, back if negative."""
        self._wall += seconds
        self._wall_near += seconds
        self._alive_at += seconds
        if self._turn is not None:
            self._turn += seconds

    def turn_began(self, now: float) -> None:
        """The session was given a prompt."""
        if self._turn is None:
            self._turn = now

    def turn_ended(self, now: float) -> None:
        """The session stands by, or its turn was stopped: nothing is under way."""
        self._turn = None
        if self._calls:
            self._calls.clear()
            self.alive(now)

    def tool_started(self, call_id: str, name: str, now: float) -> None:
        """Stop the idle clock, and start that of the tool."""
        self._calls[call_id] = _Call(name, now)

    def tool_ended(self, call_id: str, now: float) -> bool:
        """Start the idle clock again. True if the call had used up its time."""
        call = self._calls.pop(call_id, None)
        self.alive(now)
        return call is not None and now - call.started >= self._limits.tool_seconds

    def look_again(self, now: float) -> float:
        """The next moment at which something may be due, whatever begins until then."""
        limits = self._limits
        return min(
            now + min(limits.idle_seconds * 0.5, limits.tool_seconds * 0.5, limits.turn_seconds),
            self._wall,
            self._wall_near,
            self._turn_until(),
            self._idle_next(),
            *map(self._call_next, self._calls.values()),
        )

    def due(self, now: float) -> Due | None:
        """What must be done now. Each rung is told once; what ends the session is told for ever."""
        return self._ends(now) or self._told_once(now)

    def _ends(self, now: float) -> Hit | None:
        limits = self._limits
        if now >= self._wall:
            return _hit("wall_seconds", limits.wall_seconds, CauseCode.WALL_LIMIT, "worked for {} s in all")
        for call in self._calls.values():
            if now >= self._call_until(call):
                how = f"called {call.name}, which neither ended within {{}} s nor let itself be stopped"
                return _hit("tool_seconds", limits.tool_seconds, CauseCode.TOOL_TIMEOUT, how)
        if self._turns_over and now >= self._turn_until():
            how = "worked for {} s without a pause, told to hand in notwithstanding"
            return _hit("turn_seconds", limits.turn_seconds, CauseCode.TURN_LIMIT, how)
        if not self._calls and now >= self._alive_at + limits.idle_seconds:
            return _hit(
                "idle_seconds", limits.idle_seconds, CauseCode.WORKER_TIMEOUT, "gave no sign of life for {} s"
            )
        return None

    def _told_once(self, now: float) -> Due | None:
        limits = self._limits
        if now >= self._turn_until():
            self._turns_over += 1
            self._turn = None
            return TurnOver(limit=limits.turn_seconds)
        if now >= self._wall_near:
            self._wall_near = inf
            return WallNear(limit=limits.wall_seconds)
        for call in self._calls.values():
            if call.name not in UNTIMED and now >= self._call_next(call):
                rung = _TOOL_RUNGS[call.rungs][1]
                call.rungs += 1
                return Standstill(
                    rung=rung, tool=call.name, seconds=now - call.started, limit=limits.tool_seconds
                )
        if now >= self._idle_next():
            rung = _IDLE_RUNGS[self._idle_rungs][1]
            self._idle_rungs += 1
            return Standstill(rung=rung, tool=None, seconds=now - self._alive_at, limit=limits.idle_seconds)
        return None

    def _turn_until(self) -> float:
        return inf if self._turn is None else self._turn + self._limits.turn_seconds

    def _idle_next(self) -> float:
        if self._calls:
            return inf
        share = _IDLE_RUNGS[self._idle_rungs][0] if self._idle_rungs < len(_IDLE_RUNGS) else 1.0
        return self._alive_at + self._limits.idle_seconds * share

    def _call_until(self, call: _Call) -> float:
        seconds = self._limits.tool_seconds
        return inf if call.name in UNTIMED else call.started + seconds + min(seconds, _GRACE_SECONDS)

    def _call_next(self, call: _Call) -> float:
        if call.name in UNTIMED:
            return inf
        if call.rungs == len(_TOOL_RUNGS):
            return self._call_until(call)
        return call.started + self._limits.tool_seconds * _TOOL_RUNGS[call.rungs][0]


def _hit(limit: str, value: float, code: CauseCode, how: str) -> Hit:
    return Hit(
        limit=limit, value=value, cause=Cause(code=code, message="the session " + how.format(f"{value:g}"))
    )
