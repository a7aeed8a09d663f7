"""Tasks that wait for an answer and whose session is gone with its process.

Nothing of such a session runs. It is taken up again when its question is answered or runs out of
time; the answer stands in its transcript then, as the result of the call that asked.
"""

import time

from crew_plugin.models.questions import QuestionRecord, QuestionState, told_to_session
from crew_plugin.models.records import Lease, TaskRecord, TranscriptEntry
from crew_plugin.models.states import TaskState
from crew_plugin.store.port import RunStore

__all__ = ["go_on", "is_answered", "seconds_left"]

_ASK = "ask"


def is_answered(store: RunStore, task: TaskRecord) -> bool:
    """Whether its question is not open any more."""
    question = _newest(store, task)
    return question is None or question.state is not QuestionState.OPEN


def seconds_left(store: RunStore, task: TaskRecord) -> float:
    """How long its answer may still be waited for; 0 where nothing is left to wait for. To be read
    once: whoever waits counts on a clock that nobody sets."""
    question = _newest(store, task)
    if question is None or question.state is not QuestionState.OPEN:
        return 0.0
    left = question.expires_at - time.time()
    return min(max(0.0, left), question.expires_at - question.asked_at)


def go_on(store: RunStore, lease: Lease, task: TaskRecord) -> TaskRecord:
    """Write the answer, or that there is none, into the conversation. The task is `running` then."""
    question = _newest(store, task)
    if question is None:
        return store.transition_task(lease, task.id, TaskState.RUNNING, actor="supervisor")
    question = store.close_question(
        lease, question.id, QuestionState.EXPIRED, actor="supervisor", reason="nobody answered in time"
    )
    session = store.load_attempt(question.attempt_id).session_id
    call_id = _call_without_end(store, session)
    if call_id is not None:
        data = {"call_id": call_id, "name": _ASK, "ok": True}
        entry = TranscriptEntry(seq=0, role="tool", content=told_to_session(question), data=data)
        store.append_transcript(lease, session, [entry])
    return store.load_task(lease.run_id, task.id)


def _newest(store: RunStore, task: TaskRecord) -> QuestionRecord | None:
    asked = store.list_questions(attempt_id=task.attempt_id or "")
    return asked[-1] if asked else None


def _call_without_end(store: RunStore, session: str) -> str | None:
    """The call of `ask` in the last answer that has no result."""
    entries = store.read_transcript(session)
    ended = {entry.data.get("call_id") for entry in entries if entry.role == "tool"}
    calls = [
        call for entry in entries for call in entry.data.get("tool_calls", ()) if entry.role == "assistant"
    ]
    open_calls = [call["id"] for call in calls if call.get("name") == _ASK and call.get("id") not in ended]
    return str(open_calls[-1]) if open_calls else None
