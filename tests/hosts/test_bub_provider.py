"""Many sessions in real Bub at one provider that limits them, falls silent, or breaks off."""

import asyncio
import tracemalloc
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from any_llm.exceptions import RateLimitError

from crew_hooks.bub.failures import engine_error, refusal
from crew_plugin.engine.provider_gate import Refused
from crew_plugin.host import ModelRetrying, ModelWaiting, Session, SessionEvent, SessionSpec, TurnEnded
from crew_plugin.models.spec import LimitsSpec
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.hosts.bub_engine import Host, Play, tool, turn, until

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]


class OnlyOne:
    """Refuses every request while another one is being answered."""

    def __init__(self) -> None:
        self.server: ScriptedModelServer | None = None
        self.refused = 0

    def __call__(self, conversation: Conversation) -> Reply:
        assert self.server is not None
        if self.server.in_flight > 1:
            self.refused += 1
            return Reply(fault=Fault.RATE_LIMIT, retry_after=0.02)
        if conversation.tool_results:
            return Reply(text="done", delay=0.005)
        return Reply(calls=(ToolUse(name="look", arguments={}),), delay=0.005)


async def converse(host: Host, spec: SessionSpec) -> list[SessionEvent]:
    async with host.engine.open(spec) as session:
        await session.prompt("go")
        async with asyncio.timeout(30):
            return await _to_the_end(session)


async def _to_the_end(session: Session) -> list[SessionEvent]:
    seen: list[SessionEvent] = []
    async for event in session.events():
        seen.append(event)
        if isinstance(event, TurnEnded):
            break
    return seen


async def test_fifty_sessions_finish_at_a_provider_that_refuses_all_but_one(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    play = OnlyOne()
    async with hosted(play) as host:
        play.server = host.model
        specs = [spec_of(host, tools=(tool("look"),)) for _ in range(50)]
        heard = await asyncio.gather(*(converse(host, spec) for spec in specs))
    assert [events[-1] for events in heard] == [TurnEnded(text="done")] * 50
    # The first wave is refused almost whole; after that each half of the one before, then hardly any.
    assert play.refused <= 150
    assert len(host.model.arrivals) == 100 + play.refused
    waits = [event.ahead for events in heard for event in events if isinstance(event, ModelWaiting)]
    assert waits
    retries = [event for events in heard for event in events if isinstance(event, ModelRetrying)]
    assert all(event.attempt <= event.of for event in retries)


@pytest.mark.both_engines
async def test_a_pause_that_one_session_is_asked_for_holds_for_the_others(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    play = Play(Reply(fault=Fault.RATE_LIMIT, retry_after=0.3), Reply(text="ok"))
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host)) as first,
        host.engine.open(spec_of(host)) as second,
    ):
        await first.prompt("go")
        await until(first, ModelRetrying)
        before = await turn(second, "go")
        await until(first, TurnEnded)
    assert isinstance(before[1], ModelWaiting)
    refused, *later = host.model.arrivals
    assert all(at - refused >= 0.3 for at in later)


@pytest.mark.both_engines
async def test_a_waiting_session_can_be_left_at_once(hosted: Hosted, spec_of: SpecOf) -> None:
    async with hosted(lambda _: Reply(fault=Fault.RATE_LIMIT, retry_after=60)) as host:
        async with host.engine.open(spec_of(host)) as session:
            await session.prompt("go")
            await until(session, ModelRetrying)
            await until(session, ModelWaiting)
            left = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - left < 5
        assert len(host.model.arrivals) == 1


@pytest.mark.both_engines
async def test_a_gate_is_held_for_a_request_and_not_while_tools_run(hosted: Hosted, spec_of: SpecOf) -> None:
    play = Play(Reply(calls=(ToolUse(name="look", arguments={}),)), Reply(text="done"))
    async with hosted(play) as host:
        gate = host.gates.gate("openai", host.model.base_url, "test")
        held: list[int] = []

        def look(_: object) -> str:
            held.append(gate.flow.held)
            return "seen"

        async with host.engine.open(spec_of(host, tools=(tool("look", look),))) as session:
            await turn(session, "go")
    assert held == [0]
    assert gate.flow.held == 0


@pytest.mark.both_engines
@pytest.mark.parametrize(
    "fault", [Fault.STALL, Fault.STALLED_STREAM, Fault.HALF_TOOL_CALL, Fault.BROKEN_STREAM]
)
async def test_what_breaks_off_gives_its_place_back_and_the_session_goes_on(
    hosted: Hosted, spec_of: SpecOf, fault: Fault
) -> None:
    use = ToolUse(name="look", arguments={"text": "x" * 2000})
    play = Play(Reply(calls=(use,), fault=fault), Reply(calls=(use,)), Reply(text="ok"))
    limits = LimitsSpec(idle_seconds=0.4, model_retries=2)
    async with hosted(play) as host:
        gate = host.gates.gate("openai", host.model.base_url, "test")
        async with host.engine.open(spec_of(host, limits=limits, tools=(tool("look"),))) as session:
            events = await turn(session, "go")
    assert events[-1] == TurnEnded(text="ok")
    assert gate.flow.held == 0


async def test_a_pause_is_understood_in_seconds_and_as_a_date() -> None:
    assert refusal(RateLimitError("slow down", retry_after="7")) == Refused(7.0)
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    said = refusal(RateLimitError("slow down", retry_after=date))
    assert said is not None
    assert said.wish is not None
    assert 27 <= said.wish <= 30
    past = format_datetime(datetime.now(UTC) - timedelta(days=1), usegmt=True)
    assert refusal(RateLimitError("slow down", retry_after=past)) == Refused(0.0)
    assert refusal(RateLimitError("slow down", retry_after="soon")) == Refused(None)
    assert refusal(RateLimitError("slow down", retry_after="inf")) == Refused(None)


async def test_a_date_is_compared_with_the_providers_own_clock() -> None:
    now = datetime(2015, 10, 21, 7, 28, tzinfo=UTC)
    answer = httpx2.Response(429, headers={"date": format_datetime(now, usegmt=True)})
    error = RateLimitError("slow down", retry_after=format_datetime(now + timedelta(seconds=10), usegmt=True))
    error.__cause__ = httpx2.HTTPStatusError(
        "429", request=httpx2.Request("GET", "http://m"), response=answer
    )
    assert refusal(error) == Refused(10.0)


async def test_a_provider_that_asks_for_too_long_a_pause_is_not_waited_for() -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert not engine_error(RateLimitError("slow down", retry_after=date), "m").retryable


async def test_sessions_at_once_share_one_pool_of_connections_that_outlive_their_tools(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    def play(conversation: Conversation) -> Reply:
        if conversation.tool_results:
            return Reply(text="done", held=True)
        return Reply(calls=(ToolUse(name="look", arguments={}),), held=True)

    async with hosted(play) as host:

        async def all_at_once() -> None:
            """Twenty sessions, each of whose two requests is answered when all of them have asked."""
            specs = [spec_of(host, tools=(tool("look"),)) for _ in range(20)]
            sessions = [asyncio.create_task(converse(host, spec)) for spec in specs]
            for _ in range(2):
                while host.model.in_flight < 20:  # noqa: ASYNC110 - the server tells nobody
                    await asyncio.sleep(0.01)
                host.model.release()
            heard = await asyncio.gather(*sessions)
            assert [events[-1] for events in heard] == [TurnEnded(text="done")] * 20

        await all_at_once()
        await all_at_once()
        pool: Any = next(iter(host.home._pool._clients.values())).result()
        transport = pool.client._client._transport
    assert "aiohttp" in type(transport).__module__
    assert host.model.connections == 20


async def test_a_long_request_is_not_kept_while_its_reply_is_waited_for(
    hosted: Hosted, spec_of: SpecOf
) -> None:
    def play(conversation: Conversation) -> Reply:
        return Reply(text="ok", held=conversation.number == 3)

    size = 400_000
    async with hosted(play) as host, host.engine.open(spec_of(host, system_prompt="x" * size)) as session:
        await turn(session, "the first request is the SDK's own")
        await turn(session, "and this one ours")
        tracemalloc.start()
        try:
            await session.prompt("go on")
            await host.model.arrived(3)
            with anyio.fail_after(5):
                while (kept := _traced("lean.py")) > size / 2:
                    await anyio.lowlevel.checkpoint()
        finally:
            tracemalloc.stop()
        assert kept < size / 2
        host.model.release()
        await until(session, TurnEnded)


def _traced(file: str) -> int:
    """Bytes that a module has allocated and that are still in use."""
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, f"*/{file}")])
    return sum(trace.size for trace in snapshot.traces)
