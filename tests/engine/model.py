"""A run in memory that obeys the transition tables and nothing else: what `decide` is tried on."""

from dataclasses import replace

from crew_plugin.engine.decide import decide, resource_waits, sequel
from crew_plugin.engine.snapshot import (
    RESOURCE,
    Action,
    Block,
    Cancel,
    Finish,
    LastAttempt,
    Retry,
    Skip,
    Snapshot,
    Start,
    TaskView,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.states import (
    RUN_TERMINAL,
    RUN_TRANSITIONS,
    TASK_RETRYABLE,
    TASK_TERMINAL,
    TASK_TRANSITIONS,
    AttemptState,
    RunState,
    TaskState,
)

ENDS = {
    AttemptState.COMPLETED: TaskState.COMPLETED,
    AttemptState.NEEDS_ATTENTION: TaskState.NEEDS_ATTENTION,
    AttemptState.FAILED: TaskState.FAILED,
    AttemptState.LOST: TaskState.FAILED,
    AttemptState.CANCELLED: TaskState.CANCELLED,
}


class ModelRun:
    """Carries out what `decide` says, and fails the test where that is not allowed."""

    def __init__(self, snapshot: Snapshot, *, foreign_slots: int) -> None:
        self.snapshot = snapshot
        self.foreign = foreign_slots
        self.now = 0.0
        self.starts: list[str] = []
        self.ends: list[tuple[str, TaskState]] = []
        self.skip_causes: dict[str, Cause] = {}
        self.opened: set[str] = set()
        self.tickets = 0

    @property
    def over(self) -> bool:
        return self.snapshot.state in RUN_TERMINAL

    def task(self, key: str) -> TaskView:
        return next(task for task in self.snapshot.tasks if task.key == key)

    def busy(self) -> list[str]:
        return [task.key for task in self.snapshot.tasks if task.busy]

    def change(self, key: str, to: TaskState | None = None, **facts: object) -> None:
        before = self.task(key)
        if to is not None and to is not before.state:
            assert to in TASK_TRANSITIONS[before.state], f"{key}: {before.state} -> {to}"
            if to in TASK_TERMINAL:
                self.ends.append((key, to))
        after = replace(before, state=to or before.state, **facts)  # type: ignore[arg-type]
        tasks = tuple(after if task.key == key else task for task in self.snapshot.tasks)
        self.snapshot = replace(self.snapshot, tasks=tasks)

    def decide(self) -> list[Action]:
        busy = sum(task.busy for task in self.snapshot.tasks)
        self.snapshot = replace(self.snapshot, free_slots=max(0, self.foreign - busy))
        return decide(self.snapshot, self.now)

    def give_places(self) -> None:
        """Who waits for a resource gets a ticket and keeps it for as long as it waits."""
        waits = resource_waits(self.snapshot, self.now)
        for task in self.snapshot.tasks:
            if task.key not in waits:
                self.change(task.key, ticket=None)
            elif task.ticket is None:
                self.tickets += 1
                self.change(task.key, ticket=self.tickets)

    def settle(self) -> None:
        """Carry out actions until there are none; the number of rounds is bounded."""
        for _ in range(20 + 4 * len(self.snapshot.tasks)):
            actions = self.decide()
            self.give_places()
            if not actions:
                return
            for action in actions:
                self.apply(action)
        raise AssertionError(f"never comes to rest: {self.decide()}")

    def apply(self, action: Action) -> None:
        assert not self.over
        match action:
            case Start(key):
                self._start(key)
            case Retry(key, at):
                assert self.task(key).state is TaskState.RUNNING
                self.change(key, retry_at=at)
            case Cancel(key, cause, to):
                if self.task(key).busy:
                    self.change(key, stopping=True)
                else:
                    self.change(key, to, cause=cause, retry_at=None)
            case Skip(key, cause):
                self._check_skip(key, cause)
                self.change(key, TaskState.SKIPPED, cause=cause)
            case Block():
                self._move(RunState.BLOCKED)
            case Finish(state):
                assert all(task.state in TASK_TERMINAL for task in self.snapshot.tasks)
                self._move(state)

    def _move(self, state: RunState) -> None:
        assert state in RUN_TRANSITIONS[self.snapshot.state]
        self.snapshot = replace(self.snapshot, state=state)

    def _start(self, key: str) -> None:
        task = self.task(key)
        assert not task.busy, f"{key} is started twice at once"
        assert task.dispatches < task.max_dispatches
        states = {dep: self.task(dep) for dep in task.depends_on}
        for dep in states.values():
            assert dep.state in TASK_TERMINAL
            passed = dep.state is TaskState.NEEDS_ATTENTION and dep.attention_pass
            assert dep.state is TaskState.COMPLETED or dep.optional or passed
        if task.retry_at is not None:
            assert task.retry_at <= self.now
        self.starts.append(key)
        self.change(key, busy=True, retry_at=None)
        self._check_limits()

    def open(self, key: str) -> None:
        """The attempt of a task that was given a slot is written down; a stop may come before."""
        task = self.task(key)
        if not task.busy or task.state not in {TaskState.QUEUED, TaskState.RUNNING} or key in self.opened:
            return
        if task.stopping:
            self.change(key, busy=False, stopping=False)
            return
        self.opened.add(key)
        self.change(key, TaskState.RUNNING, dispatches=task.dispatches + 1, attempts=task.attempts + 1)

    def _check_skip(self, key: str, cause: Cause) -> None:
        """A skip names a dependency that really leaves nothing."""
        self.skip_causes[key] = cause
        guilty = [
            dep
            for name in self.task(key).depends_on
            if (dep := self.task(name)).state in TASK_TERMINAL - {TaskState.COMPLETED}
            and not dep.optional
            and not (dep.state is TaskState.NEEDS_ATTENTION and dep.attention_pass)
        ]
        assert any(repr(dep.key) in cause.message for dep in guilty), cause

    def _check_limits(self) -> None:
        busy = [task for task in self.snapshot.tasks if task.busy]
        assert len(busy) <= self.snapshot.width
        assert len(busy) <= self.foreign
        for tag in {tag for task in busy for tag in task.tags}:
            limit = self.snapshot.tag_limits.get(tag, 1 if tag.startswith(RESOURCE) else len(busy))
            assert sum(tag in task.tags for task in busy) <= limit

    # --- what happens to a run from outside ---

    def outcome(self, key: str, state: AttemptState, *, retryable: bool) -> None:
        """An attempt reports its end. Late and repeated reports change nothing."""
        self.open(key)
        task = self.task(key)
        if not task.busy:
            return
        self.opened.discard(key)
        last = LastAttempt(
            state=state, cause=Cause(code=CauseCode.MODEL_ERROR, message="scripted"), retryable=retryable
        )
        ended = replace(task, busy=False, last=last)
        again = sequel(ended, self.snapshot.retry, stopped=self.snapshot.stop is not None).again
        self.change(
            key,
            None if again else ENDS[state],
            busy=False,
            stopping=False,
            last=last,
            cause=None if again or state is AttemptState.COMPLETED else last.cause,
        )

    def orphan(self, key: str) -> None:
        """The attempt ended and nobody wrote down what is to become of the task."""
        self.open(key)
        if key in self.opened:
            self.opened.discard(key)
            self.change(key, busy=False, stopping=False)

    def retry_explicitly(self, key: str) -> None:
        """The one way out of a terminal state: a new attempt, and its skipped dependants again."""
        task = self.task(key)
        if self.over or task.state not in TASK_RETRYABLE:
            return
        requeued = {key, *self._skipped_because_of(key)}
        tasks = tuple(
            replace(each, state=TaskState.QUEUED, cause=None, last=None, retry_at=None, stop=None)
            if each.key in requeued
            else each
            for each in self.snapshot.tasks
        )
        for each in requeued:
            self.skip_causes.pop(each, None)
        self.snapshot = replace(self.snapshot, tasks=tasks)

    def _skipped_because_of(self, key: str) -> set[str]:
        found: set[str] = set()
        work = [key]
        while work:
            dep = work.pop()
            for task in self.snapshot.tasks:
                if dep in task.depends_on and task.state is TaskState.SKIPPED and task.key not in found:
                    found.add(task.key)
                    work.append(task.key)
        return found
