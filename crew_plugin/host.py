"""The ports to a host coding agent and to an engine that runs sessions.

A host adapter implements `Host`; whatever can hold a conversation implements `Engine`. The
crew knows nothing else of either. What an engine cannot do it says in `capabilities`, and a
plan that needs it is refused before it starts.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from crew_plugin.models.causes import Cause
from crew_plugin.models.records import Effect, ParentRef, TranscriptEntry, Usage

if TYPE_CHECKING:
    from crew_plugin.models.spec import LimitsSpec, McpServerSpec

__all__ = [
    "Engine",
    "EngineCapability",
    "Host",
    "HostCapability",
    "HostInfo",
    "Job",
    "JobEnded",
    "ModelAnswered",
    "ModelBusy",
    "ModelRetrying",
    "ModelWaiting",
    "Offered",
    "PluginActed",
    "ServerNoted",
    "ServerReport",
    "Session",
    "SessionEvent",
    "SessionFailed",
    "SessionSpec",
    "SteersTaken",
    "ToolCall",
    "ToolContext",
    "ToolEnded",
    "ToolError",
    "ToolJournal",
    "ToolOutput",
    "ToolProgress",
    "ToolSpec",
    "ToolStarted",
    "TurnEnded",
]


# --- tools ---------------------------------------------------------------------------------


class ToolError(Exception):
    """Raised by a tool's `execute` to tell the model what was wrong and what to do instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """Who calls a tool."""

    session: str
    """The host's id of the calling session."""
    call_id: str
    parent: ParentRef | None = None
    """Set when the caller is a session of the host itself: where late results can be delivered."""
    progress: Callable[[str], Awaitable[None]] | None = None
    """Shows one line to the person in the chat, where the host can."""
    can_deliver_later: bool = False
    """Whether a result that comes after the call can still reach the caller."""
    by_hand: bool = False
    """A person typed the call as a chat command: what is answered is for a person to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOutput:
    """What a tool gives back: the text for the model and, for other readers, the facts."""

    text: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])
    ends_session: bool = False
    """The session is over once this call returns (an accepted result)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that a model can call, independent of any host."""

    name: str
    description: str
    parameters: Mapping[str, Any]
    """JSON Schema of the arguments, an object."""
    execute: Callable[[Mapping[str, Any], ToolContext], Awaitable[ToolOutput]]
    effect: Effect = Effect.PURE
    unreadable: Callable[[str], Awaitable[ToolOutput]] | None = None
    """Answers a call whose arguments were no JSON object, from what the model wrote. None lets the
    engine say so."""


# --- sessions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSpec:
    """All that an engine needs to hold one conversation."""

    session_id: str
    """Ours. An engine inside a host derives the host's session id from it."""
    agent: str
    system_prompt: str
    cwd: str
    tools: tuple[ToolSpec, ...]
    """Tools of the crew: always offered, whatever `host_tools` says."""
    host_tools: tuple[str, ...]
    """Host-neutral names of tools that the host provides (`bash`, `edit`, `mcp__server__*`)."""
    limits: "LimitsSpec"
    model: str | None = None
    """None for the host's own model."""
    append_prompt: bool = False
    """Append `system_prompt` to the host's own instead of replacing it."""
    journal: "ToolJournal | None" = None
    """Told of every call of a host tool before it runs; if it raises, the call does not happen."""
    identity: Mapping[str, str] = field(default_factory=dict[str, str])
    """Run, task and role of the session, for hooks of other plugins and for child environments."""
    denied_tools: tuple[str, ...] = ()
    """Names and patterns of host tools that the session never gets, whatever `host_tools` says."""
    mcp_servers: "tuple[McpServerSpec, ...]" = ()
    """Servers of this agent's own; the session may use all of their tools that are not denied."""
    keep: Callable[[str, bytes], Awaitable[str]] | None = None
    """Keeps a body that a model is not shown whole, under a name; returns how it can be read."""
    history: tuple[TranscriptEntry, ...] = ()
    """What was said before, where the session goes on with an earlier conversation: the entries
    of roles user, assistant and tool in their order. The engine needs `HISTORY`."""


class ToolJournal(Protocol):
    """Where the wrapper around each tool writes down what is about to happen."""

    async def begin(self, tool: str, arguments: Mapping[str, Any], effect: Effect) -> str:
        """Write the call down; returns the id for `end`. Raising stops the call."""
        ...

    async def end(self, call_id: str, error: str | None, *, cancelled: bool = False) -> None:
        """Write down how it ended."""
        ...

    def skip(self) -> None:
        """A call of the model's answer is not going to be made: there is no such tool, or it could not
        be read."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call that a model wants made."""

    id: str
    name: str
    arguments: str
    """As the model wrote it; usually JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelAnswered:
    """The model answered. Comes before any tool of the answer is run."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    usage: Usage
    model: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRetrying:
    """A model call failed in a way that may pass and will be made again after `delay` seconds."""

    error: str
    attempt: int
    of: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelBusy:
    """A sign of life: the model is still putting out an answer. At most one every few seconds, and
    one where an answer breaks off."""

    said: str = ""
    """The text of it so far."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelWaiting:
    """A sign of life: a model call waits for its turn at the provider. Comes again every few
    seconds while it does."""

    ahead: int
    """How many calls of this process go first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteersTaken:
    """Texts given to `steer` or `prompt` became part of a model call."""

    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolStarted:
    """A tool call began. `target` is one short fact about it: a path, a command, a query."""

    call_id: str
    name: str
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolEnded:
    """A tool call ended. `text` is what the model is going to see."""

    call_id: str
    name: str
    text: str
    ok: bool
    milliseconds: float
    ends_session: bool = False
    known: bool = True
    """False where there is no such tool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProgress:
    """A tool that is still at work says how far it is. At most one every few seconds per call."""

    call_id: str
    name: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerNoted:
    """Something happened to a server whose tools the session may use."""

    server: str
    state: str
    """`lost`, `reconnected`, `failed`, `given_up` or `tools_changed`."""
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work that goes on in the background of a session: a shell that was not waited for."""

    id: str
    what: str
    """One short fact about it: the command."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded:
    """A background job of the session ended by itself, or its output came late."""

    job: Job
    text: str
    """The end of what it put out, and how it ended."""
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginActed:
    """Another plugin of the host failed inside the session, or had a say in what it does."""

    plugin: str
    hook: str
    outcome: str
    """`failed`, `timed_out`, `changed`, `denied`, `replaced` or `finished`."""
    tool: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnEnded:
    """The model stopped without calling a tool. The session is idle until `prompt` or its exit."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFailed:
    """The session cannot go on. The last event of a session."""

    error: Exception


SessionEvent = (
    ModelAnswered
    | ModelBusy
    | ModelRetrying
    | ModelWaiting
    | SteersTaken
    | ToolStarted
    | ToolProgress
    | ToolEnded
    | ServerNoted
    | JobEnded
    | PluginActed
    | TurnEnded
    | SessionFailed
)


class Session(Protocol):
    """One open conversation. Entering it opens it, leaving it ends everything it owns."""

    @property
    def host_session(self) -> str:
        """The host's id of this session."""
        ...

    async def prompt(self, text: str) -> None:
        """Give the session its next user message. Returns at once; watch `events`."""
        ...

    async def steer(self, text: str) -> None:
        """Add a user message that the next model call sees."""
        ...

    def restrict(self, tools: frozenset[str], *, force: str | None = None) -> None:
        """From the next model call on, offer only these tools; `force` names one that the model
        must call, where the engine can make it."""
        ...

    def withdraw(self, tool: str) -> None:
        """From the next model call on, do not offer this tool any more."""
        ...

    def jobs(self) -> tuple[Job, ...]:
        """The background jobs that have not ended, or whose `JobEnded` has not come out of `events`
        yet. Empty where the engine lacks `JOBS`."""
        ...

    async def end_jobs(self) -> None:
        """End all background jobs, quietly: no `JobEnded` comes for them."""
        ...

    def left_running(self) -> tuple[str, ...]:
        """What did not let itself be ended, each in a few words. Final once the session was left."""
        ...

    def afterwards(self) -> tuple[PluginActed, ...]:
        """What other plugins did when the `events` were over. Final once the session was left."""
        ...

    async def abort(self, cause: Cause) -> None:
        """Stop what is going on now; quiet within a second. The session stays enterable for
        its `events` (which end) and must still be left."""
        ...

    def events(self) -> AsyncIterator[SessionEvent]:
        """What happens, in order. Ends when the session was aborted or failed."""
        ...


class EngineCapability(StrEnum):
    """What an engine may be able to do."""

    STEER = "steer"
    RESTRICT_TOOLS = "restrict_tools"
    SYSTEM_PROMPT = "system_prompt"
    FORCE_RESULT = "force_result"
    USAGE = "usage"
    HISTORY = "history"
    JOBS = "jobs"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReport:
    """What one MCP server gives an agent."""

    name: str
    own: bool
    """Whether the agent brings it itself; else it is the host's."""
    state: str
    """`connected`, `failed`, `given_up`, `lost`, `idle` or `hidden`."""
    reason: str = ""
    """Why it is not connected."""
    tools: tuple[str, ...] = ()
    """What the agent may call."""
    denied: tuple[str, ...] = ()
    """What its file takes away."""
    offered: int = 0
    """How many tools the server has in all."""


class Engine(Protocol):
    """Something that can hold conversations."""

    @property
    def name(self) -> str:
        """A short name: `bub`."""
        ...

    @property
    def capabilities(self) -> frozenset[EngineCapability]:
        """What it can do."""
        ...

    def open(self, spec: SessionSpec) -> AbstractAsyncContextManager[Session]:
        """A session, opened on entry. Leaving it quiets it within 1 s and ends its shells
        within 5 s, however it is left."""
        ...

    async def available_tools(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: "tuple[McpServerSpec, ...]" = (),
    ) -> tuple[str, ...]:
        """Which of these host-neutral names this engine can provide here, wildcards expanded, and
        the tools of the agent's own `servers`; without what is `denied`."""
        ...

    async def server_reports(
        self,
        names: tuple[str, ...],
        cwd: str,
        *,
        denied: tuple[str, ...] = (),
        servers: "tuple[McpServerSpec, ...]" = (),
    ) -> tuple[ServerReport, ...]:
        """What each MCP server gives an agent that names these tools. Connects to the servers."""
        ...


# --- hosts ---------------------------------------------------------------------------------


class HostCapability(StrEnum):
    """What a host may offer beyond the four required calls. Decided by probing, never by a
    version alone."""

    TURN_END = "turn_end"
    INJECT_IDLE = "inject_idle"
    STEER_PARENT = "steer_parent"
    PROMPT_CONTEXT = "prompt_context"
    BEFORE_COMPACT = "before_compact"
    COMMANDS = "commands"
    SKILLS = "skills"
    MODEL_HANDLE = "model_handle"
    NATIVE_CHILD = "native_child"
    MCP_CATALOG = "mcp_catalog"
    PROGRESS = "progress"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostInfo:
    """Which host this is and what it can do."""

    name: str
    version: str
    cwd: str
    capabilities: frozenset[HostCapability]


class Offered(Protocol):
    """What a host has to know of a tool before it is called: a generated schema says as much."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def description(self) -> str:
        """What its model is told."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON Schema of its arguments."""
        ...


class Host(Protocol):
    """What every host adapter provides."""

    def identify(self) -> HostInfo:
        """Which host this is."""
        ...

    def offer(self, schema: Offered, tool: Callable[[], ToolSpec]) -> None:
        """Offer a tool to the host's model; it is made at its first call."""
        ...

    async def deliver(self, parent: ParentRef, text: str) -> object | None:
        """Hand `text` to a session of the host: a new turn if idle, steered if busy. Returns what
        is kept for as long as the host has the text to deal with; None if there is no way now."""
        ...

    def running(self) -> AbstractAsyncContextManager[None]:
        """Start and stop with the host's process or session."""
        ...
