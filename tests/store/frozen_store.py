"""Plays a representative run into a store, to be kept as the store of a released version.

Made once for each version of the schema, with the code of that version:
`python -m tests.store.frozen_store NEW_FOLDER`, in a checkout of it that this file was copied to.
What a version of `RunStore` did not have is left out there. Beside the store lies `expected.json`: all
that the code of that version read from it.
"""

import hashlib
import json
import sqlite3
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.records import (
    ControlVerb,
    Effect,
    Lease,
    NewEvent,
    NewResult,
    NewRun,
    NewTask,
    Owner,
    ParentRef,
    TranscriptEntry,
    Usage,
)
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.project import Project
from crew_plugin.store import schema
from crew_plugin.store.port import RunStore
from crew_plugin.store.sqlite import SqliteStore

__all__ = ["contents"]

_LONG = "a line of a long body, kept as a file\n" * 500
_CAUSE = Cause(code=CauseCode.MODEL_ERROR, message="the model failed", detail="a trace")
_OWNER = Owner(pid=1_999_999, started=1.0, boot_id="another boot")
_SUPERVISOR = "supervisor"


def contents(store: RunStore) -> Mapping[str, Any]:
    """All that the store gives to its readers, as JSON; of long texts their hash."""
    found: dict[str, Any] = {"runs": []}
    for run in reversed(store.list_runs(limit=100)):
        tasks: list[dict[str, Any]] = []
        for task in store.load_tasks(run.id):
            attempts = [
                {
                    "record": asdict(attempt),
                    "session": asdict(store.load_session(attempt.session_id)),
                    "sections": [asdict(section) for section in store.list_sections(attempt.id)],
                    "calls": [asdict(call) for call in store.list_tool_calls(attempt.id)],
                    "transcript": [asdict(entry) for entry in store.read_transcript(attempt.session_id)],
                }
                for attempt in store.list_attempts(task.id)
            ]
            tasks.append({"record": asdict(task), "attempts": attempts})
        artifacts = store.list_artifacts(run.id)
        found["runs"].append(
            {
                "record": asdict(run),
                "tasks": tasks,
                "results": [asdict(result) for result in store.list_results(run.id)],
                "deliveries": [asdict(delivery) for delivery in store.list_deliveries(run_id=run.id)],
                "messages": [asdict(message) for message in store.list_messages(run.id)],
                "pending": [asdict(control) for control in store.pending_controls(run.id)],
                "events": [asdict(event) for event in store.tail(run.id, limit=10_000)],
                "questions": _questions(store, run.id),
                "artifacts": [asdict(ref) for ref in artifacts],
                "bodies": {ref.sha256: store.read_artifact(ref.sha256).decode() for ref in artifacts},
            }
        )
    plain: Mapping[str, Any] = _hashed(json.loads(json.dumps(found)))
    return plain


def _questions(store: RunStore, run_id: str) -> list[dict[str, Any]]:
    return [asdict(question) for question in store.list_questions(run_id)] if schema.VERSION >= 2 else []


def _hashed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hashed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_hashed(each) for each in value]
    if isinstance(value, str) and len(value) > 1000:
        return f"sha256:{hashlib.sha256(value.encode()).hexdigest()}"
    return value


def _start(store: RunStore, lease: Lease, key: str) -> str:
    task = store.load_task(lease.run_id, key)
    attempt = store.start_attempt(
        lease,
        task.id,
        kind=SessionKind.LIVE,
        engine="bub",
        model="small",
        cwd="/w",
        actor=_SUPERVISOR,
    )
    prompt = store.put_artifact(lease.run_id, f"{key}/prompt", f"You are {key}.".encode(), task_id=task.id)
    store.open_session(lease, attempt.id, host_session=f"temp/{attempt.session_id}", prompt=prompt)
    return attempt.id


def _work(store: RunStore, lease: Lease, attempt_id: str) -> None:
    session = store.load_attempt(attempt_id).session_id
    store.append_transcript(
        lease,
        session,
        [
            TranscriptEntry(seq=0, role="user", content="Look at it."),
            TranscriptEntry(seq=0, role="assistant", content="", data={"tool_calls": [{"id": "c1"}]}),
            TranscriptEntry(seq=0, role="tool", content=_LONG, data={"call_id": "c1"}),
        ],
    )
    call = store.begin_tool_call(lease, attempt_id, "read", Effect.PURE, '{"path": "a.py"}')
    store.end_tool_call(call, error=None, cancelled=False)
    store.begin_tool_call(lease, attempt_id, "bash", Effect.EXTERNAL, '{"cmd": "make"}')
    store.touch_attempt(
        lease, attempt_id, usage=Usage(input=900, output=90, calls=2), steps=2, model_used="small-1"
    )
    store.append_events(
        lease,
        lease.run_id,
        [NewEvent(type="session.note", actor="session", attempt_id=attempt_id, data={"text": "half done"})],
    )


def _play_to_the_end(store: RunStore) -> None:
    """Owed to a parent: one task done at its second attempt, one without a result, one skipped."""
    parent = ParentRef(host="bub", session="chat", route={"channel": "cli"})
    tasks = [
        NewTask(key="explore", title="Explore", role="explorer", agent="explorer"),
        NewTask(key="review", title="Review", role="reviewer", agent="reviewer", optional=True),
        NewTask(key="verify", title="Verify", role="verifier", agent="verifier", depends_on=("review",)),
    ]
    new = NewRun(
        goal="look at ünïcode", team="review", workflow="review", cwd="/w", spec="{}", background=True,
        parent=parent,
    )  # fmt: skip
    lease = store.claim(store.create_run(new, tasks, actor="host").id, _OWNER)
    store.transition_run(lease, RunState.RUNNING, actor=_SUPERVISOR)
    first = _start(store, lease, "explore")
    store.end_attempt(
        lease, first, AttemptState.FAILED, task_state=None, actor=_SUPERVISOR, cause=_CAUSE
    )  # fmt: skip
    store.schedule_retry(lease, store.load_task(lease.run_id, "explore").id, 5.0, actor=_SUPERVISOR)
    second = _start(store, lease, "explore")
    _work(store, lease, second)
    store.add_section(lease, second, "findings", {"n": 1}, adds=True, actor="session")
    said = store.send_message(
        lease.run_id, sender="operator", recipient="explore", kind=MessageKind.STEER, body="hurry"
    )
    store.take_messages(lease.run_id, "explore")
    store.settle_message(said.id, MessageState.READ)
    store.accept_result(
        lease,
        second,
        NewResult(summary=_LONG, data={"token": "kept"}, artifacts={"map.md": "# Map\n"}),
        actor="session",
    )
    store.end_attempt(
        lease, second, AttemptState.COMPLETED, task_state=TaskState.COMPLETED, actor=_SUPERVISOR
    )
    review = _start(store, lease, "review")
    last = store.put_artifact(lease.run_id, "review/last", b"I think it is fine.")
    store.end_attempt(
        lease,
        review,
        AttemptState.NEEDS_ATTENTION,
        task_state=TaskState.NEEDS_ATTENTION,
        actor=_SUPERVISOR,
        cause=Cause(code=CauseCode.NO_RESULT, message="it never called submit_result"),
        last_text=last,
    )
    verify = store.load_task(lease.run_id, "verify")
    store.transition_task(lease, verify.id, TaskState.SKIPPED, actor=_SUPERVISOR, cause=_CAUSE)
    store.send_message(lease.run_id, sender="operator", recipient="verify", kind=MessageKind.STEER, body="?")
    store.transition_run(lease, RunState.FAILED, actor=_SUPERVISOR, cause=_CAUSE)
    owed = [delivery.id for delivery in store.list_deliveries(run_id=lease.run_id)]
    store.mark_sent(owed, actor="host")
    store.acknowledge(owed[:1], actor="host")


def _play_half(store: RunStore) -> None:
    """A run whose process was lost in the middle of a task, with a request nobody answered."""
    tasks = [NewTask(key="one", title="One", role="worker", agent="worker", max_dispatches=5)]
    new = NewRun(goal="half", team="fast-fix", workflow="fast-fix", cwd="/w", spec="{}")
    lease = store.claim(store.create_run(new, tasks, actor="operator").id, _OWNER)
    store.transition_run(lease, RunState.RUNNING, actor=_SUPERVISOR)
    _work(store, lease, _start(store, lease, "one"))
    store.request_control(lease.run_id, ControlVerb.CANCEL, actor="operator", payload={"reason": "late"})


def _play_questions_and_a_hold(store: RunStore) -> None:
    """What came with version 2: a question that was answered, one that is open, and a held task."""
    from crew_plugin.models.questions import NewQuestion, QuestionState

    tasks = [
        NewTask(key=key, title=key, role="worker", agent="worker") for key in ("answered", "asks", "held")
    ]
    new = NewRun(goal="ask", team="fast-fix", workflow="fast-fix", cwd="/w", spec="{}")
    lease = store.claim(store.create_run(new, tasks, actor="operator").id, _OWNER)
    store.transition_run(lease, RunState.RUNNING, actor=_SUPERVISOR)
    for key in ("answered", "asks"):
        attempt = _start(store, lease, key)
        asked = NewQuestion(text="Which one?", choices=("a", "b"), default="a", expires_at=4e9)
        question = store.ask_question(lease, attempt, asked, actor="session")
        if key == "answered":
            store.answer_question(question.id, "b", by="operator")
            store.close_question(lease, question.id, QuestionState.ANSWERED, actor="session")
    _start(store, lease, "held")
    held = store.load_task(lease.run_id, "held")
    store.hold_task(lease, held.id, "whether make took effect is not known", actor=_SUPERVISOR)
    store.renew(lease, worked=12.5)


def _play_a_forgotten_run(store: RunStore) -> str:
    """What came with version 2, too. Returns the id of which only a tombstone is left."""
    new = NewRun(goal="go", team="fast-fix", workflow="fast-fix", cwd="/w", spec="{}")
    lease = store.claim(store.create_run(new, [], actor="operator").id, _OWNER)
    store.transition_run(lease, RunState.FAILED, actor=_SUPERVISOR, cause=_CAUSE)
    return store.forget_run(lease.run_id, actor="operator", reason="a mistake").run_id


def _make(folder: Path) -> None:
    project = Project(root=folder, state_dir=folder)
    store = SqliteStore.open(project)
    _play_to_the_end(store)
    forgotten: list[str] = []
    if schema.VERSION >= 2:
        _play_questions_and_a_hold(store)
        forgotten.append(_play_a_forgotten_run(store))
    _play_half(store)
    expected = {**contents(store), "forgotten": forgotten}
    (folder / "expected.json").write_text(
        json.dumps(expected, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    store.close()
    database = sqlite3.connect(project.database)
    database.execute("PRAGMA journal_mode = DELETE")
    database.execute("PRAGMA page_size = 1024")  # most tables hold a row or two
    database.execute("VACUUM")
    database.close()
    (folder / ".gitignore").unlink()


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True)
    _make(Path(sys.argv[1]))
