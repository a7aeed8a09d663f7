"""MCP servers in whole runs: what is written down of them, and `bub run` with a server over HTTP."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from crew_plugin.engine.plan import ParallelTask
from crew_plugin.models.records import EventRecord
from crew_plugin.models.states import RunState
from crew_plugin.store.port import RunStore
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from crew_plugin.ui.events import event_line
from tests.hosts.bub_chat import team_script
from tests.hosts.bub_terminal import BubHome, run_bub, scripted_model
from tests.hosts.mcp_stage import configure, http, plain, running
from tests.hosts.test_bub_crew import hosted, submitted

pytestmark = pytest.mark.bub

USES = "---\nname: uses\ntools: read, mcp__plain__*\n---\nYou use a server.\n"


def home_with(folder: Path, server: dict[str, object]) -> BubHome:
    """A project with an agent that uses the tools of a server."""
    home = BubHome.make(folder, None)
    (home.project / ".crew" / "agents").mkdir(parents=True)
    (home.project / ".crew" / "agents" / "uses.md").write_text(USES, encoding="utf-8")
    (home.home / "bub").mkdir()
    configure(home.home / "bub", {"plain": server})
    return home


def calls(name: str, **arguments: object) -> Reply:
    return Reply(calls=(ToolUse(name=name, arguments=dict(arguments)),))


class Curious:
    """Asks for more than it can be shown, reads the end of the whole, and kills the server."""

    def __init__(self) -> None:
        self._steps = self._play()
        self.results: list[str] = []

    def __call__(self, conversation: Conversation) -> Reply:
        self.results = [result.text for result in conversation.tool_results]
        return next(self._steps)

    def _play(self) -> Iterator[Reply]:
        yield calls("mcp__plain__recite", length=10_000_000)
        found = re.search(r"artifact:[0-9a-f]+", self.results[-1])
        assert found is not None, self.results[-1][-500:]
        yield calls("read", path=found[0])
        yield calls("mcp__plain__work")
        yield calls("mcp__plain__die")
        yield calls("mcp__plain__write")
        yield calls("submit_result", summary=self.results[-1])


def noted(store: RunStore, run_id: str) -> list[EventRecord]:
    kinds = ("session.mcp_server", "session.tool_progress")
    return [event for event in store.tail(run_id, limit=10_000) if event.type in kinds]


@pytest.mark.anyio
async def test_a_run_keeps_what_was_too_long_and_tells_what_became_of_its_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_with(tmp_path, plain(tmp_path / "plain"))
    script = Curious()
    async with hosted(home, monkeypatch, script) as crew:
        run = await submitted(crew, ParallelTask(goal="use it", agent="uses"))
        async with asyncio.timeout(40):
            ended = await crew.supervisor.execute(run.id)
        events = await crew.writer.read(lambda store: noted(store, run.id))
        kept = await crew.writer.read(lambda store: store.list_artifacts(run.id))
    assert ended.state is RunState.COMPLETED
    assert "first xxx" in script.results[1]
    assert "it was not repeated" in script.results[3]
    assert script.results[4] == "written"
    assert [artifact.size for artifact in kept if artifact.name.endswith("recite.txt")] == [10_000_000]
    assert [event.data.get("state", event.type) for event in events] == [
        "session.tool_progress",
        "lost",
        "reconnected",
    ]
    shown = [event_line(event, {}) or "" for event in events]
    assert "mcp__plain__work: 1 of 100: counting" in shown[0]
    assert "MCP server plain lost: " in shown[1]
    assert running(tmp_path / "plain") == []


class Adding:
    """A parent that starts the agent, and the agent, which adds with the server."""

    def __call__(self, conversation: Conversation) -> Reply:
        if not conversation.offered("submit_result"):
            if conversation.new_results:
                return team_script(conversation)
            return calls("team", action="run", agent="uses", goal="add")
        if not conversation.tool_results:
            return calls("mcp__plain__add", a=20, b=22)
        return calls("submit_result", summary=f"The server said: {conversation.tool_results[0].text}")


@pytest.mark.anyio
async def test_under_bub_run_a_server_over_http_is_connected_too(tmp_path: Path, free_port: int) -> None:
    home = home_with(tmp_path, {"url": f"http://127.0.0.1:{free_port}/mcp"})
    async with http(tmp_path / "http", free_port):
        done = await asyncio.to_thread(_bub_run, home)
    assert done.returncode == 0, done.stderr
    assert "The server said: 42 by " in done.stdout
    assert os.listdir(tmp_path / "http")


def _bub_run(home: BubHome) -> "subprocess.CompletedProcess[str]":
    with scripted_model(Adding()) as model:
        return run_bub(BubHome(project=home.project, home=home.home, base_url=model.base_url), "run", "add")
