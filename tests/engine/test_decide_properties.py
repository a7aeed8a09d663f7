"""Whatever happens to a run, the scheduler keeps its promises."""

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from crew_plugin.engine.decide import next_due
from crew_plugin.engine.snapshot import RetryPolicy, Snapshot, TaskView
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.states import TASK_TERMINAL, AttemptState, RunState, TaskState
from tests.engine.model import ModelRun

STOP = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


@dataclass(frozen=True)
class Step:
    what: str
    key: int
    state: AttemptState
    retryable: bool


RARE = ["again", "orphan", "stale", "time", "stop_task", "hold", "release", "retry", "grow", "stop"]

steps = st.builds(
    Step,
    what=st.sampled_from(["outcome"] * 12 + ["open"] * 6 + RARE),
    key=st.integers(0, 30),
    state=st.sampled_from(
        [
            AttemptState.COMPLETED,
            AttemptState.COMPLETED,
            AttemptState.FAILED,
            AttemptState.NEEDS_ATTENTION,
            AttemptState.CANCELLED,
            AttemptState.LOST,
        ]
    ),
    retryable=st.booleans(),
)


resources = st.sets(st.sampled_from(["resource:db", "resource:port", "resource:disk"]), max_size=2)


@st.composite
def runs(draw: st.DrawFn) -> ModelRun:
    count = draw(st.integers(1, 12))
    order = draw(st.permutations(range(count)))
    tasks = [
        TaskView(
            key=f"t{index}",
            depends_on=tuple(
                f"t{dep}"
                for dep in sorted(draw(st.sets(st.integers(0, index - 1), max_size=3)) if index else ())
            ),
            optional=draw(st.booleans()),
            attention_pass=draw(st.booleans()),
            max_dispatches=draw(st.integers(1, 4)),
            most_attempts=draw(st.integers(1, 4)),
            draw=draw(st.floats(0, 1)),
            tags=frozenset({f"role:{draw(st.integers(0, 2))}", *draw(resources)}),
        )
        for index in range(count)
    ]
    snapshot = Snapshot(
        state=RunState.RUNNING,
        tasks=tuple(tasks[index] for index in order),
        width=draw(st.integers(1, 6)),
        free_slots=0,
        tag_limits=draw(
            st.dictionaries(st.sampled_from(["role:0", "role:1", "resource:db"]), st.integers(1, 3))
        ),
        fail_fast=draw(st.booleans()),
        deadline=draw(st.none() | st.floats(1, 200)),
        retry=RetryPolicy(base=draw(st.floats(0, 5)), jitter=draw(st.floats(0, 1))),
    )
    return ModelRun(snapshot, foreign_slots=draw(st.integers(1, 8)))


def play(run: ModelRun, script: list[Step]) -> None:
    """Let things happen, bringing the run to rest after each, and then let it end."""
    run.settle()
    for step in script:
        if run.over:
            return
        happen(run, step)
        run.settle()
        check_rest(run)
    finish(run)


def happen(run: ModelRun, step: Step) -> None:
    keys = [task.key for task in run.snapshot.tasks]
    anyone = keys[step.key % len(keys)]
    if step.what in {"outcome", "again"}:
        report(run, step)
    elif step.what == "stale":
        if not run.task(anyone).busy:
            before = run.task(anyone)
            run.outcome(anyone, step.state, retryable=step.retryable)
            assert run.task(anyone) == before
    elif step.what == "grow":
        new = TaskView(key=f"t{len(keys)}", depends_on=(anyone,))
        run.snapshot = replace(run.snapshot, tasks=(*run.snapshot.tasks, new))
    else:
        interfere(run, step, anyone)


def report(run: ModelRun, step: Step) -> None:
    busy = run.busy()
    if not busy:
        return
    key = busy[step.key % len(busy)]
    run.outcome(key, step.state, retryable=step.retryable)
    if step.what == "again":
        run.outcome(key, AttemptState.COMPLETED, retryable=False)


def interfere(run: ModelRun, step: Step, anyone: str) -> None:
    match step.what:
        case "time":
            run.now += step.key
        case "open":
            run.open(anyone)
        case "orphan":
            run.orphan(next(iter(run.busy()), anyone))
        case "stop_task":
            run.change(anyone, stop=STOP)
        case "hold":
            run.change(anyone, hold="ask somebody")
        case "release":
            release(run)
        case "retry":
            run.retry_explicitly(anyone)
        case _:
            run.snapshot = replace(run.snapshot, stop=STOP)


def release(run: ModelRun) -> None:
    tasks = tuple(replace(task, hold=None) for task in run.snapshot.tasks)
    state = RunState.RUNNING if run.snapshot.state is RunState.BLOCKED else run.snapshot.state
    run.snapshot = replace(run.snapshot, tasks=tasks, state=state)


def check_rest(run: ModelRun) -> None:
    """At rest, a run has ended or something that it waits for has an owner."""
    assert run.decide() == []
    if run.over:
        return
    assert run.snapshot.state in {RunState.RUNNING, RunState.BLOCKED}
    owned = (
        any(task.busy for task in run.snapshot.tasks)
        or any(task.retry_at is not None and task.retry_at > run.now for task in run.snapshot.tasks)
        or run.snapshot.state is RunState.BLOCKED
    )
    assert owned, run.snapshot
    for task in run.snapshot.tasks:
        if task.state is TaskState.RUNNING and not task.busy and task.hold is None:
            assert task.retry_at is not None


def finish(run: ModelRun) -> None:
    """Every open attempt ends and every pause passes: then the run must be over."""
    for _ in range(400):
        if run.over:
            return
        release(run)
        run.settle()
        busy = run.busy()
        due = next_due(run.snapshot, run.now)
        if busy:
            run.outcome(busy[0], AttemptState.COMPLETED, retryable=False)
        elif due is not None:
            run.now = max(run.now, due)
        run.settle()
    assert run.over, run.snapshot


@settings(max_examples=150, deadline=None)
@given(run=runs(), script=st.lists(steps, max_size=60))
def test_any_interleaving_ends_in_a_run_with_nothing_left_to_do(run: ModelRun, script: list[Step]) -> None:
    play(run, script)
    assert run.over
    assert run.decide() == []
    assert all(task.state in TASK_TERMINAL for task in run.snapshot.tasks)
    required = [task for task in run.snapshot.tasks if not task.optional]
    if run.snapshot.state is RunState.COMPLETED:
        assert all(task.state is TaskState.COMPLETED for task in required)
    if all(task.state is TaskState.COMPLETED for task in run.snapshot.tasks):
        assert run.snapshot.state is RunState.COMPLETED


@settings(max_examples=80, deadline=None)
@given(run=runs(), script=st.lists(steps, max_size=60))
def test_a_skip_names_the_dependency_that_left_nothing(run: ModelRun, script: list[Step]) -> None:
    play(run, script)
    for key, cause in run.skip_causes.items():
        assert run.task(key).state is TaskState.SKIPPED
        assert cause.code is CauseCode.DEPENDENCY
        assert any(repr(dep) in cause.message for dep in run.task(key).depends_on)


@settings(max_examples=150, deadline=None)
@given(run=runs(), script=st.lists(steps.filter(lambda step: step.what != "retry"), max_size=60))
def test_without_an_explicit_retry_a_task_ends_once(run: ModelRun, script: list[Step]) -> None:
    play(run, script)
    ended = [key for key, _ in run.ends]
    assert sorted(ended) == sorted(task.key for task in run.snapshot.tasks)


@settings(max_examples=60, deadline=None)
@given(run=runs())
def test_a_run_in_which_everything_succeeds_starts_each_task_once_and_completes(run: ModelRun) -> None:
    run.snapshot = replace(run.snapshot, deadline=None)
    finish(run)
    assert run.snapshot.state is RunState.COMPLETED
    assert sorted(run.starts) == sorted(task.key for task in run.snapshot.tasks)
