"""A scripted model behind OpenAI's chat completions, on loopback HTTP.

Written on bare asyncio protocols: a benchmark of sessions needs a server that costs next to
nothing, and no task, thread or queue stands between a request and its reply.
"""

import argparse
import asyncio
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, cast

from crew_plugin.models.records import Usage
from crew_plugin.testing.conversation import Conversation, Fault, Reply, Script, ToolUse

__all__ = ["ScriptedModelServer", "ServedRequest", "main"]

_PIECE = 400  # characters per streamed piece, near what providers send
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    411: "Length Required",
    429: "Too Many Requests",
    500: "Internal Server Error",
}
_REFUSALS: Mapping[Fault, tuple[int, str, str]] = {
    Fault.RATE_LIMIT: (429, "rate_limit_exceeded", "Rate limit reached for requests"),
    Fault.SERVER_ERROR: (500, "server_error", "The server had an error while processing the request"),
    Fault.UNAUTHORIZED: (401, "invalid_api_key", "Incorrect API key provided"),
    Fault.BAD_REQUEST: (400, "invalid_value", "Invalid value in the request"),
    Fault.CONTEXT_OVERFLOW: (
        400,
        "context_length_exceeded",
        "This model's maximum context length is 8192 tokens, the messages are longer",
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedRequest:
    """One chat completions request, as it arrived."""

    number: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    arrived: float
    """`time.monotonic()`."""
    connection: int
    """Counts the connections of the server from 1."""

    @property
    def conversation(self) -> Conversation:
        """The request as a script sees it."""
        return Conversation.of(self.body, self.number)


class ScriptedModelServer:
    """A model server in this process: `async with ScriptedModelServer(script) as server`.

    Point a client at `server.base_url`. What arrived stands in `requests`. An error that a
    script raises is answered with 500 and raised again when the server is left.
    """

    def __init__(
        self, script: Script, *, latency: float = 0.0, port: int = 0, keep_requests: bool = True
    ) -> None:
        self.script = script
        self.latency = latency
        self.requests: list[ServedRequest] = []
        self.arrivals: list[float] = []
        self.connections = 0
        self.in_flight = 0
        self.peak = 0
        self._port = port
        self._keep_requests = keep_requests
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self._held: list[Callable[[], None]] = []
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._script_errors: list[Exception] = []

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", self._port, backlog=1024
        )
        self._port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        server = self._server
        if server is not None:
            server.close()
            for connection in list(self._open):
                connection.abort()
            await server.wait_closed()
        if error is None and self._script_errors:
            raise ExceptionGroup("the model's script failed", self._script_errors)

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def base_url(self) -> str:
        """What a client of OpenAI's API takes as its base."""
        return f"{self.url}/v1"

    async def arrived(self, count: int) -> None:
        """Return once this many requests have arrived in all."""
        if len(self.arrivals) < count:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append((count, future))
            await future

    def release(self) -> None:
        """Send the replies that were held."""
        held, self._held = self._held, []
        for send in held:
            send()

    def statistics(self) -> dict[str, Any]:
        """What `GET /stats` tells a benchmark."""
        return {
            "requests": len(self.arrivals),
            "peak": self.peak,
            "connections": self.connections,
            "arrivals": self.arrivals,
        }

    def connected(self, connection: "_Connection") -> int:
        """Count a new connection; returns its number."""
        self._open.add(connection)
        self.connections += 1
        return self.connections

    def disconnected(self, connection: "_Connection") -> None:
        """Forget a connection that is gone."""
        self._open.discard(connection)

    def take(self, headers: Mapping[str, str], body: Mapping[str, Any], connection: int) -> Reply:
        """Note a request and ask the script for the reply."""
        self.arrivals.append(time.monotonic())
        number = len(self.arrivals)
        if self._keep_requests:
            self.requests.append(
                ServedRequest(
                    number=number,
                    headers=headers,
                    body=body,
                    arrived=self.arrivals[-1],
                    connection=connection,
                )
            )
        try:
            reply = self.script(Conversation.of(body, number))
        except Exception as error:  # noqa: BLE001 - raised again by __aexit__
            self._script_errors.append(error)
            reply = Reply(fault=Fault.SERVER_ERROR)
        for wanted, future in self._waiting:
            if number >= wanted and not future.done():
                future.set_result(None)
        return reply

    def hold(self, send: Callable[[], None]) -> None:
        """Keep a reply until `release`."""
        self._held.append(send)


class _Connection(asyncio.Protocol):
    """One HTTP/1.1 connection that stays open between requests."""

    def __init__(self, server: ScriptedModelServer) -> None:
        self._server = server
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None
        self._number = 0
        self._answering = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._number = self._server.connected(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._server.disconnected(self)
        self._answered()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while not self._answering and self._transport is not None:
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            lines = self._buffer[:end].decode("latin-1").split("\r\n")
            headers = dict(_header(line) for line in lines[1:])
            length = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            self._serve(lines[0], headers, body)

    def _serve(self, line: str, headers: Mapping[str, str], body: bytes) -> None:
        verb, path, _ = line.split(" ", 2)
        if "transfer-encoding" in headers:
            self._write(_plain(411, _error("length_required", "send a content-length")))
        elif verb == "GET" and path == "/stats":
            self._write(_plain(200, self._server.statistics()))
        elif verb == "POST" and path.endswith("/chat/completions"):
            self._answer(headers, cast("dict[str, Any]", json.loads(body)))
        else:
            self._write(_plain(404, _error("not_found", f"nothing is served at {path}")))

    def _answer(self, headers: Mapping[str, str], request: dict[str, Any]) -> None:
        server = self._server
        self._answering = True
        server.in_flight += 1
        server.peak = max(server.peak, server.in_flight)
        reply = server.take(headers, request, self._number)
        send = functools.partial(self._send, reply, request)
        delay = server.latency + reply.delay
        if reply.held:
            server.hold(send)
        elif reply.fault is not Fault.STALL:
            if delay > 0:
                asyncio.get_running_loop().call_later(delay, send)
            else:
                send()

    def _send(self, reply: Reply, request: dict[str, Any]) -> None:
        if self._transport is None:
            return
        if reply.fault in _REFUSALS:
            self._write(_refusal(reply))
        elif request.get("stream"):
            self._stream(reply, request)
        elif reply.fault in (Fault.BROKEN_STREAM, Fault.STALLED_STREAM):
            self._write(_plain(200, _completion(reply, request))[:-20])
            if reply.fault is Fault.BROKEN_STREAM:
                self._transport.close()
        else:
            self._write(_plain(200, _completion(reply, request)))
        self._answered()
        if self._buffer:
            self.data_received(b"")

    def _stream(self, reply: Reply, request: dict[str, Any]) -> None:
        events = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in _chunks(reply, request)]
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        if reply.fault in (Fault.BROKEN_STREAM, Fault.STALLED_STREAM):
            self._write(head + b"".join(map(_chunked, events[: max(1, len(events) // 2)])))
            if reply.fault is Fault.BROKEN_STREAM and self._transport is not None:
                self._transport.close()
        else:
            events.append(b"data: [DONE]\n\n")
            self._write(head + _chunked(b"".join(events)) + b"0\r\n\r\n")

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _answered(self) -> None:
        if self._answering:
            self._answering = False
            self._server.in_flight -= 1


def _header(line: str) -> tuple[str, str]:
    name, _, value = line.partition(":")
    return name.strip().lower(), value.strip()


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain(status: int, body: Mapping[str, Any], extra: str = "") -> bytes:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: application/json\r\n{extra}"
    return f"{head}content-length: {len(data)}\r\n\r\n".encode() + data


def _error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def _refusal(reply: Reply) -> bytes:
    status, code, message = _REFUSALS[cast("Fault", reply.fault)]
    extra = f"retry-after: {reply.retry_after:g}\r\n" if reply.fault is Fault.RATE_LIMIT else ""
    return _plain(status, _error(code, message), extra)


def _call(index: int, use: ToolUse, request: Mapping[str, Any], *, half: bool) -> dict[str, Any]:
    arguments = json.dumps(use.arguments, ensure_ascii=False)
    if half:
        arguments = arguments[: len(arguments) // 2]
    ident = f"call_{len(request['messages'])}_{index}" if use.id is None else use.id
    return {"id": ident, "type": "function", "function": {"name": use.name, "arguments": arguments}}


def _calls(reply: Reply, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    half = len(reply.calls) - 1 if reply.fault is Fault.HALF_TOOL_CALL else -1
    return [_call(index, use, request, half=index == half) for index, use in enumerate(reply.calls)]


def _usage(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    usage = reply.usage
    if usage is None:
        sent = sum(len(str(message.get("content") or "")) for message in request["messages"])
        made = len(reply.text) + sum(len(str(use.arguments)) for use in reply.calls)
        usage = Usage(input=sent // 4 + 1, output=made // 4 + 1)
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached},
    }


def _frame(kind: str, request: Mapping[str, Any]) -> dict[str, Any]:
    ident = f"chatcmpl-{len(request['messages'])}"
    return {"id": ident, "object": kind, "created": 1_700_000_000, "model": request.get("model", "scripted")}


def _completion(reply: Reply, request: Mapping[str, Any]) -> dict[str, Any]:
    calls = _calls(reply, request)
    message: dict[str, Any] = {"role": "assistant", "content": reply.text or None}
    if calls:
        message["tool_calls"] = calls
    reason = "tool_calls" if calls else "stop"
    choice = {"index": 0, "message": message, "finish_reason": reason}
    return _frame("chat.completion", request) | {"choices": [choice], "usage": _usage(reply, request)}


def _chunks(reply: Reply, request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    frame = _frame("chat.completion.chunk", request)

    def chunk(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return frame | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    for piece in _pieces(reply.text):
        yield chunk({"role": "assistant", "content": piece})
    for index, call in enumerate(_calls(reply, request)):
        function = call["function"]
        first = {"name": function["name"], "arguments": ""}
        yield chunk({"role": "assistant", "tool_calls": [call | {"index": index, "function": first}]})
        for piece in _pieces(function["arguments"]):
            yield chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield chunk({}, "tool_calls" if reply.calls else "stop")
    options: Mapping[str, Any] = request.get("stream_options") or {}
    if options.get("include_usage"):
        yield frame | {"choices": [], "usage": _usage(reply, request)}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), _PIECE):
        yield text[start : start + _PIECE]


async def _serve(script: Script, *, port: int, latency: float) -> None:
    async with ScriptedModelServer(script, latency=latency, port=port, keep_requests=False) as server:
        sys.stdout.write(f"{server.base_url}\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)  # ends when the parent does


def main(arguments: list[str] | None = None) -> None:
    """Serve a script until the standard input ends; prints the base URL first."""
    from crew_plugin.testing.scripts import SCRIPTS

    parser = argparse.ArgumentParser(prog="python -m crew_plugin.testing.model_server")
    parser.add_argument("--script", choices=sorted(SCRIPTS), default="demo")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    options = parser.parse_args(arguments)
    asyncio.run(_serve(SCRIPTS[options.script], port=options.port, latency=options.latency_ms / 1000))


if __name__ == "__main__":
    main()
