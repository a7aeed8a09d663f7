"""Clients of OpenAI's SDK that send a conversation as it is, and read a reply as it comes.

The SDK walks every message and every tool schema of a request against its type hints, builds
address and headers anew for each call, and each chunk of a reply three times over. For plain
JSON that changes nothing, and it took half of the CPU of a session. So the first call of a
client goes through the SDK; the later ones repeat its address and headers over the same
transport, which keeps proxies, certificates and limits what they are.
"""

# pyright: reportPrivateUsage=false

import codecs
import functools
import json
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Self, cast

from any_llm import AnyLLM
from any_llm.providers.openai.base import BaseOpenAIProvider
from any_llm.types.completion import ChatCompletion, ChatCompletionChunk, CompletionParams
from openai import APIError, APIStatusError, AsyncOpenAI, AsyncStream
from openai.types.chat import ChatCompletionChunk as TheirChunk
from pydantic import ValidationError

if TYPE_CHECKING:
    import httpx2

__all__ = ["lean_class"]

Answer = ChatCompletion | AsyncIterator[ChatCompletionChunk]

_NOT_SENT: Final = frozenset({"extra_headers", "extra_query", "timeout"})
"""Arguments of a call that are no part of its body."""
_STEADY: Final = frozenset({"http_client", "max_retries", "timeout", "default_headers", "organization"})
"""Arguments of a client with which each of its calls has the same headers."""
_PIECE: Final = 256 * 1024
"""Bytes of a longer body that are sent at once: all of it would hold up every other session."""
_PLAIN_DELTA: Final = frozenset({"role", "content", "refusal", "tool_calls"})


class _Lean:
    """Put before a provider's class: makes its streaming calls without the SDK's models."""

    client: AsyncOpenAI
    _transport: "httpx2.AsyncClient | None" = None
    _first: "httpx2.Request | None" = None

    def _init_client(self, api_key: str | None = None, api_base: str | None = None, **others: Any) -> None:
        cast("Any", super())._init_client(api_key=api_key, api_base=api_base, **others)
        # A subclass of the SDK's client may put the model into the address, as Azure's does.
        if type(self.client) is AsyncOpenAI and others.keys() <= _STEADY:
            self._transport = others.get("http_client")

    async def acompletion(
        self,
        model: str,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> Answer:
        whole = cast("Any", super())
        if any(_carries_signatures(message) for message in messages):
            # any-llm keeps what other providers sent along there, and takes it out itself.
            return cast(
                "Answer",
                await whole.acompletion(model, messages, tools=tools, extra_body=extra_body, **others),
            )
        body = {**(extra_body or {}), "messages": messages, **({"tools": tools} if tools else {})}
        return cast("Answer", await whole.acompletion(model, messages[:1], extra_body=body, **others))

    async def _acompletion(
        self, params: CompletionParams, *, extra_body: Mapping[str, Any] | None = None, **others: Any
    ) -> Answer:
        provider = cast("Any", self)
        if (
            self._transport is None
            or not params.stream
            or params.response_format
            or _NOT_SENT & others.keys()
            or "messages" not in (extra_body or {})
        ):
            whole = cast("Any", super())
            return cast("Answer", await whole._acompletion(params, extra_body=extra_body, **others))
        if params.reasoning_effort == "auto":
            params.reasoning_effort = provider._DEFAULT_REASONING_EFFORT
        sent: dict[str, Any] = provider._convert_completion_params(params, **others)
        body = {"model": params.model_id, **sent, **(extra_body or {})}
        return await self._send(self._transport, json.dumps(body, ensure_ascii=False).encode())

    async def _send(self, transport: "httpx2.AsyncClient", body: bytes) -> "_Chunks":
        first = self._first
        if first is None or first.headers.get("authorization") != f"Bearer {self.client.api_key}":
            chunks = await self.client.post(
                "/chat/completions",
                content=_pieces(body),
                options={"headers": {"content-length": str(len(body))}},
                cast_to=ChatCompletionChunk,
                stream=True,
                stream_cls=_Chunks,
            )
            self._first = chunks.response.request
            return chunks
        headers = first.headers.copy()
        headers["content-length"] = str(len(body))
        request = type(first)(
            first.method,
            first.url,
            headers=headers,
            content=_pieces(body),
            extensions=dict(first.extensions),
        )
        del body  # a long one is gone once it was sent: many sessions wait for their replies at once
        response = await transport.send(request, stream=True)
        if not response.is_success:
            await response.aread()
            raise _refusal(response)
        return _Chunks(response=response)


def _pieces(body: bytes) -> bytes | AsyncIterator[bytes]:
    """What to give to a transport for this body."""
    return body if len(body) <= _PIECE else _in_pieces(body)


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


class _Chunks(AsyncStream[ChatCompletionChunk]):
    """The chunks of a reply, each parsed once."""

    def __init__(self, *, response: "httpx2.Response", **_: object) -> None:
        self.response = response
        self._pieces = response.aiter_bytes()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._ready = deque[str]()
        self._line = ""
        self._data = list[str]()
        self._done = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatCompletionChunk:
        while not self._ready:
            piece = await anext(self._pieces, None)
            if piece is None:
                await self.aclose()
                raise StopAsyncIteration
            self._feed(self._decode(piece))
        return self._chunk(self._ready.popleft())

    @property
    def ready(self) -> bool:
        """Whether the next chunk has arrived."""
        return bool(self._ready)

    async def aclose(self) -> None:
        """Let go of the connection; it can be used again if the reply was read to its end."""
        await self.response.aclose()

    def _feed(self, text: str) -> None:
        """Find the data of each server-sent event. What follows the last one is read, not kept."""
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            name, _, value = line.rstrip("\r").partition(":")
            if name == "data":
                self._data.append(value.removeprefix(" "))
            elif not name and not value and self._data:
                data, self._data = "\n".join(self._data), []
                self._done = self._done or data.startswith("[DONE]")
                if not self._done:
                    self._ready.append(data)

    def _chunk(self, data: str) -> ChatCompletionChunk:
        values: dict[str, Any] = json.loads(data)
        error = values.get("error")
        if error:
            said = _said(error) or "An error occurred during streaming"
            raise APIError(said, request=self.response.request, body=error)
        if _is_plain(values):
            with suppress(ValidationError):  # any-llm knows what providers do differently
                return ChatCompletionChunk.model_validate(values)
        return BaseOpenAIProvider._convert_completion_chunk_response(TheirChunk.construct(**values))


def _refusal(response: "httpx2.Response") -> APIStatusError:
    """The error that the SDK would raise. What kind it is, any-llm reads from its status and text."""
    body: object = response.text.strip()
    with suppress(ValueError):
        body = json.loads(response.text)
    if isinstance(body, dict):
        body = cast("dict[str, object]", body).get("error", cast("object", body))
    said = _said(body)
    text = f"Error code: {response.status_code}" + (f" - {said}" if said else "")
    return APIStatusError(text, response=response, body=body)


def _said(error: object) -> str:
    message = cast("dict[str, object]", error).get("message") if isinstance(error, dict) else None
    return message if isinstance(message, str) else ""


def _is_plain(values: Mapping[str, Any]) -> bool:
    """Whether a chunk has nothing in it that any-llm would put into another place."""
    usage = values.get("usage")
    return (
        values.get("object") == "chat.completion.chunk"
        and (usage is None or usage.get("total_tokens") is not None)
        and all(choice["delta"].keys() <= _PLAIN_DELTA for choice in values.get("choices") or ())
    )


def _carries_signatures(message: Mapping[str, Any]) -> bool:
    return "extra_content" in message or any(
        "extra_content" in call for call in message.get("tool_calls") or ()
    )


@functools.cache
def lean_class(provider: str) -> type[AnyLLM]:
    """The provider's class, made lean if its calls are plain ones of OpenAI's SDK."""
    theirs = AnyLLM.get_provider_class(provider)
    plain = BaseOpenAIProvider
    if (
        not issubclass(theirs, plain)
        or theirs._acompletion is not plain._acompletion
        or theirs._convert_completion_params is not plain._convert_completion_params
        or theirs._convert_completion_chunk_response is not plain._convert_completion_chunk_response
    ):
        return theirs
    return cast("type[AnyLLM]", type(f"Lean{theirs.__name__}", (_Lean, theirs), {}))
