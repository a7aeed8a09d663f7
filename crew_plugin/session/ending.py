"""How a session ended, what is kept of it, and what that makes of its attempt."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Final

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.errors import CrewError, EngineError, WorkerLost
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ArtifactRef, ResultRecord, SectionRecord
from crew_plugin.models.states import AttemptState
from crew_plugin.session.contract import Submission
from crew_plugin.session.sections import Section, joined
from crew_plugin.store.port import RunStore

__all__ = ["Ending", "Left", "ending_of", "last_write", "outcome_of", "partial_text"]

_WORTH_A_LOOK: Final = frozenset(
    {
        CauseCode.NO_RESULT,
        CauseCode.STEP_LIMIT,
        CauseCode.TURN_LIMIT,
        CauseCode.REQUEST_LIMIT,
        CauseCode.NO_PROGRESS,
        CauseCode.EMPTY_SUBMITS,
        CauseCode.SUBMIT_FAILURES,
    }
)
"""With these a session that left a text needs attention; without a text it failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """Why a session is over without an accepted result."""

    cause: Cause
    stopped: bool = False
    """Somebody outside stopped it."""
    retryable: bool = False
    kept: Submission | None = None
    """What it submitted last, if that was not accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What the store holds of a session after its last write."""

    result: ResultRecord | None = None
    text: ArtifactRef | None = None


def ending_of(error: Exception) -> Ending:
    """The ending that an error makes."""
    if isinstance(error, EngineError):
        code = CauseCode.PROVIDER_TIMEOUT if error.kind == "timeout" else CauseCode.MODEL_ERROR
        return Ending(
            cause=Cause(code=code, message=str(error), detail=error.kind), retryable=error.retryable
        )
    if isinstance(error, WorkerLost):
        return Ending(cause=Cause(code=CauseCode.WORKER_LOST, message=str(error)), retryable=True)
    if isinstance(error, CrewError):
        return Ending(cause=Cause(code=CauseCode.INTERNAL_ERROR, message=str(error)))
    return Ending(cause=Cause.of_defect("a defect ended the session", error))


def last_write(store: RunStore, context: AttemptContext, ending: Ending | None, text: str) -> Left:
    """Keep what a session without a result said last.

    A result that was on its way to the disk when the session was stopped is found here.
    """
    attempt = store.load_attempt(context.attempt.id)
    if attempt.result_id is not None:
        return Left(result=store.load_result(attempt.result_id))
    key, run_id, task_id = context.task.key, context.run.id, context.task.id
    parts = store.list_sections(context.attempt.id)
    if parts:
        kept_too = ending.kept if ending is not None else None
        partial = partial_text(store, parts, text, kept_too).encode("utf-8", "replace")
        kept = store.put_artifact(run_id, f"{key}/partial.md", partial, task_id=task_id)
        return Left(text=kept)
    if ending is not None and ending.kept is not None:
        body = json.dumps(asdict(ending.kept), ensure_ascii=False, indent=1, default=str)
        kept = store.put_artifact(
            run_id,
            f"{key}/not-accepted.json",
            body.encode("utf-8", "replace"),
            task_id=task_id,
            media_type="application/json",
        )
        return Left(text=kept)
    if not text.strip():
        return Left()
    kept = store.put_artifact(run_id, f"{key}/last-text.md", text.encode("utf-8", "replace"), task_id=task_id)
    return Left(text=kept)


def partial_text(
    store: RunStore, parts: Sequence[SectionRecord], text: str, kept: Submission | None = None
) -> str:
    """What a session leaves that handed in parts and no result."""
    sections = [
        Section(label=part.label, value=json.loads(store.read_artifact(part.body.sha256)), adds=part.adds)
        for part in parts
    ]
    whole = json.dumps(joined(sections), ensure_ascii=False, indent=1)
    said = [f"Parts of a result, handed in before the end; the whole was never handed in:\n\n{whole}"]
    if kept is not None:
        refused = json.dumps(asdict(kept), ensure_ascii=False, indent=1, default=str)
        said.append(f"Handed in last and not accepted:\n\n{refused}")
    if text.strip():
        said.append(f"Its last words:\n\n{text}")
    return "\n\n".join(said)


def outcome_of(ending: Ending | None, left: Left, *, touched_the_world: bool) -> Outcome:
    """What becomes of the attempt. A result in the store counts more than how the session ended.

    An attempt whose session made a call that cannot be repeated without thought is not tried
    again by itself.
    """
    if left.result is not None and left.result.error is not None:
        cause = Cause(code=CauseCode.AGENT_ERROR, message=f"the agent reported: {_line(left.result.error)}")
        return Outcome(state=AttemptState.FAILED, cause=cause)
    if left.result is not None:
        return Outcome(state=AttemptState.COMPLETED)
    assert ending is not None, "a session without a result has an ending"
    if ending.stopped:
        return Outcome(state=AttemptState.CANCELLED, cause=ending.cause, last_text=left.text)
    attention = ending.cause.code in _WORTH_A_LOOK and left.text is not None
    return Outcome(
        state=AttemptState.NEEDS_ATTENTION if attention else AttemptState.FAILED,
        cause=ending.cause,
        last_text=left.text,
        retryable=ending.retryable and not touched_the_world,
        acted=ending.retryable and touched_the_world,
    )


def _line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 500 else line[:497] + "..."
