"""What a script sees of a conversation, and what it answers."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, cast

from crew_plugin.models.records import Usage

__all__ = ["Conversation", "Fault", "Reply", "Script", "ToolResult", "ToolUse"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """One tool call of a reply."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    id: str | None = None
    """None for one that no other call has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """A tool call that was made and what came back."""

    name: str
    arguments: Mapping[str, Any]
    text: str


class Fault(StrEnum):
    """How a reply goes wrong."""

    RATE_LIMIT = "rate_limit"
    """429 with `Retry-After`."""
    SERVER_ERROR = "server_error"
    """500."""
    UNAUTHORIZED = "unauthorized"
    """401, as for a wrong key."""
    BAD_REQUEST = "bad_request"
    """400."""
    CONTEXT_OVERFLOW = "context_overflow"
    """400 that says the prompt does not fit."""
    BROKEN_STREAM = "broken_stream"
    """The connection is cut after half of the reply."""
    HALF_TOOL_CALL = "half_tool_call"
    """The reply ends properly, but the arguments of its last tool call are cut in the middle."""
    STALL = "stall"
    """Nothing is ever sent."""
    STALLED_STREAM = "stalled_stream"
    """Half of the reply is sent, and then nothing; the connection stays open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the model answers to one request."""

    text: str = ""
    calls: tuple[ToolUse, ...] = ()
    delay: float = 0.0
    """Seconds before the first byte, on top of the server's latency."""
    usage: Usage | None = None
    """None for a count made from the sizes of request and reply."""
    fault: Fault | None = None
    retry_after: float = 0.0
    """Seconds, for `Fault.RATE_LIMIT`."""
    held: bool = False
    """Send nothing until the server's `release` is called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """One request, as a script looks at it."""

    messages: tuple[Mapping[str, Any], ...]
    tools: Mapping[str, Mapping[str, Any]]
    """Name of each offered tool -> JSON Schema of its arguments."""
    model: str
    forced: str | None
    """The tool that the request says must be called."""
    number: int
    """Counts the requests of the server from 1."""

    @classmethod
    def of(cls, body: Mapping[str, Any], number: int) -> "Conversation":
        """The conversation in the body of a chat completions request."""
        tools: dict[str, Mapping[str, Any]] = {}
        for tool in body.get("tools") or ():
            function = tool["function"]
            tools[function["name"]] = function.get("parameters") or {}
        choice: Any = body.get("tool_choice")
        forced = (
            str(cast("Mapping[str, Any]", choice)["function"]["name"]) if isinstance(choice, dict) else None
        )
        return cls(
            messages=tuple(body["messages"]),
            tools=tools,
            model=str(body.get("model", "")),
            forced=forced,
            number=number,
        )

    @property
    def system(self) -> str:
        """The system prompt."""
        return "\n\n".join(self._texts("system"))

    @property
    def user_texts(self) -> tuple[str, ...]:
        """All user messages, oldest first."""
        return self._texts("user")

    @property
    def first_user(self) -> str:
        """The first user message."""
        return next(iter(self.user_texts), "")

    @property
    def last_user(self) -> str:
        """The newest user message."""
        return next(reversed(self.user_texts), "")

    @property
    def tool_results(self) -> tuple[ToolResult, ...]:
        """Every tool result, oldest first."""
        return _results(self.messages)

    @property
    def new_results(self) -> tuple[ToolResult, ...]:
        """The tool results since the newest user message."""
        newest = max((i for i, m in enumerate(self.messages) if m["role"] == "user"), default=0)
        return _results(self.messages, since=newest)

    def offered(self, name: str) -> bool:
        """Whether this tool is offered."""
        return name in self.tools

    def parameter(self, tool: str, *names: str) -> str | None:
        """The first of these parameters that the tool has."""
        properties = self.tools.get(tool, {}).get("properties", {})
        return next((name for name in names if name in properties), None)

    def find(self, pattern: str) -> str | None:
        """First group (or whole match) of `pattern` in the newest message that has one."""
        for message in reversed(self.messages):
            if match := re.search(pattern, _text(message)):
                return match[1] if match.re.groups else match[0]
        return None

    def _texts(self, role: str) -> tuple[str, ...]:
        return tuple(_text(message) for message in self.messages if message["role"] == role)


Script = Callable[[Conversation], Reply]


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = cast("Sequence[Mapping[str, Any]]", content or ())
    return "\n".join(str(part.get("text", "")) for part in parts)


def _results(messages: Sequence[Mapping[str, Any]], since: int = 0) -> tuple[ToolResult, ...]:
    calls: dict[str, Mapping[str, Any]] = {}
    results: list[ToolResult] = []
    for position, message in enumerate(messages):
        for call in message.get("tool_calls") or ():
            calls[call["id"]] = call["function"]
        if message["role"] == "tool" and position >= since:
            function = calls.get(str(message.get("tool_call_id")), {})
            results.append(
                ToolResult(
                    name=str(function.get("name", "")),
                    arguments=_arguments(str(function.get("arguments", ""))),
                    text=_text(message),
                )
            )
    return tuple(results)


def _arguments(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return {}
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}
