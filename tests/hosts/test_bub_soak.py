"""Waves of runs in a real Bub, for as long as one likes: nothing may grow from wave to wave.

The default suite runs a few waves. `make soak` runs them for two hours.
"""

import asyncio
import gc
import json
import os
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import anyio
import psutil
import pytest

from crew_hooks.bub import host_crew
from crew_plugin.config import load_settings
from crew_plugin.crew import Crew
from crew_plugin.engine.plan import ParallelTask, plan_parallel
from crew_plugin.engine.steer import Order, Say
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.mail import ReceiptOutcome
from crew_plugin.models.records import RunRecord
from crew_plugin.models.states import RunState, TaskState
from crew_plugin.project import find_project
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.hosts.bub_terminal import BubHome

pytestmark = [pytest.mark.bub, pytest.mark.anyio]

SERVER = Path(__file__).parent / "mcp_servers" / "arithmetic.py"
AGENT = "---\nname: soaked\ntools: read, bash, mcp__calc__add\n---\nYou do as you are told.\n"
WARM = 4
"""Waves after which everything that is loaded once is loaded."""
WAIT = 60
MOST_SEEN = 600
POOLS = ("AnyIO worker thread", "asyncio_", "ThreadPoolExecutor")
FLAT_MB = 6.0
"""What memory may differ by between the first waves and the last ones: caches, and the allocator."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds between two waves."""

    tasks: int
    threads: int
    """Beside those of pools, which are bounded and breathe."""
    descriptors: int
    children: int
    listeners: int
    unique_mb: float


def footprint(crew: Crew) -> Footprint:
    process = psutil.Process()
    gc.collect()
    return Footprint(
        tasks=len(asyncio.all_tasks()),
        threads=sum(not each.name.startswith(POOLS) for each in threading.enumerate()),
        descriptors=process.num_fds(),
        children=len(process.children(recursive=True)),
        listeners=len(crew.writer._subscriptions),
        unique_mb=round(process.memory_full_info().uss / 2**20, 2),
    )


class Model:
    """Does what the goal says. Holds the first answer to who is to be steered or cancelled."""

    def __init__(self) -> None:
        self.holding = anyio.Event()

    def __call__(self, conversation: Conversation) -> Reply:
        said = conversation.first_user
        if "break off" in said:
            return Reply(fault=Fault.BAD_REQUEST)
        if "hold on" in said:
            self.holding.set()
            return Reply(text="never", held=True)
        if conversation.tool_results:
            steered = conversation.find("be brief") is not None
            summary = "brief" if steered else conversation.tool_results[0].text
            return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": summary}),))
        if "be told" in said:
            self.holding.set()
            return Reply(calls=(ToolUse(name="read", arguments={"path": "README.md"}),), held=True)
        if "run" in said:
            return Reply(calls=(ToolUse(name="bash", arguments={"command": "echo ran"}),))
        return Reply(calls=(ToolUse(name="mcp__calc__add", arguments={"a": 1, "b": 2}),))

    async def holds(self) -> None:
        """Return once an answer is held."""
        await self.holding.wait()
        self.holding = anyio.Event()


async def submitted(crew: Crew, *goals: str) -> RunRecord:
    tasks = [ParallelTask(goal=goal, agent="soaked") for goal in goals]
    spec = plan_parallel(await crew.catalog(), crew.settings, tasks=tasks, cwd=str(crew.project.root))
    return await crew.supervisor.submit(spec, parent=None, background=True, actor="tester")


async def wave(crew: Crew, model: Model, server: ScriptedModelServer) -> None:
    """One run whose sessions use tools, fail, and are steered; and one that is cancelled."""
    run = await submitted(crew, "add 1 and 2", "add 1 and 2", "run it", "break off", "be told")
    crew.supervisor.start(run.id)
    await model.holds()
    keys = await crew.writer.read(lambda store: {task.title: task.key for task in store.load_tasks(run.id)})
    told = next(key for title, key in keys.items() if "be told" in title)
    order = Order(run_id=run.id, say=Say.STEER, actor="tester", task=told, text="be brief")
    assert (await crew.supervisor.order(order)).receipt.outcome is ReceiptOutcome.INJECTED
    server.release()
    assert (await crew.supervisor.wait(run.id, WAIT)).state is RunState.FAILED
    states = await crew.writer.read(lambda store: [task.state for task in store.load_tasks(run.id)])
    assert sorted(states) == sorted([TaskState.COMPLETED] * 4 + [TaskState.FAILED])
    results = await crew.writer.read(lambda store: store.list_results(run.id))
    assert "brief" in {result.summary for result in results}

    stopped = await submitted(crew, "hold on")
    crew.supervisor.start(stopped.id)
    await model.holds()
    cause = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
    await crew.supervisor.cancel(stopped.id, cause=cause, actor="tester")
    assert (await crew.supervisor.wait(stopped.id, WAIT)).state is RunState.CANCELLED
    server.release()
    server.arrivals.clear()  # the model's own memory is not the crew's


def project(folder: Path) -> BubHome:
    """A project with the agent, and a Bub with the server of its tool."""
    home = BubHome.make(folder, None)
    (home.project / "README.md").write_text("# a file\n", encoding="utf-8")
    (home.project / ".crew" / "agents").mkdir(parents=True)
    (home.project / ".crew" / "agents" / "soaked.md").write_text(AGENT, encoding="utf-8")
    starts, bub = folder / "starts", home.home / "bub"
    starts.mkdir()
    bub.mkdir()
    servers = {"calc": {"command": sys.executable, "args": [str(SERVER), str(starts)]}}
    (bub / "mcp.json").write_text(json.dumps({"mcpServers": servers}), encoding="utf-8")
    return home


def memory(footprints: list[Footprint]) -> float:
    """The middle of some: what is not yet given back is no growth, and what is shared with a child that
    is just being forked is no less."""
    return median(each.unique_mb for each in footprints)


@pytest.mark.timeout(0)
async def test_nothing_grows_from_wave_to_wave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--soak-seconds")
    for name in [name for name in os.environ if name.startswith(("BUB_", "OPENAI_", "ANTHROPIC_", "CREW_"))]:
        monkeypatch.delenv(name)
    home, model = project(tmp_path), Model()
    seen: list[Footprint] = []
    waves, every = 0, 1
    async with ScriptedModelServer(model, keep_requests=False) as server:
        environment = BubHome(project=home.project, home=home.home, base_url=server.base_url).env
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        async with host_crew(find_project(home.project), load_settings(home.project)) as crew:
            ends = time.monotonic() + seconds
            while waves < WARM + 4 or time.monotonic() < ends:
                with anyio.fail_after(WAIT * 2):
                    await wave(crew, model, server)
                waves += 1
                if waves > WARM and waves % every == 0:
                    seen.append(footprint(crew))
                if len(seen) == MOST_SEEN:
                    # Twelve thousand would be 2.4 MB of what they measure.
                    seen, every = seen[::2], every * 2
    first, *rest = seen
    for number, each in ((WARM + 1, first), (waves, rest[-1])):
        print(f"after wave {number}: {asdict(each)}")
    third = max(1, len(rest) // 3)
    early, late = [first, *rest[:third]], rest[-third:]
    # Pools of connections breathe; what leaks grows with every wave.
    assert min(each.threads for each in late) <= max(each.threads for each in early)
    assert min(each.descriptors for each in late) <= max(each.descriptors for each in early)
    assert {(each.tasks, each.children, each.listeners) for each in late} == {
        (first.tasks, first.children, first.listeners)
    }
    assert memory(late) - memory(early) <= FLAT_MB
