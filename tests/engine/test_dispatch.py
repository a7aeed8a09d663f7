"""How many sessions are open at once, and who waits for what, over all runs of a process."""

import anyio
import anyio.lowlevel
import pytest

from crew_plugin.engine.ports import Outcome
from crew_plugin.engine.shares import provider_of
from crew_plugin.engine.steer import Order, Say
from crew_plugin.errors import InvalidValue
from crew_plugin.hookspecs import TaskStarting, Verdict, hookimpl
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.testing.fake_runner import FakeAttempt, fails, gate, hangs, submits
from tests.engine.bench import Bench, open_bench, spec_of, step

pytestmark = pytest.mark.anyio


class Meter:
    """Notes how many sessions that have a name in common are open at once. Those with a name in `reach`
    go on only when so many were."""

    def __init__(self, **reach: int) -> None:
        self._reach = {name: (count, anyio.Event()) for name, count in reach.items()}
        self.open: dict[str, int] = {}
        self.most: dict[str, int] = {}
        self.order: list[str] = []

    async def __call__(self, attempt: FakeAttempt) -> Outcome:
        context = attempt.context
        names = [*context.step.resources, context.spec.team, provider_of(context.step.model)]
        self.order.append(f"{context.spec.team}:{context.task.key}")
        for name in names:
            self.open[name] = self.open.get(name, 0) + 1
            self.most[name] = max(self.most.get(name, 0), self.open[name])
        for name in names:
            count, reached = self._reach.get(name, (0, None))
            if reached is not None:
                if self.open[name] >= count:
                    reached.set()
                await reached.wait()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        for name in names:
            self.open[name] -= 1
        return await submits()(attempt)


async def all_ended(bench: Bench, *run_ids: str) -> None:
    for run_id in run_ids:
        assert (await bench.supervisor.wait(run_id, None)).state is RunState.COMPLETED


async def start(bench: Bench, *steps: object, **facts: object) -> str:
    run = await bench.submit(spec_of(*steps, **facts), background=True)  # type: ignore[arg-type]
    bench.supervisor.start(run.id)
    return run.id


async def test_a_team_and_a_provider_are_limited_over_all_runs_of_the_process(project: Project) -> None:
    meter = Meter(review=3, openai=2)
    async with open_bench(project, default=meter) as bench:
        facts = {"tag_limits": {"team:review": 3, "provider:openai": 2}}
        many = [step(f"t{n}", model="openai:m" if n % 2 else "other:m") for n in range(8)]
        with anyio.fail_after(20):
            runs = [await start(bench, *many, team="review", **facts) for _ in range(3)]
            await all_ended(bench, *runs)
        assert meter.most["review"] == 3
        assert meter.most["openai"] == 2


async def test_a_resource_is_used_by_one_session_at_a_time_over_all_runs(project: Project) -> None:
    meter = Meter()
    async with open_bench(project, default=meter) as bench:
        steps = [
            step("a", resources=("db",)),
            step("b", resources=("db", "port:8080")),
            step("c", resources=("port:8080",)),
            step("d"),
        ]
        with anyio.fail_after(20):
            runs = [await start(bench, *steps, team=f"t{n}") for n in range(4)]
            await all_ended(bench, *runs)
        assert (meter.most["db"], meter.most["port:8080"]) == (1, 1)


async def test_a_resource_has_as_much_room_as_the_settings_say(project: Project) -> None:
    meter = Meter(db=2)
    async with open_bench(project, default=meter) as bench:
        many = [step(f"t{n}", resources=("db",)) for n in range(6)]
        with anyio.fail_after(20):
            await all_ended(bench, await start(bench, *many, tag_limits={"resource:db": 2}))
        assert meter.most["db"] == 2


async def test_who_waits_for_two_resources_is_not_starved_by_those_that_want_one(project: Project) -> None:
    meter, finish, begun = Meter(), anyio.Event(), anyio.Event()

    async def holds(attempt: FakeAttempt) -> Outcome:
        begun.set()
        await finish.wait()
        return await meter(attempt)

    async with open_bench(project, {"first": holds}, default=meter) as bench:
        with anyio.fail_after(20):
            first = await start(bench, step("first", resources=("db",)), team="one")
            await begun.wait()
            both = await start(bench, step("both", resources=("db", "port")), team="two")
            while not await bench.events(both, "task.held_back"):
                await anyio.lowlevel.checkpoint()
            many = [step(f"t{n}", resources=("port",)) for n in range(4)]
            later = await start(bench, *many, team="three")
            while len(await bench.events(later, "task.held_back")) < 4:
                await anyio.lowlevel.checkpoint()
            finish.set()
            await all_ended(bench, first, both, later)
        assert meter.order[:2] == ["one:first", "two:both"]
        (held,) = await bench.events(both, "task.held_back")
        assert held.data == {"key": "both", "resources": ["db", "port"]}


async def test_a_wait_for_a_resource_can_be_cancelled_and_keeps_nobody_back(project: Project) -> None:
    begun = anyio.Event()

    async def holds(attempt: FakeAttempt) -> Outcome:
        begun.set()
        return await hangs()(attempt)

    enough = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
    async with open_bench(project, {"a": holds}) as bench:
        with anyio.fail_after(20):
            first = await start(bench, step("a", resources=("db",)))
            await begun.wait()
            second = await start(bench, step("b", resources=("db", "port")))
            while not await bench.events(second, "task.held_back"):
                await anyio.lowlevel.checkpoint()
            third = await start(bench, step("c", resources=("port",)))
            while not await bench.events(third, "task.held_back"):
                await anyio.lowlevel.checkpoint()
            await bench.supervisor.cancel(second, cause=enough, actor="test")
            await all_ended(bench, third)
            assert (await bench.supervisor.wait(first, 0)).state is RunState.RUNNING
            await bench.supervisor.cancel(first, cause=enough, actor="test")


async def test_growth_starts_waiting_tasks_at_once_and_holders_still_count_when_it_shrinks(
    project: Project,
) -> None:
    finish = anyio.Event()
    async with open_bench(project, default=gate(finish, submits())) as bench:
        with anyio.fail_after(10):
            run_id = await start(bench, *(step(f"t{n}") for n in range(6)), width=1)

            async def width(number: int) -> None:
                order = Order(run_id=run_id, say=Say.RESIZE, actor="operator", width=number)
                report = await bench.supervisor.order(order)
                assert report.reached

            await width(4)
            while len(bench.runner.open) < 4:
                await anyio.lowlevel.checkpoint()
            await width(2)
            await anyio.wait_all_tasks_blocked()
            assert len(bench.runner.open) == 4
            finish.set()
            await all_ended(bench, run_id)
        assert bench.runner.most == 4
        applied = await bench.events(run_id, "control.applied")
        assert [event.data["reason"] for event in applied] == [
            "4 sessions at once instead of 1",
            "2 sessions at once instead of 4",
        ]


@pytest.mark.parametrize("width", [0, 1025])
async def test_a_width_out_of_bounds_is_refused(project: Project, width: int) -> None:
    async with open_bench(project) as bench:
        run = await bench.submit(spec_of(step("a")))
        with pytest.raises(InvalidValue) as caught:
            await bench.supervisor.order(Order(run_id=run.id, say=Say.RESIZE, actor="operator", width=width))
        assert "width must be a whole number from 1 to 1024" in str(caught.value)


async def test_fail_fast_cancels_drains_and_ends_with_the_first_failure(project: Project) -> None:
    both = anyio.Event()

    async def fails_while_it_is_stopped(attempt: FakeAttempt) -> Outcome:
        both.set()
        await attempt.aborted.wait()
        return await fails("broke while it was stopped")(attempt)

    scripts = {"a": fails_while_it_is_stopped, "b": gate(both, fails("came first"))}
    async with open_bench(project, scripts) as bench:
        with anyio.fail_after(10):
            run = await bench.execute(spec_of(step("a"), step("b"), step("c", "a"), fail_fast=True))
        assert run.cause is not None
        assert run.cause.message == "task 'b' failed: came first"
        assert bench.runner.open == {}
        assert (await bench.states(run.id))["c"] is TaskState.CANCELLED


async def test_where_each_limit_comes_from_is_on_record(project: Project) -> None:
    async with open_bench(project) as bench:
        run = await bench.execute(spec_of(step("a"), limit_notes=("width: 8 from the settings",)))
        (event,) = await bench.events(run.id, "limits.resolved")
        assert event.data["decisions"] == ["width: 8 from the settings"]


class Moves:
    """Gives every task another model."""

    @hookimpl
    def before_task_start(self, event: TaskStarting) -> Verdict:
        return Verdict(changes={"model": "openai:m"})


async def test_a_session_counts_for_the_provider_that_a_hook_chose(project: Project) -> None:
    meter = Meter()
    async with open_bench(project, default=meter, plugins=(Moves(),)) as bench:
        with anyio.fail_after(20):
            steps = [step(f"t{n}", model="other:m") for n in range(6)]
            run_id = await start(bench, *steps, tag_limits={"provider:openai": 1})
            await all_ended(bench, run_id)
        assert (await bench.supervisor.wait(run_id, None)).state is RunState.COMPLETED
    assert meter.most["openai"] == 1
