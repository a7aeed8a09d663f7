"""What becomes of an attempt whose supervisor is gone."""

import pytest

from crew_plugin.engine.triage import Verdict, triage
from crew_plugin.models.records import Effect, ToolCallRecord, ToolCallState, TranscriptEntry

ASKED = TranscriptEntry(seq=1, role="user", content="do it")
ANSWERED = TranscriptEntry(seq=2, role="assistant", content="I look")


def call(effect: Effect, state: ToolCallState, tool: str = "bash") -> ToolCallRecord:
    return ToolCallRecord(
        id="call_1",
        attempt_id="att_1",
        tool=tool,
        effect=effect,
        state=state,
        arguments='{"command": "make deploy"}',
        error=None,
        started_at=0.0,
        ended_at=None,
    )


@pytest.mark.parametrize(
    ("calls", "transcript", "verdict"),
    [
        ([], [], Verdict.REPLAYABLE),
        ([], [ASKED], Verdict.REPLAYABLE),
        ([], [ASKED, ANSWERED], Verdict.RESUMABLE),
        ([call(Effect.PURE, ToolCallState.STARTED)], [ASKED, ANSWERED], Verdict.RESUMABLE),
        ([call(Effect.IDEMPOTENT, ToolCallState.STARTED)], [ASKED, ANSWERED], Verdict.RESUMABLE),
        ([call(Effect.EXTERNAL, ToolCallState.DONE)], [ASKED, ANSWERED], Verdict.RESUMABLE),
        ([call(Effect.EXTERNAL, ToolCallState.CANCELLED)], [ASKED, ANSWERED], Verdict.RESUMABLE),
        ([call(Effect.EXTERNAL, ToolCallState.STARTED)], [ASKED, ANSWERED], Verdict.NEEDS_DECISION),
    ],
)
def test_the_verdict_follows_from_what_was_under_way(
    calls: list[ToolCallRecord], transcript: list[TranscriptEntry], verdict: Verdict
) -> None:
    found = triage(calls, transcript)
    assert found.verdict is verdict
    assert found.entries == len(transcript)
    assert (found.call is not None) == (verdict is Verdict.NEEDS_DECISION)


def test_the_last_call_with_an_effect_outside_is_named() -> None:
    calls = [
        call(Effect.EXTERNAL, ToolCallState.STARTED, "mcp__mail__send"),
        call(Effect.EXTERNAL, ToolCallState.STARTED),
        call(Effect.PURE, ToolCallState.STARTED, "read"),
    ]
    question = triage(calls, [ASKED, ANSWERED]).question
    assert 'bash {"command": "make deploy"}' in question
    assert "not known" in question
