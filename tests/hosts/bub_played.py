"""One task that a crew in a real Bub has executed with a scripted model, and what is on record of it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from crew_hooks.bub import host_crew
from crew_plugin.config import load_settings
from crew_plugin.crew import Crew
from crew_plugin.engine.plan import ParallelTask, WantedResult, plan_parallel
from crew_plugin.models.records import EventRecord, ResultRecord, RunRecord
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Reply, Script, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.hosts.bub_terminal import BubHome

WAIT = 40
PLAIN = "---\nname: plain\ntools: bash\n---\nYou do what you are told.\n"
AS_THEY_SAY = WantedResult()


class Told:
    """A run that is over, and what is on record of it."""

    def __init__(self, crew: Crew, run: RunRecord, model: ScriptedModelServer) -> None:
        self.crew = crew
        self.run = run
        self.model = model

    async def results(self) -> list[ResultRecord]:
        return await self.crew.writer.read(lambda store: store.list_results(self.run.id))

    async def events(self, *types: str) -> list[EventRecord]:
        events = await self.crew.writer.read(lambda store: store.tail(self.run.id))
        return [event for event in events if event.type in types]


@asynccontextmanager
async def played(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Script,
    *,
    result: WantedResult = AS_THEY_SAY,
    max_bytes: int = 8_000_000,
    jobs_seconds: float = 600,
    hooks: str = "",
    hook_seconds: float = 10,
) -> AsyncIterator[Told]:
    """One task that a crew in this process has executed with a scripted model. `hooks` is a file of
    the project's own hooks."""
    for name in [name for name in os.environ if name.startswith(("BUB_", "OPENAI_", "ANTHROPIC_", "CREW_"))]:
        monkeypatch.delenv(name)
    home = BubHome.make(folder, None)
    agents = home.project / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "plain.md").write_text(PLAIN, encoding="utf-8")
    async with ScriptedModelServer(script) as model:
        for name, value in BubHome(project=home.project, home=home.home, base_url=model.base_url).env.items():
            monkeypatch.setenv(name, value)
        project = find_project(home.project)
        settings = load_settings(home.project)
        of_results = settings.result.model_copy(update={"max_bytes": max_bytes, "jobs_seconds": jobs_seconds})
        settings = settings.model_copy(update={"result": of_results})
        if hooks:
            (home.project / ".crew" / "hooks").mkdir()
            (home.project / ".crew" / "hooks" / "ours.py").write_text(hooks, encoding="utf-8")
            limit = settings.hooks.model_copy(update={"seconds": hook_seconds})
            trusted = {"trusted_projects": (str(home.project),), "hooks": limit}
            settings = settings.model_copy(update=trusted)
        async with host_crew(project, settings) as crew:
            spec = plan_parallel(
                await crew.catalog(),
                crew.settings,
                tasks=[ParallelTask(goal="do it", agent="plain")],
                cwd=str(project.root),
                result=result,
            )
            run = await crew.supervisor.submit(spec, parent=None, background=True, actor="tester")
            with anyio.fail_after(WAIT):
                await crew.supervisor.execute(run.id)
            yield Told(crew, await crew.writer.read(lambda store: store.load_run(run.id)), model)


def use(name: str, **arguments: Any) -> Reply:
    return Reply(calls=(ToolUse(name=name, arguments=arguments),))
