"""MCP servers of Bub that die, hang, change or talk nonsense while sessions use them."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
from bub_mcp.plugin import MCPChannel, MCPPlugin

from crew_hooks.bub.compat import mcp
from crew_hooks.bub.engine import BubEngine
from crew_plugin.host import (
    ServerNoted,
    SessionSpec,
    ToolProgress,
    ToolStarted,
)
from crew_plugin.mcp import link
from crew_plugin.mcp.proxy import McpTimes
from crew_plugin.models.causes import Cause, CauseCode
from tests.hosts.bub_engine import Host, until
from tests.hosts.mcp_stage import (
    Caller,
    call,
    configure,
    ended,
    gone,
    heard,
    http,
    kill,
    pids,
    plain,
    running,
    turn,
)

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
ALL = ("mcp__plain__*",)
STOP = Cause(code=CauseCode.CALLER_CANCELLED, message="enough")


@pytest.fixture
def folder(bub_home: Path, tmp_path: Path) -> Path:
    """A plain server on stdio that Bub is configured with; where it leaves its traces."""
    where = tmp_path / "plain"
    configure(bub_home, {"plain": plain(where)})
    return where


def offered(host: Host) -> set[str]:
    """What the newest request offered."""
    return set(host.model.requests[-1].conversation.tools)


def notes(events: list[object]) -> list[str]:
    return [event.state for event in events if isinstance(event, ServerNoted)]


@pytest.mark.both_engines
async def test_a_killed_server_is_connected_again_by_the_next_call(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        (first,) = pids(folder)
        kill(first)
        await gone(first)
        events = await turn(session, "mcp__plain__write", text="x")
        assert ended(events).text == "written"
        assert notes([*events]) == ["lost", "reconnected"]
        assert len(heard(folder, "tools/call")) == 1
        assert len(running(folder)) == 1
    assert running(folder) == []


async def test_sessions_that_call_at_once_connect_a_dead_server_once(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with hosted(Caller(), MCPPlugin) as host:
        ready, killed = asyncio.Semaphore(0), asyncio.Event()

        async def one() -> str:
            async with host.engine.open(spec_of(host, host_tools=ALL)) as session:
                ready.release()
                await killed.wait()
                return (await call(session, "mcp__plain__add", a=1, b=1)).text

        calls = [asyncio.create_task(one()) for _ in range(8)]
        for _ in calls:
            await ready.acquire()
        (first,) = pids(folder)
        kill(first)
        await gone(first)
        killed.set()
        answers = await asyncio.gather(*calls)
        second = pids(folder)[-1]
        assert set(answers) == {f"2 by {second}"}
        assert len(pids(folder)) == 2
    assert running(folder) == []


@pytest.mark.both_engines
async def test_a_server_that_dies_during_a_call_leaves_its_effect_unknown(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        died = await call(session, "mcp__plain__die")
        after = await call(session, "mcp__plain__add", a=1, b=2)
    assert not died.ok
    assert "'plain' was lost during the call" in died.text
    assert "unknown and it was not repeated" in died.text
    assert after.text.startswith("3 by ")
    assert [message["params"]["name"] for message in heard(folder, "tools/call")] == ["die", "add"]


async def test_a_lost_call_that_changes_nothing_is_made_again(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        assert (await call(session, "mcp__plain__die_once")).text == "called die_once"
    assert len(pids(folder)) == 2


async def test_a_server_that_dies_again_and_again_is_given_up_with_the_reason(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        for _ in range(4):
            await call(session, "mcp__plain__die")
        events = await turn(session, "mcp__plain__die")
        refused = await call(session, "mcp__plain__add", a=1, b=1)
        (report,) = await host.engine.server_reports(ALL, str(host.folder))
    assert notes([*events])[-1] == "given_up"
    assert "is not connected: it was lost 5 times in 10 minutes" in refused.text
    assert "Nothing was done" in refused.text
    assert report.state == "given_up"
    assert "lost 5 times" in report.reason
    assert running(folder) == []


@pytest.mark.both_engines
async def test_the_servers_own_progress_is_told_but_not_all_of_it(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        events = await turn(session, "mcp__plain__work")
    told = [event for event in events if isinstance(event, ToolProgress)]
    assert [(event.name, event.text) for event in told] == [("mcp__plain__work", "1 of 100: counting")]
    assert ended(events).text == "worked"


@pytest.mark.both_engines
async def test_a_call_that_is_given_up_is_cancelled_at_the_server(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(call_seconds=0.2))
        async with engine.running(), engine.open(spec_of(host, host_tools=ALL)) as session:
            late = await call(session, "mcp__plain__hang")
            await call(session, "mcp__plain__write")
    assert "did not answer within 0.2 s and was told to stop" in late.text
    (asked, *_), (cancelled,) = heard(folder, "tools/call"), heard(folder, "notifications/cancelled")
    assert cancelled["params"]["requestId"] == asked["id"]


@pytest.mark.both_engines
async def test_aborting_a_session_cancels_its_call_at_the_server(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with hosted(Caller(), MCPPlugin) as host:
        async with host.engine.open(spec_of(host, host_tools=ALL)) as session:
            await session.prompt("mcp__plain__hang")
            await until(session, ToolStarted)
            # The pipe keeps the order: the server has the call before this answer of it comes.
            async with host.engine.open(spec_of(host, host_tools=ALL)) as other:
                await call(other, "mcp__plain__write")
            async with asyncio.timeout(1):
                await session.abort(STOP)
        async with host.engine.open(spec_of(host, host_tools=ALL)) as other:
            assert (await call(other, "mcp__plain__write")).ok
    (asked, *_), (cancelled,) = heard(folder, "tools/call"), heard(folder, "notifications/cancelled")
    assert cancelled["params"]["requestId"] == asked["id"]


async def test_a_session_that_waits_for_a_server_to_come_back_can_be_stopped_and_others_get_an_answer(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    where = tmp_path / "plain"
    configure(bub_home, {"plain": plain(where, "hang_again")})
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(connect_seconds=0.8))
        async with (
            asyncio.timeout(20),
            engine.running(),
            engine.open(spec_of(host, host_tools=ALL)) as other,
        ):
            async with engine.open(spec_of(host, host_tools=ALL)) as session:
                (first,) = pids(where)
                kill(first)
                await gone(first)
                await session.prompt('mcp__plain__add {"a": 1, "b": 1}')
                await until(session, ToolStarted)
                while len(heard(where, "initialize")) < 2:  # noqa: ASYNC110 - servers tell by files
                    await asyncio.sleep(0.02)
                async with asyncio.timeout(1):
                    await session.abort(STOP)
            answered = await call(other, "mcp__plain__add", a=1, b=1)
        assert not answered.ok
        assert "plain" in answered.text
    assert running(where) == []


@pytest.mark.both_engines
async def test_tools_that_come_and_go_are_honoured_at_the_next_step(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        events = await turn(session, "mcp__plain__grow")
        after_the_call = offered(host)
        added = await call(session, "mcp__plain__extra")
        gone_now = await call(session, "mcp__plain__add", a=1, b=1)
    (noted,) = (event for event in events if isinstance(event, ServerNoted))
    assert (noted.state, noted.text) == ("tools_changed", "new: extra; gone: add")
    assert {"mcp__plain__extra", "mcp__plain__add"} & after_the_call == {"mcp__plain__extra"}
    assert added.text == "called extra"
    assert not gone_now.ok


async def test_tools_that_change_while_their_list_is_refused_are_read_once_more(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(bub_home, {"plain": plain(tmp_path / "plain", "refuse_once")})
    async with (
        hosted(Caller(), MCPPlugin) as host,
        asyncio.timeout(30),
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        events = await turn(session, "mcp__plain__grow")
        while not any("new: extra" in event.text for event in events if isinstance(event, ServerNoted)):
            events += await turn(session, "mcp__plain__write")
        assert (await call(session, "mcp__plain__extra")).text == "called extra"
    first, *_ = (event for event in events if isinstance(event, ServerNoted))
    assert "does not list them: not now" in first.text


async def test_two_tools_that_would_have_one_name_are_told(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(bub_home, {"plain": plain(tmp_path / "plain", "odd")})
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        events = await turn(session, "mcp__plain__odd_name")
    assert ended(events).text == "called odd.name"
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert "'odd.name' and 'odd_name'" in note.text


async def test_denied_tools_are_not_offered_whatever_allows_them(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    denied = ("mcp__plain__d*", "mcp__*__hang")
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL, denied_tools=denied)) as session,
    ):
        refused = await call(session, "mcp__plain__die")
        names = offered(host)
    assert not refused.ok
    assert heard(folder, "tools/call") == []
    assert not names & {"mcp__plain__die", "mcp__plain__die_once", "mcp__plain__hang"}
    assert "mcp__plain__add" in names


@pytest.mark.both_engines
async def test_what_is_no_text_is_named_and_kept(hosted: Hosted, spec_of: SpecOf, folder: Path) -> None:
    kept: dict[str, bytes] = {}

    async def keep(name: str, body: bytes) -> str:
        kept[name] = body
        return f"artifact:{len(kept)}"

    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL, keep=keep)) as session,
    ):
        shown = await call(session, "mcp__plain__show")
        facts = await call(session, "mcp__plain__facts")
        failed = await call(session, "mcp__plain__fail")
    assert shown.text.splitlines() == [
        "here",
        "[image, image/png, 4 bytes; not shown, kept as artifact:1]",
        "[audio, audio/wav, 4 bytes; not shown, kept as artifact:2]",
        "[resource, application/octet-stream, 3 bytes, file:///data.bin; not shown, kept as artifact:3]",
        "a note",
        "[link: text/html, https://example.org/x]",
    ]
    assert [*kept.values()] == [b"\x89PNG", b"RIFF", b"abc"]
    assert facts.text == '{\n "answer": 42\n}'
    assert not failed.ok
    assert failed.text == "Error: mcp__plain__fail failed: it is closed on Sundays"


async def test_ten_megabytes_are_kept_whole_and_shown_in_part(
    hosted: Hosted, spec_of: SpecOf, folder: Path
) -> None:
    kept: list[bytes] = []

    async def keep(name: str, body: bytes) -> str:
        kept.append(body)
        return f"artifact:1 ({name})"

    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL, keep=keep)) as session,
    ):
        result = await call(session, "mcp__plain__recite", length=10_000_000)
    assert result.ok
    assert len(result.text) < 61_000
    assert result.text.startswith("first")
    assert result.text.endswith("last")
    assert "9,940,000 characters left out; the whole: artifact:1 (mcp__plain__recite.txt)" in result.text
    assert [len(body) for body in kept] == [10_000_000]


@pytest.mark.parametrize("mode", ["hang_initialize", "hang_tools_list", "exit"])
async def test_a_server_that_never_gets_ready_keeps_nobody_from_the_others(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path, mode: str
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    configure(bub_home, {"bad": plain(bad, mode), "plain": plain(good)})
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(connect_seconds=0.8))
        async with engine.running():
            spec = spec_of(host, host_tools=("mcp__bad__*", *ALL))
            async with asyncio.timeout(8), engine.open(spec) as session:
                events = await turn(session, "mcp__plain__add", a=1, b=1)
            reports = await engine.server_reports(("mcp__*",), str(host.folder))
        assert running(bad) == []
    assert ended(events).ok
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert (note.server, note.state) == ("bad", "failed")
    assert note.text
    assert {report.name: report.state for report in reports} == {"bad": "failed", "plain": "connected"}
    assert running(good) == []


async def test_a_chat_gets_the_other_servers_although_one_hangs(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(
        bub_home, {"bad": plain(tmp_path / "bad", "hang_tools_list"), "plain": plain(tmp_path / "good")}
    )
    async with hosted(Caller(), MCPPlugin) as host:
        mcp.bounded(host.framework, 0.6)
        channel = mcp.mcp_channel(host.framework)
        assert isinstance(channel, MCPChannel)
        async with asyncio.timeout(8):
            await channel.start(asyncio.Event())
            try:
                async with host.engine.open(spec_of(host, host_tools=ALL)) as session:
                    assert (await call(session, "mcp__plain__write")).ok
            finally:
                await channel.stop()
        assert running(tmp_path / "bad") == running(tmp_path / "good") == []


async def test_lines_of_garbage_on_a_servers_output_are_passed_over(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(bub_home, {"plain": plain(tmp_path / "plain", "garbage")})
    async with (
        hosted(Caller(), MCPPlugin) as host,
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        assert (await call(session, "mcp__plain__add", a=1, b=1)).text.startswith("2 by ")


async def test_bytes_that_are_no_text_end_the_connection_within_its_limit(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path
) -> None:
    configure(bub_home, {"plain": plain(tmp_path / "plain", "bytes")})
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(connect_seconds=0.8))
        spec = spec_of(host, host_tools=ALL)
        async with engine.running(), asyncio.timeout(8), engine.open(spec) as session:
            events = await turn(session, "mcp__plain__add", a=1, b=1)
        assert running(tmp_path / "plain") == []
    assert not ended(events).ok
    assert notes([*events]) == ["failed"]


async def test_a_server_over_http_that_was_restarted_is_connected_again(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path, free_port: int
) -> None:
    configure(bub_home, {"plain": {"url": f"http://127.0.0.1:{free_port}/mcp"}})
    async with hosted(Caller(), MCPPlugin) as host:
        async with http(tmp_path / "one", free_port):
            opening = host.engine.open(spec_of(host, host_tools=ALL))
            session = await opening.__aenter__()
        try:
            async with http(tmp_path / "two", free_port):
                events = await turn(session, "mcp__plain__write", text="x")
        finally:
            await opening.__aexit__(None, None, None)
    assert ended(events).text == "written"
    assert notes([*events]) == ["lost", "reconnected"]
    assert len(heard(tmp_path / "two", "tools/call")) == 1


@pytest.mark.parametrize("status", ["500", "401"])
async def test_a_server_over_http_that_refuses_is_told(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path, free_port: int, status: str
) -> None:
    configure(bub_home, {"plain": {"url": f"http://127.0.0.1:{free_port}/mcp"}})
    async with (
        http(tmp_path / "http", free_port, status),
        hosted(Caller(), MCPPlugin) as host,
        asyncio.timeout(10),
        host.engine.open(spec_of(host, host_tools=ALL)) as session,
    ):
        events = await turn(session, "mcp__plain__write")
    (note,) = (event for event in events if isinstance(event, ServerNoted))
    assert note.state == "failed"
    assert status in note.text


async def test_a_server_that_stops_telling_its_tools_leaves_no_process_behind_with_each_try(
    hosted: Hosted, spec_of: SpecOf, bub_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "plain"
    configure(bub_home, {"plain": plain(where, "hang_second_list")})
    monkeypatch.setattr(link, "_COOL_SECONDS", 0.0)
    async with hosted(Caller(), MCPPlugin) as host:
        engine = BubEngine(host.framework, mcp=McpTimes(connect_seconds=1))
        async with engine.running():
            for _ in range(3):
                async with engine.open(spec_of(host, host_tools=ALL)):
                    pass
                assert running(where) == []
    assert len(pids(where)) > 1, "it was tried again"
