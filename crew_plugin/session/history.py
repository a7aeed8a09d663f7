"""What was said before, in a form that a model can be given again.

A transcript says what happened in the order in which it was noticed: a steer may stand between a
call and its result, and a session that was cut off leaves calls without one. Providers take
neither.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crew_plugin.models.records import TranscriptEntry

__all__ = ["HISTORY_CHARS", "NO_RESULT", "CallIds", "PastCall", "Said", "said_before", "shortened_call"]

HISTORY_CHARS: Final = 200_000
"""So much of an ended session's conversation is given to its model when it goes on."""
_ARGUMENTS: Final = 64_000
"""Characters of a call's arguments that are told whole."""
_HEAD: Final = 4_000
_TAIL: Final = 1_000
NO_RESULT: Final = (
    "[There is no result: the session was stopped before this call ended. Whether it took effect is not "
    "known; look before you repeat it.]"
)


def shortened_call(arguments: str) -> str:
    """The arguments of a call as transcripts keep them and as a model is given them again: a body
    of megabytes is not sent with every later request. What is shortened names the artifact with
    the whole, which is the arguments as the model wrote them."""
    if len(arguments) <= _ARGUMENTS:
        return arguments
    whole = hashlib.sha256(arguments.encode("utf-8", "replace")).hexdigest()
    shown = {
        "shortened": arguments[:_HEAD],
        "end": arguments[-_TAIL:],
        "characters": len(arguments),
        "whole": f"artifact:{whole[:12]}",
    }
    return json.dumps(shown, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastCall:
    """A tool call of an earlier answer, with what came back."""

    id: str
    """Its own, but for a call that has none or that of an earlier one."""
    name: str
    arguments: str
    """As the model wrote it; usually JSON."""
    result: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """One message: a user's, or an answer with all its calls and their results."""

    role: str
    """user or assistant."""
    text: str
    calls: tuple[PastCall, ...] = ()


class CallIds:
    """Gives each call of a conversation an id that no other has: not every provider takes two of the
    same, and not every provider makes them up anew."""

    def __init__(self, reserved: Iterable[str] = ()) -> None:
        self._reserved = frozenset(reserved)
        """None of these is made up for another call."""
        self._used: set[str] = set()
        self._made = Counter[str]()

    def know(self, used: Iterable[str]) -> None:
        """These belong to calls."""
        self._used.update(used)

    def own(self, given: str) -> str:
        """The id of the next call: the given one, the first time that it comes."""
        base, made = given.strip() or "call", given
        while made in self._used or not made.strip() or (made != given and made in self._reserved):
            self._made[base] += 1
            made = f"{base}_{self._made[base]}"
        self._used.add(made)
        return made


@dataclass(slots=True)
class _Answer:
    """An answer whose results are being collected."""

    text: str
    calls: tuple[Mapping[str, Any], ...]
    results: dict[int, str] = field(default_factory=dict[int, str])
    """By the places of their calls: two calls may have the same id."""
    after: list[Said] = field(default_factory=list[Said])
    """What users said since."""

    def came(self, call_id: str, name: str, text: str) -> None:
        """A result: that of the first call with this id that has none, of the same tool if there is one."""
        places = [
            place
            for place, call in enumerate(self.calls)
            if place not in self.results and _id(call) == call_id
        ]
        same = [place for place in places if str(self.calls[place]["name"]) == name]
        for place in (same or places)[:1]:
            self.results[place] = text

    def told(self, ids: CallIds) -> list[Said]:
        calls = tuple(
            PastCall(
                id=ids.own(_id(call)),
                name=str(call["name"]),
                arguments=str(call["arguments"]),
                result=self.results.get(place, NO_RESULT),
            )
            for place, call in enumerate(self.calls)
        )
        if not calls and not self.text.strip():
            return self.after
        return [Said(role="assistant", text=self.text, calls=calls), *self.after]


def said_before(entries: Iterable[TranscriptEntry]) -> tuple[Said, ...]:
    """The messages of a transcript: every call has an id of its own and exactly one result, right
    behind its answer.

    A call without a result gets one that says so; a result without a call, notes and system
    prompts are left out.
    """
    entries = tuple(entries)
    ids = CallIds(_id(call) for entry in entries for call in _calls(entry))
    said: list[Said] = []
    answer: _Answer | None = None
    for entry in entries:
        if entry.role == "assistant":
            said += answer.told(ids) if answer is not None else []
            answer = _Answer(entry.content, _calls(entry))
        elif entry.role == "tool" and answer is not None:
            data = entry.data
            answer.came(str(data.get("call_id") or ""), str(data.get("name") or ""), entry.content)
        elif entry.role == "user" and entry.content.strip():
            (said if answer is None else answer.after).append(Said(role="user", text=entry.content))
    said += answer.told(ids) if answer is not None else []
    return tuple(said)


def _calls(entry: TranscriptEntry) -> tuple[Mapping[str, Any], ...]:
    return tuple(entry.data.get("tool_calls") or ()) if entry.role == "assistant" else ()


def _id(call: Mapping[str, Any]) -> str:
    return str(call.get("id") or "")
