"""Runs of other processes: asked to stop, or found dead."""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from crew_plugin.engine.cancel import CancelOutcome
from crew_plugin.engine.steer import Order, Say
from crew_plugin.engine.supervisor import RecoveryPolicy
from crew_plugin.errors import CallerError, LeaseHeld
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.states import RUN_TERMINAL, AttemptState, RunState, TaskState
from crew_plugin.project import Project
from crew_plugin.store.liveness import current_owner
from crew_plugin.testing.fake_runner import hangs, submits
from tests.engine.bench import Bench, open_bench, spec_of, step

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).resolve().parents[2]
ENOUGH = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


@dataclass
class Other:
    """A process that supervises the run `run_id`."""

    process: Process
    output: BufferedByteReceiveStream
    run_id: str

    async def line(self) -> str:
        return (await self.output.receive_until(b"\n", 200)).decode()

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def supervising(project: Project) -> AsyncIterator[Other]:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "hooks", "tools"))
    command = [sys.executable, str(ROOT / "tests" / "engine" / "supervising.py"), str(project.root)]
    async with await anyio.open_process(
        command, env={**os.environ, "PYTHONPATH": path}, stderr=None
    ) as process:
        assert process.stdout is not None
        other = Other(process, BufferedByteReceiveStream(process.stdout), "")
        try:
            with anyio.fail_after(30):
                other.run_id = await other.line()
            yield other
        finally:
            if process.returncode is None:
                process.kill()


async def test_a_run_of_another_process_is_cancelled_within_a_second_by_asking(project: Project) -> None:
    async with supervising(project) as other, open_bench(project) as bench:
        refused = await bench.supervisor.cancel(other.run_id, cause=ENOUGH, actor="operator")
        assert refused.outcome is CancelOutcome.REFUSED
        assert f"process {other.process.pid}" in refused.message
        with anyio.fail_after(5):
            report = await bench.supervisor.cancel(other.run_id, cause=ENOUGH, actor="operator", force=True)
            assert (report.outcome, report.state) == (CancelOutcome.CANCELLED, RunState.CANCELLED)
            assert await other.line() == "cancelled"
        tasks = await bench.tasks(other.run_id)
        assert {key: task.state for key, task in tasks.items()} == {
            "quick": TaskState.COMPLETED,
            "slow": TaskState.CANCELLED,
            "last": TaskState.CANCELLED,
        }
        assert tasks["slow"].cause == ENOUGH
        (asked,) = await bench.events(other.run_id, "control.requested")
        assert asked.actor == "operator"


async def test_one_task_of_another_process_is_steered_and_cancelled(project: Project) -> None:
    async with supervising(project) as other, open_bench(project) as bench:
        with anyio.fail_after(5):
            order = Order(
                run_id=other.run_id, say=Say.STEER, actor="operator", task="slow", text="hurry", force=True
            )
            assert (await bench.supervisor.order(order)).receipt.outcome == "injected"
            assert (await bench.supervisor.order(replace(order, task="last"))).receipt.outcome == "queued"
            report = await bench.supervisor.cancel(
                other.run_id, cause=ENOUGH, actor="operator", task="slow", force=True
            )
            assert (report.outcome, report.state) == (CancelOutcome.CANCELLED, TaskState.CANCELLED)
            assert await other.line() == "failed"


async def test_a_run_whose_process_was_killed_is_not_waited_for_and_closed_as_lost(
    project: Project,
) -> None:
    async with supervising(project) as other, open_bench(project) as bench:
        await other.kill()
        with anyio.fail_after(5):
            assert (await bench.supervisor.wait(other.run_id, None)).state is RunState.RUNNING
            report = await bench.supervisor.cancel(other.run_id, cause=ENOUGH, actor="operator")
        assert (report.outcome, report.state) == (CancelOutcome.MARKED_LOST, RunState.FAILED)
        assert report.message == (
            f"its supervisor (process {other.process.pid}) is gone; operator closed it, "
            "finished results are kept"
        )
        tasks = await bench.tasks(other.run_id)
        assert {key: task.state for key, task in tasks.items()} == {
            "quick": TaskState.COMPLETED,
            "slow": TaskState.FAILED,
            "last": TaskState.CANCELLED,
        }
        (attempt,) = await bench.writer.read(lambda store: store.list_attempts(tasks["slow"].id))
        assert attempt.state is AttemptState.LOST
        assert attempt.cause is not None
        assert attempt.cause.code is CauseCode.SUPERVISOR_LOST
        (result,) = await bench.writer.read(lambda store: store.list_results(other.run_id))
        assert result.summary == "kept"


async def test_waiting_sees_the_end_of_a_run_in_another_process(project: Project) -> None:
    async with supervising(project) as other, open_bench(project) as bench:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                ended: list[RunState] = []

                async def wait() -> None:
                    ended.append((await bench.supervisor.wait(other.run_id, None)).state)

                group.start_soon(wait)
                await bench.supervisor.cancel(other.run_id, cause=ENOUGH, actor="operator", force=True)
        assert ended == [RunState.CANCELLED]


async def test_a_run_of_a_dead_process_is_taken_over_where_the_settings_say_so(project: Project) -> None:
    auto = RecoveryPolicy(takes_over=True, lease_seconds=0.2)
    async with supervising(project) as other:
        await other.kill()
        async with open_bench(project, default=submits("after all"), recovery=auto) as bench:
            with anyio.fail_after(10):
                ended = await _ended(bench, other.run_id)
            events = await bench.events(other.run_id)
            results = await bench.writer.read(lambda store: store.list_results(other.run_id))
    assert ended is RunState.COMPLETED
    assert [result.summary for result in results] == ["kept", "after all", "after all"]
    told = [event.type for event in events]
    assert told.count("run.supervisor_lost") == 1
    assert [event.data["verdict"] for event in events if event.type == "attempt.triaged"] == ["replayable"]


async def test_a_lost_run_waits_for_somebody_where_the_settings_say_so(project: Project) -> None:
    async with supervising(project) as other:
        await other.kill()
        async with open_bench(project, recovery=RecoveryPolicy(lease_seconds=0.1)) as bench:
            with anyio.fail_after(10):
                while not await bench.events(other.run_id, "run.supervisor_lost"):
                    await anyio.lowlevel.checkpoint()
            run = await bench.writer.read(lambda store: store.load_run(other.run_id))
            assert (run.state, run.epoch) == (RunState.RUNNING, 1)
            # Somebody resumes it, and a second one at the same time: one of them has it.
            bench.runner.default = submits("after all")
            adopted = await bench.supervisor.adopt(other.run_id)
            assert (await bench.supervisor.execute(adopted.id)).state is RunState.COMPLETED
            with pytest.raises(CallerError, match="has ended"):
                await bench.supervisor.adopt(other.run_id)


async def test_two_that_take_the_same_run_do_not_both_get_it(project: Project) -> None:
    async with supervising(project) as other:
        await other.kill()
        async with open_bench(project, default=hangs()) as one, open_bench(project) as two:
            for bench in (one, two):
                await bench.supervisor.adopt(other.run_id)
            one.supervisor.start(other.run_id)
            with anyio.fail_after(5):
                while not await one.events(other.run_id, "attempt.triaged"):
                    await anyio.lowlevel.checkpoint()
                with pytest.raises(LeaseHeld):
                    await two.supervisor.execute(other.run_id)


async def test_a_process_goes_on_with_a_run_of_its_own_that_it_could_not_give_up(project: Project) -> None:
    async with open_bench(project, default=submits("after all")) as bench:
        run = await bench.submit(spec_of(step("a")))
        bench.supervisor.hand_off(run.id)
        lease = await bench.writer.run(lambda store: store.claim(run.id, current_owner()))
        await bench.writer.run(lambda store: store.transition_run(lease, RunState.RUNNING, actor="test"))
        await bench.supervisor.adopt(run.id)
        assert (await bench.supervisor.execute(run.id)).state is RunState.COMPLETED


async def _ended(bench: Bench, run_id: str) -> RunState:
    while True:
        run = await bench.writer.read(lambda store: store.load_run(run_id))
        if run.state in RUN_TERMINAL:
            return run.state
        await anyio.lowlevel.checkpoint()
