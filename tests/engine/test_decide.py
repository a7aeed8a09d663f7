"""The rules of the scheduler, one sentence each."""

from dataclasses import replace

import pytest

from crew_plugin.engine.decide import decide, next_due, resource_waits, sequel
from crew_plugin.engine.snapshot import (
    AGAIN,
    OVER,
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
from crew_plugin.models.states import AttemptState, RunState, TaskState

MODEL_ERROR = Cause(code=CauseCode.MODEL_ERROR, message="the provider answered 500")
STOP = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
DONE = TaskState.COMPLETED


def run(*tasks: TaskView, width: int = 8, free_slots: int = 32) -> Snapshot:
    return Snapshot(state=RunState.RUNNING, tasks=tasks, width=width, free_slots=free_slots)


def failed(key: str, *, optional: bool = False) -> TaskView:
    return TaskView(key=key, state=TaskState.FAILED, cause=MODEL_ERROR, optional=optional)


def after_failure(
    cause: Cause = MODEL_ERROR, *, retryable: bool = True, acted: bool = False, dispatches: int = 1
) -> TaskView:
    return TaskView(
        key="a",
        state=TaskState.RUNNING,
        attempts=dispatches,
        dispatches=dispatches,
        last=LastAttempt(state=AttemptState.FAILED, cause=cause, retryable=retryable, acted=acted),
    )


def test_a_task_starts_when_its_own_dependencies_are_done_whatever_others_do() -> None:
    tasks = run(
        TaskView(key="a", state=DONE),
        TaskView(key="b", state=TaskState.RUNNING, busy=True),
        TaskView(key="c", depends_on=("a",)),
        TaskView(key="d", depends_on=("b",)),
    )
    assert decide(tasks, 0) == [Start("c")]


def test_no_more_starts_than_the_width_of_the_run_leaves() -> None:
    waiting = TaskView(key="w", state=TaskState.WAITING)
    assert decide(run(waiting, *(TaskView(key=key) for key in "abc"), width=3), 0) == [Start("a"), Start("b")]


def test_no_more_starts_than_the_process_has_slots() -> None:
    assert decide(run(TaskView(key="a"), TaskView(key="b"), free_slots=1), 0) == [Start("a")]
    assert decide(run(TaskView(key="a"), free_slots=0), 0) == []


def test_a_limit_by_tag_holds_back_only_what_carries_the_tag() -> None:
    reviewers = [TaskView(key=key, tags=frozenset({"role:reviewer"})) for key in "ab"]
    snapshot = replace(run(*reviewers, TaskView(key="c")), tag_limits={"role:reviewer": 1})
    assert decide(snapshot, 0) == [Start("a"), Start("c")]


def test_what_depends_on_a_failure_is_skipped_down_the_whole_chain() -> None:
    tasks = run(
        failed("a"),
        TaskView(key="c", depends_on=("b",)),
        TaskView(key="b", depends_on=("a",)),
    )
    actions = decide(tasks, 0)
    assert [(action.key, action.cause.code) for action in actions if isinstance(action, Skip)] == [
        ("b", CauseCode.DEPENDENCY),
        ("c", CauseCode.DEPENDENCY),
    ]
    assert [action.cause.message for action in actions if isinstance(action, Skip)] == [
        "it depends on 'a', which failed (the provider answered 500)",
        "it depends on 'b', which was skipped (it depends on 'a', which failed (the provider answered 500))",
    ]


def test_an_optional_dependency_may_fail() -> None:
    assert decide(run(failed("a", optional=True), TaskView(key="b", depends_on=("a",))), 0) == [Start("b")]
    over = run(failed("a", optional=True), TaskView(key="b", state=DONE))
    assert decide(over, 0) == [Finish(RunState.COMPLETED)]


@pytest.mark.parametrize(("attention_pass", "follows"), [(True, Start), (False, Skip)])
def test_a_task_without_result_hands_on_its_text_only_where_the_step_says_so(
    attention_pass: bool, follows: type
) -> None:
    first = TaskView(key="a", state=TaskState.NEEDS_ATTENTION, attention_pass=attention_pass)
    assert [type(action) for action in decide(run(first, TaskView(key="b", depends_on=("a",))), 0)] == [
        follows
    ]
    finish = decide(run(first, TaskView(key="b", state=DONE)), 0)
    assert isinstance(finish[0], Finish)
    assert finish[0].state is RunState.FAILED


def test_a_run_that_lacks_a_required_result_names_the_task() -> None:
    assert decide(run(failed("a"), TaskView(key="b", state=DONE)), 0) == [
        Finish(
            RunState.FAILED,
            Cause(code=CauseCode.TASK_FAILED, message="task 'a' failed: the provider answered 500"),
        )
    ]


def test_fail_fast_stops_everything_else_and_still_names_the_failure() -> None:
    snapshot = replace(
        run(failed("a"), TaskView(key="b", state=TaskState.RUNNING, busy=True), TaskView(key="c")),
        fail_fast=True,
    )
    actions = decide(snapshot, 0)
    assert [(type(action), action.key) for action in actions if isinstance(action, Cancel)] == [
        (Cancel, "b"),
        (Cancel, "c"),
    ]
    assert all(action.cause.code is CauseCode.FAIL_FAST for action in actions if isinstance(action, Cancel))
    over = replace(snapshot, tasks=(failed("a"), TaskView(key="b", state=TaskState.CANCELLED)))
    (finish,) = decide(over, 0)
    assert isinstance(finish, Finish)
    assert finish.cause is not None
    assert finish.cause.code is CauseCode.TASK_FAILED


def test_a_stop_tells_each_open_attempt_once_and_then_waits_for_it() -> None:
    snapshot = replace(run(TaskView(key="a", state=TaskState.RUNNING, busy=True)), stop=STOP)
    assert decide(snapshot, 0) == [Cancel("a", STOP)]
    told = replace(snapshot, tasks=(replace(snapshot.tasks[0], stopping=True),))
    assert decide(told, 0) == []


def test_a_stop_that_comes_after_the_last_result_changes_nothing() -> None:
    assert decide(replace(run(TaskView(key="a", state=DONE)), stop=STOP), 0) == [Finish(RunState.COMPLETED)]


def test_a_run_stopped_by_its_deadline_has_failed() -> None:
    snapshot = replace(run(TaskView(key="a", state=TaskState.CANCELLED)), deadline=10.0)
    (finish,) = decide(snapshot, 10.0)
    assert isinstance(finish, Finish)
    assert finish.state is RunState.FAILED
    assert finish.cause is not None
    assert finish.cause.code is CauseCode.WALL_LIMIT
    assert next_due(replace(snapshot, tasks=(TaskView(key="a"),)), 9.0) == 10.0


def test_stopping_one_task_leaves_the_others_alone() -> None:
    tasks = run(TaskView(key="a", stop=STOP), TaskView(key="b"))
    assert decide(tasks, 0) == [Cancel("a", STOP)]
    ended = run(TaskView(key="a", state=TaskState.CANCELLED, cause=STOP), TaskView(key="b"))
    assert decide(ended, 0) == [Start("b")]


def test_a_failure_that_may_pass_is_tried_again_after_a_pause_that_can_be_foretold() -> None:
    snapshot = replace(run(replace(after_failure(), draw=0.5)), retry=RetryPolicy(base=3.0, jitter=0.2))
    assert decide(snapshot, 100.0) == [Retry("a", 102.7)]
    pausing = replace(snapshot, tasks=(replace(snapshot.tasks[0], retry_at=102.7),))
    assert decide(pausing, 102.6) == []
    assert next_due(pausing, 102.6) == 102.7
    assert decide(pausing, 102.7) == [Start("a")]


def test_pauses_grow_up_to_a_cap_and_chance_only_shortens_them() -> None:
    policy = RetryPolicy(base=2.0, factor=3.0, cap=30.0, jitter=0.5)
    assert [policy.pause(attempts, 0.0) for attempts in (1, 2, 3, 4, 1000)] == [2.0, 6.0, 18.0, 30.0, 30.0]
    assert [policy.pause(attempts, 1.0) for attempts in (1, 4)] == [1.0, 15.0]
    assert policy.pause(2, 0.5) == policy.pause(2, 0.5) == 4.5


LOST = Cause(code=CauseCode.WORKER_LOST, message="the worker process 7 died")
AUTH = Cause(code=CauseCode.AGENT_ERROR, message="no")


@pytest.mark.parametrize(
    ("task", "gave_up"),
    [
        (after_failure(retryable=False), None),
        (after_failure(AUTH), None),
        (after_failure(retryable=False, acted=True), GaveUp.EFFECTS),
        (after_failure(dispatches=2), GaveUp.ATTEMPTS),
        (replace(after_failure(dispatches=2), most_attempts=1), GaveUp.ATTEMPTS),
    ],
)
def test_a_task_between_attempts_with_nothing_due_ends_with_its_cause(
    task: TaskView, gave_up: GaveUp | None
) -> None:
    assert task.last is not None
    assert task.last.cause is not None
    assert decide(run(task), 0) == [Cancel("a", task.last.cause, TaskState.FAILED, gave_up)]


def test_which_failures_may_pass_is_the_policys_to_say() -> None:
    def follows(cause: Cause, *causes: CauseCode) -> Sequel:
        return sequel(after_failure(cause), RetryPolicy(causes=frozenset(causes)), stopped=False)

    assert follows(LOST, CauseCode.WORKER_LOST) == AGAIN
    assert follows(MODEL_ERROR, CauseCode.WORKER_LOST) == OVER


def test_what_was_stopped_is_neither_tried_again_nor_given_up() -> None:
    task = after_failure(dispatches=2)
    assert sequel(task, RetryPolicy(), stopped=True) == OVER
    assert sequel(replace(task, stop=STOP), RetryPolicy(), stopped=False) == OVER


def test_a_task_whose_process_dies_again_and_again_is_given_up_at_its_cap_only() -> None:
    lost = LastAttempt(state=AttemptState.LOST, cause=None, retryable=True)
    task = replace(after_failure(dispatches=2), last=lost)
    assert sequel(task, RetryPolicy(), stopped=False) == AGAIN
    capped = replace(task, dispatches=3)
    assert sequel(capped, RetryPolicy(), stopped=False) == Sequel(gave_up=GaveUp.DISPATCHES)


def test_a_task_is_not_started_more_often_than_its_cap() -> None:
    (action,) = decide(run(replace(after_failure(), dispatches=3, retry_at=1.0)), 5)
    assert isinstance(action, Cancel)
    assert (action.to, action.cause.code) == (TaskState.FAILED, CauseCode.DISPATCH_CAP)
    assert action.gave_up is GaveUp.DISPATCHES


def test_a_held_run_is_blocked_with_the_reason_once_nothing_is_under_way() -> None:
    held = replace(run(TaskView(key="a")), hold="approve the plan")
    assert decide(held, 0) == [Block(Cause(code=CauseCode.HELD, message="approve the plan"))]
    assert decide(replace(held, state=RunState.BLOCKED), 0) == []
    busy = replace(held, tasks=(*held.tasks, TaskView(key="b", state=TaskState.RUNNING, busy=True)))
    assert decide(busy, 0) == []


def test_a_task_whose_dependency_does_not_exist_never_waits_in_silence() -> None:
    (action,) = decide(run(TaskView(key="a", depends_on=("ghost",))), 0)
    assert isinstance(action, Skip)
    assert action.cause.message == "it depends on 'ghost', which does not exist"


def test_tasks_that_wait_for_each_other_are_given_up() -> None:
    (action,) = decide(run(TaskView(key="a", depends_on=("b",)), TaskView(key="b", depends_on=("a",))), 0)
    assert isinstance(action, Skip)
    assert action.cause.code is CauseCode.INTERNAL_ERROR


def test_a_run_that_ended_is_left_alone() -> None:
    assert decide(replace(run(TaskView(key="a")), state=RunState.CANCELLED), 0) == []


def needing(key: str, *names: str, ticket: int | None = None, **facts: bool) -> TaskView:
    tags = frozenset(f"resource:{name}" for name in names)
    return TaskView(key=key, tags=tags, ticket=ticket, **facts)  # type: ignore[arg-type]


def test_a_task_gets_all_its_resources_at_once_or_waits_with_none() -> None:
    holder = replace(needing("a", "db"), state=TaskState.RUNNING, busy=True)
    snapshot = run(holder, needing("b", "db", "port"), TaskView(key="d"))
    assert decide(snapshot, 0) == [Start("d")]
    assert resource_waits(snapshot, 0) == {"b": frozenset({"resource:db", "resource:port"})}


def test_nobody_overtakes_a_task_that_waits_for_the_same_resource() -> None:
    holder = replace(needing("a", "db"), state=TaskState.RUNNING, busy=True)
    waiting = needing("c", "db", "port", ticket=1)
    snapshot = run(holder, needing("b", "port"), waiting)
    assert decide(snapshot, 0) == []
    assert list(resource_waits(snapshot, 0)) == ["c", "b"]
    free = run(needing("b", "port", ticket=2), waiting)
    assert decide(free, 0) == [Start("c")]


def test_whoever_waits_longer_in_another_run_comes_first() -> None:
    mine = needing("a", "db", ticket=5)
    snapshot = replace(run(mine), ahead={"resource:db": 3})
    assert decide(snapshot, 0) == []
    assert decide(replace(snapshot, ahead={"resource:db": 7}), 0) == [Start("a")]


def test_a_resource_that_another_run_uses_is_not_free_and_a_capacity_makes_room() -> None:
    snapshot = replace(run(needing("a", "db")), used={"resource:db": 1})
    assert decide(snapshot, 0) == []
    assert decide(replace(snapshot, tag_limits={"resource:db": 2}), 0) == [Start("a")]


def test_a_limit_over_all_runs_counts_what_the_others_use() -> None:
    tagged = [TaskView(key=key, tags=frozenset({"team:review"})) for key in "ab"]
    snapshot = replace(run(*tagged), tag_limits={"team:review": 3}, used={"team:review": 2})
    assert decide(snapshot, 0) == [Start("a")]


def test_fail_fast_names_the_failure_that_came_first() -> None:
    late, early = replace(failed("a"), ended_at=2.0), replace(failed("b"), ended_at=1.0)
    (finish,) = decide(replace(run(late, early), fail_fast=True), 0)
    assert isinstance(finish, Finish)
    assert finish.cause is not None
    assert finish.cause.message == "task 'b' failed: the provider answered 500"
