"""What the events alone say, to be compared with the rows."""

from dataclasses import dataclass, field

from crew_plugin.models.mail import MessageState
from crew_plugin.models.records import DeliveryState, EventRecord
from crew_plugin.models.states import RUN_TERMINAL, AttemptState, RunState, TaskState
from crew_plugin.store.port import RunStore

_RUN = {
    "run.started": RunState.RUNNING,
    "run.unblocked": RunState.RUNNING,
    "run.reopened": RunState.QUEUED,
    "run.blocked": RunState.BLOCKED,
    "run.completed": RunState.COMPLETED,
    "run.failed": RunState.FAILED,
    "run.cancelled": RunState.CANCELLED,
}
_TASK = {f"task.{state}": state for state in TaskState}
_DELIVERY = {
    "delivery.sent": DeliveryState.SENT,
    "delivery.acknowledged": DeliveryState.ACKNOWLEDGED,
    "delivery.expired": DeliveryState.EXPIRED,
}
_MESSAGE = {
    "message.sent": MessageState.ACCEPTED,
    "message.delivered": MessageState.DELIVERED,
    "message.returned": MessageState.ACCEPTED,
    "message.acknowledged": MessageState.DELIVERED,
    "message.failed": MessageState.DEAD,
}


@dataclass
class Picture:
    """Everything about a run that both the events and the rows know."""

    state: RunState = RunState.QUEUED
    epoch: int = 0
    owner: int | None = None
    keys: list[str] = field(default_factory=list)
    tasks: dict[str, TaskState] = field(default_factory=dict)
    attempts: dict[str, AttemptState] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    deliveries: dict[str, DeliveryState] = field(default_factory=dict)
    messages: dict[str, MessageState] = field(default_factory=dict)
    controls: set[str] = field(default_factory=set)
    questions: dict[str, str] = field(default_factory=dict)
    dead_letters: dict[str, str] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)


def folded(events: list[EventRecord]) -> dict[str, Picture]:
    """The pictures of all runs, from their events."""
    runs: dict[str, Picture] = {}
    for event in events:
        run = runs.setdefault(event.run_id, Picture())
        for fold in (_fold_run, _fold_task, _fold_questions, _fold_dead_letters, _fold_rest):
            fold(run, event)
    return runs


def _fold_run(run: Picture, event: EventRecord) -> None:
    run.state = _RUN.get(event.type, run.state)
    if event.type == "run.created":
        run.keys += event.data["tasks"]
    elif event.type == "run.claimed":
        run.epoch, run.owner = event.data["epoch"], event.data["pid"]
    elif event.type == "run.reopened":
        run.epoch = event.data["epoch"]
    elif event.type == "run.released" or run.state in RUN_TERMINAL:
        run.owner = None


def _fold_task(run: Picture, event: EventRecord) -> None:
    task, attempt = event.task_id, event.attempt_id
    if event.type in ("task.started", "task.resumed") and task and attempt:
        run.tasks[task], run.attempts[attempt] = TaskState.RUNNING, AttemptState.RUNNING
    elif event.type in ("attempt.ended", "attempt.lost") and task and attempt:
        run.attempts[attempt] = AttemptState(event.data.get("state", "lost"))
        run.tasks[task] = TaskState.RUNNING
    elif event.type == "task.requeued" and task:
        del run.tasks[task]
    elif event.type in _TASK and task:
        run.tasks[task] = _TASK[event.type]
        if attempt and run.attempts[attempt] in (AttemptState.RUNNING, AttemptState.WAITING):
            run.attempts[attempt] = AttemptState(run.tasks[task])


def _fold_questions(run: Picture, event: EventRecord) -> None:
    question = event.data.get("question_id")
    if question and event.type == "task.resumed":
        run.questions[question] = event.data["outcome"]
    elif question:
        run.questions[question] = {"task.waiting": "open"}.get(event.type, event.type.partition(".")[2])


def _fold_dead_letters(run: Picture, event: EventRecord) -> None:
    states = {"task.given_up": "open", "task.requeued": "requeued", "dead_letter.dropped": "dropped"}
    if "dead_letter_id" in event.data:
        run.dead_letters[event.data["dead_letter_id"]] = states[event.type]


def _fold_rest(run: Picture, event: EventRecord) -> None:
    data = event.data
    if event.type == "result.accepted" and event.attempt_id:
        run.results[event.attempt_id] = data["result_id"]
    elif event.type in _DELIVERY:
        run.deliveries[data["delivery_id"]] = _DELIVERY[event.type]
    elif event.type in _MESSAGE:
        run.messages[data["message_id"]] = _MESSAGE[event.type]
    elif event.type == "control.requested":
        run.controls.add(data["control_id"])
    elif event.type in ("control.applied", "control.refused"):
        run.controls.discard(data["control_id"])
    elif event.type == "artifact.stored":
        run.artifacts.append(data["sha256"])


def in_rows(store: RunStore) -> dict[str, Picture]:
    """The same pictures, from the rows."""
    return {run.id: _picture(store, run.id) for run in store.list_runs(limit=100_000)}


def _picture(store: RunStore, run_id: str) -> Picture:
    run, tasks = store.load_run(run_id), store.load_tasks(run_id)
    attempts = [attempt for task in tasks for attempt in store.list_attempts(task.id)]
    seen = {MessageState.READ: MessageState.DELIVERED, MessageState.EXPIRED: MessageState.DEAD}
    return Picture(
        state=run.state,
        epoch=run.epoch,
        owner=run.owner.pid if run.owner else None,
        keys=[task.key for task in tasks],
        tasks={task.id: task.state for task in tasks if task.state != TaskState.QUEUED},
        attempts={attempt.id: attempt.state for attempt in attempts},
        results={attempt.id: attempt.result_id for attempt in attempts if attempt.result_id},
        deliveries={
            delivery.id: delivery.state
            for delivery in store.list_deliveries(run_id=run_id)
            if delivery.state != DeliveryState.PENDING
        },
        messages={
            message.id: seen.get(message.state, message.state) for message in store.list_messages(run_id)
        },
        controls={control.id for control in store.pending_controls(run_id)},
        questions={question.id: str(question.state) for question in store.list_questions(run_id)},
        dead_letters={letter.id: str(letter.state) for letter in store.list_dead_letters(run_id)},
        artifacts=[ref.sha256 for ref in store.list_artifacts(run_id)],
    )


def all_events(store: RunStore) -> list[EventRecord]:
    """Every event of a store."""
    events: list[EventRecord] = []
    while piece := store.tail(None, after_seq=events[-1].seq if events else 0):
        events += piece
    return events


def assert_events_tell_the_rows(store: RunStore) -> None:
    """The rows are what the events fold to, and nothing ends without its evidence."""
    rows = in_rows(store)
    assert folded(all_events(store)) == rows
    for run_id, picture in rows.items():
        for task in store.load_tasks(run_id):
            if task.state == TaskState.COMPLETED:
                assert task.attempt_id is not None
                assert store.load_result(picture.results[task.attempt_id]).error is None
