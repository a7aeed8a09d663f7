"""The crew's own hooks, plain and async, while real runs go on."""

import asyncio
import math
import threading

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.cancel import CancelOutcome
from crew_plugin.engine.hooks import Hooks
from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.retry import Again
from crew_plugin.errors import NotAllowed
from crew_plugin.hookspecs import (
    Cancelling,
    ConversationChanging,
    Recovering,
    Retrying,
    RunEnded,
    RunStarting,
    SessionClosed,
    SessionOpened,
    TaskEnded,
    TaskResult,
    TaskStarting,
    Verdict,
    hookimpl,
    non_blocking,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import NewEvent, ParentRef
from crew_plugin.models.spec import StepSpec
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.testing.fake_runner import FakeAttempt, fails, gate, hangs, submits
from tests.engine.bench import open_bench, spec_of, step
from tests.store.processes import dead_process

pytestmark = pytest.mark.anyio


class Watcher:
    """Notes all it is told."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    @hookimpl
    def before_run_start(self, event: RunStarting) -> None:
        self.seen.append(f"run {event.goal}")

    @hookimpl
    async def before_task_start(self, event: TaskStarting) -> None:
        await anyio.lowlevel.checkpoint()
        self.seen.append(f"start {event.key} {event.attempt}")

    @hookimpl
    def after_task_end(self, event: TaskEnded) -> None:
        self.seen.append(f"end {event.key} {event.state} {event.summary}")

    @hookimpl
    async def after_run_end(self, event: RunEnded) -> None:
        self.seen.append(f"over {event.state}")


async def test_a_silent_listener_sees_a_run_from_its_start_to_its_end(project: Project) -> None:
    watcher = Watcher()
    async with open_bench(project, plugins=(watcher,)) as bench:
        run = await bench.execute(spec_of(step("a")))
        assert run.state is RunState.COMPLETED
        assert watcher.seen == ["run look at it", "start a 1", "end a completed done", "over completed"]
        executed = await bench.events(run.id, "hook.executed")
        assert [event.data["hook"] for event in executed] == [
            "before_run_start",
            "before_task_start",
            "after_task_end",
            "after_run_end",
        ]
        assert {event.data["outcome"] for event in executed} == {"allowed"}


async def test_a_refused_run_fails_with_the_reason_and_starts_nothing(project: Project) -> None:
    class Gatekeeper:
        @hookimpl
        async def before_run_start(self, event: RunStarting) -> Verdict:
            return Verdict(allow=False, reason="not on a Sunday")

    async with open_bench(project, plugins=(Gatekeeper(),)) as bench:
        run = await bench.execute(spec_of(step("a")))
        assert (run.state, str(run.cause)) == (RunState.FAILED, "hook_blocked: not on a Sunday")
        assert await bench.states(run.id) == {"a": TaskState.CANCELLED}
        assert bench.runner.order == []


async def test_a_refused_task_is_skipped_with_the_reason(project: Project) -> None:
    class Gatekeeper:
        @hookimpl
        def before_task_start(self, event: TaskStarting) -> Verdict | None:
            return Verdict(allow=False, reason="no") if event.key == "a" else None

    async with open_bench(project, plugins=(Gatekeeper(),)) as bench:
        run = await bench.execute(spec_of(step("a"), step("b"), step("c", "a")))
        tasks = await bench.tasks(run.id)
        assert {key: task.state for key, task in tasks.items()} == {
            "a": TaskState.SKIPPED,
            "b": TaskState.COMPLETED,
            "c": TaskState.SKIPPED,
        }
        assert tasks["a"].cause is not None
        assert tasks["a"].cause.code is CauseCode.HOOK_BLOCKED
        assert run.state is RunState.FAILED


async def test_a_deciding_hook_that_raises_refuses(project: Project) -> None:
    class Broken:
        @hookimpl
        def before_task_start(self, event: TaskStarting) -> Verdict:
            raise ValueError("cannot tell")

    async with open_bench(project, plugins=(Broken(),)) as bench:
        run = await bench.execute(spec_of(step("a")))
        cause = (await bench.tasks(run.id))["a"].cause
        assert cause is not None
        assert "ValueError('cannot tell')" in cause.message


async def test_a_listener_that_raises_is_noted_and_the_run_goes_on(project: Project) -> None:
    class Broken:
        @hookimpl
        async def after_task_end(self, event: TaskEnded) -> None:
            raise ValueError("oops")

    async with open_bench(project, {"a": fails()}, plugins=(Broken(),)) as bench:
        run = await bench.execute(spec_of(step("a", optional=True), step("b", "a")))
        assert run.state is RunState.COMPLETED
        executed = await bench.events(run.id, "hook.executed")
        assert {(event.data["outcome"], event.data["blocking"]) for event in executed} == {("raised", False)}
        assert "ValueError('oops')" in executed[0].data["reason"]


STARTING = RunStarting(
    run_id="r", goal="g", team="t", workflow="w", cwd="/", runtime="live", width=4, wall_seconds=None
)


def hooks_of(*plugins: object, seconds: float = 10) -> Hooks:
    manager = build_hooks()
    for plugin in plugins:
        manager.register(plugin)
    return Hooks(manager, seconds)


async def test_a_hook_that_sleeps_refuses_at_its_deadline_and_holds_no_pooled_thread() -> None:
    enough = threading.Event()

    class Slow:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> Verdict:
            enough.wait(30)
            return Verdict()

    with anyio.fail_after(5):
        answer = await hooks_of(Slow(), seconds=0.01).ask("before_run_start", STARTING)
    asleep = [thread for thread in threading.enumerate() if thread.name.startswith("hook of")]
    assert asleep
    assert all(thread.daemon for thread in asleep), "the end of the process does not wait for it"
    enough.set()
    assert answer.refusal is not None
    assert "took longer than 0.01 s" in answer.refusal.message
    assert answer.events[0].data["outcome"] == "timed_out"


async def test_a_hook_that_awaits_for_ever_refuses_at_its_deadline() -> None:
    class Slow:
        @hookimpl
        async def before_run_start(self, event: RunStarting) -> Verdict:
            await anyio.sleep_forever()
            raise AssertionError("it never wakes")

    with anyio.fail_after(5):
        answer = await hooks_of(Slow(), seconds=0.01).ask("before_run_start", STARTING)
    assert answer.refusal is not None


async def test_a_hook_that_ignores_its_cancellation_refuses_at_its_deadline_and_is_left_alone() -> None:
    enough = asyncio.Event()
    cancelled = 0

    class Stubborn:
        @hookimpl
        async def before_run_start(self, event: RunStarting) -> Verdict:
            nonlocal cancelled
            while not enough.is_set():
                try:
                    await enough.wait()
                except asyncio.CancelledError:
                    cancelled += 1
            return Verdict()

    with anyio.fail_after(5):
        answer = await hooks_of(Stubborn(), seconds=0.01).ask("before_run_start", STARTING)
        await anyio.sleep(0.05)
    enough.set()
    await anyio.lowlevel.checkpoint()
    assert answer.refusal is not None
    assert answer.events[0].data["outcome"] == "timed_out"
    assert cancelled == 1, "asking again and again would keep the loop busy"


class Panic(BaseException):
    """What extension modules raise where their own code fails: no `Exception`."""


RAISED = [SystemExit(3), asyncio.CancelledError(), StopIteration(), TimeoutError(), Panic(), GeneratorExit()]


@pytest.mark.parametrize("error", RAISED)
@pytest.mark.parametrize("plain", [True, False])
async def test_no_way_of_raising_gets_out_of_a_hook(error: BaseException, plain: bool) -> None:
    class Plain:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> Verdict:
            raise error

    class Async:
        @hookimpl
        async def before_run_start(self, event: RunStarting) -> Verdict:
            raise error

    answer = await hooks_of(Plain() if plain else Async()).ask("before_run_start", STARTING)
    assert answer.refusal is not None
    assert answer.events[0].data["outcome"] == "raised"


async def test_a_watcher_that_panics_ends_no_run(project: Project) -> None:
    class Broken:
        @hookimpl
        async def after_task_end(self, event: TaskEnded) -> None:
            raise Panic

    async with open_bench(project, plugins=(Broken(),)) as bench:
        run = await bench.execute(spec_of(step("a"), step("b", "a")))
        assert run.state is RunState.COMPLETED
        executed = await bench.events(run.id, "hook.executed")
        assert {event.data["outcome"] for event in executed} == {"raised"}


async def test_whoever_asks_a_hook_can_be_cancelled() -> None:
    begun = asyncio.Event()

    class Waits:
        @hookimpl
        async def before_run_start(self, event: RunStarting) -> None:
            begun.set()
            await asyncio.Event().wait()

    asks = asyncio.create_task(hooks_of(Waits()).ask("before_run_start", STARTING))
    with anyio.fail_after(5):
        await begun.wait()
        asks.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asks


async def test_every_one_is_asked_and_an_allowance_does_not_silence_a_refusal() -> None:
    class Refuses:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> Verdict:
            return Verdict(allow=False, reason="not today")

    class Allows:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> Verdict:
            return Verdict()

    answer = await hooks_of(Refuses(), Allows()).ask("before_run_start", STARTING)
    assert answer.refusal is not None
    assert answer.refusal.message == "not today"
    assert [event.data["outcome"] for event in answer.events] == ["allowed", "blocked"]


async def test_changes_add_up_and_each_sees_what_the_ones_before_changed() -> None:
    seen: list[tuple[int, float | None]] = []

    class Narrows:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> Verdict:
            seen.append((event.width, event.wall_seconds))
            return Verdict(changes={"width": event.width - 1, "wall_seconds": 60})

    answer = await hooks_of(Narrows(), Narrows()).ask("before_run_start", STARTING)
    assert (answer.refusal, answer.changes) == (None, {"width": 2, "wall_seconds": 60})
    assert seen == [(4, None), (3, 60)]
    assert answer.events[0].data["changed"] == ["wall_seconds", "width"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (
            Verdict(changes={"goal": "another"}),
            "wants to change 'goal'; before_run_start can change width",
        ),
        (Verdict(changes={"width": 5}), "wants to raise width from 4 to 5"),
        (Verdict(changes={"width": 1.5}), "something else than a whole number above 0"),
        (Verdict(changes={"width": True}), "something else than a whole number above 0"),
        (Verdict(changes={"wall_seconds": math.nan}), "something else than a number above 0"),
        (Verdict(changes={"wall_seconds": math.inf}), "something else than a number above 0"),
        (Verdict(reason=None), "gives None where a text is expected"),  # type: ignore[arg-type]  # as it comes
        (False, "returned False where a Verdict or None is expected"),
    ],
)
async def test_nonsense_refuses_and_says_what_was_wrong(said: object, why: str) -> None:
    class Odd:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> object:
            return said

    answer = await hooks_of(Odd()).ask("before_run_start", STARTING)
    assert answer.refusal is not None
    assert why in answer.refusal.message
    assert answer.events[0].data["outcome"] == "unfit"


async def test_a_hook_changes_task_model_and_skills_of_an_attempt(project: Project) -> None:
    class Editor:
        @hookimpl
        def before_task_start(self, event: TaskStarting) -> Verdict:
            changes = {"task": f"{event.task}, slowly", "model": "other:model", "skills": ["care"]}
            return Verdict(changes=changes, diagnostic="made it careful")

    steps: list[StepSpec] = []

    async def looks(attempt: FakeAttempt) -> Outcome:
        steps.append(attempt.context.step)
        return await submits()(attempt)

    async with open_bench(project, {"a": looks}, plugins=(Editor(),)) as bench:
        run = await bench.execute(spec_of(step("a")))
        (executed,) = await bench.events(run.id, "hook.executed")
        attempts = await bench.writer.read(lambda store: store.list_attempts(store.load_task(run.id, "a").id))
    assert (steps[0].task, steps[0].model, steps[0].skills) == ("do it, slowly", "other:model", ("care",))
    assert attempts[0].model_asked == "other:model"
    assert (executed.data["outcome"], executed.data["changed"]) == ("modified", ["model", "skills", "task"])
    assert executed.data["diagnostic"] == "made it careful"


async def test_watchers_of_a_deciding_hook_run_beside_the_run_and_decide_nothing(project: Project) -> None:
    release = anyio.Event()

    class Watches:
        @hookimpl
        @non_blocking
        async def before_task_start(self, event: TaskStarting) -> Verdict:
            await release.wait()
            return Verdict(allow=False, reason="too late", diagnostic="seen")

    async def lets_go(attempt: FakeAttempt) -> Outcome:
        release.set()  # the watcher is still at it
        return await submits()(attempt)

    async with open_bench(project, {"a": lets_go}, plugins=(Watches(),)) as bench:
        with anyio.fail_after(10):
            run = await bench.execute(spec_of(step("a")))
        (executed,) = await bench.events(run.id, "hook.executed")
    assert run.state is RunState.COMPLETED
    assert (executed.data["blocking"], executed.data["outcome"]) == (False, "diagnostic")
    assert executed.data["diagnostic"] == "seen"


async def test_watchers_that_hang_hold_a_run_up_no_longer_than_one_of_them_may(project: Project) -> None:
    class Hangs:
        @hookimpl
        async def after_task_end(self, event: TaskEnded) -> None:
            await anyio.sleep_forever()

    plugins = tuple(Hangs() for _ in range(20))
    async with open_bench(project, plugins=plugins, hook_seconds=0.05) as bench:
        with anyio.fail_after(8):  # one after the other and for each task, it were 20 times 20
            run = await bench.execute(spec_of(*(step(f"t{n}") for n in range(20))))
        executed = await bench.events(run.id, "hook.executed")
    assert run.state is RunState.COMPLETED
    assert [event.data["outcome"] for event in executed] == ["timed_out"] * 400


async def test_watchers_are_told_of_results_sessions_and_the_end_in_that_order(project: Project) -> None:
    told: list[str] = []

    class Watches:
        @hookimpl
        async def task_result(self, event: TaskResult) -> None:
            told.append(f"result of {event.key}: {event.summary}")

        @hookimpl
        async def after_run_end(self, event: RunEnded) -> None:
            told.append(f"run {event.state}")

    async with open_bench(project, plugins=(Watches(),)) as bench:
        await bench.execute(spec_of(step("a")))
    assert told == ["result of a: done", "run completed"]


# --- cancelling ---


class Keeper:
    """Lets nobody cancel."""

    def __init__(self) -> None:
        self.asked: list[Cancelling] = []

    @hookimpl
    def before_cancel(self, event: Cancelling) -> Verdict:
        self.asked.append(event)
        return Verdict(allow=False, reason="it must come to its end")


class Guards:
    """Lets nobody retry, or go on with what somebody else left."""

    def __init__(self) -> None:
        self.asked: list[Retrying | Recovering] = []

    @hookimpl
    def before_retry(self, event: Retrying) -> Verdict:
        self.asked.append(event)
        return Verdict(allow=False, reason="once is enough")

    @hookimpl
    def run_recovery(self, event: Recovering) -> Verdict:
        self.asked.append(event)
        return Verdict(allow=False, reason="look at it first")


async def test_hooks_have_a_say_in_retries_and_in_taking_over(project: Project) -> None:
    guards = Guards()
    scripts = {"a": fails(), "b": hangs()}
    async with open_bench(project, scripts, plugins=(guards,)) as bench:
        ended = await bench.execute(spec_of(step("a")))
        with pytest.raises(NotAllowed, match="once is enough"):
            await bench.supervisor.retry(Again(run=ended.id, actor="somebody"))
        assert await bench.states(ended.id) == {"a": TaskState.FAILED}

        going = await bench.submit(spec_of(step("a"), step("b")))
        bench.supervisor.start(going.id)
        with anyio.fail_after(10):
            while (await bench.states(going.id))["a"] is not TaskState.FAILED:  # noqa: ASYNC110 - as others see it
                await anyio.sleep(0.01)
        with pytest.raises(NotAllowed, match="once is enough"):
            await bench.supervisor.retry(Again(run=going.id, actor="somebody", tasks=("a",)))
        assert (await bench.states(going.id))["a"] is TaskState.FAILED
        await bench.supervisor.cancel(going.id, cause=CALLER, actor="somebody")

        lost = await bench.submit(spec_of(step("c")))
        bench.supervisor.hand_off(lost.id)
        lease = await bench.writer.run(lambda store: store.claim(lost.id, dead_process()))
        await bench.writer.run(lambda store: store.transition_run(lease, RunState.RUNNING, actor="x"))
        with pytest.raises(NotAllowed, match="look at it first"):
            await bench.supervisor.adopt(lost.id)
        called = [event.data["hook"] for event in await bench.events(lost.id, "hook.executed")]
        assert called == ["run_recovery"]
    assert guards.asked == [
        Retrying(run_id=ended.id, keys=(), actor="somebody"),
        Retrying(run_id=going.id, keys=("a",), actor="somebody"),
        Recovering(run_id=lost.id, epoch=1),
    ]


CALLER = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


async def test_a_hook_refuses_a_cancellation_and_nothing_is_stopped(project: Project) -> None:
    keeper = Keeper()
    async with open_bench(project, {"a": hangs()}, plugins=(keeper,)) as bench:
        run = await bench.submit(spec_of(step("a")))
        bench.supervisor.start(run.id)
        with anyio.fail_after(10):
            while await bench.states(run.id) != {"a": TaskState.RUNNING}:  # noqa: ASYNC110 - as others see it
                await anyio.sleep(0.01)
            whole = await bench.supervisor.cancel(run.id, cause=CALLER, actor="somebody")
            one = await bench.supervisor.cancel(run.id, cause=CALLER, actor="somebody", task="a")
            assert await bench.states(run.id) == {"a": TaskState.RUNNING}
            forced = await bench.supervisor.cancel(run.id, cause=CALLER, actor="somebody", force=True)
    assert [report.outcome for report in (whole, one, forced)] == [
        CancelOutcome.REFUSED,
        CancelOutcome.REFUSED,
        CancelOutcome.CANCELLED,
    ]
    assert "it must come to its end" in whole.message
    assert [(event.key, event.actor, event.reason) for event in keeper.asked] == [
        (None, "somebody", "enough"),
        ("a", "somebody", "enough"),
    ]


async def test_a_process_that_ends_asks_no_hook(project: Project) -> None:
    keeper = Keeper()
    async with open_bench(project, {"a": hangs()}, plugins=(keeper,)) as bench:
        run = await bench.submit(spec_of(step("a")), background=True)
        bench.supervisor.start(run.id)
    assert keeper.asked == []


async def test_each_manager_has_its_own_plugins() -> None:
    first, second = build_hooks(), build_hooks()
    watcher = Watcher()
    first.register(watcher)
    assert first.is_registered(watcher)
    assert not second.is_registered(watcher)


async def test_watchers_are_told_when_a_session_is_opened_and_left(project: Project) -> None:
    told: list[tuple[str, str | None]] = []

    class Watches:
        @hookimpl
        async def session_connected(self, event: SessionOpened) -> None:
            told.append((f"{event.agent} by {event.kind}", event.key))

        @hookimpl
        def session_disconnected(self, event: SessionClosed) -> None:
            told.append(("left", event.key))

    async def talks(attempt: FakeAttempt) -> Outcome:
        context = attempt.context
        opened: dict[str, object] = {"kind": "live", "agent": "worker", "model": None, "tools": []}
        told_of = [
            NewEvent(
                type=kind,
                actor=context.task.key,
                task_id=context.task.id,
                attempt_id=context.attempt.id,
                data=data,
            )
            for kind, data in (("session.opened", opened), ("session.closed", {}))
        ]
        await attempt.writer.run(lambda store: store.append_events(context.lease, context.run.id, told_of))
        return await submits()(attempt)

    async with open_bench(project, {"a": talks}, plugins=(Watches(),)) as bench:
        await bench.execute(spec_of(step("a")))
    assert sorted(told, key=str) == [("left", "a"), ("worker by live", "a")]


async def test_watchers_are_told_when_the_host_turns_to_another_conversation(project: Project) -> None:
    told: list[ConversationChanging] = []
    heard = anyio.Event()

    class Watches:
        @hookimpl
        async def session_before_switch(self, event: ConversationChanging) -> None:
            told.append(event)
            heard.set()

    async with open_bench(project, {"a": gate(heard, submits())}, plugins=(Watches(),)) as bench:
        run = await bench.supervisor.submit(
            spec_of(step("a")), parent=ParentRef(host="bub", session="one"), background=True, actor="test"
        )
        bench.supervisor.start(run.id)
        with anyio.fail_after(10):
            while await bench.states(run.id) != {"a": TaskState.RUNNING}:  # noqa: ASYNC110 - as others see it
                await anyio.sleep(0.01)
            bench.supervisor.conversation_changed("bub", "one")
            bench.supervisor.conversation_changed("bub", "two")
            await bench.supervisor.wait(run.id, None)
    assert [(event.run_id, event.asked_from, event.turns_to) for event in told] == [(run.id, "one", "two")]
