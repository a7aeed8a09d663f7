"""Mail to tasks that end, are retried, or lose their supervisor: whoever was promised something gets it."""

import contextlib
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine import worker
from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.retry import Again
from crew_plugin.engine.snapshot import RetryPolicy
from crew_plugin.engine.steer import Order, Say
from crew_plugin.engine.supervisor import Supervisor
from crew_plugin.host import ToolOutput, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import MessageKind, MessageRecord, MessageState, ReceiptOutcome
from crew_plugin.models.records import NewResult
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.session.runner import SessionRunner
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.port import RunStore
from crew_plugin.store.writer import StoreWriter
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.fake_engine import FakeEngine
from crew_plugin.testing.fake_runner import FakeAttempt, FakeRunner, fails, gate, submits
from crew_tools.submit_result import submit_result_tool
from tests.engine.bench import Bench, open_bench, spec_of, step

pytestmark = pytest.mark.anyio

ENOUGH = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
DONE = Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),))


async def hears(attempt: FakeAttempt) -> Outcome:
    """Ends when it has been told something, and says what."""
    while not attempt.steers:
        await anyio.lowlevel.checkpoint()
    return await submits("; ".join(attempt.steers))(attempt)


async def mail(bench: Bench, run_id: str) -> list[tuple[str, str, MessageState]]:
    messages = await bench.writer.read(lambda store: store.list_messages(run_id))
    return [(message.sender, message.body, message.state) for message in messages]


async def test_a_steer_while_the_end_of_its_task_is_written_wakes_it(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, settling, asked = anyio.Event(), anyio.Event(), anyio.Event()
    write = worker.Work._write

    async def slow(work: worker.Work, *arguments: Any, **options: Any) -> Any:
        if work.settled and work.task.key == "a":
            settling.set()
            with anyio.CancelScope(shield=True):
                await asked.wait()
        return await write(work, *arguments, **options)

    monkeypatch.setattr(worker.Work, "_write", slow)
    async with open_bench(project, {"a": submits(), "slow": gate(opened, submits())}) as bench:
        run = await bench.submit(spec_of(step("a"), step("slow")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await settling.wait()
            async with anyio.create_task_group() as group:

                async def steer() -> None:
                    order = Order(run_id=run.id, say=Say.STEER, actor="operator", task="a", text="look")
                    report = await bench.supervisor.order(order)
                    assert report.receipt.outcome is ReceiptOutcome.WOKEN

                group.start_soon(steer)
                while not await mail(bench, run.id):
                    await anyio.lowlevel.checkpoint()
                asked.set()
            opened.set()
            await bench.supervisor.wait(run.id, None)
        assert bench.runner.woken == ["a: look"]


@pytest.mark.parametrize("ended", [True, False])
async def test_who_takes_a_run_over_wakes_those_whose_mail_nobody_has_read(
    project: Project, ended: bool
) -> None:
    async with open_bench(project, {"b": submits()}) as bench:
        run = await bench.submit(spec_of(step("a"), step("b")), background=True)

        def killed(store: RunStore) -> None:
            """What is there when a process dies that was to wake `a`, or to write down its end."""
            lease = store.claim(run.id, current_owner())
            store.transition_run(lease, RunState.RUNNING, actor="supervisor")
            attempt = store.start_attempt(
                lease,
                store.load_task(run.id, "a").id,
                kind=SessionKind.LIVE,
                engine="fake",
                model=None,
                cwd="/",
                actor="supervisor",
            )
            store.accept_result(lease, attempt.id, NewResult(summary="done"), actor="a")
            for text in ("given", "waiting"):
                store.send_message(
                    run.id, sender="operator", recipient="a", kind=MessageKind.STEER, body=text
                )
                if text == "given":
                    store.take_messages(run.id, "a")
            if ended:
                store.end_attempt(
                    lease,
                    attempt.id,
                    AttemptState.COMPLETED,
                    task_state=TaskState.COMPLETED,
                    actor="supervisor",
                )
            store.release(lease)

        await bench.writer.run(killed)
        with anyio.fail_after(20):
            assert (await bench.supervisor.execute(run.id)).state is RunState.COMPLETED
        assert bench.runner.woken == ["a: given", "a: waiting"]
        assert [state for *_, state in await mail(bench, run.id)] == [MessageState.READ] * 2


async def test_a_stop_that_comes_just_as_its_session_ends_breaks_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was said with it was taken for the session, whose end has settled it before it is put back."""
    listens, finish = anyio.Event(), anyio.Event()

    async def a(attempt: FakeAttempt) -> Outcome:
        listens.set()
        return await gate(finish, submits())(attempt)

    async with open_bench(project, {"a": a}) as bench:

        async def too_late(
            runner: FakeRunner, attempt_id: str, cause: Cause, message: MessageRecord | None = None
        ) -> bool:
            assert message is not None
            settled = message.id
            await bench.writer.run(
                lambda store: store.settle_message(settled, MessageState.DEAD, reason="a has ended")
            )
            return False

        monkeypatch.setattr(FakeRunner, "interrupt", too_late)
        run = await bench.submit(spec_of(step("a")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await listens.wait()
            order = Order(run_id=run.id, say=Say.INTERRUPT, actor="operator", task="a", text="use tabs")
            receipt = (await bench.supervisor.order(order)).receipt
            finish.set()
            assert (await bench.supervisor.wait(run.id, None)).state is RunState.COMPLETED
        assert (receipt.outcome, receipt.reason) == (ReceiptOutcome.FAILED, "a has ended")


async def test_nothing_stays_delivered_in_a_run_that_has_ended(project: Project) -> None:
    async def is_given(attempt: FakeAttempt) -> Outcome:
        run_id = attempt.context.run.id

        def give(store: RunStore) -> None:
            store.send_message(run_id, sender="operator", recipient="a", kind=MessageKind.STEER, body="look")
            store.take_messages(run_id, "a")

        await attempt.writer.run(give)
        return await submits()(attempt)

    async with open_bench(project, {"a": is_given}) as bench:
        run = await bench.execute(spec_of(step("a")))
        assert [state for *_, state in await mail(bench, run.id)] == [MessageState.DEAD]


async def test_who_wrote_to_a_task_is_told_if_it_is_cancelled_just_as_it_was_to_be_tried_again(
    project: Project,
) -> None:
    leaving, may_leave = anyio.Event(), anyio.Event()

    async def breaks(attempt: FakeAttempt) -> Outcome:
        cause = Cause(code=CauseCode.MODEL_ERROR, message="500")
        outcome = Outcome(state=AttemptState.FAILED, cause=cause, retryable=True)
        assert attempt.context.again is not None
        assert attempt.context.again(outcome)
        leaving.set()
        await may_leave.wait()
        return outcome

    async with open_bench(project, {"a": breaks, "b": hears}) as bench:
        run = await bench.submit(spec_of(step("a"), step("b")), background=True)
        bench.supervisor.start(run.id)
        with anyio.fail_after(20):
            await leaving.wait()
            await bench.writer.run(
                lambda store: store.send_message(
                    run.id, sender="b", recipient="a", kind=MessageKind.MESSAGE, body="which port?"
                )
            )
            async with anyio.create_task_group() as group:

                async def cancel() -> None:
                    await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="operator", task="a")

                group.start_soon(cancel)
                while not bench.runner.aborts:
                    await anyio.lowlevel.checkpoint()
                may_leave.set()
            await bench.supervisor.wait(run.id, None)
        (result,) = await bench.writer.read(lambda store: store.list_results(run.id))
        assert "did not read your message any more: a was not tried again" in result.summary


async def test_what_is_written_twice_is_told_once(project: Project) -> None:
    opened = anyio.Event()
    scripts = {"a": fails(retryable=True), "b": gate(opened, submits())}
    async with open_bench(project, scripts, retry=RetryPolicy(base=60.0)) as bench:
        run = await bench.submit(spec_of(step("a"), step("b")), background=True)
        bench.supervisor.start(run.id)
        real = bench.writer.run

        async def quietly(work: Any) -> None:
            with contextlib.suppress(ValueError):
                await real(work)

        async def spoiled(work: Any, **options: Any) -> Any:
            """In one transaction with an operation that fails after it wrote: it is done again."""
            if not getattr(work, "__qualname__", "").startswith("Driver._carry_out"):
                return await real(work, **options)
            hold, values = threading.Event(), list[Any]()

            def spoils(store: RunStore) -> None:
                store.send_message(
                    run.id, sender="operator", recipient="parent", kind=MessageKind.MESSAGE, body="x"
                )
                raise ValueError("it failed after it wrote")

            async def mine() -> None:
                values.append(await real(work, **options))

            async with anyio.create_task_group() as group:
                group.start_soon(quietly, lambda store: hold.wait(5))
                await anyio.wait_all_tasks_blocked()
                group.start_soon(mine)
                group.start_soon(quietly, spoils)
                await anyio.wait_all_tasks_blocked()
                hold.set()
            return values[0]

        with anyio.fail_after(20):
            while not await bench.events(run.id, "task.retry_due"):
                await anyio.lowlevel.checkpoint()
            await real(
                lambda store: store.send_message(
                    run.id, sender="b", recipient="a", kind=MessageKind.MESSAGE, body="which port?"
                )
            )
            bench.writer.run = spoiled  # type: ignore[method-assign]
            await bench.supervisor.cancel(run.id, cause=ENOUGH, actor="operator", task="a")
            opened.set()
            await bench.supervisor.wait(run.id, None)
        assert (await bench.states(run.id))["b"] is TaskState.COMPLETED
        told = [body for sender, body, _ in await mail(bench, run.id) if sender == "a"]
        assert len(told) == 1


class Gates:
    """A tool for each task that says when it is called, and returns when it may."""

    def __init__(self, *keys: str) -> None:
        self.begun = {key: anyio.Event() for key in keys}
        self.may_end = {key: anyio.Event() for key in keys}

    def tool(self, key: str) -> ToolSpec:
        async def execute(arguments: Any, context: Any) -> ToolOutput:
            self.begun[key].set()
            await self.may_end[key].wait()
            return ToolOutput(text="ok")

        return ToolSpec(name="work", description="", parameters={"type": "object"}, execute=execute)


@pytest.mark.parametrize("talks", [False, True], ids=["before a slot was free", "while it talks"])
async def test_a_task_that_is_retried_when_it_was_to_be_woken_keeps_its_mail(
    project: Project, tmp_path: Path, talks: bool
) -> None:
    """The further conversation that it was woken for is not held over the attempt that works."""
    gates, retried = Gates("x", "y", "a"), False

    def script(said: Conversation) -> Reply:
        key = next(key for key in "axy" if f"You are task `{key}`" in said.system)
        if key == "a" and not retried and not said.find("You are woken"):
            return Reply(fault=Fault.UNAUTHORIZED)
        woken = said.find("You are woken")
        if said.tool_results:
            return Reply(text="ok") if woken else DONE
        return Reply(calls=(ToolUse(name="work"),))

    async with StoreWriter(project) as writer:
        runner = SessionRunner(
            engine=FakeEngine(script=script),
            writer=writer,
            toolbox=lambda scope: (submit_result_tool(scope), gates.tool(scope.context.task.key)),
        )
        supervisor = Supervisor(
            writer=writer,
            runners={SessionKind.LIVE: runner},
            hooks=build_hooks(),
            hook_seconds=10,
            process_width=3 if talks else 2,
            retry=RetryPolicy(),
            recovery=None,
        )
        async with supervisor.running():
            spec = spec_of(step("a"), step("x"), step("y")).model_copy(update={"cwd": str(tmp_path)})
            run = await supervisor.submit(spec, parent=None, background=True, actor="test")
            supervisor.start(run.id)

            async def steer(text: str) -> ReceiptOutcome:
                order = Order(run_id=run.id, say=Say.STEER, actor="operator", task="a", text=text)
                return (await supervisor.order(order)).receipt.outcome

            with anyio.fail_after(30):
                await gates.begun["x"].wait()
                await gates.begun["y"].wait()
                while (await writer.read(lambda store: store.load_task(run.id, "a"))).state is not (
                    TaskState.FAILED
                ):
                    await anyio.lowlevel.checkpoint()
                assert await steer("why did you fail?") is ReceiptOutcome.WOKEN
                if talks:
                    await gates.begun["a"].wait()
                retried = True
                await supervisor.retry(Again(run=run.id, actor="operator", tasks=("a",), force=True))
                if talks:
                    # The attempt begins when the conversation is over.
                    await anyio.sleep(0.3)
                    assert (await writer.read(lambda store: store.load_task(run.id, "a"))).attempts == 1
                    gates.begun["a"] = anyio.Event()
                    gates.may_end["a"].set()
                    gates.may_end["a"] = anyio.Event()
                gates.may_end["x"].set()
                await gates.begun["a"].wait()
                gates.may_end["y"].set()
                await anyio.wait_all_tasks_blocked()
                assert await steer("use tabs") is ReceiptOutcome.INJECTED
                gates.may_end["a"].set()
                assert (await supervisor.wait(run.id, None)).state is RunState.COMPLETED
        messages = await writer.read(lambda store: store.list_messages(run.id))
    to_it = [(message.body, message.state) for message in messages if message.recipient == "a"]
    assert to_it == [("why did you fail?", MessageState.READ), ("use tabs", MessageState.READ)]
