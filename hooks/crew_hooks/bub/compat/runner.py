"""Bub's model runner with shared clients and with retries that are ours."""

# pyright: reportPrivateUsage=false

import asyncio
import json
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from any_llm.types.completion import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessageFunctionToolCall,
    Function,
)
from bub.builtin.model_runner import (
    CompletionResult,
    ModelOutputAccumulator,
    ModelRunner,
    StreamToolCall,
)
from bub.builtin.settings import load_settings
from bub.hooks.interception import AgentHooks
from bub.streaming import StreamEvent, StreamState

from crew_hooks.bub.clients import ClientPool
from crew_hooks.bub.failures import back_off, engine_error, refusal
from crew_plugin.engine.provider_gate import (
    AT_ONCE,
    Place,
    Refused,
    RequestGate,
    Standing,
    Urgency,
    Verdict,
)
from crew_plugin.errors import EngineError
from crew_plugin.host import ModelAnswered, ToolCall
from crew_plugin.models.records import Usage
from crew_plugin.session.history import CallIds, shortened_call

if TYPE_CHECKING:
    from any_llm import AnyLLM
    from any_llm.types.completion import ChoiceDeltaToolCall
    from bub.builtin.settings import AgentSettings, ModelCandidate
    from bub.tools import Tool

__all__ = ["MALFORMED", "CrewRunner", "ModelFailed", "ModelWatch", "as_object", "usual_clients"]

MALFORMED = "__not_json__"
"""The one argument of a call whose arguments were no JSON object: what the model wrote."""


class ModelFailed(Exception):
    """Carries an `EngineError` through Bub.

    Its own text says nothing: Bub takes certain texts for a sign that it should drop the whole
    history and start over, which for a session of ours would be a silent loss.
    """

    def __init__(self, error: EngineError) -> None:
        self.error = error
        super().__init__("the model call failed for good")


class ModelWatch(Protocol):
    """Who is told how the model calls of a session go."""

    def answered(self, answer: ModelAnswered) -> None:
        """A call succeeded; nothing of its answer was acted on yet."""
        ...

    def retrying(self, error: EngineError, attempt: int, delay: float) -> None:
        """A call failed and is made again after `delay`."""
        ...

    def output(self) -> None:
        """A piece of a reply came in."""
        ...

    def broke_off(self) -> None:
        """A call failed; what had come of its reply is still in `said`."""
        ...

    def proceed(self) -> None:
        """A call is about to be made. Raises `CancelledError` if none may be made any more."""
        ...

    def waiting(self, ahead: int) -> None:
        """A call waits for its turn at the provider; so many go first. Told every few seconds."""
        ...

    def late(self) -> bool:
        """Whether the session has used much of what it may use."""
        ...


class CrewRunner(ModelRunner):
    """Makes the model calls of one session."""

    def __init__(
        self,
        settings: "AgentSettings",
        hooks: AgentHooks,
        *,
        pool: ClientPool,
        watch: ModelWatch,
        retries: int,
        stall_seconds: float,
    ) -> None:
        super().__init__(settings, hooks=hooks)
        self._plain = settings
        self._pool = pool
        self._watch = watch
        self._retries = retries
        self._stall = stall_seconds
        self._clients: dict[str, AnyLLM] = {}
        self._asked: ModelCandidate | None = None
        self._answering_model = ""
        self._coming: ModelOutputAccumulator | None = None
        """The reply that is on its way."""
        self.call_ids = CallIds()
        """Whoever keeps something by the id of a call may rely on them."""
        self._shortened: dict[str, str] = {}
        """Arguments that are too long to be sent again with every request, and what is sent instead.
        Not by the id of their call: not every provider makes those up anew."""
        self._shut: dict[str, float] = {}
        """Until when, on the monotonic clock, a gate is known to let nobody through. By its name."""

    @property
    def said(self) -> str:
        """The text, so far, of a reply that is on its way."""
        return "" if self._coming is None else self._coming.text

    def force(self, tool: str | None) -> None:
        """From the next call on, demand a call of this tool; None demands nothing."""
        if tool is None:
            self.settings = self._plain
            return
        choice = {"type": "function", "function": {"name": tool}}
        arguments = {**self._plain.completion_args, "tool_choice": choice}
        self.settings = self._plain.model_copy(update={"completion_args": arguments})

    def iter_llm_clients(self, model: str) -> "Iterator[tuple[ModelCandidate, AnyLLM]]":
        """The one model that is asked now, with its shared client: fallbacks are `_open`'s work."""
        assert self._asked is not None
        yield self._asked, self._clients[self._asked.name]

    async def completion_response(
        self,
        *,
        model: str,
        messages: list[dict[str, Any]],
        tools: "list[Tool]",
        max_tokens: int | None = None,
        reasoning_effort: str | None = None,
    ) -> CompletionResult:
        """A call that is made when its events are read, and made again as often as it may be."""
        call = _Call(model, self._told(messages), tools, max_tokens, reasoning_effort, tries=self._retries)
        return cast("CompletionResult", call)

    async def _open(self, call: "_Call") -> "_Opened":
        """Make the request once, on the model or the first fallback that takes it. One whose provider
        has asked for a pause comes after those that may be asked now."""
        candidates = list(self.settings.model_candidates(call.model))
        left = list(candidates)
        failed: dict[int, tuple[Exception, Standing | None]] = {}
        reopens = math.inf
        call.standing = None
        while left:
            candidate = left[0] if len(candidates) == 1 else await self._next(call, left)
            if failed and call.held is None and call.tries > 0 and reopens < self._opens_at(candidate):
                break  # one that was asked may be asked again before any other
            left.remove(candidate)
            try:
                return await self._request(call, candidate)
            except Exception as error:  # noqa: BLE001 - that of the most wanted one is raised below
                standing = await self._standing(call)
                failed[candidates.index(candidate)] = (error, standing)
                if standing is not None:
                    reopens = min(reopens, self._opens_at(candidate))
        if not failed:
            raise RuntimeError("there is no model to ask")
        first, call.standing = failed[min(failed)]
        raise first

    async def _next(self, call: "_Call", candidates: "Sequence[ModelCandidate]") -> "ModelCandidate":
        """The first whose gate is not shut by a pause; if all are, the one whose gate opens first."""
        for candidate in candidates:
            if self._opens_at(candidate) > time.monotonic():
                continue
            gate = self._gate(candidate)
            place = call.probes.setdefault(gate.name, gate.place(self._urgency()))
            try:
                await gate.acquire(place, self._watch.waiting, losses=AT_ONCE)
            except EngineError as error:
                if error.retry_after:
                    self._shut[gate.name] = time.monotonic() + error.retry_after
                    continue
            else:
                call.held = place
            return candidate
        return min(candidates, key=self._opens_at)

    async def _request(self, call: "_Call", candidate: "ModelCandidate") -> "_Opened":
        provider, arguments = _client_of(self.settings, candidate)
        gate = self._pool.gate(provider, arguments)
        place, call.held = call.held, None
        if place is None:
            await self._connect(candidate)
            place = call.places.setdefault(gate.name, gate.place(self._urgency()))
            await gate.acquire(place, self._watch.waiting, losses=self._retries)
        try:
            await self._connect(candidate)
            self._watch.proceed()
            self._asked = candidate
            async with asyncio.timeout(self._stall):
                response = await super().completion_response(
                    model=call.model,
                    messages=call.messages,
                    tools=call.tools,
                    max_tokens=call.max_tokens,
                    reasoning_effort=call.reasoning_effort,
                )
        except BaseException as error:
            call.refused_by = (gate, place) if (refused := refusal(error)) else None
            gate.release(place, refused or Verdict.FAILED)
            raise
        return _Opened(response, gate, place)

    async def _connect(self, candidate: "ModelCandidate") -> None:
        """Have a client for it."""
        if candidate.name not in self._clients:
            provider, arguments = _client_of(self.settings, candidate)
            self._clients[candidate.name] = await self._pool.get(provider, arguments)

    def _gate(self, candidate: "ModelCandidate") -> RequestGate:
        return self._pool.gate(*_client_of(self.settings, candidate))

    def _opens_at(self, candidate: "ModelCandidate") -> float:
        """When its gate opens, as far as is known."""
        return self._shut.get(self._gate(candidate).name, 0.0)

    async def _standing(self, call: "_Call") -> Standing | None:
        """How it stands at the gate that was told of the last failure; None if none was told."""
        refused_by, call.refused_by = call.refused_by, None
        if refused_by is None:
            return None
        gate, place = refused_by
        standing = await gate.standing(place)
        self._shut[gate.name] = time.monotonic() + standing.pause
        return standing

    def _urgency(self) -> Urgency:
        if self.settings is not self._plain:
            return Urgency.LAST
        return Urgency.LATE if self._watch.late() else Urgency.ORDINARY

    async def _completion_events(
        self, completion: CompletionResult, state: StreamState, output: ModelOutputAccumulator
    ) -> AsyncGenerator[StreamEvent, None]:
        call = cast("_Call", completion)
        output._stream_calls = _StreamCalls()
        self._coming = output
        failures = 0
        while True:
            try:
                async with aclosing(self._attempt(call, state, output)) as events:
                    async for event in events:
                        yield event
                break
            except Exception as error:
                failure = engine_error(error, call.model)
                self._watch.broke_off()
                _forget(state, output)
                if failure.kind == "bad_request" and self.settings is not self._plain:
                    self.force(None)  # not every model lets a call be demanded
                    continue
                standing, call.standing = call.standing or await self._standing(call), None
                failures += standing is None
                attempt = failures + (standing.losses if standing else 0)
                gave_up = isinstance(error, EngineError)  # the gate, after as many waves as may be lost
                if gave_up or not failure.retryable or attempt > self._retries:
                    raise ModelFailed(failure) from error
                # Where the gate was told, its pause holds for all sessions, this one among them.
                delay = standing.pause if standing else back_off(failures, failure.retry_after)
                call.tries = self._retries - attempt
                self._watch.retrying(failure, max(1, attempt), delay)
                if standing is None:
                    await asyncio.sleep(delay)
        self._coming = None
        self._watch.answered(self._answer(call, state, output))

    async def _attempt(
        self, call: "_Call", state: StreamState, output: ModelOutputAccumulator
    ) -> AsyncGenerator[StreamEvent, None]:
        self._answering_model = call.model
        opened = await self._open(call)
        verdict: Verdict | Refused = Verdict.FAILED
        try:
            async with aclosing(self._reply(call, opened.response, state, output)) as events:
                async for event in events:
                    yield event
            if not output.text and not output.tool_calls and state.usage is None:
                raise ConnectionError("the reply ended before it had begun")
            verdict = Verdict.SERVED
        except Exception as error:
            refused = refusal(error)
            call.refused_by = (opened.gate, opened.place) if refused else None
            verdict = refused or verdict
            raise
        finally:
            opened.gate.release(opened.place, verdict)

    async def _reply(
        self, call: "_Call", response: CompletionResult, state: StreamState, output: ModelOutputAccumulator
    ) -> AsyncGenerator[StreamEvent, None]:
        if isinstance(response, ChatCompletion):
            self._answering_model = response.model or call.model
            async with aclosing(super()._completion_events(response, state, output)) as events:
                async for event in events:
                    yield event
            return
        async with (
            aclosing(self._chunks(response)) as chunks,
            aclosing(super()._completion_events(chunks, state, output)) as events,
        ):
            async for event in events:
                yield event

    async def _chunks(
        self, stream: AsyncIterator[ChatCompletionChunk]
    ) -> AsyncGenerator[ChatCompletionChunk, None]:
        """The chunks of a reply, each awaited no longer than the provider may be silent."""
        try:
            while True:
                if _has_more(stream):
                    chunk = await anext(stream, None)
                else:
                    async with asyncio.timeout(self._stall):
                        chunk = await anext(stream, None)
                if chunk is None:
                    return
                self._answering_model = chunk.model or self._answering_model
                self._watch.output()
                yield chunk
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()

    def _answer(self, call: "_Call", state: StreamState, output: ModelOutputAccumulator) -> ModelAnswered:
        calls = tuple(
            ToolCall(
                id=self.call_ids.own(made.id), name=made.function.name, arguments=made.function.arguments
            )
            for made in output.tool_calls
            if made.type == "function"
        )
        _repair(output, calls)
        for asked in calls:
            told = shortened_call(asked.arguments)
            if told is not asked.arguments:
                self._shortened[as_object(asked.arguments)] = told
        return ModelAnswered(
            text=output.text, tool_calls=calls, usage=_usage(state.usage), model=self._answering_model
        )

    def _told(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The messages with long calls shortened: their tools have had the whole."""
        if not self._shortened:
            return messages
        return [
            {**message, "tool_calls": [self._told_call(call) for call in message["tool_calls"]]}
            if message.get("tool_calls")
            else message
            for message in messages
        ]

    def _told_call(self, call: dict[str, Any]) -> dict[str, Any]:
        told = self._shortened.get(call["function"]["arguments"])
        return call if told is None else {**call, "function": {**call["function"], "arguments": told}}


def usual_clients() -> "list[tuple[str, dict[str, Any]]]":
    """Provider and arguments of each client that a session with Bub's own model is going to need."""
    settings = load_settings()
    return [_client_of(settings, candidate) for candidate in settings.model_candidates(settings.model)]


def _client_of(settings: "AgentSettings", candidate: "ModelCandidate") -> tuple[str, dict[str, Any]]:
    arguments = settings.model_client_kwargs(candidate.provider_name or candidate.provider)
    return candidate.provider.value, arguments


@dataclass(slots=True)
class _Call:
    """The arguments of one model call, until its events are read."""

    model: str
    messages: list[dict[str, Any]]
    tools: "list[Tool]"
    max_tokens: int | None
    reasoning_effort: str | None
    tries: int
    """How often it may fail before it fails for good."""
    places: dict[str, Place] = field(default_factory=dict[str, Place])
    """Its places at the gates it waits at, by the gate's name."""
    probes: dict[str, Place] = field(default_factory=dict[str, Place])
    """Those with which it only asks whether it may go at once."""
    held: Place | None = None
    """The one of them that was let through for the request that comes next."""
    refused_by: tuple[RequestGate, Place] | None = None
    """The gate that was told of the last failure, and the place."""
    standing: Standing | None = None
    """How it stands there, where that was asked already."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A reply that begins, and the gate it holds until its end."""

    response: CompletionResult
    gate: RequestGate
    place: Place


class _StreamCall(StreamToolCall):
    """A call whose pieces are joined at the end: Bub's own copies all of it for each new piece, which
    for megabytes takes seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._pieces = list[str]()

    def merge(self, delta: "ChoiceDeltaToolCall") -> None:
        super().merge(delta)
        if self.arguments:
            self._pieces.append(self.arguments)
            self.arguments = ""

    def as_tool_call(self, index: int) -> ChatCompletionMessageFunctionToolCall:
        self.arguments = "".join(self._pieces)
        self._pieces = [self.arguments]
        made = super().as_tool_call(index)
        self.arguments = ""
        return made


class _StreamCalls(dict[int, StreamToolCall]):
    """The calls of a reply that comes in pieces."""

    def setdefault(self, key: int, default: StreamToolCall | None = None) -> StreamToolCall:
        if key not in self:
            self[key] = _StreamCall()
        return self[key]


def _forget(state: StreamState, output: ModelOutputAccumulator) -> None:
    """Drop what a failed attempt had brought."""
    state.usage = None
    fresh = ModelOutputAccumulator()
    output.response = fresh.response
    output._text_parts = fresh._text_parts
    output._message_calls = fresh._message_calls
    output._stream_calls = _StreamCalls()


def _repair(output: ModelOutputAccumulator, calls: Sequence[ToolCall]) -> None:
    """Let Bub have these calls, with arguments that are no JSON object made into one that says so.

    Bub ends the turn over such a call; the wrapper around our tools answers it instead.
    """
    ours = iter(calls)
    output._message_calls = cast("Any", [_as_told(call, ours) for call in output.tool_calls])
    output._stream_calls = {}


def _as_told(made: Any, ours: Iterator[ToolCall]) -> Any:
    if made.type != "function":
        return made
    call = next(ours)
    if call.id == made.id and _is_object(call.arguments):
        return made
    function = Function(name=call.name, arguments=as_object(call.arguments))
    return ChatCompletionMessageFunctionToolCall(id=call.id, type="function", function=function)


def as_object(text: str) -> str:
    """Arguments of a call as a JSON object, whatever the model wrote."""
    return (text or "{}") if _is_object(text) else json.dumps({MALFORMED: text})


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text or "{}"), dict)
    except (ValueError, RecursionError):  # nested without end is as unreadable as no JSON at all
        return False


def _has_more(stream: object) -> bool:
    """Whether the next chunk came with the one before, so that nothing is waited for. any-llm puts
    a wrapper around a stream; where it hides it, each chunk is waited for."""
    return bool(getattr(getattr(stream, "_async_iter", stream), "ready", False))


def _usage(usage: dict[str, Any] | None) -> Usage:
    if usage is None:
        return Usage(calls=1)
    details: dict[str, Any] = usage.get("prompt_tokens_details") or {}
    cost = usage.get("cost")  # some gateways tell it, in US dollars
    return Usage(
        input=int(usage.get("prompt_tokens") or usage.get("input_tokens") or 0),
        output=int(usage.get("completion_tokens") or usage.get("output_tokens") or 0),
        cached=int(details.get("cached_tokens") or usage.get("cache_read_input_tokens") or 0),
        calls=1,
        cost=float(cost) if isinstance(cost, int | float) and not isinstance(cost, bool) else None,
    )
