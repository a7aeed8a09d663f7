"""Stopping runs and tasks, from inside and while other things happen."""

import asyncio

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.cancel import CancelOutcome
from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.settle import finish_run
from crew_plugin.errors import Fenced
from crew_plugin.hookspecs import Cancelling, RunStarting, hookimpl
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import ControlRecord, ControlVerb, ParentRef, TranscriptEntry
from crew_plugin.models.states import AttemptState, RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.testing.fake_runner import FakeAttempt, TaskScript, gate, hangs, submits
from tests.engine.bench import Bench, open_bench, spec_of, step

pytestmark = pytest.mark.anyio

ENOUGH = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


class Started:
    """A script that says when it began, and then goes on like another one."""

    def __init__(self, then: TaskScript) -> None:
        self.event = anyio.Event()
        self._then = then

    async def __call__(self, attempt: FakeAttempt) -> Outcome:
        self.event.set()
        return await self._then(attempt)


async def begin(bench: Bench, started: Started, *, background: bool = True) -> str:
    """A run in the background whose task `a` has begun; `b` waits for it, `c` is independent."""
    run = await bench.submit(spec_of(step("c"), step("a"), step("b", "a")), background=background)
    bench.supervisor.start(run.id)
    await started.event.wait()
    return run.id


async def test_cancelling_in_the_middle_keeps_what_is_finished_and_says_who_and_why(project: Project) -> None:
    started = Started(hangs())
    async with open_bench(project, {"a": started}) as bench:
        with anyio.fail_after(5):
            run_id = await begin(bench, started)
            while (await bench.states(run_id))["c"] is not TaskState.COMPLETED:
                await anyio.lowlevel.checkpoint()
            report = await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="session:s1")
        assert (report.outcome, report.state) == (CancelOutcome.CANCELLED, RunState.CANCELLED)
        tasks = await bench.tasks(run_id)
        assert {key: task.state for key, task in tasks.items()} == {
            "a": TaskState.CANCELLED,
            "b": TaskState.CANCELLED,
            "c": TaskState.COMPLETED,
        }
        assert tasks["a"].cause == ENOUGH
        types = [(event.type, event.actor) for event in await bench.events(run_id)]
        assert types.index(("control.requested", "session:s1")) < types.index(
            ("task.cancelled", "session:s1")
        )
        assert ("run.cancelled", "session:s1") in types
        assert ("control.applied", "supervisor") in types


async def test_a_session_that_does_not_listen_is_ended_all_the_same(project: Project) -> None:
    started = Started(hangs(stubborn=True))
    async with open_bench(project, {"a": started}) as bench:
        with anyio.fail_after(4):
            run_id = await begin(bench, started)
            report = await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="test")
            assert report.outcome is CancelOutcome.CANCELLED
            while bench.runner.open:
                await anyio.lowlevel.checkpoint()
        assert "a" in bench.runner.aborts


async def test_a_cancel_that_races_a_submitted_result_keeps_the_result(project: Project) -> None:
    submitted = anyio.Event()

    async def submits_then_lingers(attempt: FakeAttempt) -> Outcome:
        await attempt.submit("found it")
        submitted.set()
        return await hangs()(attempt)

    async with open_bench(project, {"a": submits_then_lingers}) as bench:
        run = await bench.submit(spec_of(step("a")))
        bench.supervisor.start(run.id)
        with anyio.fail_after(5):
            await submitted.wait()
            report = await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="test")
        assert report.outcome is CancelOutcome.ALREADY_ENDED
        assert report.message == "the run had already ended: completed"
        assert await bench.states(run.id) == {"a": TaskState.COMPLETED}
        (result,) = await bench.writer.read(lambda store: store.list_results(run.id))
        assert result.summary == "found it"


@pytest.mark.parametrize("how", ["another process", "the run's time"])
async def test_a_stop_from_outside_that_races_a_submitted_result_keeps_the_result(
    project: Project, how: str
) -> None:
    async def submits_then_lingers(attempt: FakeAttempt) -> Outcome:
        await attempt.submit("found it")
        return await hangs()(attempt)

    spec = spec_of(step("a"), wall_seconds=0.3 if how == "the run's time" else None)
    async with open_bench(project, {"a": submits_then_lingers}) as bench:
        run = await bench.submit(spec)
        accepted = anyio.Event()
        unsubscribe = bench.writer.subscribe(
            lambda event: accepted.set() if event.type == "result.accepted" else None
        )
        with anyio.fail_after(10):
            bench.supervisor.start(run.id)
            await accepted.wait()
            if how == "another process":
                await bench.writer.run(
                    lambda store: store.request_control(run.id, ControlVerb.CANCEL, actor="operator")
                )
            ended = await bench.supervisor.wait(run.id, timeout=9)
        unsubscribe()
        assert ended.state is RunState.COMPLETED
        assert await bench.states(run.id) == {"a": TaskState.COMPLETED}


async def test_a_session_that_could_not_tell_its_last_words_has_them_kept(project: Project) -> None:
    said = anyio.Event()

    async def talks_and_hangs(attempt: FakeAttempt) -> Outcome:
        context = attempt.context
        entry = TranscriptEntry(seq=0, role="assistant", content="so far: nothing bad")
        session_id = context.attempt.session_id
        await attempt.writer.run(lambda store: store.append_transcript(context.lease, session_id, [entry]))
        said.set()
        return await hangs(stubborn=True)(attempt)

    async with open_bench(project, {"a": talks_and_hangs}) as bench:
        run = await bench.submit(spec_of(step("a")))
        bench.supervisor.start(run.id)
        with anyio.fail_after(10):
            await said.wait()
            await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="test")
        task = (await bench.tasks(run.id))["a"]
        attempt = await bench.writer.read(lambda store: store.load_attempt(task.attempt_id or ""))
        assert attempt.last_text is not None
        sha256 = attempt.last_text.sha256
        assert await bench.writer.read(lambda store: store.read_artifact(sha256)) == b"so far: nothing bad"


async def test_cancelling_one_task_leaves_the_others_alone(project: Project) -> None:
    started, finish = Started(hangs()), anyio.Event()
    async with open_bench(project, {"a": started, "c": gate(finish, submits())}) as bench:
        with anyio.fail_after(5):
            run_id = await begin(bench, started)
            report = await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="test", task="a")
            assert (report.outcome, report.task, report.state) == (
                CancelOutcome.CANCELLED,
                "a",
                TaskState.CANCELLED,
            )
            finish.set()
            run = await bench.supervisor.wait(run_id, None)
        assert run.state is RunState.FAILED
        assert str(run.cause) == "task_failed: task 'a' was cancelled: enough"
        states = await bench.states(run_id)
        assert (states["b"], states["c"]) == (TaskState.SKIPPED, TaskState.COMPLETED)
        late = await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="test", task="a")
        assert late.outcome is CancelOutcome.ALREADY_ENDED


async def test_cancelling_twice_changes_nothing_the_second_time(project: Project) -> None:
    started = Started(hangs())
    async with open_bench(project, {"a": started}) as bench:
        with anyio.fail_after(5):
            run_id = await begin(bench, started)
            await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="test")
            again = await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="test")
        assert (again.outcome, again.message) == (
            CancelOutcome.ALREADY_ENDED,
            "the run had already ended: cancelled",
        )


async def test_a_run_that_never_began_is_cancelled_where_it_lies(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.submit(spec_of(step("a")))
        report = await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="test")
        assert report.message == "it was cancelled before it began"
        assert (await bench.supervisor.execute(run.id)).state is RunState.CANCELLED
        assert bench.runner.order == []


async def test_a_run_of_another_session_is_cancelled_only_with_force(project: Project) -> None:
    started = Started(hangs())
    mine, other = ParentRef(host="bub", session="mine"), ParentRef(host="bub", session="other")
    async with open_bench(project, {"a": started}) as bench:
        run = await bench.supervisor.submit(spec_of(step("a")), parent=mine, background=True, actor="s")
        bench.supervisor.start(run.id)
        with anyio.fail_after(5):
            await started.event.wait()
            refused = await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="session:other", caller=other)
            assert refused.outcome is CancelOutcome.REFUSED
            assert "belongs to the session mine" in refused.message
            assert (await bench.supervisor.wait(run.id, 0)).state is RunState.RUNNING
            forced = await bench.supervisor.cancel(
                run.id, cause=ENOUGH, actor="session:other", caller=other, force=True
            )
        assert forced.outcome is CancelOutcome.CANCELLED
        (event,) = await bench.events(run.id, "control.requested")
        assert event.actor == "session:other"


async def test_when_the_callers_scope_is_cancelled_the_run_goes_with_it(project: Project) -> None:
    started = Started(hangs())
    async with open_bench(project, {"a": started}) as bench:
        run = await bench.submit(spec_of(step("a"), step("b", "a")))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(bench.supervisor.execute, run.id)
                await started.event.wait()
                group.cancel_scope.cancel()
        await check_interrupted(bench, run.id)


async def test_when_the_callers_task_is_cancelled_the_run_goes_with_it(project: Project) -> None:
    started = Started(hangs())
    async with open_bench(project, {"a": started}) as bench:
        run = await bench.submit(spec_of(step("a"), step("b", "a")))
        with anyio.fail_after(5):
            async with asyncio.TaskGroup() as group:
                turn = group.create_task(bench.supervisor.execute(run.id))
                await started.event.wait()
                turn.cancel()
        assert turn.cancelled()
        await check_interrupted(bench, run.id)


async def test_a_second_cancellation_of_the_caller_stops_the_run_at_once(project: Project) -> None:
    started = Started(hangs(stubborn=True))
    async with open_bench(project, {"a": started}) as bench:
        run = await bench.submit(spec_of(step("a")))
        with anyio.fail_after(5):
            async with asyncio.TaskGroup() as group:
                turn = group.create_task(bench.supervisor.execute(run.id))
                await started.event.wait()
                turn.cancel()
                while not bench.runner.aborts:
                    await anyio.lowlevel.checkpoint()
                turn.cancel()
        assert turn.cancelled()
        assert bench.runner.open == {}
        ended = await bench.supervisor.wait(run.id, 0)
        assert ended.state is RunState.CANCELLED
        assert set((await bench.states(run.id)).values()) == {TaskState.CANCELLED}


async def check_interrupted(bench: Bench, run_id: str) -> None:
    run = await bench.supervisor.wait(run_id, 0)
    assert run.state is RunState.CANCELLED
    assert run.cause is not None
    assert run.cause.code is CauseCode.LEADER_INTERRUPTED
    assert set((await bench.states(run_id)).values()) == {TaskState.CANCELLED}
    assert bench.runner.open == {}


async def test_leaving_the_supervisor_stops_its_background_runs(project: Project) -> None:
    started = Started(hangs())
    with anyio.fail_after(5):
        async with open_bench(project, {"a": started}) as bench:
            run_id = await begin(bench, started)
    async with open_bench(project) as after:
        run = await after.supervisor.wait(run_id, 0)
        assert run.state is RunState.CANCELLED
        assert run.cause is not None
        assert run.cause.code is CauseCode.SHUTDOWN
        assert (await after.states(run_id))["c"] is TaskState.COMPLETED


async def test_a_run_that_nobody_came_to_drive_does_not_stay_queued_for_ever(project: Project) -> None:
    async with open_bench(project) as bench:
        await bench.submit(spec_of(step("a")), background=True)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await bench.submit(spec_of(step("b")))
        while len(await bench.writer.read(lambda store: store.list_runs())) < 2:
            await anyio.lowlevel.checkpoint()
    async with open_bench(project) as bench:
        runs = await bench.writer.read(lambda store: store.list_runs())
    assert [(run.state, run.cause and run.cause.code) for run in runs] == [
        (RunState.CANCELLED, CauseCode.SHUTDOWN)
    ] * 2


async def test_an_error_in_the_body_leaves_the_supervisor_as_it_is(project: Project) -> None:
    with pytest.raises(ZeroDivisionError):
        await break_inside(project)


async def break_inside(project: Project) -> None:
    async with open_bench(project, default=hangs()) as bench:
        run = await bench.submit(spec_of(step("a")))
        bench.supervisor.start(run.id)
        raise ZeroDivisionError


async def test_a_supervisor_that_lost_its_run_stops_working_and_writes_nothing_more(project: Project) -> None:
    started, go = Started(hangs()), anyio.Event()

    async def reports(attempt: FakeAttempt) -> Outcome:
        await go.wait()
        return await submits()(attempt)

    other = Started(reports)
    async with open_bench(project, {"a": started, "c": other}) as bench:
        run = await bench.submit(spec_of(step("a"), step("c")))
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(expect_fenced, bench, run.id)
                await started.event.wait()
                await other.event.wait()
                await bench.writer.run(lambda store: store.claim(run.id, current_owner(), force=True))
                events = len(await bench.events(run.id))
                go.set()
        assert bench.runner.open == {}
        assert len(await bench.events(run.id)) == events
        states = await bench.states(run.id)
        assert set(states.values()) == {TaskState.RUNNING}


async def expect_fenced(bench: Bench, run_id: str) -> None:
    with pytest.raises(Fenced):
        await bench.supervisor.execute(run_id)


async def test_a_width_can_be_changed_while_the_run_goes_on(project: Project) -> None:
    first, finish = Started(hangs()), anyio.Event()
    second = Started(gate(finish, submits()))
    async with open_bench(project, {"a": first, "b": second}) as bench:
        run = await bench.submit(spec_of(step("a"), step("b"), width=1))
        bench.supervisor.start(run.id)
        with anyio.fail_after(5):
            await first.event.wait()
            await bench.writer.run(
                lambda store: store.request_control(
                    run.id, ControlVerb.RESIZE, actor="operator", payload={"width": 2}
                )
            )
            await second.event.wait()
        assert bench.runner.most == 2


async def test_the_attempt_of_a_cancelled_task_is_closed_before_its_session_is_gone(project: Project) -> None:
    leaving = anyio.Event()

    async def cleans_up(attempt: FakeAttempt) -> Outcome:
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await leaving.wait()
        raise AssertionError("never reached")

    started = Started(cleans_up)
    async with open_bench(project, {"a": started}) as bench:
        with anyio.fail_after(8):
            run_id = await begin(bench, started)
            report = await bench.supervisor.cancel(run_id, cause=ENOUGH, actor="test")
            assert report.outcome is CancelOutcome.CANCELLED
            assert next(iter(bench.runner.open.values())).context.task.key == "a"
            task = (await bench.tasks(run_id))["a"]
            (attempt,) = await bench.writer.read(lambda store: store.list_attempts(task.id))
            assert attempt.state is AttemptState.CANCELLED
            leaving.set()


async def test_a_request_that_came_too_late_is_answered_with_the_end_of_the_run(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.submit(spec_of(step("a")))

        def end(store: RunStore) -> list[ControlRecord]:
            lease = store.claim(run.id, current_owner())
            task = store.load_task(run.id, "a")
            for _ in ("begun with", "never seen"):
                store.request_control(run.id, ControlVerb.STEER, actor="operator", task_id=task.id)
            begun_with, _ = store.pending_controls(run.id)
            store.transition_task(lease, task.id, TaskState.CANCELLED, actor="test", cause=ENOUGH)
            finish_run(
                store, lease, RunState.CANCELLED, ENOUGH, actor="test", under_way=frozenset({begun_with.id})
            )
            return [begun_with]

        left = await bench.writer.run(end)
        assert await bench.writer.read(lambda store: store.pending_controls(run.id)) == left
        (refused,) = await bench.events(run.id, "control.refused")
        assert refused.data["reason"] == "the run had already ended: cancelled"


class Ponders:
    """Takes its time over the start of a run, and is asked about each cancellation."""

    def __init__(self) -> None:
        self.begun, self.go_on = anyio.Event(), anyio.Event()
        self.asked: list[str | None] = []

    @hookimpl
    async def before_run_start(self, event: RunStarting) -> None:
        self.begun.set()
        await self.go_on.wait()

    @hookimpl
    async def before_cancel(self, event: Cancelling) -> None:
        self.asked.append(event.key)


async def test_a_task_is_cancelled_also_if_its_run_had_not_begun_when_somebody_asked(
    project: Project,
) -> None:
    ponders = Ponders()
    async with open_bench(project, default=hangs(), plugins=(ponders,)) as bench:
        run = await bench.submit(spec_of(step("a"), step("b")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await ponders.begun.wait()
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="x", task="a")

                group.start_soon(cancel)
                while not await bench.events(run.id, "control.requested"):
                    await anyio.lowlevel.checkpoint()
                ponders.go_on.set()
            while (await bench.states(run.id))["a"] is not TaskState.CANCELLED:
                await anyio.lowlevel.checkpoint()
            await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="x", force=True)
    assert ponders.asked == ["a"]


async def test_a_run_is_cancelled_although_a_hook_still_ponders_its_start(project: Project) -> None:
    ponders = Ponders()
    async with open_bench(project, default=hangs(), plugins=(ponders,), hook_seconds=60) as bench:
        run = await bench.submit(spec_of(step("a")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await ponders.begun.wait()
            # As another process asks.
            payload = {"code": ENOUGH.code, "message": ENOUGH.message}
            await bench.writer.run(
                lambda store: store.request_control(run.id, ControlVerb.CANCEL, actor="x", payload=payload)
            )
            assert (await bench.supervisor.wait(run.id, None)).state is RunState.CANCELLED
    assert bench.runner.order == []


async def test_a_session_that_does_not_leave_in_time_keeps_the_parts_that_it_handed_in(
    project: Project,
) -> None:
    begun = anyio.Event()

    async def stubborn(attempt: FakeAttempt) -> Outcome:
        context = attempt.context
        await attempt.writer.run(
            lambda store: store.add_section(
                context.lease, context.attempt.id, "bugs", ["login.py:7"], adds=True, actor="a"
            )
        )
        begun.set()
        return await hangs(stubborn=True)(attempt)

    async with open_bench(project, {"a": stubborn}) as bench:
        run = await bench.submit(spec_of(step("a")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await begun.wait()
            await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="x")
            await bench.supervisor.wait(run.id, None)

        def left(store: RunStore) -> bytes:
            attempt = store.load_attempt(store.load_task(run.id, "a").attempt_id or "")
            assert attempt.last_text is not None
            return store.read_artifact(attempt.last_text.sha256)

        assert b"login.py:7" in await bench.writer.read(left)
