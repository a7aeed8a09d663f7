"""What was said before, in a form that a model can be given again.

A transcript says what happened in the order in which it was noticed: a steer may stand between a
call and its result, and a session that was cut off leaves calls without one. Providers take
neither.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from crew_plugin.models.records import TranscriptEntry

__all__ = ["HISTORY_CHARS", "NO_RESULT", "PastCall", "Said", "said_before", "shortened_call"]

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


@dataclass(slots=True)
class _Answer:
    """An answer whose results are being collected."""

    text: str
    calls: tuple[Mapping[str, Any], ...]
    results: dict[str, str] = field(default_factory=dict[str, str])
    after: list[Said] = field(default_factory=list[Said])
    """What users said since."""

    def told(self) -> list[Said]:
        calls = tuple(
            PastCall(
                id=str(call["id"]),
                name=str(call["name"]),
                arguments=str(call["arguments"]),
                result=self.results.get(str(call["id"]), NO_RESULT),
            )
            for call in self.calls
        )
        if not calls and not self.text.strip():
            return self.after
        return [Said(role="assistant", text=self.text, calls=calls), *self.after]


def said_before(entries: Iterable[TranscriptEntry]) -> tuple[Said, ...]:
    """The messages of a transcript: every call has exactly one result, right behind its answer.

    A call without a result gets one that says so; a result without a call, notes and system
    prompts are left out.
    """
    said: list[Said] = []
    answer: _Answer | None = None
    for entry in entries:
        if entry.role == "assistant":
            said += answer.told() if answer is not None else []
            answer = _Answer(entry.content, tuple(entry.data.get("tool_calls", ())))
        elif entry.role == "tool" and answer is not None:
            answer.results.setdefault(str(entry.data.get("call_id", "")), entry.content)
        elif entry.role == "user" and entry.content.strip():
            (said if answer is None else answer.after).append(Said(role="user", text=entry.content))
    said += answer.told() if answer is not None else []
    return tuple(said)
