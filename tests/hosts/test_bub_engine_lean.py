"""A lean client sends and reads what a client of any-llm does."""

import json
from typing import Any

import httpx2
import pytest
from any_llm import AnyLLM
from any_llm.exceptions import AnyLLMError

from crew_hooks.bub.lean import lean_class

pytestmark = [pytest.mark.anyio, pytest.mark.bub]

FRAME = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def chunk(delta: dict[str, Any], **others: Any) -> dict[str, Any]:
    return FRAME | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} | others


def call(index: int, **function: str) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "id": "t", "type": "function", "function": function}]}


STREAMS = {
    "text": [chunk({"role": "assistant", "content": "Grüße "}), chunk({"content": "– ✓"})],
    "calls": [chunk(call(0, name="read", arguments="")), chunk(call(0, arguments='{"a": 1}'))],
    "usage": [chunk({"content": "a"}), FRAME | {"choices": [], "usage": USAGE}],
    "empty usage": [chunk({"content": "a"}, usage={"extra_properties": {}})],
    "reasoning": [chunk({"reasoning_content": "hm"}), chunk({"content": "a"})],
    "thinking": [chunk({"thinking": "hm", "content": None})],
    "whole object": [chunk({"content": "a"}, object="chat.completion")],
    "time as a float": [chunk({"content": "a"}, created=7.0)],
    "fields of their own": [chunk({"content": "a"}, provider="x", system_fingerprint=None)],
}


def sse(chunks: list[dict[str, Any]], end: str = "\n") -> bytes:
    lines = [f"data: {json.dumps(each, ensure_ascii=False)}{end}{end}" for each in chunks]
    return "".join([f": hello{end}{end}", *lines, f"data: [DONE]{end}{end}"]).encode()


class Body(httpx2.AsyncByteStream):
    def __init__(self, body: bytes, size: int) -> None:
        self._pieces = [body[start : start + size] for start in range(0, len(body), size)]

    async def __aiter__(self) -> Any:
        for piece in self._pieces:
            yield piece


class Server(httpx2.AsyncBaseTransport):
    """Answers each request with the same body, in pieces of a size."""

    def __init__(self, body: bytes, *, size: int = 10_000, status: int = 200) -> None:
        self.requests: list[httpx2.Request] = []
        self._body, self._size, self._status = body, size, status

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        headers = {"content-type": "text/event-stream", "retry-after": "3"}
        return httpx2.Response(self._status, headers=headers, stream=Body(self._body, self._size))


def client(kind: type[AnyLLM], server: Server) -> AnyLLM:
    http = httpx2.AsyncClient(transport=server)
    arguments: dict[str, Any] = {"http_client": http, "max_retries": 0, "unified_exceptions": True}
    return kind(api_key="key", api_base="http://model.test/v1", **arguments)


async def asked(client: AnyLLM) -> list[dict[str, Any]]:
    """What a client makes of the answer to one call."""
    tools = [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}]
    messages: list[Any] = [{"role": "user", "content": "ß"}]
    options = {"include_usage": True}
    stream = await client.acompletion(
        "m", messages, tools=tools, stream=True, max_tokens=9, stream_options=options
    )
    return [each.model_dump() async for each in stream]


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize(("end", "size"), [("\n", 10_000), ("\r\n", 1)])
async def test_a_reply_is_read_as_any_llm_reads_it(name: str, end: str, size: int) -> None:
    body = sse(STREAMS[name], end)
    plain = await asked(client(AnyLLM.get_provider_class("openai"), Server(body)))
    lean = client(lean_class("openai"), Server(body, size=size))
    assert len(plain) == len(STREAMS[name])
    assert await asked(lean) == plain
    assert await asked(lean) == plain


async def test_every_call_sends_what_any_llm_sends() -> None:
    servers = Server(sse([])), Server(sse([]))
    await asked(client(AnyLLM.get_provider_class("openai"), servers[0]))
    lean = client(lean_class("openai"), servers[1])
    await asked(lean)
    await asked(lean)
    (plain,), made = servers[0].requests, servers[1].requests
    assert [json.loads(each.content) for each in made] == [json.loads(plain.content)] * 2
    sizes = [each.headers.pop("content-length") for each in made]
    assert sizes == [str(len(each.content)) for each in made]
    del plain.headers["content-length"]
    assert [(each.method, each.url, each.headers) for each in made] == [
        (plain.method, plain.url, plain.headers)
    ] * 2


async def test_an_error_in_a_stream_ends_it() -> None:
    server = Server(sse([chunk({"content": "a"}), {"error": {"message": "out of luck"}}]))
    for kind in (AnyLLM.get_provider_class("openai"), lean_class("openai")):
        with pytest.raises(AnyLLMError, match="out of luck"):
            await asked(client(kind, server))


async def test_a_refusal_carries_all_that_the_provider_said() -> None:
    body = json.dumps({"error": {"message": "slow down", "code": "rate", "type": "limit"}}).encode()
    lean, broken = client(lean_class("openai"), server := Server(sse([]))), Server(body, status=429)
    await asked(lean)
    server.handle_async_request = broken.handle_async_request  # type: ignore[method-assign]
    errors: list[AnyLLMError] = []
    for each in (lean, client(AnyLLM.get_provider_class("openai"), broken)):
        with pytest.raises(AnyLLMError) as caught:
            await asked(each)
        errors.append(caught.value)
    ours, theirs = (vars(error) | {"original_exception": None} for error in errors)
    assert ours == theirs
    assert ours["retry_after"] == "3"
