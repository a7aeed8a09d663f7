"""Runs and tasks as they are shown: read from the store at one moment, plain, and ready for JSON.

`state` is what the store says; `shown_state` is `lost` where the store says that something is
under way and the process that owned it is dead, and `dry run` where prompts were written only.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Final, cast

from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageRecord
from crew_plugin.models.questions import QuestionRecord
from crew_plugin.models.records import (
    ArtifactRef,
    AttemptRecord,
    Counts,
    DeadLetter,
    DeadLetterState,
    ImportRecord,
    Owner,
    ParentRef,
    ResultRecord,
    RunRecord,
    SectionRecord,
    TaskRecord,
    ToolCallRecord,
    ToolCallState,
    Usage,
)
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, RunState, SessionKind, TaskState
from crew_plugin.store.liveness import owner_alive
from crew_plugin.store.port import RunStore
from crew_plugin.ui.shapes import (
    TaskName,
    artifact_json,
    attempt_json,
    cause_json,
    dead_letter_json,
    import_json,
    mail_json,
    question_json,
    usage_json,
)

__all__ = [
    "DRY_RUN",
    "HELD",
    "LOST",
    "ResultView",
    "RunRow",
    "RunView",
    "TaskView",
    "all_counts",
    "all_usage",
    "call_text",
    "last_text",
    "mail_to_people",
    "result_views",
    "run_document",
    "run_rows",
    "run_view",
    "task_names",
    "tool_target",
]

LOST = "lost"
"""Shown for what was under way when its supervisor died. Not a state: it is derived."""

DRY_RUN = "dry run"
"""Shown for what wrote prompts and asked no model: neither a result nor a failure."""

HELD: Final = "held"
"""Shown for a task that goes on only when somebody has decided how."""

INLINE_LIMIT: Final = 100_000
"""Characters of a summary, of data or of a last text that stand in JSON."""
_A_MOMENT = 10.0
_UNDER_WAY = frozenset({TaskState.RUNNING, TaskState.WAITING})
_TARGET_KEYS = ("path", "file_path", "cmd", "command", "pattern", "query", "name", "url", "to", "summary")


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskView:
    """One task."""

    id: str
    key: str
    title: str
    role: str
    agent: str
    state: TaskState
    shown_state: str
    cause: Cause | None
    optional: bool
    depends_on: tuple[str, ...]
    waits_for: tuple[str, ...]
    """Dependencies that have not ended yet; only for queued tasks."""
    attempts: int
    tries: tuple[AttemptRecord, ...]
    """Its attempts, oldest first."""
    steps: int
    """Answers of its model, over all attempts."""
    counts: Counts
    """Over all attempts."""
    usage: Usage
    model: str | None
    now: str
    """What its session is doing, `read src/app.py`; empty when nothing is known."""
    result_id: str | None
    summary: str
    """Of its accepted result; else empty."""
    last_text: ArtifactRef | None
    """The last thing its model said, where no result was handed in."""
    sections: tuple[SectionRecord, ...]
    """Parts of a result that it has handed in on the way, where there is no result."""
    session_id: str | None
    started_at: float | None
    ended_at: float | None
    elapsed: float | None
    retry_at: float | None
    """When its next attempt is due, in seconds since the epoch; None if none is."""
    most_attempts: int | None
    """How many attempts it gets by itself; None where the plan does not say."""
    hold: str | None
    """What must be decided before it goes on."""

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            "id": self.id,
            "key": self.key,
            "title": self.title,
            "role": self.role,
            "agent": self.agent,
            "state": str(self.state),
            "shown_state": self.shown_state,
            "cause": cause_json(self.cause),
            "optional": self.optional,
            "depends_on": list(self.depends_on),
            "waits_for": list(self.waits_for),
            "attempts": self.attempts,
            "tries": [attempt_json(attempt) for attempt in self.tries],
            "retry_at": self.retry_at,
            "steps": self.steps,
            "retries": self.counts.retries,
            "model_errors": self.counts.model_errors,
            "usage": usage_json(self.usage),
            "model": self.model,
            "now": self.now,
            "result_id": self.result_id,
            "summary": self.summary if len(self.summary) <= INLINE_LIMIT else None,
            "last_text_artifact": artifact_json(self.last_text) if self.last_text else None,
            "sections": [
                {"label": part.label, "artifact": artifact_json(part.body), "created_at": part.created_at}
                for part in self.sections
            ],
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "elapsed": self.elapsed,
            "hold": self.hold,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run in a list of runs."""

    id: str
    goal: str
    team: str
    workflow: str
    cwd: str
    state: RunState
    shown_state: str
    cause: Cause | None
    background: bool
    runtime: SessionKind
    runtime_note: str
    """Why it is executed in another way than it was asked for; empty where it is not."""
    imported: ImportRecord | None
    """Where it came from, if from another project."""
    owner: Owner | None
    task_counts: Mapping[TaskState, int]
    created_at: float
    started_at: float | None
    ended_at: float | None
    elapsed: float

    @property
    def shown_counts(self) -> Mapping[str, int]:
        """How many tasks are in which shown state. In a dry run, what ended without a result did so
        because no model was asked."""
        dry = self.runtime is SessionKind.SCAFFOLD
        return {
            DRY_RUN if dry and state is TaskState.NEEDS_ATTENTION else str(state): self.task_counts[state]
            for state in TaskState
            if self.task_counts.get(state)
        }

    @property
    def over(self) -> bool:
        """Whether nothing more will happen in this run by itself."""
        return self.state in RUN_TERMINAL or self.shown_state == LOST

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            "id": self.id,
            "goal": self.goal,
            "team": self.team,
            "workflow": self.workflow,
            "cwd": self.cwd,
            "state": str(self.state),
            "shown_state": self.shown_state,
            "cause": cause_json(self.cause),
            "background": self.background,
            "runtime": str(self.runtime),
            "runtime_note": self.runtime_note,
            "imported": None if self.imported is None else import_json(self.imported),
            "pid": self.owner.pid if self.owner else None,
            "task_counts": {str(state): count for state, count in self.task_counts.items() if count},
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "elapsed": self.elapsed,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """One run with its tasks."""

    row: RunRow
    tasks: tuple[TaskView, ...]
    usage: Usage
    questions: tuple[QuestionRecord, ...] = ()
    """What its sessions ask and nobody has answered yet."""
    dead_letters: tuple[DeadLetter, ...] = ()
    """Its tasks that were given up and that nobody has decided about yet."""

    @property
    def id(self) -> str:
        """The run's id."""
        return self.row.id

    @property
    def shown_state(self) -> str:
        """The state as it is shown."""
        return self.row.shown_state

    def task(self, key_or_id: str) -> TaskView | None:
        """The task of this key or id, if there is one."""
        return next((task for task in self.tasks if key_or_id in (task.key, task.id)), None)

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints."""
        return {
            **self.row.as_json(),
            "usage": usage_json(self.usage),
            "tasks": [task.as_json() for task in self.tasks],
            "questions": [question_json(question) for question in self.questions],
            "dead_letters": [dead_letter_json(letter) for letter in self.dead_letters],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultView:
    """One accepted result with the name of its task."""

    task: TaskName
    record: ResultRecord

    def as_json(self) -> dict[str, Any]:
        """The stable shape that `--json` prints. Nothing in it is shortened: what is too long to
        stand in it is left out as a whole, named in `left_out`, and stands in the artifact `body`."""
        record = self.record
        left_out = [
            name
            for name, value in (
                ("summary", record.summary),
                ("data", record.data),
                ("error", record.error),
            )
            if len(json.dumps(value, ensure_ascii=False, default=str)) > INLINE_LIMIT
        ]
        return {
            "id": record.id,
            "run_id": record.run_id,
            "task": self.task.key,
            "agent": self.task.agent,
            "summary": record.summary if "summary" not in left_out else None,
            "data": record.data if "data" not in left_out else None,
            "left_out": left_out,
            "error": record.error if "error" not in left_out else None,
            "flags": list(record.flags),
            "artifacts": {name: artifact_json(ref) for name, ref in record.artifacts.items()},
            "body": artifact_json(record.body),
            "created_at": record.created_at,
        }


def run_view(store: RunStore, run_id: str, *, now: float | None = None) -> RunView:
    """One run as it stands. Raises `UnknownName`."""
    at = time.time() if now is None else now
    run = store.load_run(run_id)
    row = _row(run, at)
    records = store.load_tasks(run.id)
    results = {result.task_id: result for result in store.list_results(run.id)}
    unfinished = {record.key for record in records if record.state not in TASK_TERMINAL}
    lost = row.shown_state == LOST
    tasks = tuple(
        _task(store, record, results.get(record.id), unfinished, lost=lost, now=at) for record in records
    )
    total = Usage()
    for task in tasks:
        total = total + task.usage
    waits = run.state not in RUN_TERMINAL and any(task.state is TaskState.WAITING for task in tasks)
    asked = tuple(store.list_questions(run.id, only_open=True)) if waits else ()
    failed = any(task.state is TaskState.FAILED for task in tasks)
    letters = store.list_dead_letters(run.id, states=[DeadLetterState.OPEN]) if failed else []
    return RunView(row=row, tasks=tasks, usage=total, questions=asked, dead_letters=tuple(letters))


def run_rows(
    store: RunStore,
    *,
    limit: int = 20,
    states: Sequence[RunState] = (),
    parent: ParentRef | None = None,
    now: float | None = None,
) -> list[RunRow]:
    """The newest runs, newest first; only those in `states` and of this parent where given."""
    at = time.time() if now is None else now
    return [_row(run, at) for run in store.list_runs(limit=limit, states=states, parent=parent)]


def result_views(store: RunStore, run_id: str) -> list[ResultView]:
    """The newest result of each task of a run, in the order of its tasks."""
    names = task_names(store, run_id)
    return [
        ResultView(task=names[record.task_id], record=record)
        for record in store.list_results(store.load_run(run_id).id)
    ]


def mail_to_people(store: RunStore, run_id: str) -> list[MessageRecord]:
    """What the tasks of a run have written to whoever started it, oldest first."""
    messages = store.list_messages(store.load_run(run_id).id)
    return [message for message in messages if message.recipient in ("parent", "operator")]


def run_document(store: RunStore, view: RunView, tasks: Sequence[TaskView]) -> dict[str, Any]:
    """A run with the whole results of these tasks, as `--json` prints it. Nothing is shortened."""
    results = {result.record.task_id: result for result in result_views(store, view.id)}
    return {
        **view.as_json(),
        "tasks": [
            {
                **task.as_json(),
                "result": results[task.id].as_json() if task.id in results else None,
                "last_text": inline_text(store, task),
            }
            for task in tasks
        ],
        "mail": [mail_json(message) for message in mail_to_people(store, view.id)],
        "artifacts": [artifact_json(ref) for ref in store.list_artifacts(view.id)],
    }


def inline_text(store: RunStore, task: TaskView) -> str | None:
    """The same, None if it is too long to stand in JSON: the task names its artifact."""
    if task.last_text is None or task.last_text.size > INLINE_LIMIT:
        return None
    return last_text(store, task)


def last_text(store: RunStore, task: TaskView) -> str | None:
    """The last thing a task's model said, whole, where it handed in no result."""
    if task.last_text is None:
        return None
    return store.read_artifact(task.last_text.sha256).decode("utf-8", errors="replace")


def task_names(store: RunStore, run_id: str) -> dict[str, TaskName]:
    """Task id to name, for everything that renders events."""
    run = store.load_run(run_id)
    return {task.id: TaskName(key=task.key, agent=task.agent) for task in store.load_tasks(run.id)}


def tool_target(arguments: str) -> str:
    """The one argument of a tool call that says what it works on; empty if none does."""
    try:
        parsed: object = json.loads(arguments)
    except ValueError:
        return ""
    values = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    for key in _TARGET_KEYS:
        value = values.get(key)
        if isinstance(value, str) and value:
            return value
    return ""


def _row(run: RunRecord, now: float) -> RunRow:
    begun = run.started_at or run.created_at
    return RunRow(
        id=run.id,
        goal=run.goal,
        team=run.team,
        workflow=run.workflow,
        cwd=run.cwd,
        state=run.state,
        shown_state=_shown_state(run),
        cause=run.cause,
        background=run.background,
        runtime=run.runtime,
        runtime_note=run.runtime_note,
        imported=run.imported,
        owner=run.owner,
        task_counts=run.task_counts,
        created_at=run.created_at,
        started_at=run.started_at,
        ended_at=run.ended_at,
        elapsed=max(0.0, (run.ended_at or now) - begun),
    )


def _shown_state(run: RunRecord) -> str:
    if run.state in RUN_TERMINAL:
        return DRY_RUN if _was_dry(run.cause) else str(run.state)
    if run.owner is None:
        # Nobody has begun, or somebody gave it up on the way.
        return str(run.state) if run.state is RunState.QUEUED else LOST
    return str(run.state) if owner_alive(run.owner) else LOST


def _task(
    store: RunStore,
    record: TaskRecord,
    result: ResultRecord | None,
    unfinished: set[str],
    *,
    lost: bool,
    now: float,
) -> TaskView:
    attempts = store.list_attempts(record.id) if record.attempt_id else []
    newest = attempts[-1] if attempts else None
    under_way = record.state in _UNDER_WAY
    queued = record.state is TaskState.QUEUED
    return TaskView(
        id=record.id,
        key=record.key,
        title=record.title,
        role=record.role,
        agent=record.agent,
        state=record.state,
        shown_state=_shown_task(record, lost=lost and under_way, held=record.hold is not None and under_way),
        cause=record.cause,
        optional=record.optional,
        depends_on=record.depends_on,
        waits_for=tuple(key for key in record.depends_on if key in unfinished) if queued else (),
        attempts=record.attempts,
        tries=tuple(attempts),
        steps=sum(attempt.steps for attempt in attempts),
        counts=all_counts(attempts),
        usage=all_usage(attempts),
        model=(newest.model_used or newest.model_asked) if newest else None,
        now=_doing(store, newest, now) if newest and under_way and not lost else "",
        result_id=result.id if result else None,
        summary=result.summary if result else "",
        last_text=newest.last_text if newest else None,
        sections=tuple(store.list_sections(newest.id)) if newest and result is None else (),
        session_id=newest.session_id if newest else None,
        started_at=record.started_at,
        ended_at=record.ended_at,
        elapsed=_elapsed(record, newest, lost=lost, now=now),
        retry_at=record.retry_at if under_way else None,
        most_attempts=_most_attempts(record) if under_way and record.retry_at is not None else None,
        hold=record.hold if under_way else None,
    )


def _shown_task(record: TaskRecord, *, lost: bool, held: bool) -> str:
    if _was_dry(record.cause):
        return DRY_RUN
    if held:
        return HELD
    return LOST if lost else str(record.state)


def _most_attempts(record: TaskRecord) -> int | None:
    limits: dict[str, Any] = json.loads(record.spec).get("limits") or {}
    return limits.get("attempts")


def _was_dry(cause: Cause | None) -> bool:
    return cause is not None and cause.code is CauseCode.DRY_RUN


def _elapsed(record: TaskRecord, newest: AttemptRecord | None, *, lost: bool, now: float) -> float | None:
    if record.started_at is None:
        return None
    end = record.ended_at
    if end is None:
        # Of a lost session the last sign of life is known, not when it ended.
        end = newest.last_activity_at if lost and newest else now
    return max(0.0, end - record.started_at)


def _doing(store: RunStore, attempt: AttemptRecord, now: float) -> str:
    """What a session does or waits for, and for how long if that is more than a moment. Nothing once
    it has ended."""
    if attempt.ended_at is not None:
        return ""
    running = [call for call in store.list_tool_calls(attempt.id) if call.state is ToolCallState.STARTED]
    since = running[-1].started_at if running else attempt.last_activity_at
    long = f", {now - since:.0f}s" if now - since >= _A_MOMENT else ""
    if running:
        return call_text(running[-1]) + long
    return f"waits for its model{long}" if long else ""


def call_text(call: ToolCallRecord) -> str:
    """A tool call under way: the tool and what it works on, or whose reply is waited for."""
    try:
        parsed: object = json.loads(call.arguments)
    except ValueError:
        parsed = None
    values = cast("dict[str, object]", parsed) if isinstance(parsed, dict) else {}
    if call.tool == "irc" and (values.get("await_reply") or values.get("op") == "wait"):
        to = values.get("to")
        peers = ", ".join(map(str, cast("list[object]", to))) if isinstance(to, list) else to
        return f"waits for a reply from {peers or 'a peer'}"
    return f"{call.tool} {tool_target(call.arguments)}".rstrip()


def all_usage(attempts: Sequence[AttemptRecord]) -> Usage:
    """What all attempts of a task used."""
    return reduce(add, (attempt.usage for attempt in attempts), Usage())


def all_counts(attempts: Sequence[AttemptRecord]) -> Counts:
    """What happened in all attempts of a task, oldest first."""
    return reduce(add, (attempt.counts for attempt in attempts), Counts())
