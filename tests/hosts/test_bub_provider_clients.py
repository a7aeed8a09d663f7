"""Clients of providers that are not content with what most of them take."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, cast

import pytest

from crew_hooks.bub.clients import ClientPool
from crew_plugin.engine.provider_gate import ProviderGates
from crew_plugin.host import SessionSpec, TurnEnded
from crew_plugin.testing.conversation import Reply, ToolUse
from tests.hosts.bub_engine import Host, Play, tool, turn

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.bub,
    pytest.mark.filterwarnings("ignore:Provider-specific exceptions:DeprecationWarning"),
]

Hosted = Callable[..., AbstractAsyncContextManager[Host]]
SpecOf = Callable[..., SessionSpec]


@pytest.mark.both_engines
async def test_a_session_works_with_a_provider_that_is_a_client_of_two_sdks(
    hosted: Hosted, spec_of: SpecOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUB_MODEL", "deepseek:scripted")
    play = Play(Reply(calls=(ToolUse(name="look", arguments={}),)), Reply(text="ok"))
    async with (
        hosted(play) as host,
        host.engine.open(spec_of(host, tools=(tool("look"),))) as session,
    ):
        events = await turn(session, "go")
    assert events[-1] == TurnEnded(text="ok")


@pytest.mark.parametrize("provider", ["openai", "deepseek", "moonshot"])
async def test_clients_of_openais_sdk_use_our_transport_and_are_all_closed(provider: str) -> None:
    pool = ClientPool(ProviderGates(start=1, ceiling=1))
    client: Any = await pool.get(provider, {"api_key": "test", "api_base": "http://127.0.0.1:9"})
    assert "aiohttp" in type(client.client._client._transport).__module__
    assert client.client.max_retries == 0
    await pool.close()
    parts = [*cast("dict[str, Any]", vars(client)).values()]
    assert client.client in parts
    sdks = [part for part in parts if hasattr(part, "chat") or hasattr(part, "messages")]
    assert [sdk.is_closed() for sdk in sdks] == [True] * len(sdks)
