"""Telling agents something while they work, before they begin and after they have ended."""

from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.settle import close_run
from crew_plugin.engine.steer import Order, Say
from crew_plugin.errors import InvalidValue, UnknownName
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageState, ReceiptOutcome
from crew_plugin.models.records import ControlRecord, ControlState, ControlVerb, ParentRef
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.testing.fake_runner import FakeAttempt, gate, hangs, submits
from tests.engine.bench import Bench, open_bench, spec_of, step

pytestmark = pytest.mark.anyio

ENOUGH = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


class Listening:
    """A session that says when it began and ends when it has been told something."""

    def __init__(self) -> None:
        self.begun = anyio.Event()

    async def __call__(self, attempt: FakeAttempt) -> Outcome:
        self.begun.set()
        while not attempt.steers:
            if attempt.aborted.is_set():
                return await hangs()(attempt)
            await anyio.lowlevel.checkpoint()
        return await submits("; ".join(attempt.steers))(attempt)


async def begin(bench: Bench, listening: Listening, *others: str, parent: ParentRef | None = None) -> Order:
    """A run whose task `a` listens; an order to tell it something."""
    spec = spec_of(step("a"), *(step(key, "a") for key in others))
    run = await bench.supervisor.submit(spec, parent=parent, background=True, actor="test")
    bench.supervisor.start(run.id)
    await listening.begun.wait()
    return Order(run_id=run.id, say=Say.STEER, actor="operator", task="a", text="look at auth.py")


async def test_a_steer_is_mail_reaches_the_session_once_and_its_receipt_is_on_record(
    project: Project,
) -> None:
    listening = Listening()
    async with open_bench(project, {"a": listening}) as bench:
        with anyio.fail_after(5):
            order = await begin(bench, listening)
            report = await bench.supervisor.order(order)
            assert (await bench.supervisor.wait(order.run_id, None)).state is RunState.COMPLETED
        assert (report.reached, report.receipt.outcome) == (True, ReceiptOutcome.INJECTED)
        (result,) = await bench.writer.read(lambda store: store.list_results(order.run_id))
        assert result.summary == "look at auth.py"
        (message,) = await bench.writer.read(lambda store: store.list_messages(order.run_id))
        assert (message.kind, message.sender, message.state) == (
            MessageKind.STEER,
            "operator",
            MessageState.READ,
        )
        (asked,) = await bench.events(order.run_id, "control.requested")
        (done,) = await bench.events(order.run_id, "control.applied")
        assert asked.data["message_id"] == done.data["message_id"] == report.message_id == message.id
        assert done.data["outcome"] == "injected"
        assert asked.data["force"] is False


async def test_what_is_said_to_a_task_that_has_not_begun_waits_for_it(project: Project) -> None:
    listening = Listening()

    async def reads(attempt: FakeAttempt) -> Outcome:
        mail = await attempt.writer.run(
            lambda store: store.take_messages(attempt.context.run.id, attempt.context.task.key)
        )
        return await submits(mail[0].body)(attempt)

    async with open_bench(project, {"a": listening, "b": reads}) as bench:
        with anyio.fail_after(5):
            order = await begin(bench, listening, "b")
            report = await bench.supervisor.order(replace(order, task="b", text="be brief"))
            assert report.receipt.outcome is ReceiptOutcome.QUEUED
            assert report.receipt.reason == "the task has not begun; it finds this in its first prompt"
            await bench.supervisor.order(order)
            await bench.supervisor.wait(order.run_id, None)
        results = await bench.writer.read(lambda store: store.list_results(order.run_id))
        assert [result.summary for result in results] == ["look at auth.py", "be brief"]


async def ended_a(bench: Bench, order: Order) -> None:
    await bench.supervisor.order(order)
    while (await bench.states(order.run_id))["a"] is not TaskState.COMPLETED:
        await anyio.lowlevel.checkpoint()


async def test_a_task_that_has_ended_is_woken_while_its_run_goes_on(project: Project) -> None:
    listening, finish = Listening(), anyio.Event()
    async with open_bench(project, {"a": listening, "b": gate(finish, submits())}) as bench:
        with anyio.fail_after(5):
            order = await begin(bench, listening, "b")
            await ended_a(bench, order)
            report = await bench.supervisor.order(replace(order, say=Say.FOLLOW_UP, text="and the tests?"))
            assert report.receipt.outcome is ReceiptOutcome.WOKEN
            while not bench.runner.woken:
                await anyio.lowlevel.checkpoint()
            finish.set()
            assert (await bench.supervisor.wait(order.run_id, None)).state is RunState.COMPLETED
        assert bench.runner.woken == ["a: and the tests?"]


async def test_a_woken_session_waits_for_a_slot_and_the_end_of_its_run_for_it(project: Project) -> None:
    listening, finish, may_rest = Listening(), anyio.Event(), anyio.Event()

    async with open_bench(project, {"a": listening, "b": gate(finish, submits())}, process_width=1) as bench:
        bench.runner.awake = gate(may_rest, submits())
        with anyio.fail_after(5):
            order = await begin(bench, listening, "b")
            await ended_a(bench, order)
            while "b" not in bench.runner.order:
                await anyio.lowlevel.checkpoint()
            report = await bench.supervisor.order(replace(order, text="still there?"))
            assert report.receipt.outcome is ReceiptOutcome.WOKEN
            await anyio.wait_all_tasks_blocked()
            assert not bench.runner.woken
            finish.set()
            while not bench.runner.woken:
                await anyio.lowlevel.checkpoint()
            states = await bench.states(order.run_id)
            assert states == {"a": TaskState.COMPLETED, "b": TaskState.COMPLETED}
            assert (await bench.supervisor.wait(order.run_id, 0.05)).state is RunState.RUNNING
            may_rest.set()
            assert (await bench.supervisor.wait(order.run_id, None)).state is RunState.COMPLETED


async def test_a_run_that_is_stopped_does_not_wait_for_who_was_woken(project: Project) -> None:
    listening, awake, finish = Listening(), anyio.Event(), anyio.Event()

    async def never_ends(attempt: FakeAttempt) -> Outcome:
        awake.set()
        await anyio.sleep_forever()
        raise AssertionError("never reached")

    async with open_bench(project, {"a": listening, "b": gate(finish, submits())}) as bench:
        bench.runner.awake = never_ends
        with anyio.fail_after(5):
            order = await begin(bench, listening, "b")
            await ended_a(bench, order)
            for text in ("still there?", "and now?"):
                report = await bench.supervisor.order(replace(order, text=text))
                assert report.receipt.outcome is ReceiptOutcome.WOKEN
                await awake.wait()
                finish.set()
            await bench.supervisor.cancel(order.run_id, cause=ENOUGH, actor="operator")
            assert (await bench.supervisor.wait(order.run_id, None)).state in (
                RunState.COMPLETED,
                RunState.CANCELLED,
            )
        messages = await bench.writer.read(lambda store: store.list_messages(order.run_id))
        assert [message.state for message in messages[1:]] == [MessageState.READ, MessageState.DEAD]
        assert messages[-1].reason == "the run has ended"


async def test_what_was_to_wait_for_the_end_of_a_turn_is_read_after_the_last_task(project: Project) -> None:
    """The session calls for its wake while it still is at work, and is the last one of its run."""
    listening = Listening()

    async def leaves_mail(attempt: FakeAttempt) -> Outcome:
        context = attempt.context
        outcome = await listening(attempt)

        def send(store: RunStore) -> None:
            store.send_message(
                context.run.id,
                sender="operator",
                recipient=context.task.key,
                kind=MessageKind.FOLLOW_UP,
                body="and the tests?",
            )

        await attempt.writer.run(send)
        assert context.wake is not None
        assert context.wake(context.task.key) is None
        await anyio.wait_all_tasks_blocked()
        assert not bench.runner.woken, "its own attempt comes first"
        return outcome

    async with open_bench(project, {"a": leaves_mail}) as bench:
        with anyio.fail_after(5):
            order = await begin(bench, listening)
            await bench.supervisor.order(order)
            assert (await bench.supervisor.wait(order.run_id, None)).state is RunState.COMPLETED
        assert bench.runner.woken == ["a: and the tests?"]


async def test_after_the_end_of_a_run_the_receipt_says_how_to_go_on(project: Project) -> None:
    listening = Listening()
    async with open_bench(project, {"a": listening}) as bench:
        with anyio.fail_after(5):
            order = await begin(bench, listening)
            await bench.supervisor.order(order)
            await bench.supervisor.wait(order.run_id, None)
            late = await bench.supervisor.order(order)
        assert (late.reached, late.receipt.outcome) == (False, ReceiptOutcome.FAILED)
        assert late.receipt.reason.startswith(
            "the run has ended (completed); to go on with one of its agents"
        )
        assert f'resume="{order.run_id}"' in late.receipt.reason


async def test_a_turn_is_stopped_and_the_session_goes_on_with_what_it_was_told(project: Project) -> None:
    listening = Listening()
    async with open_bench(project, {"a": listening}) as bench:
        with anyio.fail_after(5):
            order = replace(await begin(bench, listening, "b"), say=Say.INTERRUPT, text="do it otherwise")
            too_early = await bench.supervisor.order(replace(order, task="b"))
            report = await bench.supervisor.order(order)
            assert report.receipt.outcome is ReceiptOutcome.INJECTED
            assert (await bench.supervisor.wait(order.run_id, None)).state is RunState.COMPLETED
        # There is no turn to stop, and what was said waits for its first one.
        assert (too_early.receipt.outcome, "no turn" in too_early.receipt.reason) == ("queued", True)
        (first, _) = await bench.writer.read(lambda store: store.list_results(order.run_id))
        assert first.summary == "do it otherwise"


async def test_a_run_of_another_session_needs_force_and_the_event_says_so(project: Project) -> None:
    listening = Listening()
    mine, other = ParentRef(host="bub", session="mine"), ParentRef(host="bub", session="other")
    async with open_bench(project, {"a": listening}) as bench:
        with anyio.fail_after(5):
            order = replace(await begin(bench, listening, parent=mine), caller=other, actor="session:other")
            refused = await bench.supervisor.order(order)
            assert "belongs to the session mine" in refused.receipt.reason
            assert (await bench.supervisor.order(replace(order, force=True))).reached
            await bench.supervisor.wait(order.run_id, None)
        (asked,) = await bench.events(order.run_id, "control.requested")
        assert asked.data["force"] is True
        (message,) = await bench.writer.read(lambda store: store.list_messages(order.run_id))
        assert message.sender == "parent"


async def test_a_request_is_carried_out_once_however_often_it_is_seen(project: Project) -> None:
    listening, finish = Listening(), anyio.Event()
    heard: list[str] = []

    async def goes_on(attempt: FakeAttempt) -> Outcome:
        listening.begun.set()
        await finish.wait()
        heard.extend(attempt.steers)
        return await submits()(attempt)

    async with open_bench(project, {"a": goes_on}) as bench:
        with anyio.fail_after(5):
            order = await begin(bench, listening)
            async with anyio.create_task_group() as group:
                for number in range(20):
                    group.start_soon(bench.supervisor.order, replace(order, text=f"fact {number}"))
            finish.set()
            await bench.supervisor.wait(order.run_id, None)
        assert sorted(heard) == sorted(f"fact {number}" for number in range(20))
        assert len(await bench.events(order.run_id, "control.applied")) == 20


@pytest.mark.parametrize("text", ["", "  \n", "x" * 64_001])
async def test_a_text_that_is_empty_or_too_long_is_refused_and_nothing_is_written(
    project: Project, text: str
) -> None:
    async with open_bench(project) as bench:
        run = await bench.submit(spec_of(step("a")))
        with pytest.raises(InvalidValue):
            await bench.supervisor.order(
                Order(run_id=run.id, say=Say.STEER, actor="operator", task="a", text=text)
            )
        assert await bench.writer.read(lambda store: store.list_messages(run.id)) == []


async def test_a_task_that_does_not_exist_is_named_with_those_that_do(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.submit(spec_of(step("explore"), step("fix")))
        with pytest.raises(UnknownName, match="did you mean 'explore'"):
            await bench.supervisor.order(
                Order(run_id=run.id, say=Say.STEER, actor="operator", task="exlore", text="x")
            )


async def test_what_was_handed_over_before_a_crash_is_not_said_to_be_undone(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.submit(spec_of(step("a"), step("b")))

        def crash(store: RunStore) -> list[ControlRecord]:
            """A supervisor that handed over one of two messages and died before it said so."""
            task = {task.key: task for task in store.load_tasks(run.id)}
            lease = store.claim(run.id, current_owner())
            asked: list[ControlRecord] = []
            for key in "ab":
                message = store.send_message(
                    run.id, sender="operator", recipient=key, kind=MessageKind.STEER, body="x"
                )
                asked.append(
                    store.request_control(
                        run.id,
                        ControlVerb.STEER,
                        actor="operator",
                        task_id=task[key].id,
                        message_id=message.id,
                    )
                )
            store.take_messages(run.id, "a")
            close_run(store, lease, ENOUGH, actor="operator")
            return [store.load_control(control.id) for control in asked]

        handed, waiting = await bench.writer.run(crash)
        mail = await bench.writer.read(lambda store: store.list_messages(run.id))
        assert [message.state for message in mail] == [MessageState.DEAD] * 2
        assert mail[0].reason == "its session was lost; whether a model saw it is not known"
        assert (handed.outcome, handed.state) == (ReceiptOutcome.INJECTED, ControlState.APPLIED)
        assert (waiting.outcome, waiting.answer) == (ReceiptOutcome.FAILED, "enough")
