"""What becomes of an attempt whose supervisor is gone: from what is on record of it. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from crew_plugin.models.records import Effect, ToolCallRecord, ToolCallState, TranscriptEntry

__all__ = ["Triage", "Verdict", "triage"]

_SHOWN = 200


class Verdict(StrEnum):
    """How an interrupted attempt goes on."""

    REPLAYABLE = "replayable"
    """Nothing had come of it: a new attempt begins."""
    RESUMABLE = "resumable"
    """It goes on with its conversation; what was cut off is told to its model."""
    NEEDS_DECISION = "needs_decision"
    """Something that cannot be repeated without thought was under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Triage:
    """The verdict, and what it was made from."""

    verdict: Verdict
    entries: int
    """How much of the conversation is kept."""
    call: ToolCallRecord | None = None
    """The call with an effect outside that was under way; the last one if there were several."""

    @property
    def question(self) -> str:
        """What must be decided, for a person."""
        if self.call is None:
            return ""
        written = " ".join(self.call.arguments.split())
        shown = written if len(written) <= _SHOWN else written[: _SHOWN - 1] + "…"
        return (
            f"its process died while {self.call.tool} {shown} was under way, and whether that took effect is "
            "not known"
        )


def triage(calls: Iterable[ToolCallRecord], transcript: Sequence[TranscriptEntry]) -> Triage:
    """The verdict on one attempt, from its journal and its transcript."""
    calls = tuple(calls)
    open_outside = [
        call for call in calls if call.state is ToolCallState.STARTED and call.effect is Effect.EXTERNAL
    ]
    if open_outside:
        return Triage(verdict=Verdict.NEEDS_DECISION, entries=len(transcript), call=open_outside[-1])
    if not calls and all(entry.role != "assistant" for entry in transcript):
        return Triage(verdict=Verdict.REPLAYABLE, entries=len(transcript))
    return Triage(verdict=Verdict.RESUMABLE, entries=len(transcript))
