"""Runs driven to their end over a real store, with pretended sessions."""

from typing import cast

import anyio
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.settle import view_of
from crew_plugin.errors import HostUnsupported
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.records import GaveUp
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.models.states import AttemptState, RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.testing.fake_runner import (
    FakeAttempt,
    claims,
    fails,
    gate,
    hangs,
    in_turn,
    leaves,
    submits,
)
from tests.engine.bench import open_bench, spec_of, step
from tests.engine.turns import LongestTurn

pytestmark = pytest.mark.anyio


async def test_a_run_whose_tasks_all_submit_is_completed(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.execute(spec_of(step("a"), step("b", "a")))
        assert (run.state, run.cause) == (RunState.COMPLETED, None)
        assert bench.runner.order == ["a", "b"]
        told = [event.type for event in await bench.events(run.id)]
        begin = ["run.created", "run.claimed", "runtime.resolved", "limits.resolved", "run.started"]
        assert told[:5] == begin
        assert told[-1] == "run.completed"


async def test_a_task_starts_the_moment_its_own_dependencies_are_done(project: Project) -> None:
    slow, reached = anyio.Event(), anyio.Event()

    async def reach(attempt: FakeAttempt) -> Outcome:
        reached.set()
        return await submits()(attempt)

    scripts = {"slow": gate(slow, submits()), "second": reach}
    async with open_bench(project, scripts) as bench:
        run = await bench.submit(spec_of(step("slow"), step("first"), step("second", "first")))
        bench.supervisor.start(run.id)
        with anyio.fail_after(5):
            await reached.wait()
            assert (await bench.states(run.id))["slow"] is TaskState.RUNNING
            slow.set()
            assert (await bench.supervisor.wait(run.id, None)).state is RunState.COMPLETED


async def test_a_hundred_tasks_never_have_more_sessions_open_than_the_width(project: Project) -> None:
    async def breathe(attempt: FakeAttempt) -> Outcome:
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return await submits(attempt.context.task.key)(attempt)

    async with open_bench(project, default=breathe) as bench:
        run = await bench.execute(spec_of(*(step(f"t{n}") for n in range(100)), width=8))
        assert run.state is RunState.COMPLETED
        assert bench.runner.most == 8
        results = await bench.writer.read(lambda store: store.list_results(run.id))
        assert [result.summary for result in results] == [f"t{n}" for n in range(100)]


async def test_runs_of_one_process_share_its_slots(project: Project) -> None:
    async with open_bench(project, process_width=3) as bench:
        runs = [await bench.submit(spec_of(*(step(f"t{n}") for n in range(10)))) for _ in range(3)]
        for run in runs:
            bench.supervisor.start(run.id)
        with anyio.fail_after(10):
            ends = [await bench.supervisor.wait(run.id, None) for run in runs]
        assert {run.state for run in ends} == {RunState.COMPLETED}
        assert bench.runner.most == 3


async def test_a_role_has_no_more_sessions_than_its_team_allows(project: Project) -> None:
    spec = spec_of(*(step(f"t{n}") for n in range(10)), tag_limits={"role:worker": 2})
    async with open_bench(project) as bench:
        assert (await bench.execute(spec)).state is RunState.COMPLETED
        assert bench.runner.most == 2


async def test_a_failure_skips_what_depends_on_it_and_fails_the_run(project: Project) -> None:
    async with open_bench(project, {"a": fails("no such model")}) as bench:
        run = await bench.execute(spec_of(step("a"), step("b", "a"), step("c")))
        assert run.state is RunState.FAILED
        assert str(run.cause) == "task_failed: task 'a' failed: no such model"
        assert await bench.states(run.id) == {
            "a": TaskState.FAILED,
            "b": TaskState.SKIPPED,
            "c": TaskState.COMPLETED,
        }


async def test_an_optional_failure_does_not_stop_what_follows(project: Project) -> None:
    async with open_bench(project, {"a": fails()}) as bench:
        run = await bench.execute(spec_of(step("a", optional=True), step("b", "a")))
        assert run.state is RunState.COMPLETED
        assert (await bench.states(run.id))["b"] is TaskState.COMPLETED


async def test_a_text_without_a_result_is_handed_on_where_the_step_says_so(project: Project) -> None:
    async with open_bench(project, {"a": leaves("I looked at it.")}) as bench:
        run = await bench.execute(spec_of(step("a", attention="pass"), step("b", "a")))
        assert run.state is RunState.FAILED
        tasks = await bench.tasks(run.id)
        assert [tasks[key].state for key in "ab"] == [TaskState.NEEDS_ATTENTION, TaskState.COMPLETED]


async def test_fail_fast_stops_the_others_at_the_first_failure(project: Project) -> None:
    broken = anyio.Event()

    async def starts_then_hangs(attempt: FakeAttempt) -> Outcome:
        broken.set()
        return await hangs()(attempt)

    scripts = {"a": gate(broken, fails()), "b": starts_then_hangs}
    async with open_bench(project, scripts) as bench:
        with anyio.fail_after(5):
            run = await bench.execute(spec_of(step("a"), step("b"), step("c", "b"), fail_fast=True))
        assert run.state is RunState.FAILED
        assert run.cause is not None
        assert run.cause.code is CauseCode.TASK_FAILED
        tasks = await bench.tasks(run.id)
        assert {tasks[key].state for key in "bc"} == {TaskState.CANCELLED}
        assert tasks["b"].cause is not None
        assert tasks["b"].cause.code is CauseCode.FAIL_FAST


async def test_a_session_that_only_says_it_is_done_is_not_believed(project: Project) -> None:
    async with open_bench(project, {"a": claims()}) as bench:
        run = await bench.execute(spec_of(step("a")))
        task = (await bench.tasks(run.id))["a"]
        assert task.state is TaskState.FAILED
        assert task.cause is not None
        assert task.cause.code is CauseCode.NO_RESULT


async def test_a_result_that_reports_an_error_is_a_failure(project: Project) -> None:
    async with open_bench(project, {"a": submits("tried", error="the file is not there")}) as bench:
        run = await bench.execute(spec_of(step("a")))
        task = (await bench.tasks(run.id))["a"]
        assert task.state is TaskState.FAILED
        assert str(task.cause) == "agent_error: the agent reported: the file is not there"


async def test_a_model_failure_that_may_pass_is_tried_once_more(project: Project) -> None:
    scripts = {"a": in_turn(fails(retryable=True), submits("second time"))}
    async with open_bench(project, scripts) as bench:
        run = await bench.execute(spec_of(step("a")))
        assert run.state is RunState.COMPLETED
        task = (await bench.tasks(run.id))["a"]
        attempts = await bench.writer.read(lambda store: store.list_attempts(task.id))
        assert [attempt.state for attempt in attempts] == [AttemptState.FAILED, AttemptState.COMPLETED]
        assert len(await bench.events(run.id, "task.retry_due")) == 1


async def test_a_failure_that_does_not_pass_ends_with_its_cause(project: Project) -> None:
    async with open_bench(project, {"a": fails("overloaded", retryable=True)}) as bench:
        run = await bench.execute(spec_of(step("a")))
        assert bench.runner.order == ["a", "a"]
        assert str(run.cause) == "task_failed: task 'a' failed: overloaded"
        (letter,) = await bench.writer.read(lambda store: store.list_dead_letters(run.id))
        assert (letter.key, letter.attempts, letter.reason) == ("a", 2, GaveUp.ATTEMPTS)
        assert letter.cause == (await bench.tasks(run.id))["a"].cause


async def test_a_step_says_how_often_it_is_tried_and_a_failure_for_good_is_no_dead_letter(
    project: Project,
) -> None:
    often = step("a").model_copy(update={"limits": LimitsSpec(attempts=3)})
    scripts = {"a": fails(retryable=True), "b": fails("no such model")}
    async with open_bench(project, scripts) as bench:
        run = await bench.execute(spec_of(often, step("b")))
        assert sorted(bench.runner.order) == ["a", "a", "a", "b"]
        letters = await bench.writer.read(lambda store: store.list_dead_letters(run.id))
        assert [(letter.key, letter.attempts) for letter in letters] == [("a", 3)]


async def test_the_chance_in_a_pause_differs_from_task_to_task_and_is_always_the_same_for_one(
    project: Project,
) -> None:
    async with open_bench(project) as bench:
        run = await bench.execute(spec_of(*(step(key) for key in "abcdefgh")))
        draws = [view_of(task).draw for task in (await bench.tasks(run.id)).values()]
        assert draws == [view_of(task).draw for task in (await bench.tasks(run.id)).values()]
        assert len(set(draws)) == 8
        assert all(0.0 <= draw <= 1.0 for draw in draws)


async def test_a_defect_of_a_runner_ends_its_task_and_not_the_run_of_the_others(project: Project) -> None:
    async def broken(attempt: FakeAttempt) -> Outcome:
        raise ZeroDivisionError("oops")

    async with open_bench(project, {"a": broken}) as bench:
        run = await bench.execute(spec_of(step("a"), step("b")))
        tasks = await bench.tasks(run.id)
        assert tasks["b"].state is TaskState.COMPLETED
        cause = tasks["a"].cause
        assert cause is not None
        assert cause.code is CauseCode.INTERNAL_ERROR
        assert "ZeroDivisionError: oops" in (cause.detail or "")


async def test_a_defect_of_the_engine_itself_fails_the_run_and_says_so(project: Project) -> None:
    async with open_bench(project) as bench:
        bench.runner.engine = cast("str", object())
        run = await bench.execute(spec_of(step("a"), step("b")))
        assert run.state is RunState.FAILED
        assert run.cause is not None
        assert run.cause.code is CauseCode.INTERNAL_ERROR
        assert "Traceback" in (run.cause.detail or "")
        assert set((await bench.states(run.id)).values()) == {TaskState.CANCELLED}


async def test_a_run_ends_at_its_wall_clock_limit(project: Project) -> None:
    async with open_bench(project, {"a": hangs()}) as bench:
        with anyio.fail_after(5):
            run = await bench.execute(spec_of(step("a"), wall_seconds=0.1))
        assert run.state is RunState.FAILED
        assert run.cause is not None
        assert run.cause.code is CauseCode.WALL_LIMIT


async def test_a_goal_of_a_megabyte_comes_back_as_it_was_given(project: Project) -> None:
    goal = "{goal} 🦀\n---\nname: x\n---\n" * 40_000
    async with open_bench(project) as bench:
        run = await bench.execute(spec_of(step("a"), goal=goal))
        assert run.state is RunState.COMPLETED
        assert (await bench.writer.read(lambda store: store.load_run(run.id))).goal == goal


async def test_a_plan_for_sessions_that_nobody_can_hold_is_refused_unwritten(project: Project) -> None:
    async with open_bench(project) as bench:
        with pytest.raises(
            HostUnsupported, match="no runner for dry runs; the kinds of session it has: live"
        ):
            await bench.submit(spec_of(step("a"), runtime_requested="scaffold"))
        assert await bench.writer.read(lambda store: store.list_runs()) == []


async def test_waiting_longer_than_the_timeout_gives_the_run_as_it_stands(project: Project) -> None:
    async with open_bench(project, {"a": hangs()}) as bench:
        run = await bench.submit(spec_of(step("a")))
        bench.supervisor.start(run.id)
        with anyio.fail_after(5):
            assert (await bench.supervisor.wait(run.id, 0.1)).state is RunState.RUNNING


async def test_no_single_turn_of_the_loop_takes_long_with_a_hundred_tasks(project: Project) -> None:
    spec = spec_of(*(step(f"t{n}") for n in range(100)), width=100)
    async with open_bench(project, process_width=100) as bench:
        with LongestTurn() as turns:
            run = await bench.execute(spec)
        assert run.state is RunState.COMPLETED
        assert turns.longest < 0.020, turns.worst
