"""A whole crew in a real Bub: what cancelling leaves behind, and which tools of servers get in."""

import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import psutil
import pytest

from crew_hooks.bub import host_crew
from crew_plugin.config import load_settings
from crew_plugin.crew import Crew
from crew_plugin.engine.cancel import CancelOutcome
from crew_plugin.engine.plan import ParallelTask, plan_parallel
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import RunRecord
from crew_plugin.models.spec import RuntimeMode
from crew_plugin.models.states import AttemptState, RunState, TaskState
from crew_plugin.project import find_project
from crew_plugin.store.port import RunStore
from crew_plugin.testing.conversation import Conversation, Reply, Script, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.hosts.bub_chat import team_script
from tests.hosts.bub_engine import RUNTIME
from tests.hosts.bub_terminal import BubHome, run_bub, scripted_model

pytestmark = pytest.mark.bub

SERVER = Path(__file__).parent / "mcp_servers" / "arithmetic.py"
WAIT = 40
STUBBORN = "trap '' TERM; sleep 300 & setsid sleep 300 & touch $CREW_SESSION.busy; sleep 300; :"
"""A shell that ignores the polite signal, with a child and one that leaves the shell's group."""
CALCULATES = "---\nname: calculates\ntools: read, mcp__calc__add\n---\nYou add numbers.\n"
READS = "---\nname: reads\ntools: read\n---\nYou read.\n"


@asynccontextmanager
async def hosted(
    home: BubHome, monkeypatch: pytest.MonkeyPatch, script: Script, **limits: object
) -> AsyncIterator[Crew]:
    """A crew as `crew run` has it, in this process, with these limits of its own."""
    for name in [name for name in os.environ if name.startswith(("BUB_", "OPENAI_", "ANTHROPIC_", "CREW_"))]:
        if name != RUNTIME:
            monkeypatch.delenv(name)
    async with ScriptedModelServer(script) as model:
        for name, value in BubHome(project=home.project, home=home.home, base_url=model.base_url).env.items():
            monkeypatch.setenv(name, value)
        project = find_project(home.project)
        settings = load_settings(home.project)
        changed = {"limits": settings.limits.model_copy(update=limits)}
        async with host_crew(project, settings.model_copy(update=changed)) as crew:
            yield crew


async def submitted(crew: Crew, *tasks: ParallelTask, runtime: RuntimeMode | None = None) -> RunRecord:
    """A run with these tasks side by side, written down."""
    spec = plan_parallel(
        await crew.catalog(), crew.settings, tasks=tasks, cwd=str(crew.project.root), runtime=runtime
    )
    return await crew.supervisor.submit(spec, parent=None, background=True, actor="tester")


def marked(folder: Path) -> list[psutil.Process]:
    """The processes that carry the mark of a session and work in this folder."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if "CREW_SESSION" in process.environ() and process.cwd() == str(folder):
                found.append(process)
    return found


def how_it_ended(
    store: RunStore, run_id: str
) -> tuple[RunState, list[tuple[TaskState, AttemptState, list[str]]]]:
    """Where a run, its tasks and their attempts stand, with the tool calls that are over."""
    tasks = [
        (
            task.state,
            attempt.state,
            [call.tool for call in store.list_tool_calls(attempt.id) if call.ended_at],
        )
        for task in store.load_tasks(run_id)
        for attempt in store.list_attempts(task.id)
    ]
    return store.load_run(run_id).state, tasks


@pytest.mark.anyio
async def test_cancelling_a_team_ends_every_process_of_its_shells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(conversation: Conversation) -> Reply:
        return Reply(calls=(ToolUse(name="bash", arguments={"command": STUBBORN}),))

    home = BubHome.make(tmp_path, None)
    async with hosted(home, monkeypatch, script) as crew:
        run = await submitted(crew, *(ParallelTask(goal=f"wait {number}") for number in range(3)))
        crew.supervisor.start(run.id)
        with anyio.fail_after(WAIT):
            while len(list(home.project.glob("*.busy"))) < 3:  # noqa: ASYNC110 - shells tell by files
                await anyio.sleep(0.02)
        processes = await anyio.to_thread.run_sync(marked, home.project)
        assert len(processes) >= 12

        cause = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
        with anyio.fail_after(8):  # 5 s, and room for a busy machine
            report = await crew.supervisor.cancel(run.id, cause=cause, actor="tester", force=True)
            _, alive = await anyio.to_thread.run_sync(lambda: psutil.wait_procs(processes, timeout=8))
        assert alive == []
        assert await anyio.to_thread.run_sync(marked, home.project) == []

        assert report.outcome is CancelOutcome.CANCELLED
        assert await crew.writer.read(partial(how_it_ended, run_id=run.id)) == (
            RunState.CANCELLED,
            [(TaskState.CANCELLED, AttemptState.CANCELLED, ["bash"])] * 3,
        )


# --- tools of MCP servers ---


def with_server(folder: Path) -> tuple[BubHome, Path]:
    """A project with an agent that lists a server's tool and one that does not; the folder in
    which the server leaves a file for each start."""
    home = BubHome.make(folder, None)
    agents = home.project / ".crew" / "agents"
    agents.mkdir(parents=True)
    (agents / "calculates.md").write_text(CALCULATES, encoding="utf-8")
    (agents / "reads.md").write_text(READS, encoding="utf-8")
    starts = folder / "starts"
    starts.mkdir()
    servers = {"calc": {"command": sys.executable, "args": [str(SERVER), str(starts)]}}
    bub = home.home / "bub"
    bub.mkdir()
    (bub / "mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    return home, starts


class Calculating:
    """Workers that add with the server's tool if they have it and hand in what came back, and a
    parent as `team_script` has it. Notes what each agent was offered."""

    def __init__(self) -> None:
        self.offered: dict[str, set[str]] = {}

    def __call__(self, conversation: Conversation) -> Reply:
        if not conversation.offered("submit_result"):
            return self._parent(conversation)
        agent = (
            "calculates" if "You add numbers." in conversation.first_user + conversation.system else "reads"
        )
        self.offered[agent] = set(conversation.tools)
        results = conversation.tool_results
        if conversation.offered("mcp__calc__add") and not results:
            return Reply(calls=(ToolUse(name="mcp__calc__add", arguments={"a": 20, "b": 22}),))
        summary = f"The server said: {results[0].text}" if results else "There is nothing to add with."
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))

    def _parent(self, conversation: Conversation) -> Reply:
        if conversation.new_results:
            return team_script(conversation)
        arguments = {"action": "run", "agent": "calculates", "goal": "add"}
        return Reply(calls=(ToolUse(name="team", arguments=arguments),))


def server_pid(starts: Path) -> int:
    """The one process of the server that was started, which must be gone."""
    (pid,) = [int(marker.stem) for marker in starts.iterdir()]
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return pid


@pytest.mark.anyio
async def test_only_an_agent_that_lists_a_servers_tool_gets_it_and_its_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, starts = with_server(tmp_path)
    script = Calculating()
    async with hosted(home, monkeypatch, script) as crew:
        tasks = [ParallelTask(goal="do your job", agent=agent) for agent in ("calculates", "reads")]
        run = await submitted(crew, *tasks)
        with anyio.fail_after(WAIT):
            ended = await crew.supervisor.execute(run.id)
        results = await crew.writer.read(lambda store: store.list_results(run.id))
    assert ended.state is RunState.COMPLETED
    pid = server_pid(starts)
    assert {result.summary for result in results} == {
        f"The server said: 42 by {pid}",
        "There is nothing to add with.",
    }
    always = {"read", "submit_result", "irc", "ask"}
    assert script.offered == {"calculates": always | {"mcp__calc__add"}, "reads": always}


def test_under_bub_run_an_agent_has_the_servers_tool_too(tmp_path: Path) -> None:
    home, starts = with_server(tmp_path)
    script = Calculating()
    with scripted_model(script) as model:
        done = run_bub(BubHome(project=home.project, home=home.home, base_url=model.base_url), "run", "add")
    assert done.returncode == 0, done.stderr
    assert f"The server said: 42 by {server_pid(starts)}" in done.stdout
    assert script.offered == {"calculates": {"read", "submit_result", "irc", "ask", "mcp__calc__add"}}
