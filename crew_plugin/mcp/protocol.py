"""The one module that imports `mcp`: opens sessions of it and speaks through them.

Works with both major versions. What differs between them: version 1 wraps messages in root
models, spells fields in camelCase, and does not tell the server of a call that was given up.
Everything read from a server goes through its wire form, which is the same in both.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

import base64
import binascii
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, TextIO

import anyio
import mcp.types as types
from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client

from crew_plugin.mcp.content import Answer, Block, RemoteTool

__all__ = [
    "Progress",
    "Refused",
    "Unsent",
    "call",
    "list_tools",
    "on_message",
    "open_http",
    "open_stdio",
    "tools_changed",
]

Progress = Callable[[float, float | None, str | None], Awaitable[None]]
"""Told how far a call is: how much, of how much, and a word about it."""

_FIRST: Final = int(version("mcp").partition(".")[0]) < 2
_PAGES: Final = 100
_GIVE_UP_SECONDS: Final = 0.4
"""How long telling a server that its answer is not wanted any more may take."""
_CLOSED: Final = -32000
_NO_SESSION: Final = 32600
_NO_SESSION_NOW: Final = -32600
_NO_SESSION_TEXTS: Final = ("session terminated", "session not found")


class Unsent(Exception):
    """The request never reached a server that would act on it: it can safely be made again."""


class Refused(Exception):
    """The server answered, with an error."""


@asynccontextmanager
async def open_stdio(
    *, command: str, args: tuple[str, ...], env: Mapping[str, str], cwd: str, log: TextIO
) -> AsyncGenerator[ClientSession]:
    """A session with a server of our own, started with exactly this environment. Not initialized."""
    parameters = StdioServerParameters(
        command=command, args=list(args), env=dict(env), cwd=cwd, encoding_error_handler="replace"
    )
    async with stdio_client(parameters, errlog=log) as streams, _session(streams) as session:
        yield session


@asynccontextmanager
async def open_http(*, url: str, headers: Mapping[str, str]) -> AsyncGenerator[ClientSession]:
    """A session with a server over streamable HTTP. Not initialized."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(create_mcp_http_client(headers=dict(headers)))
        streams = await stack.enter_async_context(streamable_http_client(url, http_client=client))
        yield await stack.enter_async_context(_session(streams))


@asynccontextmanager
async def _session(streams: Any) -> AsyncGenerator[ClientSession]:
    # Version 1 adds a third part to the streams of HTTP.
    async with ClientSession(streams[0], streams[1]) as session:
        yield session


def tools_changed(message: object) -> bool:
    """Whether what a server sent says that its list of tools is another one now."""
    inner = getattr(message, "root", message)
    return getattr(inner, "method", None) == "notifications/tools/list_changed"


def on_message(session: Any, told: Callable[[object], None]) -> None:
    """Have `told` called with what the server sends of itself, beside whoever listens already."""
    before = session._message_handler

    async def handler(message: Any) -> None:
        told(message)
        await before(message)

    session._message_handler = handler


async def list_tools(session: Any) -> tuple[RemoteTool, ...]:
    """All tools of the server, over all pages. Raises `Unsent`, `Refused`, `ConnectionError`."""
    found: list[RemoteTool] = []
    cursor: str | None = None
    for _ in range(_PAGES):
        page = _wire(await _asked(_page(session, cursor)))
        found += [_tool(one) for one in page.get("tools", ()) if one.get("name")]
        cursor = page.get("nextCursor")
        if not cursor:
            break
    return tuple(found)


def _page(session: Any, cursor: str | None) -> Awaitable[Any]:
    if cursor is None:
        return session.list_tools()  # type: ignore[no-any-return]  # untyped, to fit both versions
    return session.list_tools(params=types.PaginatedRequestParams(cursor=cursor))  # type: ignore[no-any-return]  # as above


async def call(session: Any, tool: str, arguments: Mapping[str, Any], progress: Progress) -> Answer:
    """Call a tool. Cancelling this tells the server that its answer is not wanted any more.

    Raises:
        Unsent: the server did not get the call.
        Refused: it answered with an error of the protocol.
        ConnectionError: the connection was lost, and nobody knows how far the call got.
    """
    if not _FIRST:
        asked = session.call_tool(tool, dict(arguments), progress_callback=progress)
        return _answer(_wire(await _asked(asked)))
    params = types.CallToolRequestParams(name=tool, arguments=dict(arguments))
    request: Any = types.ClientRequest(types.CallToolRequest(params=params))  # pyright: ignore[reportCallIssue]
    # Nothing runs between reading the number and the request's taking it.
    number: int = session._request_id
    try:
        # Not `call_tool`: it throws away an answer whose structure does not fit.
        asked = session.send_request(request, types.CallToolResult, progress_callback=progress)
        return _answer(_wire(await _asked(asked)))
    except anyio.get_cancelled_exc_class():
        with anyio.move_on_after(_GIVE_UP_SECONDS, shield=True):
            await _give_up(session, number)
        raise


async def _give_up(session: Any, number: int) -> None:
    params = types.CancelledNotificationParams(requestId=number, reason="the caller does not wait any more")
    notice = types.CancelledNotification(method="notifications/cancelled", params=params)
    try:
        await session.send_notification(types.ClientNotification(notice))  # pyright: ignore[reportCallIssue]
    except (anyio.ClosedResourceError, anyio.BrokenResourceError):
        return  # the connection is gone, and with it the call


async def _asked(request: Awaitable[Any]) -> Any:
    """What a request brought, its errors sorted by what they mean for the request."""
    try:
        return await request
    except (anyio.ClosedResourceError, anyio.BrokenResourceError) as error:
        raise Unsent("the connection was already closed") from error
    except (ConnectionError, OSError):
        raise
    except Exception as error:
        raise _sorted(error) from error


def _sorted(error: Exception) -> Exception:
    # The class of a server's errors has another name in each version.
    detail = getattr(error, "error", None)
    code, message = getattr(detail, "code", None), str(getattr(detail, "message", error))
    if code in (_NO_SESSION, _NO_SESSION_NOW) and message.lower().startswith(_NO_SESSION_TEXTS):
        return Unsent("the server does not know this connection any more; it was restarted")
    if code == _CLOSED and "closed" in message.lower():
        return ConnectionError("the server closed the connection")
    return Refused(message or type(error).__name__)


def _wire(message: Any) -> dict[str, Any]:
    """A message as it was sent."""
    wire: dict[str, Any] = message.model_dump(by_alias=True, mode="json", exclude_none=True)
    return wire


def _tool(wire: Mapping[str, Any]) -> RemoteTool:
    schema = wire.get("inputSchema") or {}
    fits = isinstance(schema, dict) and schema.get("type") == "object"
    hints = wire.get("annotations") or {}
    return RemoteTool(
        name=str(wire["name"]),
        description=str(wire.get("description") or wire.get("title") or f"MCP tool {wire['name']}"),
        parameters=schema if fits else {"type": "object", "properties": {}},
        read_only=hints.get("readOnlyHint") is True,
    )


def _answer(wire: Mapping[str, Any]) -> Answer:
    return Answer(
        blocks=tuple(_block(one) for one in wire.get("content", ())),
        structured=wire.get("structuredContent"),
        failed=wire.get("isError") is True,
    )


def _block(wire: Mapping[str, Any]) -> Block:
    kind = str(wire.get("type", "unknown"))
    mime = str(wire.get("mimeType") or "")
    if kind == "text":
        return Block(kind="text", text=str(wire.get("text", "")))
    if kind == "resource":
        inner: Mapping[str, Any] = wire.get("resource") or {}
        mime = str(inner.get("mimeType") or "")
        if "text" in inner:
            return Block(kind=kind, text=str(inner["text"]), mime=mime, name=str(inner.get("uri", "")))
        return Block(kind=kind, data=_bytes(inner.get("blob")), mime=mime, name=str(inner.get("uri", "")))
    if kind == "resource_link":
        return Block(kind="link", mime=mime, name=str(wire.get("uri", "")))
    return Block(kind=kind, data=_bytes(wire.get("data")), mime=mime)


def _bytes(encoded: object) -> bytes | None:
    if not isinstance(encoded, str):
        return None
    try:
        return base64.b64decode(encoded)
    except (binascii.Error, ValueError):
        return encoded.encode("utf-8", "replace")
