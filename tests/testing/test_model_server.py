"""The scripted model server behaves like a provider, at its best and at its worst."""

import asyncio
import json
import subprocess
import sys
from typing import Any

import httpx
import pytest

from crew_plugin.models.records import Usage
from crew_plugin.testing.conversation import Conversation, Fault, Reply, ToolUse
from crew_plugin.testing.model_server import ScriptedModelServer

pytestmark = pytest.mark.anyio

ASK: dict[str, Any] = {"model": "scripted", "messages": [{"role": "user", "content": "hello"}]}


def post(client: httpx.AsyncClient, server: ScriptedModelServer, **extra: Any) -> Any:
    return client.post(f"{server.base_url}/chat/completions", json=ASK | extra)


def events(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    return [json.loads(line) for line in lines]


async def test_a_plain_request_gets_the_scripts_text_and_usage() -> None:
    script = lambda _: Reply(text="hi", usage=Usage(input=7, output=3, cached=2))  # noqa: E731 - one line says it
    async with ScriptedModelServer(script) as server, httpx.AsyncClient() as client:
        body = (await post(client, server)).json()
    assert body["choices"][0]["message"]["content"] == "hi"
    assert body["usage"]["prompt_tokens"] == 7
    assert body["usage"]["prompt_tokens_details"]["cached_tokens"] == 2


async def test_a_stream_carries_long_tool_arguments_in_pieces() -> None:
    use = ToolUse(name="read", arguments={"path": "x" * 1000})
    async with ScriptedModelServer(lambda _: Reply(calls=(use,))) as server, httpx.AsyncClient() as client:
        chunks = events(await post(client, server, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    pieces = [call["function"]["arguments"] for delta in deltas for call in delta.get("tool_calls", ())]
    assert len(pieces) > 3
    assert json.loads("".join(pieces)) == {"path": "x" * 1000}
    assert chunks[-1]["usage"]["completion_tokens"] > 0


async def test_a_connection_serves_many_requests_and_the_log_keeps_them() -> None:
    async with ScriptedModelServer(lambda _: Reply(text="ok")) as server, httpx.AsyncClient() as client:
        for _ in range(3):
            await post(client, server)
        stats = (await client.get(f"{server.url}/stats")).json()
    assert server.connections == 1
    assert [request.number for request in server.requests] == [1, 2, 3]
    assert server.requests[0].conversation.last_user == "hello"
    assert stats["requests"] == 3
    assert len(stats["arrivals"]) == 3


async def test_the_peak_counts_requests_in_flight_together() -> None:
    async with (
        ScriptedModelServer(lambda _: Reply(text="ok", held=True)) as server,
        httpx.AsyncClient() as client,
    ):
        async with asyncio.timeout(5), asyncio.TaskGroup() as group:
            waiting = [group.create_task(post(client, server)) for _ in range(4)]
            await server.arrived(4)
            server.release()
        assert all(task.result().status_code == 200 for task in waiting)
    assert server.peak == 4
    assert server.in_flight == 0


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (Fault.RATE_LIMIT, 429, "rate_limit_exceeded"),
        (Fault.SERVER_ERROR, 500, "server_error"),
        (Fault.UNAUTHORIZED, 401, "invalid_api_key"),
        (Fault.BAD_REQUEST, 400, "invalid_value"),
        (Fault.CONTEXT_OVERFLOW, 400, "context_length_exceeded"),
    ],
)
async def test_a_refusal_has_the_providers_status_and_code(fault: Fault, status: int, code: str) -> None:
    script = lambda _: Reply(fault=fault, retry_after=1.5)  # noqa: E731 - one line says it
    async with ScriptedModelServer(script) as server, httpx.AsyncClient() as client:
        response = await post(client, server)
    assert response.status_code == status
    assert response.json()["error"]["code"] == code
    assert response.headers.get("retry-after") == ("1.5" if status == 429 else None)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_broken_reply_cuts_the_connection_in_the_middle(stream: bool) -> None:
    script = lambda _: Reply(text="word " * 400, fault=Fault.BROKEN_STREAM)  # noqa: E731 - one line says it
    async with ScriptedModelServer(script) as server, httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await post(client, server, stream=stream)


async def test_half_a_tool_call_ends_properly_with_cut_arguments() -> None:
    use = ToolUse(name="read", arguments={"path": "a.py"})
    script = lambda _: Reply(calls=(use,), fault=Fault.HALF_TOOL_CALL)  # noqa: E731 - one line says it
    async with ScriptedModelServer(script) as server, httpx.AsyncClient() as client:
        message = (await post(client, server)).json()["choices"][0]["message"]
    with pytest.raises(json.JSONDecodeError):
        json.loads(message["tool_calls"][0]["function"]["arguments"])


async def test_a_stall_sends_nothing_and_leaving_the_server_still_ends() -> None:
    script = lambda _: Reply(fault=Fault.STALL)  # noqa: E731 - one line says it
    async with (
        asyncio.timeout(5),
        ScriptedModelServer(script) as server,
        httpx.AsyncClient(timeout=0.05) as client,
    ):
        with pytest.raises(httpx.ReadTimeout):
            await post(client, server)


async def test_a_failing_script_is_told_when_the_server_is_left() -> None:
    def script(_: Conversation) -> Reply:
        raise KeyError("missing")

    with pytest.raises(ExceptionGroup, match="script failed"):
        async with ScriptedModelServer(script) as server, httpx.AsyncClient() as client:
            assert (await post(client, server)).status_code == 500


def test_the_process_prints_its_url_and_ends_with_its_parent() -> None:
    command = [sys.executable, "-m", "crew_plugin.testing.model_server", "--script", "echo"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        url = process.stdout.readline().strip()
        body = httpx.post(f"{url}/chat/completions", json=ASK).json()
        process.stdin.close()
        assert process.wait(10) == 0
    assert body["choices"][0]["message"]["content"] == "You said: hello"
