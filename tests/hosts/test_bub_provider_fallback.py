"""A fallback model takes over while the provider of the first one asks for pauses."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from crew_plugin.host import ModelWaiting, SessionSpec, TurnEnded
from crew_plugin.testing.conversation import Fault, Reply, Script, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer
from tests.hosts.bub_engine import Host, Play, tool, turn

pytestmark = [pytest.mark.anyio, pytest.mark.bub, pytest.mark.both_engines]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]
Pair = tuple[Host, ScriptedModelServer]

LOOK = Reply(calls=(ToolUse(name="look", arguments={}),))
OK = Reply(text="ok")
LONG = 60.0
"""A pause that no test can wait out."""


def _refuses(seconds: float) -> Reply:
    return Reply(fault=Fault.RATE_LIMIT, retry_after=seconds)


@pytest.fixture
def pair(
    hosted: Hosted, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Script, Script], AbstractAsyncContextManager[Pair]]:
    """A host whose model has a fallback at another provider."""

    @asynccontextmanager
    async def opened(first: Script, second: Script) -> AsyncGenerator[Pair]:
        monkeypatch.setenv("BUB_FALLBACK_MODELS", json.dumps(["moonshot:scripted"]))
        monkeypatch.setenv("BUB_API_KEY", json.dumps({"openai": "a", "moonshot": "b"}))
        async with ScriptedModelServer(second) as fallback, hosted(first) as host:
            bases = {"openai": host.model.base_url, "moonshot": fallback.base_url}
            monkeypatch.setenv("BUB_API_BASE", json.dumps(bases))
            yield host, fallback

    return opened


PairOf = Callable[[Script, Script], AbstractAsyncContextManager[Pair]]


async def test_a_healthy_fallback_is_not_kept_waiting_for_the_first_models_pause(
    pair: PairOf, spec_of: SpecOf
) -> None:
    async with pair(Play(_refuses(LONG)), Play(LOOK, LOOK, OK)) as (host, fallback):
        async with host.engine.open(spec_of(host, tools=(tool("look"),))) as session:
            events = await turn(session, "go")
        assert events[-1] == TurnEnded(text="ok")
        assert not any(isinstance(event, ModelWaiting) for event in events)
        assert len(host.model.requests) == 1
        assert len(fallback.requests) == 3


async def test_a_pause_that_another_session_was_asked_for_sends_to_the_fallback_at_once(
    pair: PairOf, spec_of: SpecOf
) -> None:
    async with pair(Play(_refuses(LONG)), Play(OK)) as (host, fallback):
        for _ in range(2):
            async with host.engine.open(spec_of(host)) as session:
                assert (await turn(session, "go"))[-1] == TurnEnded(text="ok")
        assert len(host.model.requests) == 1
        assert len(fallback.requests) == 2


async def test_the_first_model_is_asked_again_when_its_pause_is_over(pair: PairOf, spec_of: SpecOf) -> None:
    async with pair(Play(_refuses(0.2), OK), Play(Reply(text="fallback"))) as (host, fallback):
        gate = host.gates.gate("openai", host.model.base_url, "a")
        async with host.engine.open(spec_of(host)) as session:
            assert (await turn(session, "go"))[-1] == TurnEnded(text="fallback")
            await asyncio.sleep(gate.pause() + 0.01)
            assert (await turn(session, "go on"))[-1] == TurnEnded(text="ok")
        assert len(fallback.requests) == 1


async def test_of_two_pauses_the_shorter_one_is_waited_for(pair: PairOf, spec_of: SpecOf) -> None:
    first = Play(_refuses(LONG))
    async with pair(first, Play(LOOK, _refuses(0.2), _refuses(0.2), OK)) as (host, fallback):
        async with host.engine.open(spec_of(host, tools=(tool("look"),))) as session:
            events = await turn(session, "go")
        assert events[-1] == TurnEnded(text="ok")
        assert any(isinstance(event, ModelWaiting) for event in events)
        assert len(host.model.requests) == 1
        assert len(fallback.requests) == 4
        gates = [host.gates.gate("openai", host.model.base_url, "a").flow]
        gates.append(host.gates.gate("moonshot", fallback.base_url, "b").flow)
        assert [gate.held for gate in gates] == [0, 0]
        assert not any(gate.waiting() for gate in gates)
