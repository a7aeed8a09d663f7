"""A whole run in a real Bub at a provider that may be asked one thing at a time."""

import os
from pathlib import Path

import anyio
import pytest

from crew_hooks.bub import host_crew
from crew_plugin.config import load_settings
from crew_plugin.engine.plan import ParallelTask, plan_parallel
from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from crew_plugin.ui.live import Doing
from tests.hosts.bub_terminal import BubHome

pytestmark = [pytest.mark.bub, pytest.mark.anyio]


def submits(_: Conversation) -> Reply:
    return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": "done"}),), delay=0.05)


async def test_the_setting_bounds_the_requests_and_who_waits_says_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith(("BUB_", "OPENAI_", "ANTHROPIC_", "CREW_"))]:
        monkeypatch.delenv(name)
    home = BubHome.make(tmp_path, None)
    (home.project / ".crew").mkdir()
    (home.project / ".crew" / "config.toml").write_text("[provider]\nmax_requests = 1\n", encoding="utf-8")
    async with ScriptedModelServer(submits) as server:
        environment = BubHome(project=home.project, home=home.home, base_url=server.base_url).env
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        project = find_project(home.project)
        async with host_crew(project, load_settings(home.project)) as crew:
            tasks = [ParallelTask(goal=f"job {number}") for number in range(4)]
            spec = plan_parallel(await crew.catalog(), crew.settings, tasks=tasks, cwd=str(project.root))
            run = await crew.supervisor.submit(spec, parent=None, background=False, actor="tester")
            with anyio.fail_after(40):
                ended = await crew.supervisor.execute(run.id)
            events = await crew.writer.read(lambda store: store.tail(run.id))
        assert server.peak == 1
    assert ended.state is RunState.COMPLETED
    waits = [event for event in events if event.type == "session.provider_wait"]
    assert "waiting for provider, 1 ahead" in {event.data["reason"] for event in waits}
    doing = Doing()
    doing.note(waits[0])
    assert doing.text(str(waits[0].task_id)).startswith("waiting for provider, ")
