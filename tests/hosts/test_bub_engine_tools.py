"""Bub's tools in a session: confined, journalled, and gone when the session is."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import psutil
import pytest

from crew_plugin.host import ModelAnswered, SessionSpec, ToolEnded, ToolStarted, TurnEnded
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Effect
from crew_plugin.testing.conversation import Conversation, Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, tool, turn, until

pytestmark = [pytest.mark.anyio, pytest.mark.bub, pytest.mark.both_engines]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
CANCELLED = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


class Journal:
    """Notes what it is told; fails if it is told to."""

    def __init__(self, *, broken: bool = False) -> None:
        self.lines: list[str] = []
        self.broken = broken

    async def begin(self, tool: str, arguments: Mapping[str, Any], effect: Effect) -> str:
        if self.broken:
            raise OSError("the disk is full")
        self.lines.append(f"begin {tool} {effect}")
        return tool

    async def end(self, call_id: str, error: str | None, *, cancelled: bool = False) -> None:
        self.lines.append(f"end {call_id} {'cancelled' if cancelled else 'failed' if error else 'ok'}")

    def skip(self) -> None:
        self.lines.append("skipped")


def calls(*uses: ToolUse) -> Play:
    """Makes these calls one after the other, then stops."""
    return Play(*(Reply(calls=(use,)) for use in uses), Reply(text="ok"))


def use(name: str, **arguments: Any) -> ToolUse:
    return ToolUse(name=name, arguments=arguments)


def results(host: Host) -> list[str]:
    return [result.text for result in host.model.requests[-1].conversation.tool_results]


async def gone(pid: int) -> None:
    """Return once a process has ended, whether or not somebody reaped it."""
    await asyncio.to_thread(_gone, pid)


def _gone(pid: int) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        psutil.wait_procs([process], timeout=0.2)
        assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def pipe(host: Host, name: str) -> Path:
    """A named pipe in the session's folder, for a command to write to."""
    path = host.folder / name
    os.mkfifo(path)
    return path


async def number(path: Path) -> int:
    """The number that a command writes to a pipe."""
    async with asyncio.timeout(30):
        return int(await asyncio.to_thread(path.read_text))


async def test_files_are_written_and_edited_in_the_sessions_folder(hosted: Hosted, spec_of: SpecOf) -> None:
    play = calls(
        use("write", path="a/b.txt", content="one\ntwo\n"),
        use("edit", path="a/b.txt", old="two", new="three"),
    )
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host, host_tools=("edit", "write"))) as session,
    ):
        events = await turn(session, "go")
        text = (host.folder / "a/b.txt").read_text(encoding="utf-8")
    assert text.split() == ["one", "three"]
    assert [event.target for event in events if isinstance(event, ToolStarted)] == ["a/b.txt", "a/b.txt"]


@pytest.mark.parametrize("path", ["../out.txt", "/tmp/out.txt", "link/out.txt", "~/out.txt"])
async def test_no_file_outside_the_folder_can_be_changed(
    hosted: Hosted, spec_of: SpecOf, tmp_path: Path, path: str
) -> None:
    async with hosted(calls(use("write", path=path, content="x"))) as host:
        (host.folder / "link").symlink_to(tmp_path)
        async with host.engine.open(spec_of(host, host_tools=("write",))) as session:
            await turn(session, "go")
        (said,) = results(host)
    assert str(host.folder) in said
    assert not (tmp_path / "out.txt").exists()


async def test_every_call_is_written_down_before_it_is_made(hosted: Hosted, spec_of: SpecOf) -> None:
    journal = Journal()
    play = calls(
        use("bash", command="true"), use("write", path="a", content=""), use("edit", path="b", old="", new="")
    )
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host, host_tools=("bash", "edit", "write"), journal=journal)) as session,
    ):
        await turn(session, "go")
    assert journal.lines == [
        "begin bash external",
        "end bash ok",
        "begin write idempotent",
        "end write ok",
        "begin edit external",
        "end edit failed",
    ]


async def test_a_call_that_cannot_be_written_down_is_not_made(hosted: Hosted, spec_of: SpecOf) -> None:
    async with (
        hosted(calls(use("write", path="a", content="x"))) as host,
        host.engine.open(spec_of(host, host_tools=("write",), journal=Journal(broken=True))) as session,
    ):
        events = await turn(session, "go")
        assert "the disk is full" in results(host)[0]
        assert not (host.folder / "a").exists()
    assert events[-1] == TurnEnded(text="ok")


async def test_an_argument_may_have_any_name_and_breaks_no_other_call(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    names = ("self", "tool", "arguments", "context", "args", "kwargs", "name", "call")
    four = Reply(
        calls=(
            ToolUse(name="echo", arguments=dict.fromkeys(names, "x")),
            use("write", path="a", content="x", self="me"),
            use("write", path="b", content="x", context={}),
            use("write", path="c", content="x"),
        )
    )
    journal = Journal()
    async with (
        hosted(Play(four, Reply(text="ok"))) as host,
        host.engine.open(
            spec_of(
                host,
                tools=(tool("echo", lambda arguments: ",".join(sorted(arguments))),),
                host_tools=("write",),
                journal=journal,
            )
        ) as session,
    ):
        events = await turn(session, "go")
        echoed, with_self, with_context, plain = results(host)
        assert sorted(path.name for path in host.folder.iterdir()) == ["c"]
    assert events[-1] == TurnEnded(text="ok")
    assert sorted(event.ok for event in events if isinstance(event, ToolEnded)) == [False, False, True, True]
    assert echoed == ",".join(sorted(names))
    assert "no argument called 'self'" in with_self
    assert "no argument called 'context'" in with_context
    assert "Error" not in plain
    assert sorted(journal.lines) == sorted(
        ["begin write idempotent"] * 3 + ["end write failed"] * 2 + ["end write ok"]
    )


async def test_a_failing_command_shows_its_code_and_output(hosted: Hosted, spec_of: SpecOf) -> None:
    async with (
        hosted(calls(use("bash", command="echo broken; exit 3"))) as host,
        host.engine.open(spec_of(host, host_tools=("bash",))) as session,
    ):
        events = await turn(session, "go")
    (ended,) = (event for event in events if isinstance(event, ToolEnded))
    assert not ended.ok
    assert "code 3" in ended.text
    assert "broken" in ended.text


async def test_a_long_output_is_shown_in_part_and_can_be_read_on(hosted: Hosted, spec_of: SpecOf) -> None:
    play = calls(
        use("bash", command="seq 1 20000"), use("bash_output", shell_id="output-1", offset=50_000, limit=40)
    )
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host, host_tools=("bash",))) as session,
    ):
        await turn(session, "go")
    shown, page = results(host)
    assert shown.startswith("1\n2\n")
    assert shown.endswith("20000")
    assert "characters left out" in shown
    whole = "\n".join(map(str, range(1, 20001)))
    assert page.endswith(whole[50_000:50_040])


async def test_processes_know_which_session_they_belong_to(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(calls(use("bash", command="echo $CREW_SESSION $CREW_ROLE"))) as host:
        spec = spec_of(host, host_tools=("bash",), identity={"role": "tester"})
        async with host.engine.open(spec) as session:
            await turn(session, "go")
        assert results(host) == [f"{spec.session_id} tester"]


async def test_a_session_cannot_reach_the_shells_of_another(hosted: Hosted, spec_of: SpecOf) -> None:
    def script(conversation: Conversation) -> Reply:
        if conversation.tool_results:
            return Reply(text="ok")
        if shell := conversation.find(r"shell (bash-\w+)"):
            return Reply(calls=(use("bash_kill", shell_id=shell), use("bash_output", shell_id=shell)))
        return Reply(calls=(use("bash", command="sleep 60", background=True),))

    async with hosted(script) as host:
        tools = ("bash",)
        async with (
            host.engine.open(spec_of(host, host_tools=tools)) as first,
            host.engine.open(spec_of(host, host_tools=tools)) as second,
        ):
            events = await turn(first, "go")
            (started,) = (event.text for event in events if isinstance(event, ToolEnded))
            shell = started.split("shell_id: ")[1].split()[0]
            events = await turn(second, f"end shell {shell}")
    refused = [event for event in events if isinstance(event, ToolEnded)]
    assert [event.ok for event in refused] == [False, False]
    assert all("has no shell" in event.text for event in refused)


async def test_aborting_ends_a_sleeping_command_and_its_children(hosted: Hosted, spec_of: SpecOf) -> None:
    journal = Journal()
    command = "sleep 300 & echo $! > child; echo $$ > shell; wait"
    async with hosted(calls(use("bash", command=command))) as host:
        pipes = pipe(host, "child"), pipe(host, "shell")
        async with host.engine.open(spec_of(host, host_tools=("bash",), journal=journal)) as session:
            await session.prompt("go")
            pids = [await number(path) for path in pipes]
            async with asyncio.timeout(1):
                await session.abort(CANCELLED)
        for pid in pids:
            await gone(pid)
    assert journal.lines == ["begin bash external", "end bash cancelled"]


async def test_leaving_ends_what_ignores_a_polite_request(hosted: Hosted, spec_of: SpecOf) -> None:
    command = "trap '' TERM; echo $$ > shell; while true; do sleep 0.1; done"
    async with hosted(calls(use("bash", command=command, background=True))) as host:
        told = pipe(host, "shell")
        async with host.engine.open(spec_of(host, host_tools=("bash",))) as session:
            await turn(session, "go")
            pid = await number(told)
        await gone(pid)


async def test_leaving_ends_a_process_that_left_its_shell(hosted: Hosted, spec_of: SpecOf) -> None:
    command = "setsid sh -c 'echo $$ > stray; exec sleep 300' >/dev/null 2>&1 & read line < go"
    async with hosted(calls(use("bash", command=command))) as host:
        told, go = pipe(host, "stray"), pipe(host, "go")
        async with host.engine.open(spec_of(host, host_tools=("bash",))) as session:
            await session.prompt("go")
            pid = await number(told)
            await asyncio.to_thread(go.write_text, "go\n")
            await until(session, TurnEnded)
            assert psutil.pid_exists(pid)
        await gone(pid)


async def test_a_cancelled_caller_still_ends_the_session_and_is_told(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(calls(use("bash", command="echo $$ > shell; sleep 300"))) as host:
        told = pipe(host, "shell")

        async def caller() -> None:
            async with host.engine.open(spec_of(host, host_tools=("bash",))) as session:
                await turn(session, "go")

        task = asyncio.create_task(caller())
        pid = await number(told)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await gone(pid)


async def test_calls_of_a_provider_that_repeats_its_ids_each_have_one_of_their_own(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    def same(*numbers: int, ident: str) -> Reply:
        return Reply(calls=tuple(ToolUse(name="say", arguments={"n": n}, id=ident) for n in numbers))

    play = Play(same(1, 2, ident="call_0"), same(3, ident="call_0"), same(4, 5, ident=""), Reply(text="ok"))
    async with (
        hosted(play) as host,
        host.engine.open(
            spec_of(host, tools=(tool("say", lambda arguments: str(arguments["n"])),))
        ) as session,
    ):
        events = await turn(session, "count")
    answered = [event.call_id for event in events if isinstance(event, ToolEnded)]
    assert len(set(answered)) == 5
    asked = [call.id for event in events if isinstance(event, ModelAnswered) for call in event.tool_calls]
    assert asked == answered
    messages = host.model.requests[-1].body["messages"]
    told = [(each["tool_call_id"], each["content"]) for each in messages if each["role"] == "tool"]
    assert told == list(zip(asked, "12345", strict=True))
