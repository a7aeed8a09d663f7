"""The crew's own hooks, plain and async, while real runs go on."""

import threading
import types

import anyio
import pluggy
import pytest

from crew_plugin.engine.hooks import Hooks
from crew_plugin.errors import ConfigError
from crew_plugin.hookspecs import RunEnded, RunStarting, TaskEnded, TaskStarting, Verdict, hookimpl
from crew_plugin.models.causes import CauseCode
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.testing.fake_runner import fails
from tests.engine.bench import open_bench, spec_of, step

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
        assert {event.data["outcome"] for event in executed} == {"done"}


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
        assert {event.data["outcome"] for event in executed} == {"raised ValueError('oops')"}


async def test_a_hook_that_takes_too_long_counts_as_one_that_raised() -> None:
    enough = threading.Event()

    class Slow:
        @hookimpl
        def before_run_start(self, event: RunStarting) -> Verdict:
            enough.wait(10)
            return Verdict(allow=True)

    manager = build_hooks()
    manager.register(Slow())
    event = RunStarting(run_id="r", goal="g", team="t", workflow="w", cwd="/")
    answer = await Hooks(manager, deadline=0.01).ask("before_run_start", event)
    enough.set()
    assert answer.refusal is not None
    assert "took longer than 0.01 s" in answer.refusal.message


def test_each_manager_has_its_own_plugins() -> None:
    first, second = build_hooks(), build_hooks()
    watcher = Watcher()
    first.register(watcher)
    assert first.is_registered(watcher)
    assert not second.is_registered(watcher)


def test_a_plugin_with_an_unknown_hook_is_refused() -> None:
    module = types.ModuleType("typo")
    marker = pluggy.HookimplMarker("crew")
    module.before_task_begin = marker(lambda event: None)  # type: ignore[attr-defined]  # what a typo looks like
    with pytest.raises(ConfigError, match="'typo' does not fit the hooks of the crew"):
        build_hooks([module])


def test_a_plugin_with_a_hook_wrapper_is_refused() -> None:
    module = types.ModuleType("wrapping")
    marker = pluggy.HookimplMarker("crew")

    def after_run_end(event: RunEnded):  # type: ignore[no-untyped-def]
        yield

    module.after_run_end = marker(wrapper=True)(after_run_end)  # type: ignore[attr-defined]  # a plugin's module
    with pytest.raises(ConfigError, match="hook wrappers are not supported"):
        build_hooks([module])
