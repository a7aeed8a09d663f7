"""The only scheduler: from a snapshot of a run to what must be done next. Pure.

`now`, `deadline` and `retry_at` are readings of one clock; which one is the caller's business.
An answer without actions means that the run waits for something with an owner: an open attempt,
a pause before a retry, an answer, or a slot that another run holds.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping

from crew_plugin.engine.snapshot import (
    AGAIN,
    OVER,
    RESOURCE,
    Action,
    Block,
    Cancel,
    Finish,
    LastAttempt,
    Retry,
    RetryPolicy,
    Sequel,
    Skip,
    Snapshot,
    Start,
    TaskView,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import GaveUp
from crew_plugin.models.states import RUN_TERMINAL, TASK_TERMINAL, AttemptState, RunState, TaskState

__all__ = ["decide", "next_due", "resource_waits", "run_end", "sequel", "stopped_state"]

_STOPPED_BY_SOMEBODY = frozenset(
    {CauseCode.CALLER_CANCELLED, CauseCode.LEADER_INTERRUPTED, CauseCode.SHUTDOWN}
)
_BAD = TASK_TERMINAL - {TaskState.COMPLETED}


def decide(snapshot: Snapshot, now: float) -> list[Action]:
    """What must be done now, in order. Nothing, once the run has ended."""
    if snapshot.state in RUN_TERMINAL:
        return []
    stop = _stop(snapshot, now)
    if stop is not None:
        return _wind_down(snapshot, stop)
    stopped = [_cancel(task, task.stop) for task in snapshot.tasks if task.stop and _can_be_told(task)]
    if stopped:
        return list(stopped)
    actions: list[Action] = [*_settle_idle(snapshot, now), *_skips(snapshot)]
    if actions:
        return actions
    if all(task.state in TASK_TERMINAL for task in snapshot.tasks):
        return [run_end(snapshot.tasks)]
    return _starts(snapshot, now) or _held(snapshot, now)


def sequel(task: TaskView, policy: RetryPolicy, *, stopped: bool) -> Sequel:
    """What follows by itself for this task after the attempt noted in `last`."""
    last = task.last
    if last is None or stopped or task.stop is not None or not _may_pass(last, policy):
        return OVER
    if not last.retryable:
        return Sequel(gave_up=GaveUp.EFFECTS)
    if task.dispatches >= task.max_dispatches:
        return Sequel(gave_up=GaveUp.DISPATCHES)
    if task.attempts >= task.most_attempts and last.state is not AttemptState.LOST:
        return Sequel(gave_up=GaveUp.ATTEMPTS)
    return AGAIN


def _may_pass(last: LastAttempt, policy: RetryPolicy) -> bool:
    """Whether what ended the attempt may be over when it is tried again. A process that died says
    nothing about the task."""
    if not (last.retryable or last.acted):
        return False
    if last.state is AttemptState.FAILED:
        return last.cause is None or last.cause.code in policy.causes
    return last.state is AttemptState.LOST


def next_due(snapshot: Snapshot, now: float) -> float | None:
    """The next moment at which `decide` may answer differently although nothing happened."""
    moments = [task.retry_at for task in snapshot.tasks if task.state is TaskState.RUNNING and not task.busy]
    moments.append(snapshot.deadline)
    return min((moment for moment in moments if moment is not None and moment > now), default=None)


def run_end(tasks: Iterable[TaskView], stop: Cause | None = None, *, first: TaskView | None = None) -> Finish:
    """How a run ends whose tasks have all ended; `stop` if it was stopped before they had, `first`
    if one failure ended it."""
    tasks = tuple(tasks)
    if stop is not None and any(task.state is TaskState.CANCELLED for task in tasks):
        return Finish(stopped_state(stop), stop)
    culprit = first or _culprit(tasks)
    dry = sum(_was_dry(task) for task in tasks)
    if dry and (culprit is None or _was_dry(culprit)):
        # Also where every task is optional: nothing was done, so nothing is completed.
        message = f"a dry run: {dry} prompt{'s' * (dry != 1)} written, no model was asked"
        return Finish(RunState.FAILED, Cause(code=CauseCode.DRY_RUN, message=message))
    if culprit is None:
        return Finish(RunState.COMPLETED)
    return Finish(
        RunState.FAILED, Cause(code=CauseCode.TASK_FAILED, message=f"task {culprit.key!r} {_how(culprit)}")
    )


def stopped_state(cause: Cause) -> RunState:
    """How a run ends that was stopped for this: by somebody, or because it could not go on."""
    return RunState.CANCELLED if cause.code in _STOPPED_BY_SOMEBODY else RunState.FAILED


# --- stopping ---


def _stop(snapshot: Snapshot, now: float) -> Cause | None:
    if snapshot.stop is not None:
        return snapshot.stop
    if snapshot.deadline is not None and now >= snapshot.deadline:
        return Cause(code=CauseCode.WALL_LIMIT, message="the run reached its wall-clock limit")
    if snapshot.fail_fast:
        culprit = _first_failure(snapshot.tasks)
        if culprit is not None:
            return Cause(
                code=CauseCode.FAIL_FAST,
                message=f"the run stops because task {culprit.key!r} {_how(culprit)}",
            )
    return None


def _first_failure(tasks: Iterable[TaskView]) -> TaskView | None:
    """The failure that came first, of those that stop a run."""
    failures = [task for task in tasks if _stops_the_run(task)]
    return min(failures, key=lambda task: task.ended_at or 0.0, default=None)


def _stops_the_run(task: TaskView) -> bool:
    handed_on = task.state is TaskState.NEEDS_ATTENTION and task.attention_pass
    follows = task.cause is not None and task.cause.code is CauseCode.FAIL_FAST
    return task.state in _BAD and not task.optional and not handed_on and not follows


def _wind_down(snapshot: Snapshot, stop: Cause) -> list[Action]:
    actions: list[Action] = [_cancel(task, stop) for task in snapshot.tasks if _can_be_told(task)]
    if actions:
        return actions
    if any(task.state not in TASK_TERMINAL for task in snapshot.tasks):
        return []
    if stop.code is CauseCode.FAIL_FAST:
        return [run_end(snapshot.tasks, first=_first_failure(snapshot.tasks))]
    return [run_end(snapshot.tasks, stop)]


def _can_be_told(task: TaskView) -> bool:
    return task.state not in TASK_TERMINAL and not task.stopping


def _cancel(task: TaskView, cause: Cause | None) -> Cancel:
    return Cancel(task.key, cause or Cause(code=CauseCode.UNKNOWN, message="it was stopped"))


# --- tasks between two attempts, and tasks that cannot start any more ---


def _settle_idle(snapshot: Snapshot, now: float) -> list[Action]:
    """A running task without an open attempt is due at some time, or it is over."""
    actions: list[Action] = []
    for task in snapshot.tasks:
        capped = task.dispatches >= task.max_dispatches
        if task.state is TaskState.QUEUED and capped and not task.busy:
            actions.append(Cancel(task.key, _cap(task)))
        if task.state is not TaskState.RUNNING or task.busy or task.resumes or task.hold is not None:
            continue
        follows = sequel(task, snapshot.retry, stopped=snapshot.stop is not None)
        if task.retry_at is None and follows.again:
            actions.append(Retry(task.key, now + snapshot.retry.pause(task.attempts, task.draw)))
        elif task.retry_at is None or capped:
            over = _why_over(task, capped=capped)
            actions.append(Cancel(task.key, over, TaskState.FAILED, follows.gave_up))
    return actions


def _why_over(task: TaskView, *, capped: bool) -> Cause:
    if capped:
        return _cap(task)
    if task.last is not None and task.last.cause is not None:
        return task.last.cause
    return Cause(code=CauseCode.UNKNOWN, message="its attempt ended and nothing says why")


def _cap(task: TaskView) -> Cause:
    because = f"; at last because: {task.last.cause.message}" if task.last and task.last.cause else ""
    return Cause(
        code=CauseCode.DISPATCH_CAP,
        message=f"it was started {task.dispatches} times, as often as it may be{because}",
    )


def _skips(snapshot: Snapshot) -> list[Action]:
    """Queued tasks that a dependency leaves with nothing, and those that wait for these."""
    by_key = {task.key: task for task in snapshot.tasks}
    states = {task.key: task.state for task in snapshot.tasks}
    dependants: dict[str, list[TaskView]] = {}
    for task in snapshot.tasks:
        for dep in task.depends_on:
            dependants.setdefault(dep, []).append(task)
    skips: list[Action] = []

    def skip(task: TaskView, cause: Cause) -> None:
        states[task.key] = TaskState.SKIPPED
        skips.append(Skip(task.key, cause))
        causes[task.key] = cause
        ended.append(task.key)

    causes = {task.key: task.cause for task in snapshot.tasks}
    ended = [key for key, state in states.items() if state in _BAD]
    ended += [dep for dep in dependants if dep not in by_key]
    while ended:
        key = ended.pop()
        for task in dependants.get(key, ()):
            if states[task.key] is not TaskState.QUEUED or task.busy:
                continue
            cause = _nothing_from(by_key.get(key), key, states, causes)
            if cause is not None:
                skip(task, cause)
    return skips


def _nothing_from(
    dep: TaskView | None, key: str, states: Mapping[str, TaskState], causes: Mapping[str, Cause | None]
) -> Cause | None:
    """Why a dependant has nothing to work with; None if it may go on."""
    if dep is None:
        return Cause(code=CauseCode.DEPENDENCY, message=f"it depends on {key!r}, which does not exist")
    state = states[key]
    if state not in _BAD or dep.optional:
        return None
    if state is TaskState.NEEDS_ATTENTION and dep.attention_pass:
        return None
    why = causes[key]
    return Cause(
        code=CauseCode.DEPENDENCY,
        message=f"it depends on {key!r}, which {_VERBS[state]}{f' ({why.message})' if why else ''}",
    )


# --- starting ---


def _starts(snapshot: Snapshot, now: float) -> list[Action]:
    """As many ready tasks as the limits allow: those that wait for a resource by their tickets,
    then the others in the order of the run."""
    starts, _ = _allot(snapshot, now)
    return [Start(key) for key in starts]


def resource_waits(snapshot: Snapshot, now: float) -> dict[str, frozenset[str]]:
    """The tasks that only a resource keeps from starting, with all the resources that each needs."""
    if snapshot.state in RUN_TERMINAL or _stop(snapshot, now) is not None:
        return {}
    return _allot(snapshot, now)[1]


def _allot(snapshot: Snapshot, now: float) -> tuple[list[str], dict[str, frozenset[str]]]:
    """Who starts, and who waits for a resource.

    A task gets all its resources at once or none, so nobody holds one while it waits for another.
    What somebody waits for goes to nobody who came later, so everybody's turn comes.
    """
    busy = [task for task in snapshot.tasks if task.busy or task.state is TaskState.WAITING]
    room = min(max(1, snapshot.width) - len(busy), snapshot.free_slots)
    used = Counter(snapshot.used)
    used.update(tag for task in busy for tag in task.tags)
    starts: list[str] = []
    waits: dict[str, frozenset[str]] = {}
    claimed: set[str] = set()
    for task in sorted(_ready(snapshot, now), key=_by_ticket):
        if len(starts) >= room:
            break
        needs = frozenset(tag for tag in task.tags if tag.startswith(RESOURCE))
        if not all(_fits(snapshot, used, tag) for tag in task.tags - needs):
            continue
        if all(_fits(snapshot, used, tag) and _its_turn(snapshot, task, tag, claimed) for tag in needs):
            used.update(task.tags)
            starts.append(task.key)
        else:
            waits[task.key] = needs
            claimed |= needs
    return starts, waits


def _by_ticket(task: TaskView) -> float:
    return float("inf") if task.ticket is None else task.ticket


def _fits(snapshot: Snapshot, used: Mapping[str, int], tag: str) -> bool:
    limit = snapshot.tag_limits.get(tag, 1 if tag.startswith(RESOURCE) else None)
    return limit is None or used.get(tag, 0) < max(1, limit)


def _its_turn(snapshot: Snapshot, task: TaskView, tag: str, claimed: Collection[str]) -> bool:
    """Nobody who came earlier waits for it, in this run or in another."""
    return tag not in claimed and _by_ticket(task) <= snapshot.ahead.get(tag, float("inf"))


def _ready(snapshot: Snapshot, now: float) -> list[TaskView]:
    if snapshot.hold is not None:
        return []
    over = {task.key for task in snapshot.tasks if task.state in TASK_TERMINAL}
    return [
        task
        for task in snapshot.tasks
        if not task.busy
        and task.hold is None
        and (
            (task.state is TaskState.QUEUED and over.issuperset(task.depends_on))
            or (task.state is TaskState.RUNNING and task.resumes)
            or (task.state is TaskState.RUNNING and task.retry_at is not None and task.retry_at <= now)
        )
    ]


def _held(snapshot: Snapshot, now: float) -> list[Action]:
    """Nothing can start. Either something is under way, or this says what the run waits for."""
    if any(_under_way(task, now) for task in snapshot.tasks) or _ready(snapshot, now):
        return []
    hold = snapshot.hold or next((task.hold for task in snapshot.tasks if task.hold), None)
    if hold is not None:
        if snapshot.state is RunState.BLOCKED:
            return []
        return [Block(Cause(code=CauseCode.HELD, message=hold))]
    stuck = next(task for task in snapshot.tasks if task.state is TaskState.QUEUED)
    message = "it can never start: its dependencies wait for each other"
    return [Skip(stuck.key, Cause(code=CauseCode.INTERNAL_ERROR, message=message))]


def _under_way(task: TaskView, now: float) -> bool:
    pausing = task.state is TaskState.RUNNING and task.retry_at is not None and task.retry_at > now
    return task.busy or pausing or task.state is TaskState.WAITING


# --- words ---

_VERBS: Mapping[TaskState, str] = {
    TaskState.FAILED: "failed",
    TaskState.NEEDS_ATTENTION: "ended without a result",
    TaskState.CANCELLED: "was cancelled",
    TaskState.SKIPPED: "was skipped",
}
_SEVERITY = (TaskState.FAILED, TaskState.NEEDS_ATTENTION, TaskState.CANCELLED, TaskState.SKIPPED)


def _culprit(tasks: tuple[TaskView, ...]) -> TaskView | None:
    """The task that keeps the run from being completed: the gravest first."""
    for state in _SEVERITY:
        for task in tasks:
            if task.state is state and not task.optional:
                return task
    return None


def _was_dry(task: TaskView) -> bool:
    return task.cause is not None and task.cause.code is CauseCode.DRY_RUN


def _how(task: TaskView) -> str:
    why = f": {task.cause.message}" if task.cause else ""
    return f"{_VERBS[task.state]}{why}"
