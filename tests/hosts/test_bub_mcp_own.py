"""MCP servers that one agent brings itself, and how many processes a run of many sessions has."""

import asyncio
import json
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bub_mcp.plugin import MCPPlugin

from crew_hooks.bub.engine import BubEngine
from crew_plugin.engine.plan import ParallelTask
from crew_plugin.host import ServerNoted, SessionSpec
from crew_plugin.mcp.proxy import McpTimes
from crew_plugin.models.spec import McpServerSpec, RuntimeMode
from crew_plugin.models.states import RunState
from crew_plugin.store.port import RunStore
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_engine import Host
from tests.hosts.bub_terminal import BubHome
from tests.hosts.mcp_stage import (
    Caller,
    call,
    configure,
    ended,
    gone,
    http,
    kill,
    pids,
    plain,
    running,
    turn,
)
from tests.hosts.test_bub_crew import hosted as crew_in_bub
from tests.hosts.test_bub_crew import submitted

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
REAL = Path(__file__).parent / "mcp_servers" / "arithmetic.py"


def own(folder: Path, name: str = "mine", mode: str = "ok", **more: Any) -> McpServerSpec:
    return McpServerSpec.model_validate({"name": name, **plain(folder, mode), **more})


async def test_a_server_of_an_agent_starts_with_its_first_session_and_serves_the_others(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    servers = (own(folder),)
    async with hosted(Caller(), MCPPlugin) as host:
        assert pids(folder) == []
        for _ in range(2):
            async with (
                host.engine.open(spec_of(host, mcp_servers=servers)) as one,
                host.engine.open(spec_of(host, mcp_servers=servers)) as other,
            ):
                answers = {(await call(each, "mcp__mine__add", a=1, b=2)).text for each in (one, other)}
                assert answers == {f"3 by {pids(folder)[0]}"}
        assert len(pids(folder)) == len(running(folder)) == 1
    assert running(folder) == []


async def test_sessions_of_other_agents_do_not_see_it(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, mcp_servers=(own(tmp_path / "own"),))),
        host.engine.open(spec_of(host, host_tools=("mcp__*",))) as other,
    ):
        assert not (await call(other, "mcp__mine__add", a=1, b=2)).ok
        assert not host.model.requests[-1].conversation.tools


async def test_it_is_ended_when_no_session_used_it_for_a_while(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(idle_seconds=0.1))
        async with engine.running():
            spec = spec_of(host, mcp_servers=(own(folder),))
            async with engine.open(spec) as session:
                await call(session, "mcp__mine__write")
            await gone(pids(folder)[0])
            async with engine.open(spec_of(host, mcp_servers=(own(folder),))) as session:
                assert (await call(session, "mcp__mine__write")).ok
    assert len(pids(folder)) == 2
    assert running(folder) == []


async def test_it_gets_its_own_variables_and_no_key_of_others(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "s3cret")
    monkeypatch.setenv("OTHER_KEY", "of somebody else")
    server = own(tmp_path / "own", env={"TOKEN": "Bearer ${SOME_TOKEN}", "MODE": "test"})
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, mcp_servers=(server,))) as session,
    ):
        seen = json.loads((await call(session, "mcp__mine__variables")).text)
    assert seen["TOKEN"] == "Bearer s3cret"
    assert seen["MODE"] == "test"
    assert not {"OTHER_KEY", "BUB_API_KEY", "SOME_TOKEN"} & seen.keys()
    assert "PATH" in seen
    assert "s3cret" not in server.model_dump_json()


async def test_a_variable_that_is_not_set_is_named_and_nothing_is_started(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    server = own(tmp_path / "own", env={"TOKEN": "${NO_SUCH_VARIABLE}"})
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, mcp_servers=(server,))) as session,
    ):
        events = await turn(session, "mcp__mine__add")
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert note.state == "failed"
    assert "NO_SUCH_VARIABLE, which is not set" in note.text
    assert pids(tmp_path / "own") == []


@pytest.mark.parametrize("mode", ["exit", "hang_initialize", "hang_tools_list"])
async def test_one_that_never_gets_ready_leaves_the_reason_and_no_process(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path, mode: str
) -> None:
    folder = tmp_path / "own"
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(connect_seconds=0.7))
        spec = spec_of(host, mcp_servers=(own(folder, mode=mode),))
        async with engine.running(), asyncio.timeout(8), engine.open(spec) as session:
            events = await turn(session, "mcp__mine__add")
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert note.state == "failed"
    assert ("no licence for this machine" if mode == "exit" else "within 0.7 s") in note.text
    assert running(folder) == []


async def test_it_is_connected_again_when_it_was_killed(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    folder = tmp_path / "own"
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, mcp_servers=(own(folder),))) as session,
    ):
        kill(pids(folder)[0])
        await gone(pids(folder)[0])
        assert (await call(session, "mcp__mine__write")).text == "written"
        assert len(running(folder)) == 1
    assert running(folder) == []


async def test_tools_that_change_right_after_its_first_list_are_read(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path
) -> None:
    server = own(tmp_path / "own", mode="more_later")
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, mcp_servers=(server,))) as session,
    ):
        await call(session, "mcp__mine__write")
        assert (await call(session, "mcp__mine__extra")).text == "called extra"
        assert "mcp__mine__add" not in host.model.requests[-1].conversation.tools


async def test_one_over_http_is_reached_with_its_headers_and_again_after_a_restart(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path, free_port: int
) -> None:
    server = McpServerSpec(name="mine", url=f"http://127.0.0.1:{free_port}/mcp", headers={"X-Key": "k"})
    async with hosted(Caller(), MCPPlugin) as host:
        async with http(tmp_path / "one", free_port):
            opening = host.engine.open(spec_of(host, mcp_servers=(server,)))
            session = await opening.__aenter__()
            first = await call(session, "mcp__mine__add", a=1, b=1)
        try:
            async with http(tmp_path / "two", free_port):
                second = await call(session, "mcp__mine__write")
        finally:
            await opening.__aexit__(None, None, None)
    assert first.ok
    assert second.text == "written"


async def test_it_hides_a_server_of_the_host_that_has_its_name_and_says_so(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(bub_home, {"mine": plain(tmp_path / "host")})
    servers = (own(tmp_path / "own"),)
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=("mcp__mine__*",), mcp_servers=servers)) as session,
    ):
        events = await turn(session, "mcp__mine__add", a=1, b=1)
    assert ended(events).text == f"2 by {pids(tmp_path / 'own')[0]}"
    assert pids(tmp_path / "host") == []
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert "the host's server 'mine' is hidden by the agent's own server 'mine'" in note.text


# --- many sessions ---

SERVERS = ("one", "two", "three")
ADDS = "---\nname: adds\ntools: mcp__one__add, mcp__two__add, mcp__three__add\n---\nYou add.\n"


class AllThree:
    """Each session calls all servers at once, then hands in what came back."""

    def __init__(self, count: Callable[[], int]) -> None:
        self.count = count
        self.most = 0

    def __call__(self, conversation: Conversation) -> Reply:
        self.most = max(self.most, self.count())
        results = [result.text for result in conversation.tool_results]
        if not results:
            return Reply(
                calls=tuple(
                    ToolUse(name=f"mcp__{server}__add", arguments={"a": 1, "b": 1}) for server in SERVERS
                )
            )
        return Reply(calls=(ToolUse(name="submit_result", arguments={"summary": " ".join(results)}),))


def summaries(store: RunStore, run_id: str) -> list[str]:
    return [result.summary for result in store.list_results(run_id)]


def kinds(store: RunStore, run_id: str) -> set[str]:
    """Where the sessions of a run were held."""
    tasks = store.load_tasks(run_id)
    return {str(attempt.kind) for task in tasks for attempt in store.list_attempts(task.id)}


@pytest.mark.parametrize(("runtime", "kind"), [("live-session", "live"), ("child-process", "child")])
async def test_twenty_sessions_with_three_servers_have_three_processes_and_none_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: RuntimeMode, kind: str
) -> None:
    folders = {server: tmp_path / server for server in SERVERS}
    for folder in folders.values():
        folder.mkdir()
    home = BubHome.make(tmp_path, None)
    (home.project / ".crew" / "agents").mkdir(parents=True)
    (home.project / ".crew" / "agents" / "adds.md").write_text(ADDS, encoding="utf-8")
    (home.home / "bub").mkdir()
    configure(
        home.home / "bub",
        {
            server: {"command": sys.executable, "args": [str(REAL), str(folder)]}
            for server, folder in folders.items()
        },
    )
    script = AllThree(lambda: sum(len(running(folder)) for folder in folders.values()))
    async with crew_in_bub(home, monkeypatch, script) as crew:
        tasks = [ParallelTask(goal=f"add {number}", agent="adds") for number in range(20)]
        run = await submitted(crew, *tasks, runtime=runtime)
        crew.supervisor.start(run.id)
        done = await crew.supervisor.wait(run.id, 60)
        results = await crew.writer.read(partial(summaries, run_id=run.id))
        held = await crew.writer.read(partial(kinds, run_id=run.id))
        (first, second, third) = (pids(folder) for folder in folders.values())
    assert done.state is RunState.COMPLETED
    assert held == {kind}
    assert (len(first), len(second), len(third)) == (1, 1, 1)
    assert results == [f"2 by {first[0]} 2 by {second[0]} 2 by {third[0]}"] * 20
    assert script.most == 3
    assert [running(folder) for folder in folders.values()] == [[], [], []]
