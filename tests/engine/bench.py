"""A real store and a supervisor over pretended sessions."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from crew_plugin.engine.snapshot import RetryPolicy
from crew_plugin.engine.supervisor import RecoveryPolicy, Supervisor
from crew_plugin.models.records import EventRecord, RunRecord, TaskRecord
from crew_plugin.models.spec import AgentSpec, RunSpec, StepSpec
from crew_plugin.models.states import SessionKind, TaskState
from crew_plugin.plugins import build_hooks
from crew_plugin.project import Project
from crew_plugin.store.writer import StoreWriter
from crew_plugin.testing.fake_runner import FakeRunner, TaskScript


@dataclass
class Bench:
    """A supervisor and what it works with."""

    writer: StoreWriter
    runner: FakeRunner
    supervisor: Supervisor

    async def submit(self, spec: RunSpec, *, background: bool = False) -> RunRecord:
        return await self.supervisor.submit(spec, parent=None, background=background, actor="test")

    async def execute(self, spec: RunSpec) -> RunRecord:
        run = await self.submit(spec)
        return await self.supervisor.execute(run.id)

    async def tasks(self, run_id: str) -> dict[str, TaskRecord]:
        tasks = await self.writer.read(lambda store: store.load_tasks(run_id))
        return {task.key: task for task in tasks}

    async def states(self, run_id: str) -> dict[str, TaskState]:
        return {key: task.state for key, task in (await self.tasks(run_id)).items()}

    async def events(self, run_id: str, *types: str) -> list[EventRecord]:
        events = await self.writer.read(lambda store: store.tail(run_id, limit=100_000))
        return [event for event in events if not types or event.type in types]


@asynccontextmanager
async def open_bench(
    project: Project,
    scripts: Mapping[str, TaskScript] | None = None,
    *,
    default: TaskScript | None = None,
    plugins: tuple[object, ...] = (),
    process_width: int = 32,
    retry: RetryPolicy | None = None,
    hook_seconds: float = 10,
    recovery: RecoveryPolicy | None = None,
) -> AsyncIterator[Bench]:
    """A bench whose supervisor is running."""
    hooks = build_hooks()
    for plugin in plugins:
        hooks.register(plugin)
    async with AsyncExitStack() as stack:
        writer = await stack.enter_async_context(StoreWriter(project))
        runner = FakeRunner(writer=writer, scripts=scripts or {})
        if default is not None:
            runner.default = default
        supervisor = Supervisor(
            writer=writer,
            runners={SessionKind.LIVE: runner},
            hooks=hooks,
            hook_seconds=hook_seconds,
            process_width=process_width,
            retry=retry or RetryPolicy(base=0.01),
            recovery=recovery,
        )
        await stack.enter_async_context(supervisor.running())
        yield Bench(writer, runner, supervisor)


def spec_of(*steps: StepSpec, width: int = 8, **facts: object) -> RunSpec:
    """A run of these steps by one agent."""
    return RunSpec.model_validate(
        {
            "goal": "look at it",
            "team": "t",
            "workflow": "w",
            "cwd": "/",
            "steps": steps,
            "agents": {"worker": AgentSpec(name="worker", prompt="You work.")},
            "width": width,
            **facts,
        }
    )


def step(key: str, *depends_on: str, **facts: object) -> StepSpec:
    """One step; what it depends on by key."""
    return StepSpec.model_validate(
        {"id": key, "role": "worker", "agent": "worker", "task": "do it", "depends_on": depends_on, **facts}
    )
