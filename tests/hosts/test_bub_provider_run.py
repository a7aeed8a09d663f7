"""Whole runs in a real Bub, here and in worker processes: at a provider that may be asked one thing at a
time, at one that refuses all but one, and as many sessions at once as the width allows."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest

from crew_hooks.bub import host_crew
from crew_plugin.config import load_settings
from crew_plugin.crew import Crew
from crew_plugin.engine.plan import ParallelTask, plan_parallel
from crew_plugin.models.records import EventRecord, RunRecord
from crew_plugin.models.spec import RuntimeMode
from crew_plugin.models.states import RunState, SessionKind
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from crew_plugin.ui.live import Doing
from tests.hosts.bub_terminal import BubHome

pytestmark = [pytest.mark.bub, pytest.mark.anyio, pytest.mark.both_engines]

SUBMITS = ToolUse(name="submit_result", arguments={"summary": "done"})
AGENT = """---
name: worker
description: Looks and tells.
tools: ls
---
Look, and tell.
"""
RUNTIMES: dict[SessionKind, RuntimeMode] = {
    SessionKind.LIVE: "live-session",
    SessionKind.CHILD: "child-process",
}


@dataclass
class Ran:
    """A run that has ended."""

    run: RunRecord
    events: list[EventRecord]
    results: int
    server: ScriptedModelServer


@dataclass
class Stage:
    """A crew at a scripted provider."""

    crew: Crew
    server: ScriptedModelServer
    kind: SessionKind

    async def run(self, count: int) -> Ran:
        """So many tasks, as wide as the settings say."""
        crew = self.crew
        tasks = [ParallelTask(goal=f"job {number}", agent="worker") for number in range(count)]
        spec = plan_parallel(
            await crew.catalog(),
            crew.settings,
            tasks=tasks,
            cwd=str(crew.project.root),
            runtime=RUNTIMES[self.kind],
        )
        run = await crew.supervisor.submit(spec, parent=None, background=False, actor="tester")
        with anyio.fail_after(90):
            ended = await crew.supervisor.execute(run.id)
        events = await crew.writer.read(lambda store: store.tail(run.id))
        results = await crew.writer.read(lambda store: store.list_results(run.id))
        opened = {event.data["kind"] for event in events if event.type == "session.opened"}
        assert opened == {self.kind}
        return Ran(ended, events, len({result.task_id for result in results}), self.server)


@pytest.fixture
def staged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_kind: SessionKind
) -> Callable[..., AbstractAsyncContextManager[Stage]]:
    """Opens a crew with a Bub of its own at a scripted provider, with these settings."""

    @asynccontextmanager
    async def opened(script: Script, settings: str = "") -> AsyncIterator[Stage]:
        for name in [n for n in os.environ if n.startswith(("BUB_", "OPENAI_", "ANTHROPIC_", "CREW_"))]:
            monkeypatch.delenv(name)
        home = BubHome.make(tmp_path, None)
        (home.project / ".crew" / "agents").mkdir(parents=True)
        (home.project / ".crew" / "agents" / "worker.md").write_text(AGENT, encoding="utf-8")
        (home.project / ".crew" / "config.toml").write_text(settings, encoding="utf-8")
        async with ScriptedModelServer(script) as server:
            environment = BubHome(project=home.project, home=home.home, base_url=server.base_url).env
            for name, value in environment.items():
                monkeypatch.setenv(name, value)
            project = find_project(home.project)
            async with host_crew(project, load_settings(home.project)) as crew:
                yield Stage(crew, server, engine_kind)

    return opened


Staged = Callable[..., AbstractAsyncContextManager[Stage]]


async def test_the_setting_bounds_the_requests_and_who_waits_says_for_what(staged: Staged) -> None:
    def submits(_: Conversation) -> Reply:
        return Reply(calls=(SUBMITS,), delay=0.05)

    async with staged(submits, "[provider]\nmax_requests = 1\n") as stage:
        ran = await stage.run(4)
    assert ran.server.peak == 1
    assert ran.run.state is RunState.COMPLETED
    waits = [event for event in ran.events if event.type == "session.provider_wait"]
    assert "waiting for provider, 1 ahead" in {event.data["reason"] for event in waits}
    doing = Doing()
    doing.note(waits[0])
    assert doing.text(str(waits[0].task_id)).startswith("waiting for provider, ")


class OnlyOne:
    """Refuses every request while another one is being answered."""

    def __init__(self) -> None:
        self.server: ScriptedModelServer | None = None
        self.refused = 0

    def __call__(self, _: Conversation) -> Reply:
        assert self.server is not None
        if self.server.in_flight > 1:
            self.refused += 1
            return Reply(fault=Fault.RATE_LIMIT, retry_after=0.1)
        return Reply(calls=(SUBMITS,), delay=0.15)


async def test_twenty_tasks_end_at_a_provider_that_refuses_all_but_one(staged: Staged) -> None:
    play = OnlyOne()
    async with staged(play, "[limits]\nwidth = 20\n") as stage:
        play.server = stage.server
        ran = await stage.run(20)
    assert (ran.run.state, ran.results) == (RunState.COMPLETED, 20)
    # What one of them learns all know, in whatever process it is. Each for itself, they would be refused
    # again at every answer, until some have no retry left.
    assert play.refused <= 40
    assert len(ran.server.arrivals) == 20 + play.refused
    assert [event for event in ran.events if event.type == "task.started" and event.data["number"] > 1] == []


async def test_eight_tasks_are_open_at_once_before_any_ends(staged: Staged) -> None:
    def holds(_: Conversation) -> Reply:
        return Reply(calls=(SUBMITS,), held=True)

    async with staged(holds) as stage:
        running = asyncio.create_task(stage.run(10))
        with anyio.fail_after(60):
            await stage.server.arrived(8)
            asking = stage.server.in_flight
            stage.server.release()
            await stage.server.arrived(10)
            stage.server.release()
            ran = await running
    assert asking == 8
    before = ran.events[: [event.type for event in ran.events].index("task.completed")]
    assert len({event.task_id for event in before if event.type == "session.opened"}) == 8
    assert (ran.run.state, ran.results, ran.server.peak) == (RunState.COMPLETED, 10, 8)
