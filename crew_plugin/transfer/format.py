"""What is in a run bundle: a head, a line for each row, and the bodies by their hashes.

A bundle comes from anywhere, so every key, id, state and reference is checked here before anything of
it is written down. Whatever changes these models changes `parts.VERSION`.
"""

import json
from typing import Annotated, Any, Final, Literal, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from crew_plugin.models.events import EVENT_TYPES
from crew_plugin.models.mail import MessageKind, MessageState
from crew_plugin.models.questions import QuestionState
from crew_plugin.models.records import DeadLetterState, Effect, GaveUp, ToolCallState
from crew_plugin.models.states import AttemptState, RunState, SessionKind, TaskState
from crew_plugin.store.port import Column

__all__ = [
    "LINE",
    "Head",
    "Line",
    "check_entry",
    "check_result",
    "columns_of",
]


def _id(kind: str) -> Any:
    return StringConstraints(pattern=rf"^{kind}_[0-9a-z]{{14}}$")


def _json(kind: Any) -> Any:
    """Marks a column that holds JSON of a kind. It is checked and kept as it was written: half a
    surrogate pair, which models write, stands in such text and in no other."""
    adapter = TypeAdapter[Any](kind)

    def checked(text: str) -> str:
        _check(adapter, text)
        return text

    return AfterValidator(checked)


def _check(adapter: TypeAdapter[Any], text: str | bytes) -> None:
    """Raise `ValueError` unless this is JSON of that kind."""
    try:
        adapter.validate_python(json.loads(text))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        raise ValueError(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


RunId = Annotated[str, _id("run")]
TaskId = Annotated[str, _id("task")]
AttemptId = Annotated[str, _id("att")]
SessionId = Annotated[str, _id("ses")]
ResultId = Annotated[str, _id("res")]
MessageId = Annotated[str, _id("msg")]
Sha256 = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
Key = Annotated[str, StringConstraints(pattern=r"^[^\s/\\\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]{0,199}$")]
"""A task's name: it is shown and typed, and never anything that leads to a file."""
Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{0,200}$")]
"""What stands on a line with others."""
Flag = Annotated[int, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Moment = Annotated[float, Field(ge=0, lt=1e11)]
Ref = tuple[Sha256, Count, str, str, RunId | None, TaskId | None]
Cause = tuple[str, str, str | None]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RowsPart(_Model):
    """The part with the rows."""

    sha256: Sha256
    size: Count
    count: Count


class Head(_Model):
    """`run.json`: what the bundle is and what it holds."""

    format: Literal["crew-run-bundle"]
    version: Literal[1]
    made_by: Annotated[str, StringConstraints(max_length=80)]
    exported_at: Moment
    run_id: RunId
    state: RunState
    rows: RowsPart
    bodies: dict[Sha256, Count]
    """The size of each, by its hash."""


class RunLine(_Model):
    """The run."""

    table: Literal["run"]
    id: RunId
    state: RunState
    cause: Annotated[str, _json(Cause)] | None
    team: Name
    workflow: Name
    cwd: str
    background: Flag
    epoch: Count
    created_at: Moment
    started_at: Moment | None
    ended_at: Moment | None
    wall_seconds: float | None
    runtime: SessionKind
    runtime_note: str
    goal: str
    spec: Annotated[str, _json(dict[str, Any])]
    worked: float


class TaskLine(_Model):
    """One task."""

    table: Literal["task"]
    id: TaskId
    run_id: RunId
    key: Key
    position: Count
    title: str
    role: Name
    agent: Name
    state: TaskState
    cause: Annotated[str, _json(Cause)] | None
    depends_on: Annotated[str, _json(list[str])]
    optional: Flag
    attention_pass: Flag
    dispatches: Count
    max_dispatches: Count
    attempt_id: AttemptId | None
    attempts: Count
    retry_at: Moment | None
    started_at: Moment | None
    ended_at: Moment | None
    spec: Annotated[str, _json(dict[str, Any])]
    hold: str | None


class CountsPart(_Model):
    """What a session did."""

    turns: Count = 0
    tool_calls: Count = 0
    tool_errors: Count = 0
    retries: Count = 0
    recent: Count = 0
    recent_errors: Count = 0
    compactions: Count = 0
    context: Count = 0
    window: Count = 0


class AttemptLine(_Model):
    """One attempt."""

    table: Literal["attempt"]
    id: AttemptId
    run_id: RunId
    task_id: TaskId
    number: Count
    state: AttemptState
    cause: Annotated[str, _json(Cause)] | None
    epoch: Count
    engine: Name
    kind: SessionKind
    session_id: SessionId
    model_asked: str | None
    model_used: str | None
    usage_input: Count
    usage_output: Count
    usage_cached: Count
    usage_calls: Count
    usage_cost: float | None
    steps: Count
    counts: Annotated[str, _json(CountsPart)]
    result_id: ResultId | None
    last_text: Annotated[str, _json(Ref)] | None
    started_at: Moment
    ended_at: Moment | None
    last_activity_at: Moment
    resumed_steps: Count | None


class SessionLine(_Model):
    """One session."""

    table: Literal["session"]
    id: SessionId
    attempt_id: AttemptId
    run_id: RunId
    kind: SessionKind
    cwd: str
    prompt: Annotated[str, _json(Ref)] | None


class ResultLine(_Model):
    """One accepted result; its text is a body."""

    table: Literal["result"]
    id: ResultId
    run_id: RunId
    task_id: TaskId
    attempt_id: AttemptId
    error: str | None
    flags: Annotated[str, _json(list[str])]
    artifacts: Annotated[str, _json(dict[str, Ref])]
    body: Annotated[str, _json(Ref)]
    created_at: Moment


class SectionLine(_Model):
    """A part of a result."""

    table: Literal["section"]
    attempt_id: AttemptId
    label: str
    adds: Flag
    body: Annotated[str, _json(Ref)]
    created_at: Moment


class ToolCallLine(_Model):
    """One journalled tool call."""

    table: Literal["tool_call"]
    id: Annotated[str, _id("call")]
    attempt_id: AttemptId
    tool: Name
    effect: Effect
    state: ToolCallState
    arguments: str
    error: str | None
    started_at: Moment
    ended_at: Moment | None


class CallPart(BaseModel):
    """A tool call in an answer of a model. Providers put more into it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str = ""
    arguments: str | dict[str, Any] = ""


class EntryPart(BaseModel):
    """What an entry of a transcript holds beside its text. Whoever writes one may put more into it."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str | None = None
    call_id: str | None = None
    tool_calls: list[CallPart] = Field(default_factory=list[CallPart])
    messages: list[str] = Field(default_factory=list[str])


class ResultPart(BaseModel):
    """The body of a result."""

    model_config = ConfigDict(extra="allow", frozen=True)

    summary: str
    data: Any


_ENTRY: Final = TypeAdapter[Any](tuple[str, EntryPart])
_RESULT: Final = TypeAdapter[Any](ResultPart)


def check_entry(body: bytes) -> None:
    """Raise `ValueError` unless this is the body of a long entry of a transcript."""
    _check(_ENTRY, body)


def check_result(body: bytes) -> None:
    """Raise `ValueError` unless this is the body of a result."""
    _check(_RESULT, body)


class TranscriptLine(_Model):
    """One entry of a transcript: whole, or a body."""

    table: Literal["transcript"]
    session_id: SessionId
    seq: Annotated[int, Field(ge=1, lt=2**53)]
    role: Literal["system", "user", "assistant", "tool", "note"]
    at: Moment
    content: str | None
    data: Annotated[str, _json(EntryPart)] | None
    body: Sha256 | None

    @model_validator(mode="after")
    def _one_of_both(self) -> "TranscriptLine":
        inline = (self.content is not None, self.data is not None)
        if inline != (self.body is None,) * 2:
            raise ValueError("an entry has either content and data, or a body")
        return self


class MessageLine(_Model):
    """One piece of mail."""

    table: Literal["message"]
    id: MessageId
    run_id: RunId
    sender: str
    recipient: str
    kind: MessageKind
    body: str
    state: MessageState
    hops: Count
    reply_to: str | None
    reason: str | None
    created_at: Moment
    delivered_at: Moment | None
    expires_at: Moment | None


class QuestionLine(_Model):
    """One question of a session."""

    table: Literal["question"]
    id: Annotated[str, _id("ask")]
    run_id: RunId
    task_id: TaskId
    attempt_id: AttemptId
    text: str
    choices: Annotated[str, _json(list[str])]
    fallback: str | None
    state: QuestionState
    answer: str | None
    answered_by: str | None
    reason: str | None
    asked_at: Moment
    expires_at: float
    told_at: Moment | None
    closed_at: Moment | None


class DeadLetterLine(_Model):
    """One task that was given up."""

    table: Literal["dead_letter"]
    id: Annotated[str, _id("dead")]
    run_id: RunId
    task_id: TaskId
    attempt_id: AttemptId | None
    attempts: Count
    reason: GaveUp
    cause: Annotated[str, _json(Cause)] | None
    state: DeadLetterState
    created_at: Moment
    closed_at: Moment | None
    closed_by: str | None
    note: str | None


class ArtifactLine(_Model):
    """A reference to a body."""

    table: Literal["artifact"]
    run_id: RunId
    task_id: TaskId | None
    sha256: Sha256
    size: Count
    name: str
    media_type: str
    created_at: Moment
    removed_at: Moment | None
    removed_because: str | None


class EventLine(_Model):
    """One event. It gets a new number where it is imported."""

    table: Literal["event"]
    run_id: RunId
    at: Moment
    epoch: Count
    type: str
    actor: str
    task_id: TaskId | None
    attempt_id: AttemptId | None
    cause: Annotated[str, _json(Cause)] | None
    data: Annotated[str, _json(dict[str, Any])]

    @model_validator(mode="after")
    def _is_known(self) -> "EventLine":
        if self.type not in EVENT_TYPES:
            raise ValueError(f"there is no event {self.type!r}")
        return self


Line = (
    RunLine
    | TaskLine
    | AttemptLine
    | SessionLine
    | ResultLine
    | SectionLine
    | ToolCallLine
    | TranscriptLine
    | MessageLine
    | QuestionLine
    | DeadLetterLine
    | ArtifactLine
    | EventLine
)
LINE: Final[TypeAdapter[Line]] = TypeAdapter(Annotated[Line, Field(discriminator="table")])
"""Reads one line of the rows."""


def columns_of(line: Line) -> dict[str, Column]:
    """The row as a store takes it."""
    values = line.model_dump(mode="json", round_trip=True)
    del values["table"]
    return cast("dict[str, Column]", values)
