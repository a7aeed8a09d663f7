"""What a supervisor and a worker say to each other: one JSON object a line, checked on both sides.

The worker holds the conversation and the host's tools. Whatever needs the supervisor is a call to it: the
crew's own tools, MCP tools, the journal, and keeping a body. So is the turn of each request at a model
provider: the gate is the supervisor's. Control goes to the worker, events come back.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Final, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from crew_plugin.errors import CrewError, EngineError
from crew_plugin.host import SessionEvent, SessionFailed, SessionSpec, ToolSpec
from crew_plugin.models.causes import Cause, CauseCode
from crew_plugin.models.records import Effect, TranscriptEntry
from crew_plugin.models.spec import LimitsSpec

__all__ = [
    "VERSION",
    "Abort",
    "Acquire",
    "Answer",
    "AtGate",
    "Call",
    "Cancel",
    "Control",
    "EndJobs",
    "Event",
    "Granted",
    "Hello",
    "Leave",
    "Left",
    "Message",
    "Open",
    "Opened",
    "Progressed",
    "ProtocolError",
    "Queued",
    "Quiet",
    "Refusing",
    "Release",
    "Restrict",
    "Say",
    "Servers",
    "ToolFacts",
    "Withdraw",
    "cause_of",
    "decode",
    "effect_of",
    "encode",
    "event_of",
    "facts_of",
    "history_of",
    "limits_of",
    "open_message",
    "told_of",
    "warm",
]

VERSION: Final = 3


class ProtocolError(CrewError):
    """A line that is none of these messages: the other side is broken, or of another version."""


class _Message:
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")


# --- to the worker -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFacts:
    """A tool that the supervisor executes."""

    name: str
    description: str
    parameters: dict[str, Any]
    effect: str
    reads_anything: bool = False
    """It also takes arguments that are no JSON object."""


@dataclass(frozen=True, kw_only=True)
class Open(_Message):
    """Open the session. The first message, after the worker's `Hello`."""

    type: Literal["open"] = "open"
    version: int
    session_id: str
    agent: str
    system_prompt: str
    cwd: str
    tools: tuple[ToolFacts, ...]
    """The crew's own."""
    remote: tuple[ToolFacts, ...]
    """Those of MCP servers."""
    host_tools: tuple[str, ...]
    denied_tools: tuple[str, ...]
    limits: dict[str, Any]
    model: str | None
    append_prompt: bool
    identity: dict[str, str]
    history: tuple[dict[str, Any], ...]
    owner: str
    """The mark of the supervisor."""
    hook_seconds: float


@dataclass(frozen=True, kw_only=True)
class Say(_Message):
    """A user message: the next prompt, or one that the next model call sees."""

    type: Literal["say"] = "say"
    text: str
    steer: bool = False


@dataclass(frozen=True, kw_only=True)
class Restrict(_Message):
    """Offer only these tools."""

    type: Literal["restrict"] = "restrict"
    tools: tuple[str, ...]
    force: str | None


@dataclass(frozen=True, kw_only=True)
class Withdraw(_Message):
    """Do not offer this tool any more."""

    type: Literal["withdraw"] = "withdraw"
    tool: str


@dataclass(frozen=True, kw_only=True)
class EndJobs(_Message):
    """End the jobs in the background."""

    type: Literal["end_jobs"] = "end_jobs"


@dataclass(frozen=True, kw_only=True)
class Abort(_Message):
    """Stop what is going on."""

    type: Literal["abort"] = "abort"
    code: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Leave(_Message):
    """Leave the session and end."""

    type: Literal["leave"] = "leave"


@dataclass(frozen=True, kw_only=True)
class Answer(_Message):
    """What became of a call."""

    type: Literal["answer"] = "answer"
    id: int
    text: str = ""
    ends_session: bool = False
    error: str | None = None
    """Why it failed; `text` is empty then."""
    expected: bool = True
    """The error is one that the tool meant to tell, and no defect."""


@dataclass(frozen=True, kw_only=True)
class Progressed(_Message):
    """How far a call is."""

    type: Literal["progressed"] = "progressed"
    id: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Servers(_Message):
    """Something happened to an MCP server; its tools may be others now."""

    type: Literal["servers"] = "servers"
    server: str
    state: str
    text: str
    remote: tuple[ToolFacts, ...]


@dataclass(frozen=True, kw_only=True)
class Queued(_Message):
    """A model call waits at its gate; so many go first. Told every few seconds."""

    type: Literal["queued"] = "queued"
    place: int
    ahead: int


@dataclass(frozen=True, kw_only=True)
class Granted(_Message):
    """A model call may make its request now."""

    type: Literal["granted"] = "granted"
    place: int


@dataclass(frozen=True, kw_only=True)
class Refusing(_Message):
    """How it stands at the gate of a provider that refuses: after a refused request, and where a call is
    not let through any more."""

    type: Literal["refusing"] = "refusing"
    place: int
    pause: float
    """Seconds until anybody is let through."""
    losses: int
    """Waves that were lost in a row since the call came."""
    error: str | None = None
    """Why the call is not let through any more."""


# --- to the supervisor ---------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Hello(_Message):
    """The worker is there."""

    type: Literal["hello"] = "hello"
    version: int
    pid: int


@dataclass(frozen=True, kw_only=True)
class Opened(_Message):
    """The session is open, or why not."""

    type: Literal["opened"] = "opened"
    host_session: str = ""
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Event(_Message):
    """Something happened in the session. With it come the jobs that it has now."""

    type: Literal["event"] = "event"
    kind: str
    data: dict[str, Any]
    jobs: tuple[dict[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Call(_Message):
    """A call that the supervisor makes."""

    type: Literal["call"] = "call"
    id: int
    what: Literal["tool", "unreadable", "begin", "end", "skip", "keep"]
    name: str = ""
    """Of the tool, the journal's entry, or the body."""
    arguments: dict[str, Any] = field(default_factory=dict[str, Any])
    text: str = ""
    """What the model wrote, an error, or a body in base64."""
    session: str = ""
    call_id: str = ""
    effect: str = ""
    cancelled: bool = False


@dataclass(frozen=True, kw_only=True)
class Cancel(_Message):
    """A call is not wanted any more."""

    type: Literal["cancel"] = "cancel"
    id: int


@dataclass(frozen=True, kw_only=True)
class Quiet(_Message):
    """Nothing more will be told of the session: it is over, or was stopped."""

    type: Literal["quiet"] = "quiet"


@dataclass(frozen=True, kw_only=True)
class Acquire(_Message):
    """A model call wants to make its request. A call that makes it again keeps its place."""

    type: Literal["acquire"] = "acquire"
    place: int
    """The worker's number of it."""
    gate: str
    urgency: Literal[0, 1, 2]
    losses: int
    """Waves in a row that may be lost for it."""


@dataclass(frozen=True, kw_only=True)
class Release(_Message):
    """A request ended, or is not wanted any more."""

    type: Literal["release"] = "release"
    place: int
    outcome: Literal["served", "failed", "refused"]
    wish: float | None = None
    """The pause that a provider which refused it asked for, in seconds."""


@dataclass(frozen=True, kw_only=True)
class Left(_Message):
    """The session was left; what did not let itself be ended."""

    type: Literal["left"] = "left"
    running: tuple[str, ...]
    acted: tuple[dict[str, Any], ...] = ()
    """What other plugins did meanwhile."""


Control = Open | Say | Restrict | Withdraw | EndJobs | Abort | Leave | Answer | Progressed | Servers
AtGate = Queued | Granted | Refusing
Message = Control | AtGate | Hello | Opened | Event | Call | Cancel | Acquire | Release | Quiet | Left

_KINDS: Final[Mapping[str, type[Message]]] = {
    kind.type: kind
    for kind in (
        *(Open, Say, Restrict, Withdraw, EndJobs, Abort, Leave, Answer, Progressed, Servers),
        *(Queued, Granted, Refusing),
        *(Hello, Opened, Event, Call, Cancel, Acquire, Release, Quiet, Left),
    )
}
_EVENTS: Final[Mapping[str, type[Any]]] = {
    kind.__name__: kind for kind in SessionEvent.__args__ if kind is not SessionFailed
}


_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    """Made when first needed: each takes some milliseconds."""
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def encode(message: Message) -> bytes:
    """The message as one line."""
    return json.dumps(asdict(message), ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


def decode(line: bytes) -> Message:
    """The message that a line is. Raises `ProtocolError`."""
    try:
        data = json.loads(line)
        kind = _KINDS[data["type"]]
        message: Message = _adapter(kind).validate_python(data)
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        shown = line[:200].decode("utf-8", "replace")
        raise ProtocolError(f"a line that is no message: {shown!r} ({type(error).__name__})") from error
    return message


# --- sessions as messages ------------------------------------------------------------------


def facts_of(tool: ToolSpec) -> ToolFacts:
    """As much of a tool as a model is told."""
    return ToolFacts(
        name=tool.name,
        description=tool.description,
        parameters=dict(tool.parameters),
        effect=tool.effect,
        reads_anything=tool.unreadable is not None,
    )


def told_of(event: SessionEvent) -> tuple[str, dict[str, Any]]:
    """An event as a message has it."""
    if isinstance(event, SessionFailed):
        error = event.error
        facts: dict[str, Any] = {"text": str(error), "name": type(error).__name__, "kind": None}
        if isinstance(error, EngineError):
            facts |= {"kind": error.kind, "retryable": error.retryable}
        return "SessionFailed", facts
    return type(event).__name__, asdict(event)


def event_of(kind: str, data: Mapping[str, Any]) -> SessionEvent:
    """The event that a message tells of. Raises `ProtocolError`."""
    try:
        if kind == "SessionFailed":
            return SessionFailed(error=_error_of(data))
        event: SessionEvent = _adapter(_EVENTS[kind]).validate_python(dict(data))
    except (KeyError, ValidationError) as error:
        raise ProtocolError(f"an event {kind!r} that there is not, or with other facts") from error
    return event


def _error_of(data: Mapping[str, Any]) -> Exception:
    if data["kind"] is not None:
        return EngineError(data["kind"], str(data["text"]), retryable=bool(data["retryable"]))
    return RuntimeError(f"{data['name']}: {data['text']}")


def open_message(
    spec: SessionSpec,
    remote: tuple[ToolFacts, ...],
    *,
    owner: str,
    hook_seconds: float,
) -> Open:
    """The session that the worker is to open."""
    return Open(
        version=VERSION,
        session_id=spec.session_id,
        agent=spec.agent,
        system_prompt=spec.system_prompt,
        cwd=spec.cwd,
        tools=tuple(map(facts_of, spec.tools)),
        remote=remote,
        host_tools=spec.host_tools,
        denied_tools=spec.denied_tools,
        limits=spec.limits.model_dump(),
        model=spec.model,
        append_prompt=spec.append_prompt,
        identity=dict(spec.identity),
        history=tuple(asdict(entry) for entry in spec.history),
        owner=owner,
        hook_seconds=hook_seconds,
    )


def limits_of(message: Open) -> LimitsSpec:
    """Its limits."""
    return LimitsSpec.model_validate(message.limits)


def history_of(message: Open) -> tuple[TranscriptEntry, ...]:
    """What was said before."""
    return tuple(TranscriptEntry(**entry) for entry in message.history)


def effect_of(facts: ToolFacts) -> Effect:
    """What the tool does to the world."""
    return Effect(facts.effect)


def cause_of(message: Abort) -> Cause:
    """Why it is stopped."""
    return Cause(code=CauseCode(message.code), message=message.message)


def warm() -> None:
    """Make what checking needs, which takes some milliseconds for each kind."""
    for kind in (*_KINDS.values(), *_EVENTS.values()):
        _adapter(kind)
