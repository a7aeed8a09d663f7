"""A real store, a scripted engine, and runs made of a few steps."""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from crew_plugin.engine.ports import AttemptContext, Outcome
from crew_plugin.host import ToolSpec
from crew_plugin.models.mail import MessageKind, MessageRecord
from crew_plugin.models.records import (
    AttemptRecord,
    EventRecord,
    Lease,
    NewRun,
    NewTask,
    RunRecord,
    TranscriptEntry,
)
from crew_plugin.models.spec import AgentSpec, LimitsSpec, RunSpec, StepSpec
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.project import Project
from crew_plugin.session.runner import SessionRunner
from crew_plugin.session.scope import SessionScope
from crew_plugin.store.liveness import current_owner
from crew_plugin.store.writer import StoreWriter
from crew_plugin.testing.conversation import Script
from crew_plugin.testing.fake_engine import FakeEngine
from crew_tools.ask import ask_tool
from crew_tools.irc import irc_tool
from crew_tools.submit_result import submit_result_tool
from tests.leftovers import no_task_is_left, nobody_listens, nothing_is_left

__all__ = ["no_task_is_left", "nobody_listens", "nothing_is_left"]

TASK_ENDS = {
    AttemptState.COMPLETED: TaskState.COMPLETED,
    AttemptState.NEEDS_ATTENTION: TaskState.NEEDS_ATTENTION,
    AttemptState.FAILED: TaskState.FAILED,
    AttemptState.CANCELLED: TaskState.CANCELLED,
}


@dataclass
class Stage:
    """One run on the disk, and what is needed to execute its tasks by hand."""

    writer: StoreWriter
    folder: Path
    spec: RunSpec
    run: RunRecord
    lease: Lease
    extra_tools: tuple[ToolSpec, ...] = ()
    scopes: list[SessionScope] = field(default_factory=list)
    runners: list[SessionRunner] = field(default_factory=list)

    def toolbox(self, scope: SessionScope) -> tuple[ToolSpec, ...]:
        self.scopes.append(scope)
        return (submit_result_tool(scope), irc_tool(scope), ask_tool(scope), *self.extra_tools)

    def nothing_is_open(self) -> None:
        """No session, no mailbox, and nobody who listens to the store."""
        for runner in self.runners:
            assert runner._live == {}
            assert runner._room._boxes == {}
        assert self.writer._subscriptions == ()

    def runner(self, engine: FakeEngine, **options: Any) -> SessionRunner:
        self.runners.append(SessionRunner(engine=engine, writer=self.writer, toolbox=self.toolbox, **options))
        return self.runners[-1]

    async def attempt(self, key: str = "work") -> AttemptContext:
        """Start an attempt of a task."""
        step = next(step for step in self.spec.steps if step.id == key)

        def start(store: Any) -> AttemptContext:
            task = store.load_task(self.run.id, key)
            attempt = store.start_attempt(
                self.lease,
                task.id,
                kind=SessionKind.LIVE,
                engine="fake",
                model=None,
                cwd=str(self.folder),
                actor="supervisor",
            )
            return AttemptContext(
                lease=self.lease,
                run=self.run,
                spec=self.spec,
                task=store.load_task(self.run.id, key),
                step=step,
                attempt=attempt,
            )

        return await self.writer.run(start)

    async def execute(
        self, script: Script, *, key: str = "work", engine: FakeEngine | None = None, **options: Any
    ) -> Outcome:
        """One attempt from its start to its recorded end."""
        context = await self.attempt(key)
        outcome = await self.runner(engine or FakeEngine(script=script), **options).run(context)
        await self.settle(context, outcome)
        return outcome

    async def settle(self, context: AttemptContext, outcome: Outcome) -> None:
        await self.writer.run(
            lambda store: store.end_attempt(
                self.lease,
                context.attempt.id,
                outcome.state,
                task_state=TASK_ENDS[outcome.state],
                actor="supervisor",
                cause=outcome.cause,
                last_text=outcome.last_text,
            )
        )

    async def said(self, text: str, *, to: str = "work", sender: str = "operator") -> MessageRecord:
        """What somebody says to a task, taken for it."""

        def say(store: Any) -> MessageRecord:
            sent = store.send_message(
                self.run.id, sender=sender, recipient=to, kind=MessageKind.STEER, body=text
            )
            taken: list[MessageRecord] = store.take_messages(self.run.id, to, only=sent.id)
            return taken[0]

        return await self.writer.run(say)

    async def transcript(self, key: str = "work") -> list[TranscriptEntry]:
        def read(store: Any) -> list[TranscriptEntry]:
            attempt = store.load_attempt(store.load_task(self.run.id, key).attempt_id)
            return list(store.read_transcript(attempt.session_id))

        return await self.writer.read(read)

    async def latest(self, key: str = "work") -> AttemptRecord:
        """The newest attempt of a task, as it is written down."""

        def read(store: Any) -> AttemptRecord:
            attempts: list[AttemptRecord] = store.list_attempts(store.load_task(self.run.id, key).id)
            return attempts[-1]

        return await self.writer.read(read)

    async def events(self, *types: str) -> list[EventRecord]:
        events = await self.writer.read(lambda store: store.tail(self.run.id))
        return [event for event in events if not types or event.type in types]

    async def text_of(self, outcome: Outcome) -> str:
        """The partial text that was kept."""
        assert outcome.last_text is not None
        sha256 = outcome.last_text.sha256
        return (await self.writer.read(lambda store: store.read_artifact(sha256))).decode()


MakeStage = Callable[..., Awaitable[Stage]]


@pytest.fixture
def limits() -> LimitsSpec:
    return LimitsSpec(steps=20, idle_seconds=20, wall_seconds=40, model_retries=1)


@pytest.fixture
async def make_stage(tmp_path: Path, limits: LimitsSpec) -> AsyncIterator[MakeStage]:
    folder = tmp_path / "project"
    folder.mkdir()
    async with StoreWriter(Project(root=folder, state_dir=folder / ".crew" / "state")) as writer:

        async def make(
            steps: Sequence[StepSpec] = (),
            *,
            goal: str = "make it better",
            agent: Mapping[str, Any] | None = None,
            step: Mapping[str, Any] | None = None,
            **spec_fields: Any,
        ) -> Stage:
            one = StepSpec(
                **{"id": "work", "role": "worker", "agent": "worker", "task": "Do it."} | dict(step or {})
            )
            steps = [
                each.model_copy(update={"limits": limits}) if each.limits == LimitsSpec() else each
                for each in (steps or (one,))
            ]
            worker = AgentSpec(**{"name": "worker", "prompt": "You work carefully."} | dict(agent or {}))
            spec = RunSpec(
                goal=goal,
                team="test",
                workflow="test",
                cwd=str(folder),
                steps=tuple(steps),
                agents={"worker": worker},
                **spec_fields,
            )

            def create(store: Any) -> tuple[RunRecord, Lease]:
                run = store.create_run(
                    NewRun(
                        goal=goal, team="test", workflow="test", cwd=str(folder), spec=spec.model_dump_json()
                    ),
                    [
                        NewTask(
                            key=each.id,
                            title=each.title,
                            role=each.role,
                            agent=each.agent,
                            depends_on=each.depends_on,
                            attention_pass=each.attention == "pass",
                            spec=each.model_dump_json(),
                        )
                        for each in steps
                    ],
                    actor="caller",
                )
                lease = store.claim(run.id, current_owner())
                return store.transition_run(lease, RunState.RUNNING, actor="supervisor"), lease

            run, lease = await writer.run(create)
            stages.append(Stage(writer=writer, folder=folder, spec=spec, run=run, lease=lease))
            return stages[-1]

        stages: list[Stage] = []
        yield make
        for stage in stages:
            stage.nothing_is_open()


@pytest.fixture
async def stage(make_stage: MakeStage) -> Stage:
    """A run of one task."""
    return await make_stage()
