"""What is special about sessions in worker processes: their deaths, their environment, their servers."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio.lowlevel
import psutil
import pytest
from bub_mcp.plugin import MCPPlugin

from crew_plugin.child import protocol
from crew_plugin.child.engine import ChildEngine
from crew_plugin.child.nursery import Nursery
from crew_plugin.errors import HostUnsupported, WorkerLost
from crew_plugin.host import (
    ModelAnswered,
    Session,
    SessionEvent,
    SessionFailed,
    SessionSpec,
    ToolEnded,
    TurnEnded,
)
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.states import SessionKind
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, rest, tool, turn, until
from tests.hosts.mcp_stage import configure

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
ENOUGH = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")
NAP = f"71.{os.getpid()}"
"""Seconds that nothing else on the machine sleeps, also where the tests run several times at once."""
STUBBORN = f"(trap '' TERM; setsid sh -c \"trap '' TERM; sleep {NAP}5\" & ); trap '' TERM; sleep {NAP}2"
"""Ignores a polite request, and so does what it starts in a session of its own."""


@pytest.fixture
def engine_kind() -> SessionKind:
    return SessionKind.CHILD


def nursery(**facts: Any) -> Nursery:
    """Where workers of this test's own come from."""
    return Nursery(zygote="crew_hooks.bub.zygote", worker="crew_hooks.bub.worker", **facts)


def worker_of(session: Session) -> int:
    """The process that a session lives in."""
    pid: int = session._worker.pid  # type: ignore[attr-defined]  # nobody else has a use for it
    return pid


def zygote() -> psutil.Process:
    """The process that workers are forked from."""
    (found,) = [p for p in psutil.Process().children() if "crew_hooks.bub.zygote" in " ".join(p.cmdline())]
    return found


def sleeping() -> list[psutil.Process]:
    """The commands of these tests that still run."""
    found = []
    for process in psutil.process_iter():
        try:
            if any(part.startswith(NAP) or f"sleep {NAP}" in part for part in process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


async def gone(pid: int) -> None:
    """Wait for the end of a process."""
    async with asyncio.timeout(10):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await anyio.lowlevel.checkpoint()


def runs_stubbornly(_: Conversation) -> Reply:
    return Reply(calls=(ToolUse(name="bash", arguments={"command": STUBBORN}),))


async def begun(session: Session) -> None:
    """Wait until the stubborn command runs."""
    await session.prompt("go")
    async with asyncio.timeout(10):
        while len(sleeping()) < 2:
            await anyio.lowlevel.checkpoint()


async def test_a_worker_has_the_environment_but_for_what_is_denied_and_says_whose_it_is(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANTED", "yes")
    monkeypatch.setenv("SOME_SECRET", "no")
    command = 'echo "$WANTED/$SOME_SECRET/$CREW_SESSION/$CREW_RUN/$CREW_DEPTH/$(pwd)"'
    play = Play(Reply(calls=(ToolUse(name="bash", arguments={"command": command}),)), Reply(text="ok"))
    async with hosted(play) as host, nursery() as own:
        engine = ChildEngine(host.home, own, denied_variables=("SOME_*",))
        spec = spec_of(host, host_tools=("bash",), identity={"run": "run_7"})
        async with engine.open(spec) as session:
            events = await turn(session, "go")
            pid = worker_of(session)
        await gone(pid)
    said = next(event.text for event in events if isinstance(event, ToolEnded))
    assert said.strip() == f"yes//{spec.session_id}/run_7/1/{host.folder}"
    assert pid != os.getpid()


async def test_a_worker_that_is_killed_is_told_of_and_leaves_no_process(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with hosted(runs_stubbornly) as host:
        async with host.engine.open(spec_of(host, host_tools=("bash",))) as session:
            await begun(session)
            os.kill(worker_of(session), signal.SIGKILL)
            events = await rest(session)
        assert sleeping() == []
    (failed,) = [event for event in events if isinstance(event, SessionFailed)]
    assert isinstance(failed.error, WorkerLost)
    assert "killed by signal 9 (SIGKILL)" in str(failed.error)


async def test_a_worker_that_is_killed_in_a_request_gives_its_place_at_the_provider_back(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with hosted(lambda _: Reply(held=True)) as host:
        gate = host.gates.gate("openai", host.model.base_url, "test")
        async with host.engine.open(spec_of(host)) as session:
            await session.prompt("go")
            async with asyncio.timeout(10):
                await host.model.arrived(1)
            held = gate.flow.held
            os.kill(worker_of(session), signal.SIGKILL)
            await rest(session)
        assert (held, gate.flow.held) == (1, 0)


async def test_leaving_a_session_ends_what_left_its_shell_and_ignores_requests(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    async with hosted(runs_stubbornly) as host:
        async with host.engine.open(spec_of(host, host_tools=("bash",))) as session:
            await begun(session)
            await session.abort(ENOUGH)
        assert sleeping() == []


async def test_a_worker_that_stands_still_is_ended_with_its_session(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(runs_stubbornly) as host:
        async with host.engine.open(spec_of(host, host_tools=("bash",))) as session:
            await begun(session)
            pid = worker_of(session)
            os.kill(pid, signal.SIGSTOP)
        await gone(pid)
        assert sleeping() == []


async def test_sessions_outlive_the_zygote_and_new_ones_get_another(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(text="ok")) as host, nursery() as own:
        engine = ChildEngine(host.home, own)
        async with engine.open(spec_of(host)) as first:
            await turn(first, "go")
            before = zygote().pid
            os.kill(before, signal.SIGKILL)
            await gone(before)
            assert (await turn(first, "and on"))[-1] == TurnEnded(text="ok")
            async with engine.open(spec_of(host)) as second:
                assert (await turn(second, "go"))[-1] == TurnEnded(text="ok")
                assert zygote().pid != before


async def test_a_worker_that_is_not_forked_does_the_same(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(Reply(calls=(ToolUse(name="look"),)), Reply(text="ok"))
    async with hosted(play) as host, nursery(forks=False) as own:
        engine = ChildEngine(host.home, own)
        async with engine.open(spec_of(host, tools=(tool("look", "seen"),))) as session:
            events = await turn(session, "go")
            pid = worker_of(session)
        await gone(pid)
    assert [event.text for event in events if isinstance(event, ToolEnded)] == ["seen"]


async def test_a_zygote_that_cannot_start_is_told(hosted: Hosted, spec_of: SpecOf) -> None:
    broken = Nursery(zygote="crew_hooks.bub.no_such_module", worker="")
    async with hosted(lambda _: Reply(text="ok")) as host, broken:
        with pytest.raises(HostUnsupported, match="did not start"):
            async with ChildEngine(host.home, broken).open(spec_of(host)):
                raise NotImplementedError


async def test_sessions_that_wait_for_a_zygote_get_their_workers_from_the_next_one(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    def zygotes() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if "crew_hooks.bub.zygote" in each.cmdline()]

    async with hosted(lambda _: Reply(text="ok")) as host, nursery() as own:
        engine = ChildEngine(host.home, own)

        async def one() -> SessionEvent:
            async with engine.open(spec_of(host)) as session:
                return (await turn(session, "go"))[-1]

        before = set(zygotes())
        own.warm()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            asked = [group.create_task(one()) for _ in range(6)]
            (first,) = set(zygotes()) - before
            await asyncio.sleep(0)  # all six wait for it now
            first.kill()
        more = set(zygotes()) - before - {first}
    assert [task.result() for task in asked] == [TurnEnded(text="ok")] * 6
    assert len(more) == 1


async def test_workers_reach_servers_through_their_supervisor_and_only_what_is_allowed(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    starts.mkdir()
    server = Path(__file__).parent / "mcp_servers" / "arithmetic.py"
    command = {"command": sys.executable, "args": [str(server), str(starts)]}
    configure(bub_home, {"arithmetic": command})

    def script(conversation: Conversation) -> Reply:
        if conversation.tool_results:
            return Reply(text="ok")
        offered = [name for name in conversation.tools if name.startswith("mcp__")]
        return Reply(
            text=",".join(offered), calls=(ToolUse(name="mcp__arithmetic__add", arguments={"a": 3, "b": 4}),)
        )

    async with hosted(script, MCPPlugin) as host:

        async def one() -> tuple[str, tuple[str, ...]]:
            spec = spec_of(host, host_tools=("mcp__arithmetic__add",))
            async with host.engine.open(spec) as session:
                await session.prompt("go")
                seen, ended = await until(session, ToolEnded)
                offered = next(event.text for event in seen if isinstance(event, ModelAnswered))
                return ended.text, tuple(offered.split(","))

        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            asked = [group.create_task(one()) for _ in range(20)]
    assert {task.result()[0].split()[0] for task in asked} == {"7"}
    assert {task.result()[1] for task in asked} == {("mcp__arithmetic__add",)}
    assert len(list(starts.iterdir())) == 1


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"{}",
        b"[]",
        b'{"type": "hello"}',
        b'{"type": "hello", "version": 1, "pid": 2, "more": 3}',
        b'{"type": "nothing"}',
        b'{"type": "event", "kind": "ModelBusy", "data": [], "jobs": []}',
    ],
)
def test_a_line_that_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.decode(line)


def test_an_event_that_there_is_not_is_refused() -> None:
    with pytest.raises(protocol.ProtocolError):
        protocol.event_of("SomethingElse", {})
    with pytest.raises(protocol.ProtocolError):
        protocol.event_of("TurnEnded", {})


def test_every_message_and_event_comes_out_as_it_went_in() -> None:
    messages: list[protocol.Message] = [
        protocol.Hello(version=1, pid=3),
        protocol.Call(id=4, what="tool", name="read", arguments={"path": "ä"}, call_id="c", session="s"),
        protocol.Restrict(tools=("a", "b"), force=None),
        protocol.Answer(id=4, error="no", expected=False),
        protocol.Quiet(),
    ]
    for message in messages:
        assert protocol.decode(protocol.encode(message).rstrip(b"\n")) == message
    for event in (TurnEnded(text="x"), ToolEnded(call_id="1", name="a", text="t", ok=True, milliseconds=1.5)):
        assert protocol.event_of(*protocol.told_of(event)) == event
