"""Whether what a session does brings anything new. Pure: it is told what was called and what came."""

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from crew_plugin.host import ToolCall
from crew_plugin.session.limits import Rung

__all__ = ["Progress", "Stuck", "is_object"]

_RUNGS: Final = ((0.25, Rung.WARNED), (0.5, Rung.NUDGED), (0.75, Rung.NARROWED))
_WASTED: Final = 2
"""How much an answer counts whose calls could not even be made."""
_LOOKED_AT: Final = 100_000
_KEPT: Final = 200
"""So many different calls are remembered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck:
    """So many answers brought nothing new. `rung` is None at the limit."""

    rung: Rung | None
    answers: int
    what: str
    """The call that was made last, as a clause: `read with the same arguments, again and again`."""


@dataclass(slots=True)
class _Round:
    """The calls of one answer."""

    open: dict[str, ToolCall] = field(default_factory=dict[str, ToolCall])
    new: bool = False
    wasted: bool = True
    what: str = ""


class Progress:
    """Counts the answers in a row that bring nothing new.

    `ignored` are tools that say nothing about it.
    """

    def __init__(self, limit: int, *, ignored: frozenset[str]) -> None:
        self._limit = limit
        self._ignored = ignored
        self._round = _Round()
        self._came: OrderedDict[bytes, bytes] = OrderedDict()
        """What came of a call when it was made last."""
        self._count = 0
        self._rungs = 0

    def answered(self, calls: tuple[ToolCall, ...]) -> None:
        """The model wants these calls made. Calls of an earlier answer that have not ended are
        forgotten: their turn was stopped."""
        self._round = _Round(open={call.id: call for call in calls if call.name not in self._ignored})

    def tool_ended(self, call_id: str, text: str, *, ok: bool, known: bool) -> Stuck | None:
        """A call ended; `known` says whether there is such a tool."""
        call = self._round.open.pop(call_id, None)
        if call is None:
            return None
        possible = known and is_object(call.arguments)
        self._round.wasted = self._round.wasted and not possible
        came, before = self._note(call, text)
        self._round.new = self._round.new or (ok and came != before)
        self._round.what = _what(call, ok=ok, known=known)
        return None if self._round.open else self._judge()

    def _note(self, call: ToolCall, text: str) -> tuple[bytes, bytes | None]:
        key, came = _digest(call.name, call.arguments), _digest(text)
        before = self._came.pop(key, None)
        self._came[key] = came
        while len(self._came) > _KEPT:
            self._came.popitem(last=False)
        return came, before

    def _judge(self) -> Stuck | None:
        ended = self._round
        if ended.new:
            self._count = self._rungs = 0
            return None
        self._count += _WASTED if ended.wasted else 1
        if self._count >= self._limit:
            return Stuck(rung=None, answers=self._count, what=ended.what)
        reached = sum(self._count >= self._limit * share for share, _ in _RUNGS)
        if reached <= self._rungs:
            return None
        self._rungs = reached
        return Stuck(rung=_RUNGS[reached - 1][1], answers=self._count, what=ended.what)


def is_object(arguments: str) -> bool:
    """Whether the arguments of a call can be used at all; of megabytes only the ends are looked at."""
    if len(arguments) > _LOOKED_AT:
        text = arguments.strip()
        return text.startswith("{") and text.endswith("}")
    try:
        return isinstance(json.loads(arguments or "{}"), dict)
    except (ValueError, RecursionError):
        return False


def _what(call: ToolCall, *, ok: bool, known: bool) -> str:
    if not known:
        return f"a call of {call.name!r}, which is no tool of this session"
    if not is_object(call.arguments):
        return f"a call of {call.name} whose arguments were no JSON object"
    return (
        f"{call.name} with the same arguments and the same answer" if ok else f"a failing call of {call.name}"
    )


def _digest(*texts: str) -> bytes:
    return blake2b("\0".join(texts).encode("utf-8", "replace"), digest_size=16).digest()
