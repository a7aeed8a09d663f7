"""A worker in a real Bub whose conversation outgrows its model."""

import os
from pathlib import Path

import anyio
import pytest

from crew_hooks.bub import host_crew
from crew_plugin.config import load_settings
from crew_plugin.engine.plan import ParallelTask, plan_parallel
from crew_plugin.models.states import RunState
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from crew_plugin.testing.scripts import submission
from crew_plugin.ui.health import health_view

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

LONG = "def login(name):\n    return True\n" * 200


def _reads_on(reads: int, seen: list[Conversation]) -> Script:
    """Reads the same file again and again, with a model that refuses what is too long."""
    count = 0

    def script(conversation: Conversation) -> Reply:
        nonlocal count
        seen.append(conversation)
        if sum(len(str(message)) for message in conversation.messages) > 45_000:
            return Reply(fault=Fault.CONTEXT_OVERFLOW)
        count += 1
        if count > reads:
            return Reply(calls=(submission(conversation),))
        return Reply(calls=(ToolUse(name="read", arguments={"path": "app.py", "limit": 400 + count}),))

    return script


async def test_a_session_in_bub_that_outgrows_its_model_is_shortened_and_hands_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Conversation] = []
    for name in [name for name in os.environ if name.startswith(("BUB_", "OPENAI_", "CREW_"))]:
        monkeypatch.delenv(name)
    (tmp_path / ".crew").mkdir()
    (tmp_path / "app.py").write_text(LONG, encoding="utf-8")
    async with ScriptedModelServer(_reads_on(10, seen)) as model:
        for name, value in {
            "HOME": str(tmp_path / "home"),
            "BUB_HOME": str(tmp_path / "home" / "bub"),
            "BUB_MODEL": "openai:scripted",
            "BUB_API_KEY": "test",
            "BUB_API_BASE": model.base_url,
        }.items():
            monkeypatch.setenv(name, value)
        project = find_project(tmp_path)
        with anyio.fail_after(40):
            async with host_crew(project, load_settings(tmp_path)) as crew:
                task = ParallelTask(goal="KEEP THIS TASK IN MIND", agent="explorer")
                spec = plan_parallel(await crew.catalog(), crew.settings, tasks=[task], cwd=str(tmp_path))
                run = await crew.supervisor.submit(spec, parent=None, background=False, actor="tester")
                ended = await crew.supervisor.execute(run.id)
                events = await crew.writer.read(lambda store: store.tail(run.id))
                view = await crew.writer.read(lambda store: health_view(store, run.id))

    assert ended.state is RunState.COMPLETED
    compacted = [event for event in events if event.type == "session.compacted"]
    assert compacted
    assert view.sessions[0].counts.compactions == len(compacted)
    assert view.sessions[0].counts.tool_calls >= 10
    last = seen[-1]
    assert "KEEP THIS TASK IN MIND" in last.first_user
    assert last.system == seen[0].system
    assert any(compacted[-1].data["artifact"][:16] in text for text in last.user_texts)
