"""Explicit retries: what failed is tried again, what is finished stays."""

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.retry import Again
from crew_plugin.engine.snapshot import RetryPolicy
from crew_plugin.engine.steer import Order, Say
from crew_plugin.errors import CallerError, Fenced, InvalidValue, NotAllowed
from crew_plugin.hookspecs import Retrying, hookimpl
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.records import ControlVerb, Lease, ParentRef
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.testing.fake_runner import FakeAttempt, fails, gate, hangs, in_turn, submits
from tests.engine.bench import Bench, open_bench, spec_of, step

pytestmark = pytest.mark.anyio


async def stands(bench: Bench, run_id: str, state: TaskState) -> None:
    """Return when task `a` stands there."""
    while (await bench.states(run_id))["a"] is not state:
        await anyio.lowlevel.checkpoint()


async def test_a_retried_task_gets_a_new_attempt_and_what_was_skipped_comes_after_it(
    project: Project,
) -> None:
    scripts = {"a": submits("first"), "b": in_turn(fails(), submits("at last"))}
    async with open_bench(project, scripts, default=submits()) as bench:
        spec = spec_of(step("a"), step("b"), step("c", "b"), step("d", "c"))
        run = await bench.execute(spec)
        assert run.state is RunState.FAILED
        assert await bench.states(run.id) == {
            "a": TaskState.COMPLETED,
            "b": TaskState.FAILED,
            "c": TaskState.SKIPPED,
            "d": TaskState.SKIPPED,
        }
        with anyio.fail_after(20):
            retried = await bench.supervisor.retry(Again(run=run.id, actor="operator"))
            again = await bench.supervisor.execute(retried.run_id)
        assert (retried.tasks, retried.in_place) == (("b",), False)
        assert again.state is RunState.COMPLETED
        assert again.epoch > run.epoch
        tasks = await bench.tasks(run.id)
        assert {key: task.attempts for key, task in tasks.items()} == {"a": 1, "b": 2, "c": 1, "d": 1}
        (reopened,) = await bench.events(run.id, "run.reopened")
        assert (reopened.actor, reopened.data["tasks"]) == ("operator", ["b"])
        assert len(await bench.events(run.id, "run.completed")) == 1


async def test_a_retry_starts_a_task_again_however_often_it_was_started(project: Project) -> None:
    async with open_bench(project, {"a": in_turn(fails(), fails(), fails(), submits())}) as bench:
        run = await bench.execute(spec_of(step("a")))
        for _ in range(3):
            await bench.supervisor.retry(Again(run=run.id, actor="operator", tasks=("a",)))
            with anyio.fail_after(20):
                run = await bench.supervisor.execute(run.id)
        assert run.state is RunState.COMPLETED
        assert (await bench.tasks(run.id))["a"].attempts == 4


async def test_another_model_and_added_words_count_for_the_retried_task_only(project: Project) -> None:
    async with open_bench(project, {"a": in_turn(fails(), submits())}, default=submits()) as bench:
        run = await bench.execute(spec_of(step("a"), step("b", "a")))
        again = Again(run=run.id, actor="operator", model="other", text="The file is auth.py.")
        await bench.supervisor.retry(again)
        with anyio.fail_after(20):
            await bench.supervisor.execute(run.id)
        attempts = await bench.writer.read(
            lambda store: [
                attempt.model_asked
                for task in store.load_tasks(run.id)
                for attempt in store.list_attempts(task.id)
            ]
        )
        assert attempts == [None, "other", None]
        spec = await bench.writer.read(lambda store: store.load_run(run.id).spec)
        assert spec.count("The file is auth.py.") == 1


async def test_a_task_of_a_run_that_goes_on_is_retried_in_place(project: Project) -> None:
    opened = anyio.Event()
    scripts = {"a": in_turn(fails(), submits("again")), "slow": gate(opened, submits())}
    async with open_bench(project, scripts) as bench:
        run = await bench.submit(spec_of(step("a"), step("slow")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await stands(bench, run.id, TaskState.FAILED)
            retried = await bench.supervisor.retry(Again(run=run.id, actor="operator", force=True))
            assert (retried.tasks, retried.in_place) == (("a",), True)
            await stands(bench, run.id, TaskState.COMPLETED)
            opened.set()
            assert (await bench.supervisor.wait(run.id, None)).state is RunState.COMPLETED
        (applied,) = await bench.events(run.id, "control.applied")
        assert applied.data["verb"] == "retry"


async def test_what_cannot_be_retried_is_refused_with_what_can_and_nothing_changes(project: Project) -> None:
    async with open_bench(project, {"b": fails()}, default=submits()) as bench:
        parent = ParentRef(host="bub", session="chat")
        run = await bench.supervisor.submit(
            spec_of(step("a"), step("b")), parent=parent, background=False, actor="test"
        )
        run = await bench.supervisor.execute(run.id)
        before = await bench.events(run.id)
        with pytest.raises(InvalidValue, match=r"task must be one of: b; got 'a \(completed\)'"):
            await bench.supervisor.retry(Again(run=run.id, actor="x", tasks=("a",)))
        other = ParentRef(host="bub", session="other")
        with pytest.raises(NotAllowed, match="belongs to the session chat; say force"):
            await bench.supervisor.retry(Again(run=run.id, actor="x", caller=other))
        done = await bench.execute(spec_of(step("a")))
        with pytest.raises(CallerError, match="nothing to retry"):
            await bench.supervisor.retry(Again(run=done.id, actor="x"))
        assert await bench.events(run.id) == before


async def test_whoever_drove_the_run_before_it_was_opened_again_is_fenced(project: Project) -> None:
    async with open_bench(project, {"a": in_turn(fails(), submits())}) as bench:
        run = await bench.execute(spec_of(step("a")))
        old = Lease(run_id=run.id, epoch=run.epoch, owner=current_owner())
        await bench.supervisor.retry(Again(run=run.id, actor="operator"))
        with pytest.raises(Fenced):
            await bench.writer.run(lambda store: store.append_events(old, run.id, []))
        with anyio.fail_after(20):
            assert (await bench.supervisor.execute(run.id)).state is RunState.COMPLETED


async def test_who_wrote_to_a_task_that_is_stopped_between_two_attempts_is_told(project: Project) -> None:
    failed = anyio.Event()

    async def breaks(attempt: FakeAttempt) -> Outcome:
        failed.set()
        return await fails(retryable=True)(attempt)

    async def writes(attempt: FakeAttempt) -> Outcome:
        while not attempt.steers:
            await anyio.lowlevel.checkpoint()
        return await submits("; ".join(attempt.steers))(attempt)

    async with open_bench(project, {"a": breaks, "b": writes}, retry=RetryPolicy(base=60.0)) as bench:
        run = await bench.submit(spec_of(step("a"), step("b")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await failed.wait()
            while not await bench.events(run.id, "task.retry_due"):
                await anyio.lowlevel.checkpoint()
            sent = await bench.writer.run(
                lambda store: store.send_message(
                    run.id, sender="b", recipient="a", kind=MessageKind.MESSAGE, body="which port?"
                )
            )
            order = Order(run_id=run.id, say=Say.STEER, actor="operator", task="a", text="use 8080")
            steered = await bench.supervisor.order(order)
            enough = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
            await bench.supervisor.cancel(run.id, cause=enough, actor="operator", task="a")
            await bench.supervisor.wait(run.id, None)
        assert (steered.receipt.outcome, "the next one finds this" in steered.receipt.reason) == (
            "queued",
            True,
        )
        (result,) = await bench.writer.read(lambda store: store.list_results(run.id))
        assert "It did not read your message any more: a is not tried any more (cancelled)" in result.summary
        states = await bench.writer.read(
            lambda store: [(each.id, each.state) for each in store.list_messages(run.id)]
        )
        assert dict(states)[sent.id] is MessageState.DEAD
        assert dict(states)[steered.message_id or ""] is MessageState.DEAD


async def test_a_task_that_is_retried_with_another_model_counts_for_its_provider(project: Project) -> None:
    opened = anyio.Event()
    scripts = {
        "a": in_turn(fails(), submits("a")),
        "b": in_turn(fails(), gate(opened, submits("b"))),
        "slow": gate(opened, submits()),
    }
    async with open_bench(project, scripts) as bench:
        spec = spec_of(step("a"), step("b"), step("slow"))
        spec = spec.model_copy(update={"tag_limits": {"provider:other": 1}})
        run = await bench.submit(spec, background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            while list((await bench.states(run.id)).values()).count(TaskState.FAILED) < 2:
                await anyio.lowlevel.checkpoint()
            for key in ("b", "a"):
                again = Again(run=run.id, actor="operator", tasks=(key,), model="other:big", force=True)
                await bench.supervisor.retry(again)
                while key == "b" and (await bench.states(run.id))["b"] is not TaskState.RUNNING:
                    await anyio.lowlevel.checkpoint()
            for _ in range(20):
                await anyio.lowlevel.checkpoint()
            assert (await bench.states(run.id))["a"] is TaskState.QUEUED
            opened.set()
            assert (await bench.supervisor.wait(run.id, None)).state is RunState.COMPLETED
    assert bench.runner.order[-1] == "a"


class Ponders:
    """Takes its time over every retry."""

    def __init__(self) -> None:
        self.asked = anyio.Event()

    @hookimpl
    async def before_retry(self, event: Retrying) -> None:
        self.asked.set()
        await anyio.sleep_forever()


async def test_a_hook_that_ponders_a_retry_keeps_nobody_from_cancelling(project: Project) -> None:
    ponders = Ponders()
    scripts = {"a": fails(), "slow": hangs()}
    async with open_bench(project, scripts, plugins=(ponders,)) as bench:
        run = await bench.submit(spec_of(step("a"), step("slow")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await stands(bench, run.id, TaskState.FAILED)

            # As another process asks: by what it writes down.
            def write(store: RunStore) -> None:
                store.request_control(run.id, ControlVerb.RETRY, actor="x", payload={"tasks": ["a"]})

            await bench.writer.run(write)
            await ponders.asked.wait()
            payload = {"code": CauseCode.CALLER_CANCELLED, "message": "enough"}
            await bench.writer.run(
                lambda store: store.request_control(run.id, ControlVerb.CANCEL, actor="y", payload=payload)
            )
            while not (await bench.events(run.id, "run.cancelled")):
                await anyio.lowlevel.checkpoint()
        events = await bench.events(run.id, "run.cancelled", "hook.executed")
    assert events[0].type == "run.cancelled"
